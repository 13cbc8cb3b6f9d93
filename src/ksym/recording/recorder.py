# SPDX-License-Identifier: BSD-2-Clause
"""From rings to a file: their bytes as they are, and notes of what a reader elsewhere could not find out.

Each round drains all rings and appends their bytes; perf's mark that a round is over lets it sort records of
several CPUs with little memory. Code that made hits for the first time is named while its process lives.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ksym import __version__
from ksym.capture.instructions import available
from ksym.capture.judge import judges
from ksym.capture.pipeline import USER_CODE, ended_address_space
from ksym.capture.pointers import pointer_names, user_pointer_names
from ksym.capture.records import (
    CONTEXT_LEAST,
    CommRecord,
    ExitRecord,
    ForkRecord,
    LostRecord,
    MmapRecord,
    Record,
)
from ksym.capture.sites import KERNEL_HALF, Sites
from ksym.capture.users import Users
from ksym.language.request import Mode
from ksym.linux.libc import MACHINE
from ksym.linux.perf_event import Attr, Flag
from ksym.program.layout import padded
from ksym.recording import machine
from ksym.recording.knowledge import holds_pointers, named_data, site_data, watch_data
from ksym.recording.perf_file import Kind, record
from ksym.recording.scan import Found, scan
from ksym.recording.writer import Compressor, Event, PerfWriter
from ksym.symbols.kallsyms import Kallsyms
from ksym.watch.arm import ArmedWatch
from ksym.watch.plan import PlannedEvent, Role
from ksym.watch.rings import SAMPLE_TYPE

FLUSH_SECONDS = 1.0
_CODE_BYTES = 4096
"""Of a longer function, what leads to a hit is not kept; but where nothing here could decode it."""
_MOST_CODE_BYTES = 1 << 16
_IMAGE = 0xFFFFFFFF80000000 if MACHINE == "x86_64" else KERNEL_HALF
"""The kernel's variables and modules lie from here on; in front of it is what has no name, its heap above all."""
_CHAINS_KEPT, _NAMES_KEPT, _POINTERS_KEPT = 1 << 14, 1 << 17, 1 << 16
"""How much is remembered of what has been noted already; in vain for code that is made anew all the time."""


class Recorder:
    """Writes one recording, or several one after the other.

    Args:
        armed: What is planted.
        sites: Names of code.
        users: Processes' code; told of what the records tell.
        pid: The process whose threads and mappings are described at the start; None: all processes.
        open_file: Opens the next file; its descriptor.
        compressor: Makes a compressor for each file; None: files are not compressed.
        flush_seconds: How long records may wait to be written.
        most_bytes: A file of this size is finished and the next one begun; 0: never.
    """

    def __init__(
        self,
        armed: ArmedWatch,
        sites: Sites,
        users: Users,
        *,
        pid: int | None,
        open_file: Callable[[], int],
        compressor: Callable[[], Compressor] | None = None,
        flush_seconds: float = FLUSH_SECONDS,
        most_bytes: int = 0,
    ) -> None:
        self._armed, self._sites, self._users, self._pid = armed, sites, users, pid
        self._open_file, self._make_compressor = open_file, compressor
        self._flush_seconds, self._most_bytes = flush_seconds, most_bytes
        self._planned = 0
        self._names_of: dict[tuple[int, int], str] = {}
        """Threads' names, by pid and tid, as far as the records have told; for the next file."""
        self._left: set[tuple[int, int]] = set()
        """Those that have ended since the file was begun; their last hits may come in the next one."""
        self._known: set[tuple[int, int, int]] = set()
        self._chains: set[tuple[int, int, bytes]] = set()
        self._names: set[tuple[int, int, bool]] = set()
        self._pointers: set[int] = set()
        self._pointers_noted: set[int] = set()
        self._pointer_name = user_pointer_names(lambda: users.loaded(pid or 0), pointer_names(Kallsyms.shown))
        self._value_words = _value_words(armed)
        self._flushed = time.monotonic()
        self.hits = 0
        """Records of hits taken."""
        self.lost_records = 0
        self.files = 0
        self._writer = self._begin()

    @property
    def bytes_written(self) -> int:
        """Size of the present file."""
        return self._writer.bytes_written + self._writer.waiting

    def round(self, counts: Callable[[], dict[str, Any]]) -> None:
        """Take what the rings hold.

        Args:
            counts: What the counters say, for a note at each flush.

        Raises:
            OSError: it cannot be written.
        """
        if len(self._armed.planned) > self._planned:
            self._note("events", self._events_data(self._planned))
            self._planned = len(self._armed.planned)
        found = []
        for ring in self._armed.rings:
            data = ring.drain()
            if data:
                self._writer.append(data)
                found.append(scan(data, chains=self._armed.options.stacks, values=self._value_words))
        if found:
            self._look(found)
            self._writer.append(record(Kind.FINISHED_ROUND, b""))
            self._writer.seal()
        now = time.monotonic()
        if now - self._flushed >= self._flush_seconds or self._writer.waiting > 16 << 20:
            self._flushed = now
            self._note("counts", counts())
            self._writer.flush()
            if self._most_bytes and self._writer.bytes_written >= self._most_bytes:
                self._rotate(counts())

    def finish(self, counts: dict[str, Any]) -> None:
        """Write what is left, and what a reader needs to know that this is all.

        Raises:
            OSError: it cannot be written.
        """
        self.round(lambda: counts)
        self._end(counts)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _rotate(self, counts: dict[str, Any]) -> None:
        self._end(counts | {"continues": True})
        self._writer.close()
        for each in (self._known, self._chains, self._names, self._pointers, self._pointers_noted):
            each.clear()
        self._writer = self._begin()

    def _end(self, counts: dict[str, Any]) -> None:
        dropped = int(counts.get("no_room", 0)) - self.lost_records
        if dropped > 0:
            # Programs count what found no room; perf learns it as the kernel would have told.
            body = struct.pack("<QQ", self._events[0].ids[0], dropped)
            self._writer.append(record(Kind.LOST, body + self._writer.trailer(time.monotonic_ns())))
        self._note("end", counts)
        self._writer.finish(machine.features(self._users.build_ids()))

    # -- the start ---------------------------------------------------------------------------------

    def _begin(self) -> PerfWriter:
        self._events = _events(self._armed)
        writer = PerfWriter(
            self._open_file(), self._events, self._make_compressor() if self._make_compressor else None
        )
        self.files += 1
        self._writer = writer
        self._note("start", self._start())

        def trailer(at: int, pid: int, tid: int) -> bytes:
            return writer.trailer(at, pid, tid)

        kallsyms = Kallsyms.shown()
        parts: Iterable[bytes] = machine.kernel_records(kallsyms, trailer) if kallsyms else ()
        for part in parts:
            writer.append(part)
        options = self._armed.options
        everywhere = self._armed.any_system_wide or self._pid is None
        pids = machine.all_processes() if everywhere or self._pid is None else [self._pid]
        user_code = options.stacks or not everywhere
        if self.files == 1:
            self._names_of = {(pid, tid): name for pid, tid, name in machine.threads(pids)}
        for (pid, tid), name in self._names_of.items():
            writer.append(machine.comm(pid, tid, name, trailer))
        for thread in self._left:
            self._names_of.pop(thread, None)
        self._left.clear()
        for part in machine.mapping_records(pids if user_code else [], trailer):
            writer.append(part)
        writer.flush()
        return writer

    def _start(self) -> dict[str, Any]:
        armed = self._armed
        self._planned = len(armed.planned)
        return {
            "version": __version__,
            "arch": os.uname().machine,
            "clock": {"monotonic_ns": time.monotonic_ns(), "realtime_ns": time.time_ns()},
            "values": armed.engine is not None,
            "stacks": armed.options.stacks,
            "both_fire": armed.options.both_fire,
            "watches": [watch_data(watch) for watch in armed.plan.watches],
            "conditions": _conditions(armed),
            "events": self._events_data(0),
        }

    def _events_data(self, first: int) -> list[list[Any]]:
        """What identifiers stand for, from that one on."""
        return [
            [event, piece, planned.watch.index, planned.watch.pieces.index(planned.piece), planned.role.name]
            for (event, piece), planned in list(self._armed.planned.items())[first:]
        ]

    # -- what passes through -------------------------------------------------------------------------

    def _look(self, found: Sequence[Found]) -> None:
        """Note what is new in a round.

        A short-lived process starts, hits and ends within one. So what started and was mapped is followed ahead of
        naming, what ended after it.
        """
        others = sorted((other for each in found for other in each.others), key=lambda other: other.time)
        for other in others:
            if not isinstance(other, ExitRecord):
                self._follow(other)
        for each in found:
            self.hits += each.samples
            new = each.places - self._known
            if new:
                self._known |= new
                self._note("sites", [site for place in sorted(new) if (site := self._site(*place))])
            if each.chains:
                self._name_chains(each.chains - self._chains)
            if each.values:
                self._name_pointers(each.values)
        for other in others:
            if isinstance(other, ExitRecord):
                self._follow(other)

    def _site(self, event: int, pid: int, ip: int) -> dict[str, Any] | None:
        planned = self._armed.planned.get((event, 0))
        if planned is None:
            return None
        site = self._sites.site(pid, ip, execute=planned.watch.mode is Mode.EXECUTE)
        code = self._sites.code(pid, ip, _CODE_BYTES if available() else _MOST_CODE_BYTES)
        return site_data(pid, site, code) | {"watch": planned.watch.index}

    def _name_chains(self, chains: set[tuple[int, int, bytes]]) -> None:
        """Note the names of code that call chains lead through, where they are new."""
        if len(self._chains) + len(chains) > _CHAINS_KEPT:
            self._chains.clear()
        self._chains |= chains
        names = []
        for event, pid, chain in chains:
            planned = self._armed.planned.get((event, 0))
            execute = planned is not None and planned.watch.mode is Mode.EXECUTE
            for number, ip in enumerate(code_addresses(memoryview(chain).cast("Q"))):
                behind = number > 0 or not execute
                key = 0 if ip >= KERNEL_HALF else pid, ip, behind
                if key not in self._names:
                    if len(self._names) >= _NAMES_KEPT:
                        self._names.clear()
                    self._names.add(key)
                    names.append([*key, *named_data(self._sites.name(pid, ip, behind=behind))])
        if names:
            self._note("names", names)

    def _name_pointers(self, values: set[int]) -> None:
        """Note what values point to that may be pointers to code or variables."""
        if len(self._pointers) + len(values) > _POINTERS_KEPT:
            self._pointers.clear()
        new = {value for value in values if value >= _IMAGE or value in USER_CODE} - self._pointers
        self._pointers |= new
        names = [
            [value, name]
            for value in sorted(new - self._pointers_noted)
            if (name := self._pointer_name(value))
        ]
        if names:
            self._pointers_noted |= new
            self._note("pointers", names)

    def _follow(self, other: Record) -> None:
        if isinstance(other, LostRecord):
            self.lost_records += other.count
        elif isinstance(other, MmapRecord):
            self._users.mapped(other)
        elif isinstance(other, (CommRecord, ForkRecord, ExitRecord)):
            if self._most_bytes:
                self._rename(other)
            if ended_address_space(other) is not None and self._sites.forget(other.pid):
                self._known = {place for place in self._known if place[1] != other.pid}
                self._names = {name for name in self._names if name[0] != other.pid}
                self._chains = {chain for chain in self._chains if chain[1] != other.pid}
            self._users.changed(other)

    def _rename(self, other: CommRecord | ForkRecord | ExitRecord) -> None:
        thread = other.pid, other.tid
        if isinstance(other, CommRecord):
            self._names_of[thread] = other.comm
        elif isinstance(other, ForkRecord):
            self._left.discard(thread)
            self._names_of[thread] = self._names_of.get((other.parent_pid, other.parent_tid), "?")
        else:
            self._left.add(thread)

    def _note(self, name: str, content: Any) -> None:
        self._writer.note(name, json.dumps(content).encode())


def code_addresses(chain: Iterable[int]) -> list[int]:
    """The addresses of code in a call chain, without the kernel's markers and what can be no address."""
    return [ip for ip in chain if ip in USER_CODE or KERNEL_HALF <= ip < CONTEXT_LEAST]


def _conditions(armed: ArmedWatch) -> list[Any]:
    """Of each watch, what is left of its condition to be judged by whoever reads."""
    left = judges(armed)
    if not any(left):
        return [None] * len(left)
    from ksym.recording.conditions import condition_data

    conditions = (watch.condition for watch in armed.plan.watches)
    return [
        condition_data(condition) if judge and condition else None
        for judge, condition in zip(left, conditions, strict=True)
    ]


def _value_words(armed: ArmedWatch) -> int:
    """At how many words of each sample's end pointers may stand."""
    if armed.engine is None:
        return 0
    watches = [watch for watch in armed.plan.watches if watch.mode is not Mode.EXECUTE]
    words = [
        padded(watch.variable.length) // 4
        for watch in watches
        if watch.variable.type is not None and holds_pointers(watch.variable.type)
    ]
    return max(words, default=0)


def _events(armed: ArmedWatch) -> Sequence[Event]:
    """The file's events: one for each watch, named as it was asked for, and the sideband."""
    ids: dict[tuple[int, Role], dict[int, PlannedEvent]] = {}
    for (event, _), planned in armed.planned.items():
        ids.setdefault((planned.watch.index, planned.role), {})[event] = planned
    events = []
    for (index, role), members in sorted(ids.items(), key=lambda item: (item[0][0], item[0][1].value)):
        watch = armed.plan.watches[index]
        planned = next(iter(members.values()))
        attr = Attr(
            5, sample_period=1, sample_type=armed.sample_type, read_format=4,
            flags=Flag.SAMPLE_ID_ALL | Flag.USE_CLOCKID, bp_type=planned.mode.value, bp_address=watch.variable.address,
            bp_length=planned.piece.length, clockid=1,
        )  # fmt: skip
        suffix = {Role.ONLY: "", Role.WRITES: " (W register)", Role.READS: " (RW register)"}[role]
        events.append(Event(attr, tuple(members), str(watch.request) + suffix))
    attr = Attr(
        1, 9, sample_type=SAMPLE_TYPE, read_format=4, clockid=1,
        flags=Flag.SAMPLE_ID_ALL | Flag.USE_CLOCKID | Flag.COMM | Flag.MMAP | Flag.MMAP2 | Flag.TASK,
    )  # fmt: skip
    return [*events, Event(attr, armed.sideband_ids, "sideband")]
