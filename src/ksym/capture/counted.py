# SPDX-License-Identifier: BSD-2-Clause
"""The table in which programs in the kernel count hits: who made them, without a record of any.

The kernel counts by watch, by what it knows of the access, by instruction and thread, on each CPU apart
(`program.watch_program`). Here these places get their names, and those that are asked for together are summed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ksym.capture.kinds import kind_of
from ksym.capture.records import CommRecord, ExitRecord, ForkRecord, MmapRecord, Record
from ksym.capture.sites import Site
from ksym.capture.users import Users
from ksym.language.request import Mode
from ksym.linux.namespaces import own_pid_namespace
from ksym.program.layout import Hit

_ELEMENT = struct.Struct("=IIQII")
"""Key of ``counts``: watch, flags, ip, pid, tid."""

_GENERATIONS = 1024

Element = tuple[bytes, bytes]
"""Key and value of a map in the kernel."""


class Who(NamedTuple):
    """Whose hits were counted, as far as that was asked for; what was not is None.

    Args:
        watch: Number of the watch.
        access: ``R``, ``W``, ``RW``, ``X``, or ``?`` where it cannot be known.
        function: Where the access was made; the name of its file where no symbol holds the code, which has
            ``offset`` then; None where it lies in no file, and has ``ip``.
        module: The kernel module, executable or library of the code.
        ip: See ``function``.
        offset: See ``function``; the offset in the file.
        comm: Name of the thread at its first hit.
        pid: Its process.
        tid: The thread.
        cpu: Number of the CPU.
    """

    watch: int
    access: str
    function: str | None = None
    module: str | None = None
    ip: int | None = None
    comm: str | None = None
    pid: int | None = None
    tid: int | None = None
    cpu: int | None = None
    offset: int | None = None


class Places(Protocol):
    """What is asked about code; ``capture.sites`` has it."""

    def site(self, pid: int, ip: int, *, execute: bool, bits: int | None = None) -> Site:
        """The site that reported ``ip`` in ``pid``."""
        ...


class Images:
    """Follows which code each process runs, so that its hits can be named when it is gone.

    A user variable is watched in a process and its forks until they run another program. So what they map then is none
    of their hits' code: those that have left are taken for the process that they were forked from.

    Args:
        users: Told of what is mapped.
    """

    def __init__(self, users: Users) -> None:
        self._users = users
        self._parents: dict[int, int] = {}
        self._left: set[int] = set()
        self._ended: dict[int, None] = {}

    def take(self, records: Iterable[Record]) -> None:
        """Follow changes, sorted by time."""
        for record in records:
            if isinstance(record, MmapRecord):
                if record.pid not in self._left:
                    self._users.mapped(record)
            elif isinstance(record, ForkRecord):
                if record.pid != record.parent_pid:
                    self._forget(record.pid)
                    self._parents[record.pid] = record.parent_pid
                self._users.changed(record)
            elif isinstance(record, CommRecord):
                if record.exec:
                    self._left.add(record.pid)
            elif isinstance(record, ExitRecord):
                self._users.changed(record)
                if record.pid == record.tid:
                    self._ended[record.pid] = None

    @property
    def crowded(self) -> bool:
        """Whether it is time to name hits of processes that have ended, and to let go of them."""
        return len(self._ended) >= _GENERATIONS

    def let_go(self) -> None:
        """Forget processes that have ended; what is known of their code by now is kept by who asked."""
        for pid in list(self._ended):
            self._forget(pid)

    def _forget(self, pid: int) -> None:
        self._left.discard(pid)
        self._parents.pop(pid, None)
        self._ended.pop(pid, None)

    def owner(self, pid: int) -> int:
        """The process whose code ``pid`` ran while it was watched."""
        while pid in self._left and pid in self._parents:
            pid = self._parents[pid]
        return pid


class Counted:
    """Reads the table.

    Args:
        modes: For each watch, what its register sees.
        places: Names code.
        by: What to tell apart: ``function``, ``task``, ``cpu``.
        cpus: The possible CPUs, in order.
        images: Says whose code a process runs; None where no user-space code can have made hits.
    """

    def __init__(
        self,
        modes: Sequence[Mode],
        places: Places,
        by: Sequence[str],
        cpus: Sequence[int],
        images: Images | None = None,
    ) -> None:
        self._modes, self._places, self._cpus, self._images = modes, places, cpus, images
        self._function, self._task, self._cpu = (key in by for key in ("function", "task", "cpu"))
        self._outside = own_pid_namespace() != 0
        self._known: dict[bytes, tuple[Who, bool]] = {}

    def sum(self, counts: Iterable[Element], comms: Iterable[Element]) -> dict[Who, int]:
        """The hits so far, of everybody who made any.

        Args:
            counts: The table; a value has 8 bytes for each possible CPU.
            comms: Names of threads, by process and thread (u64, as the kernel has it).
        """
        # A thread's name is there before its first hit: read behind, none is missing.
        elements = list(counts)
        names = _names(comms) if self._task else {}
        totals: dict[Who, int] = {}
        for key, value in elements:
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = self._who(key, names)
            who, each_cpu = known
            hits = memoryview(value).cast("Q")
            if not each_cpu:
                totals[who] = totals.get(who, 0) + sum(hits)
                continue
            for cpu, part in zip(self._cpus, hits, strict=False):
                if part:
                    here = self._on(who, cpu)
                    totals[here] = totals.get(here, 0) + part
        return totals

    def _who(self, key: bytes, names: Mapping[bytes, str]) -> tuple[Who, bool]:
        """Who an element counts; whether its CPUs are to be told apart."""
        watch, flags, ip, pid, tid = _ELEMENT.unpack(key)
        mode = self._modes[watch]
        site = self._places.site(
            self._images.owner(pid) if self._images else pid,
            ip,
            execute=mode is Mode.EXECUTE,
            bits=32 if flags & Hit.CODE32 else 64,
        )
        who = Who(watch, kind_of(mode, site, flags))
        if self._function:
            named = site.named
            who = who._replace(
                function=named.function, module=named.owner, ip=site.ip if named.function is None else None,
                offset=named.offset if named.in_file else None,
            )  # fmt: skip
        if self._task:
            comm = names.get((pid << 32 | tid).to_bytes(8, "little"), "?")
            who = who._replace(comm=comm, pid=pid, tid=tid)
        return who, self._cpu or (self._task and tid == 0 and not self._outside)

    def _on(self, who: Who, cpu: int) -> Who:
        # Thread 0 is the idle task of each CPU; in a pid namespace it is also every task outside.
        comm = f"swapper/{cpu}" if who.tid == 0 and not self._outside else who.comm
        return who._replace(comm=comm, cpu=cpu if self._cpu else None)


def _names(comms: Iterable[Element]) -> dict[bytes, str]:
    return {key: comm.partition(b"\0")[0].decode(errors="replace") for key, comm in comms}
