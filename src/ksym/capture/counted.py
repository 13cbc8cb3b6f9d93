# SPDX-License-Identifier: BSD-2-Clause
"""The table in which programs in the kernel count hits: who made them, without a record of any.

The kernel counts by watch, by what it knows of the access, by instruction and thread, on each CPU apart
(`program.watch_program`). Here these places get their names, and those that are asked for together are summed.
"""

from __future__ import annotations

import operator
import os
import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ksym.capture.kinds import kind_of
from ksym.capture.records import CommRecord, ExitRecord, ForkRecord, MmapRecord, Record
from ksym.capture.replaced import USER_SPACE, Follower
from ksym.capture.sites import Named, Site
from ksym.language.request import Mode
from ksym.linux.clock import monotonic_ns
from ksym.linux.namespaces import own_pid_namespace
from ksym.program.layout import Hit

_ELEMENT = struct.Struct("=IIQII")
"""Key of ``counts``: watch, flags, ip, pid, tid."""

_LOOKS = 3
"""A mapping record is processed within two."""
_MOST_ENDED = 64
"""When more processes have ended, their elements are deleted from the table."""

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

    def forget(self, pid: int, addresses: range) -> bool:
        """Drop what is known of code that is replaced."""
        ...


class Table(Protocol):
    """The table in the kernel; implemented by ``program.engine``."""

    def counts(self) -> Iterable[Element]:
        """Return the elements; each value has an 8-byte counter for every possible CPU."""
        ...

    def comms(self) -> Iterable[Element]:
        """Return the names of threads; each key is `pid << 32 | tid` (u64)."""
        ...

    def drop_counts(self, keys: Iterable[bytes]) -> None:
        """Delete elements of ``counts`` that no thread can change any more."""
        ...


class Code(Follower, Protocol):
    """Knows the code of processes; implemented by ``capture.users``."""

    def replaces(self, record: MmapRecord) -> bool:
        """Return True if the process had different code anywhere in this mapping's range."""
        ...


class Counted:
    """Reads the table.

    Args:
        modes: For each watch, what its register sees.
        places: Names code.
        by: What to tell apart: ``function``, ``task``, ``cpu``.
        cpus: The possible CPUs, in order.
        code: Knows the code of processes.
        table: The table.
    """

    def __init__(
        self,
        modes: Sequence[Mode],
        places: Places,
        by: Sequence[str],
        cpus: Sequence[int],
        code: Code,
        table: Table,
    ) -> None:
        self._modes, self._places, self._cpus = modes, places, cpus
        self._code, self._table = code, table
        self._function, self._task, self._cpu = (key in by for key in ("function", "task", "cpu"))
        self._outside = own_pid_namespace() != 0
        self._known: dict[bytes, tuple[Who, bool]] = {}
        self._settled: dict[Who, int] = {}
        """Hits made by code that has since been replaced; their names are final."""
        self._before: dict[bytes, tuple[int, ...]] = {}
        """For each element, how many of its hits on each CPU are already in ``_settled``."""
        self._ended: dict[int, None] = {}
        """Processes that have ended and still have elements in the table."""
        self.unnamed = 0
        """Hits that two different pieces of code at one address may have made."""
        self._looks: deque[_Look] = deque(maxlen=_LOOKS)

    def follow(self, records: Iterable[Record]) -> None:
        """Process records about code (mappings, execs, forks, exits) in order of time.

        A key has only the address of the code. So hits are named before other code replaces it. If the process ran on
        meanwhile, hits counted since the last look before the change may be of either code; they get no name.
        """
        look = self._look()
        for record in records:
            if isinstance(record, MmapRecord):
                if self._code.replaces(record):
                    addresses = range(record.start, record.start + record.length)
                    self._settle(record.pid, addresses, look, until=record.time)
                self._code.mapped(record)
                continue
            if isinstance(record, CommRecord) and record.exec:
                self._settle(record.pid, USER_SPACE, look)
            elif isinstance(record, ForkRecord) and record.pid in self._ended:
                self._settle(record.pid, USER_SPACE, look)
                del self._ended[record.pid]
            elif isinstance(record, ExitRecord) and record.pid == record.tid:
                self._ended[record.pid] = None
            if isinstance(record, (CommRecord, ForkRecord, ExitRecord)):
                self._code.changed(record)
        if len(self._ended) > _MOST_ENDED:
            self._let_go(self._look())

    def _let_go(self, look: _Look) -> None:
        """Name the hits of processes that have ended, and delete their elements."""
        # Threads of a process may go on when its first one has ended.
        gone = [pid for pid in self._ended if not os.path.exists(f"/proc/{pid}")]
        for pid in gone:
            keys = self._settle(pid, USER_SPACE, look)
            self._table.drop_counts(keys)
            for key in keys:
                del self._before[key]
            del self._ended[pid]

    def sum(self) -> dict[Who, int]:
        """Return all hits so far, by who made them."""
        look = self._look()
        totals = dict(self._settled)
        for key, value in look.all().items():
            self._add(totals, key, self._fresh(key, value), look.names)
        return totals

    def _look(self) -> _Look:
        return _Look(self._table, self._looks, names=self._task)

    def _settle(self, pid: int, addresses: range, look: _Look, *, until: int | None = None) -> list[bytes]:
        """Name what a process has counted at some addresses; return the keys.

        Args:
            pid: The process.
            addresses: Of the code.
            look: The table as it is now.
            until: When other code came, which may have made some of the hits; None: it made none yet.
        """
        certain: _Look | None = look
        if until is not None:
            certain = next((each for each in reversed(self._looks) if each.over < until), None)
        settled = []
        for key, value in look.of(pid):
            # The address of an access is the one behind it, where the machine traps there.
            if _ELEMENT.unpack(key)[2] - 1 not in addresses:
                continue
            if certain and (earlier := certain.value(key)) is not None:
                self._count(key, earlier, look.names)
            self._known[key] = self._who(key, look.names, named=False)
            self.unnamed += self._count(key, value, look.names)
            del self._known[key]
            settled.append(key)
        self._places.forget(pid, addresses)
        return settled

    def _count(self, key: bytes, value: bytes, names: Mapping[bytes, str]) -> int:
        """Add the hits of an element up to ``value`` to ``_settled``; return how many were new."""
        fresh = self._fresh(key, value)
        self._add(self._settled, key, fresh, names)
        before = self._before.get(key) or (0,) * len(fresh)
        self._before[key] = tuple(map(operator.add, before, fresh))
        return sum(fresh)

    def _fresh(self, key: bytes, value: bytes) -> Sequence[int]:
        """Return the hits on each CPU that are not in ``_settled`` yet."""
        hits, before = _each_cpu(value), self._before.get(key)
        return (
            hits if before is None else [max(0, now - then) for now, then in zip(hits, before, strict=True)]
        )

    def _add(
        self, totals: dict[Who, int], key: bytes, hits: Sequence[int], names: Mapping[bytes, str]
    ) -> None:
        total = sum(hits)
        if not total:
            return
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._who(key, names)
        who, each_cpu = known
        if not each_cpu:
            totals[who] = totals.get(who, 0) + total
            return
        for cpu, part in zip(self._cpus, hits, strict=False):
            if part:
                here = self._on(who, cpu)
                totals[here] = totals.get(here, 0) + part

    def _who(self, key: bytes, names: Mapping[bytes, str], *, named: bool = True) -> tuple[Who, bool]:
        """Who an element counts; whether its CPUs are to be told apart."""
        watch, flags, ip, pid, tid = _ELEMENT.unpack(key)
        mode = self._modes[watch]
        bits = 32 if flags & Hit.CODE32 else 64
        if named:
            site = self._places.site(pid, ip, execute=mode is Mode.EXECUTE, bits=bits)
        else:
            site = Site(ip, ip, Named(None, ip), None, 0, bits=bits)
        who = Who(watch, kind_of(mode, site, flags))
        if self._function:
            code = site.named
            who = who._replace(
                function=code.function, module=code.owner, ip=site.ip if code.function is None else None,
                offset=code.offset if code.in_file else None,
            )  # fmt: skip
        if self._task:
            comm = names.get((pid << 32 | tid).to_bytes(8, "little"), "?")
            who = who._replace(comm=comm, pid=pid, tid=tid)
        return who, self._cpu or (self._task and tid == 0 and not self._outside)

    def _on(self, who: Who, cpu: int) -> Who:
        # Thread 0 is the idle task of each CPU; in a pid namespace it is also every task outside.
        comm = f"swapper/{cpu}" if who.tid == 0 and not self._outside else who.comm
        return who._replace(comm=comm, cpu=cpu if self._cpu else None)


class _Look:
    """The table as it is when it is first asked.

    Args:
        table: The table.
        looks: Those that were asked, the newest last.
        names: Names of threads are wanted.
    """

    def __init__(self, table: Table, looks: deque[_Look], *, names: bool) -> None:
        self._table, self._looks, self._with_names = table, looks, names
        self._by_pid: dict[int, list[Element]] | None = None
        self._elements: dict[bytes, bytes] | None = None
        self.over = 0
        """When it was read, CLOCK_MONOTONIC in nanoseconds."""
        self.names: dict[bytes, str] = {}
        """Thread names, by `pid << 32 | tid` (u64)."""

    def all(self) -> dict[bytes, bytes]:
        """Return all elements, by key."""
        if self._elements is None:
            self._elements = dict(self._table.counts())
            self.over = monotonic_ns()
            self._looks.append(self)
            # A thread's name is there before its first hit: read behind, none is missing.
            if self._with_names:
                self.names = {
                    key: comm.partition(b"\0")[0].decode(errors="replace")
                    for key, comm in self._table.comms()
                }
        return self._elements

    def value(self, key: bytes) -> bytes | None:
        """Return an element's value; None if it was not there."""
        return self.all().get(key)

    def of(self, pid: int) -> list[Element]:
        """Return the elements of one process."""
        if self._by_pid is None:
            self._by_pid = {}
            for element in self.all().items():
                self._by_pid.setdefault(_ELEMENT.unpack(element[0])[3], []).append(element)
        return self._by_pid.get(pid, [])


def _each_cpu(value: bytes) -> tuple[int, ...]:
    return tuple(memoryview(value).cast("Q"))
