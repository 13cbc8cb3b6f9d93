# SPDX-License-Identifier: BSD-2-Clause
"""From rings to a file: their bytes as they are, and notes of what a reader elsewhere could not find out.

Each round drains all rings and appends their bytes; perf's mark that a round is over lets it sort records of
several CPUs with little memory. Code that made hits for the first time is named while its process lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ksym import __version__
from ksym.capture.judge import judges
from ksym.capture.records import CommRecord, ExitRecord, ForkRecord, LostRecord
from ksym.capture.sites import Sites
from ksym.capture.users import Users
from ksym.language.request import Mode
from ksym.linux.clock import monotonic_ns
from ksym.linux.perf_event import Attr, Flag
from ksym.linux.perf_record import record
from ksym.program.layout import padded
from ksym.recording import machine
from ksym.recording.counting import Counting
from ksym.recording.knowledge import holds_pointers, watch_data
from ksym.recording.naming import Namer
from ksym.recording.perf_file import Kind
from ksym.recording.scan import scan, split
from ksym.recording.writer import Compressor, Event, PerfWriter
from ksym.symbols.kallsyms import Kallsyms
from ksym.watch import synthetic
from ksym.watch.arm import ArmedWatch
from ksym.watch.plan import PlannedEvent, Role
from ksym.watch.rings import SAMPLE_TYPE

FLUSH_SECONDS = 1.0
LEAST_SIZE = 1 << 20
"""Less than this is too little for two files: each has to describe processes and code anew."""
_END_BYTES = 48 << 10
"""Room for what the end of a file needs."""
_LEAST_ROOM = 64 << 10
"""A file with less room than this is full."""


class Recorder:
    """Writes one recording, or several one after the other.

    Args:
        armed: What is planted.
        sites: Names of code.
        users: Processes' code; told of what the records tell.
        pids: The processes whose threads and mappings are described at the start; none: all processes.
        open_file: Opens the next file; its descriptor.
        compressor: Makes a compressor for each file; None: files are not compressed.
        flush_seconds: How long records may wait to be written.
        most_bytes: What this file and the one before may take together; 0: anything, there is but one.
        limit: So many accesses count; 0: all.
        taken: Told of what was in the rings, round by round.
    """

    def __init__(
        self,
        armed: ArmedWatch,
        sites: Sites,
        users: Users,
        *,
        pids: Sequence[int],
        open_file: Callable[[], int],
        compressor: Callable[[], Compressor] | None = None,
        flush_seconds: float = FLUSH_SECONDS,
        most_bytes: int = 0,
        limit: int = 0,
        taken: Callable[[Sequence[bytes]], None] = lambda batch: None,
    ) -> None:
        self._armed, self._sites, self._users, self._pids = armed, sites, users, pids
        self._open_file, self._make_compressor = open_file, compressor
        self._flush_seconds, self._limit, self._taken = flush_seconds, limit, taken
        self._most_bytes = max(most_bytes // 2 - _END_BYTES, _LEAST_ROOM) if most_bytes else 0
        # Once for all files: a wall clock that is set meanwhile must not move the rows of the later ones.
        self._clock = {"monotonic_ns": monotonic_ns(), "realtime_ns": time.time_ns()}
        self._planned = 0
        self._names_of: dict[tuple[int, int], str] = {}
        """Threads' names, by pid and tid, as far as the records have told; for the next file."""
        self._left: set[tuple[int, int]] = set()
        """Those that have ended since the file was begun; their last hits may come in the next one."""
        self._namer = Namer(armed, sites, users, self._note)
        self._counting = Counting(armed)
        self._value_words = _value_words(armed)
        self._flushed = time.monotonic()
        self.lost_records = 0
        self._lost_told = 0
        """Hits that found no room, as far as the files tell."""
        self._writer = self._begin()

    @property
    def hits(self) -> int:
        """Hits of which records were taken."""
        return self._counting.earlier + self._counting.recorded

    @property
    def kept(self) -> tuple[int, int, int]:
        """Hits recorded in this file, in the one before, and in those that were removed."""
        return self._counting.recorded, self._counting.previous, self._counting.removed

    @property
    def bytes_written(self) -> int:
        """Size of the present file."""
        return self._writer.bytes_written + self._writer.waiting

    @property
    def readable(self) -> bool:
        """True if a reader finds a hit in the present file."""
        return self._writer.readable

    @property
    def length(self) -> int:
        """Size of the present file, once it is finished."""
        return self._writer.length

    def round(self, counts: Callable[[], dict[str, Any]]) -> None:
        """Take what the rings hold.

        Args:
            counts: What the counters say, for a note at each flush.

        Raises:
            OSError: it cannot be written.
        """
        self._add_events()
        batch = [data for ring in self._armed.rings if (data := ring.drain())]
        self._taken(batch)
        while batch:
            batch = self._take(batch, counts)
        if time.monotonic() - self._flushed >= self._flush_seconds or self._writer.waiting > 16 << 20:
            self._flush(counts)

    def _flush(self, counts: Callable[[], dict[str, Any]]) -> None:
        self._flushed = time.monotonic()
        self._note("counts", self._counting.own(counts()))
        self._writer.flush()

    def finish(self, counts: dict[str, Any]) -> None:
        """Write what is left, and what a reader needs to know that this is all.

        Raises:
            OSError: it cannot be written.
        """
        self.round(lambda: counts)
        self._end(self._counting.own(counts, last=True), counts)

    def stop(self, counts: dict[str, Any], why: str) -> dict[str, Any]:
        """End a file that cannot be written on, if it can be done: by what it has for an end.

        Returns:
            What it says of its hits, or would say.
        """

        def end(mark: int) -> bytes:
            own = self._counting.stopped(counts, mark, why)
            return self._writer.noted("end", json.dumps(own).encode())

        with contextlib.suppress(OSError):
            self._writer.stop(end, machine.features(self._users.build_ids()))
        return self._counting.stopped(counts, self._writer.written_mark, why)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _rotate(self, counts: dict[str, Any]) -> None:
        self._end(self._counting.rotated(counts), counts)
        self._writer.close()
        self._namer.forget()
        self._writer = self._begin()

    def _end(self, own: dict[str, Any], counts: dict[str, Any]) -> None:
        dropped = int(counts.get("no_room", 0)) - self.lost_records - self._lost_told
        if dropped > 0:
            # Programs count what found no room; perf learns it as the kernel would have told.
            body = struct.pack("<QQ", self._events[0].ids[0], dropped)
            self._writer.append(record(Kind.LOST, body + self._writer.trailer(monotonic_ns())))
            self._lost_told += dropped
        self._note("end", own)
        self._writer.finish(machine.features(self._users.build_ids()))

    # -- the start ---------------------------------------------------------------------------------

    def _begin(self) -> PerfWriter:
        self._events = _events(self._armed)
        self._ids = {each for event in self._events for each in event.ids}
        self._sideband_ids = len(self._armed.sideband_ids)
        writer = PerfWriter(
            self._open_file(), self._events, self._make_compressor() if self._make_compressor else None
        )
        self._writer = writer
        try:
            self._describe(writer)
        except BaseException:
            writer.close()
            raise
        return writer

    def _describe(self, writer: PerfWriter) -> None:
        """Write what a reader needs to know in front of the first hit."""
        self._note("start", self._start())

        def trailer(at: int, pid: int, tid: int) -> bytes:
            return writer.trailer(at, pid, tid)

        kallsyms = Kallsyms.shown()
        parts: Iterable[bytes] = machine.kernel_records(kallsyms, trailer) if kallsyms else ()
        for part in parts:
            writer.append(part)
        options = self._armed.options
        everywhere = self._armed.any_system_wide or not self._pids
        pids = machine.all_processes() if everywhere else list(self._pids)
        user_code = options.stacks or not everywhere
        if self._counting.files == 1:
            self._names_of = {(pid, tid): name for pid, tid, name in synthetic.threads(pids)}
        for (pid, tid), name in self._names_of.items():
            writer.append(synthetic.comm(pid, tid, name, trailer))
        for thread in self._left:
            self._names_of.pop(thread, None)
        self._left.clear()
        for part in synthetic.mapping_records(pids if user_code else [], trailer):
            writer.append(part)
        writer.flush()

    def _start(self) -> dict[str, Any]:
        armed = self._armed
        self._planned = len(armed.planned)
        return {
            "version": __version__,
            "arch": os.uname().machine,
            "machine": machine.description(),
            "limit": self._limit,
            "file": self._counting.files,
            "clock": self._clock,
            "values": armed.engine is not None,
            "stacks": armed.options.stacks,
            "both_fire": armed.options.both_fire,
            "watches": [watch_data(watch) for watch in armed.plan.watches],
            "conditions": _conditions(armed),
            "events": self._events_data(0),
        }

    def _add_events(self) -> None:
        """Write the events that were opened since the file was begun."""
        if len(self._armed.planned) > self._planned:
            self._note("events", self._events_data(self._planned))
            self._planned = len(self._armed.planned)
        if len(self._armed.sideband_ids) == self._sideband_ids:
            return
        self._sideband_ids = len(self._armed.sideband_ids)
        fresh = []
        for event in _events(self._armed):
            ids = tuple(each for each in event.ids if each not in self._ids)
            self._ids.update(ids)
            fresh += [event._replace(ids=ids)] if ids else []
        self._writer.add(fresh)

    def _events_data(self, first: int) -> list[list[Any]]:
        """What identifiers stand for, from that one on."""
        return [
            [
                event,
                origin,
                planned.watch.index,
                planned.watch.pieces.index(planned.piece),
                planned.role.name,
                planned.base,
            ]
            for (event, origin), planned in list(self._armed.planned.items())[first:]
        ]

    # -- what passes through -------------------------------------------------------------------------

    def _take(self, batch: list[bytes], counts: Callable[[], dict[str, Any]]) -> list[bytes]:
        """Take what fits into the file, or what there is where its size is not bounded; returns the rest."""
        rest: list[bytes] = []
        if self._most_bytes:
            batch, rest = self._fitting(batch, counts)
        found = []
        for data in batch:
            self._writer.append(data)
            found.append(scan(data, chains=self._armed.options.stacks, values=self._value_words))
        others = sorted((other for each in found for other in each.others), key=lambda other: other.time)
        for other in others:
            if isinstance(other, LostRecord):
                self.lost_records += other.count
            elif self._most_bytes and isinstance(other, (CommRecord, ForkRecord, ExitRecord)):
                self._rename(other)
        for each in found:
            self._counting.take(each.samples)
        self._namer.look(found, batch, others)
        self._writer.append(record(Kind.FINISHED_ROUND, b""))
        self._writer.mark = self._counting.recorded
        self._writer.seal()
        return rest

    def _fitting(
        self, batch: list[bytes], counts: Callable[[], dict[str, Any]]
    ) -> tuple[list[bytes], list[bytes]]:
        size = sum(map(len, batch))
        if self.bytes_written + size <= self._most_bytes:
            return batch, []
        self._flush(counts)
        if self._most_bytes - self.bytes_written < _LEAST_ROOM and self._counting.recorded:
            self._rotate(counts())
        room = max(self._most_bytes - self.bytes_written, _LEAST_ROOM)
        return (batch, []) if size <= room else split(batch, room)

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
