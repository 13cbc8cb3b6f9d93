# SPDX-License-Identifier: BSD-2-Clause
"""Names of threads at the time of their accesses.

/proc is read once, when the watch is armed; from then on the records of forks, renames (exec included)
and exits keep the table true, in order of time, so that a thread that is gone still has its name.
"""

from __future__ import annotations

import contextlib
import errno
import os

from ksym.capture.records import CommRecord, ExitRecord, ForkRecord


class Tasks:
    """thread id -> name.

    Args:
        all_numbered: Every task has a number here, so that 0 is the idle task's; else it is also that of all tasks
            outside ksym's pid namespace, whose names no number tells.
    """

    def __init__(self, *, all_numbered: bool = True) -> None:
        self._all_numbered = all_numbered
        self._comm: dict[int, str] = {0: "swapper"}
        self._gone: dict[int, None] = {}
        self.short = False
        """A name could not be read, as too many files are open."""

    def snapshot(self) -> None:
        """Take the names of all threads that live now."""
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                    for thread in os.listdir(f"/proc/{name}/task"):
                        self._read(int(name), int(thread))

    def _read(self, pid: int, tid: int) -> str | None:
        try:
            with open(f"/proc/{pid}/task/{tid}/comm", "rb") as file:
                name = file.read().rstrip(b"\n").decode(errors="replace")
        except OSError as error:
            self.short = self.short or error.errno in (errno.EMFILE, errno.ENFILE)
            return None
        self._comm[tid] = name
        return name

    def apply(self, record: CommRecord | ForkRecord | ExitRecord) -> None:
        """Follow a change.

        A thread's last accesses (its own exit path) can come after its exit record, so names of
        threads that are gone are kept until many more have gone.
        """
        if isinstance(record, CommRecord):
            self._comm[record.tid] = record.comm
        elif isinstance(record, ForkRecord):
            self._comm[record.tid] = self._comm.get(record.parent_tid) or "?"
            self._gone.pop(record.tid, None)
        else:
            self._gone[record.tid] = None
            if len(self._gone) > 4096:
                self._forget()

    def _forget(self) -> None:
        for tid in list(self._gone)[:2048]:
            del self._gone[tid]
            self._comm.pop(tid, None)

    def name(self, pid: int, tid: int, cpu: int) -> str:
        """The thread's name; the idle task's is ``swapper/N``; ``?`` where nobody knows."""
        if tid == 0:
            return f"swapper/{cpu}" if self._all_numbered else "?"
        return self._comm.get(tid) or self._read(pid, tid) or "?"
