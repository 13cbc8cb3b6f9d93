# SPDX-License-Identifier: BSD-2-Clause
"""When processes are held that have only a part of the wanted files: not before the first one has all of them.

A run resolves all of its requests in the first process that is held, so that one must have all files. From then on a
process is held for each file that it gets. What processes did with a part of the files before cannot be shown, and is
told. It is not told of files that are loaded together, as a program and the libraries that it is linked with: none of
their code runs before all of them are there.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

from ksym.symbols.wanted import Placement, Wanted
from ksym.watch.hold_way import Voice


class Placements:
    """Where processes have the wanted files.

    Args:
        wanted: The files.
        voice: To ksym.
        begun: The run goes on already: a part of the files will do.
    """

    def __init__(self, wanted: Wanted, voice: Voice, *, begun: bool) -> None:
        self._wanted, self._voice, self._begun = wanted, voice, begun
        self._partly: dict[int, tuple[int, list[str]]] = {}
        """Processes that run with only some of the files: the program of each, and the files that it has."""
        self._missed: dict[tuple[str, ...], list[int]] = defaultdict(list)
        """To be reported: by the files that they had, processes that used these files before they were watched."""

    def of(self, pid: int, program: int) -> Placement | None:
        """Return where a process has the files; None if it need not be held.

        Args:
            pid: The process.
            program: A number that is another one once it has executed another program.
        """
        if pid in self._partly and self._partly[pid][0] != program:
            self._is_over(pid)
        found = self._wanted.placement(pid)
        if self._begun or (found is not None and all(found)):
            if found is not None and pid in self._partly:
                self._is_over(pid, among=self._wanted.in_use(pid))
            self._tell()
            return found
        if found is not None:
            self._partly[pid] = program, list(itertools.compress(self._wanted.names, found))
        return None

    def begin(self) -> None:
        """Note that a process with all files is held, so the run begins."""
        if not self._begun:
            self._begun = True
            # Those that are being started have not done anything yet, and may get the other files at once.
            for pid in [each for each in self._partly if not self._starting(each)]:
                self._is_over(pid)
            self._tell()

    def close(self) -> None:
        """Report what has not been reported yet."""
        for pid in list(self._partly):
            self._is_over(pid)
        self._tell()

    def _starting(self, pid: int) -> bool:
        return self._wanted.placement(pid) is not None and not self._wanted.in_use(pid)

    def _is_over(self, pid: int, among: set[str] | None = None) -> None:
        """Note that a process used some of the files unwatched; only those in ``among``, if it is given."""
        had = tuple(name for name in self._partly.pop(pid)[1] if among is None or name in among)
        if had:
            self._missed[had].append(pid)

    def _tell(self) -> None:
        """Report what was missed; nothing if no process ever had all files, because then there was no run."""
        if not self._begun:
            return
        for had, pids in self._missed.items():
            who = f"process {pids[0]}" if len(pids) == 1 else f"{len(pids)} processes"
            lacked = [name for name in self._wanted.names if name not in had]
            self._voice.say(
                f"note what {who} did with {', '.join(had)} while {', '.join(lacked)} "
                f"{'was' if len(lacked) == 1 else 'were'} not loaded is not shown; "
                "a run for each file shows it"
            )
        self._missed.clear()
