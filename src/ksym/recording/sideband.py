# SPDX-License-Identifier: BSD-2-Clause
"""The records of a recording that are no samples: what changed tasks and mappings, and ksym's notes.

Their order in time is told in *ranks*: how many hits, sorted by time, come before one.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ksym.capture.records import (
    FILE_BYTES,
    CommRecord,
    ExitRecord,
    ForkRecord,
    LostRecord,
    MmapRecord,
    Record,
    file_of,
)
from ksym.recording.hits import Layout
from ksym.recording.numbering import Ints
from ksym.recording.perf_file import CHECK, EVENT_UPDATE_NAME, NOTE, NOTE_HEAD, NOTE_MARK, Kind
from ksym.recording.stream import Other

KERNEL_PID = 0xFFFFFFFF
_MISC_COMM_EXEC = 1 << 13
_PAIRS = struct.Struct("<IIIIQ")
_MAPPING = struct.Struct("<IIQQQ")
_LOST_SAMPLES = 13
_CHANGES = (Kind.COMM, Kind.FORK, Kind.EXIT, Kind.MMAP, Kind.MMAP2, Kind.LOST, _LOST_SAMPLES)
_MISC_MMAP_DATA = 1 << 13


class Damaged(Exception):
    """A record says what it cannot."""


class Change(NamedTuple):
    """A record that changes what is known of tasks or mappings.

    Args:
        order: Its number among all records that are no samples.
        before: Hits in front of it in the file.
        record: What it says.
    """

    order: int
    before: int
    record: Record


class Note(NamedTuple):
    """A note of ksym's (`recording.knowledge`)."""

    order: int
    before: int
    name: str
    content: Any


@dataclass
class Sideband:
    """All that a file says besides its samples; given its records one after the other."""

    changes: list[Change] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    """Names of events, by identifier (EVENT_UPDATE)."""
    kernel: list[MmapRecord] = field(default_factory=list)
    """Where the kernel and its modules lay; the offset of the kernel itself is the address of its ``_text``."""
    rounds: int = 0
    round_hits: int = 0
    """Hits up to the end of the last round, with ksym up to the last check sum."""
    round_order: int = 0
    lost: int = 0
    """Hits for which a ring had no room, as the kernel tells."""
    by_ksym: bool = False
    _order: int = 0
    _open: tuple[str, list[bytes]] = ("", [])

    def take(self, other: Other, layout: Layout) -> None:
        """Take a record.

        Raises:
            Damaged: it says what it cannot.
        """
        self._order += 1
        kind, data = other.kind, other.data
        try:
            if kind == Kind.FINISHED_ROUND:
                if not self.by_ksym:
                    self._round_ends(other.before)
            elif kind == Kind.BPF_EVENT:
                self._bpf(other)
            elif kind == Kind.EVENT_UPDATE:
                what, identifier = struct.unpack_from("<QQ", data, 8)
                if what == EVENT_UPDATE_NAME:
                    self.names[identifier] = _text(data[24:])
            else:
                record = change(kind, other.misc, data, layout)
                if isinstance(record, LostRecord):
                    self.lost += record.count
                elif isinstance(record, MmapRecord) and record.pid == KERNEL_PID:
                    self.kernel.append(record)
                elif record is not None:
                    self.changes.append(Change(self._order, other.before, record))
        except struct.error as error:
            raise Damaged(f"a record of type {kind} is too short") from error

    def _round_ends(self, before: int) -> None:
        self.rounds += 1
        self.round_hits, self.round_order = before, self._order

    def _bpf(self, other: Other) -> None:
        at = 8
        kind, more, number, mark = NOTE_HEAD.unpack_from(other.data, at)
        if kind != NOTE:
            return
        self.by_ksym = True
        (size,) = struct.unpack_from("<I", other.data, at + NOTE_HEAD.size)
        part = other.data[at + NOTE_HEAD.size + 4 :][:size]
        if mark != NOTE_MARK or more > 1 or len(part) < size:
            raise Damaged("a note of ksym's is damaged")
        if number == 0:
            head, _, part = part.partition(b"\0")
            self._open = head.decode(errors="replace"), []
        name, parts = self._open
        if number != len(parts):
            raise Damaged("a part of a note of ksym's is missing")
        parts.append(part)
        if more:
            return
        self._open = "", []
        if name == CHECK:  # and it was right, or the stream would have ended
            self._round_ends(other.before)
            return
        try:
            content = json.loads(b"".join(parts))
        except (ValueError, RecursionError) as error:
            raise Damaged("a note of ksym's is damaged") from error
        self.notes.append(Note(self._order, other.before, name, content))

    def drop_unfinished(self) -> None:
        """Forget what came behind the last round that is whole."""
        self.changes = [each for each in self.changes if each.order <= self.round_order]
        self.notes = [each for each in self.notes if each.order <= self.round_order]


def change(kind: int, misc: int, data: bytes, layout: Layout) -> Record | None:
    """Decode a record; None for a kind that is of no use.

    Raises:
        struct.error: it is too short.
    """
    if kind not in _CHANGES:
        return None
    end = len(data) - 8 * layout.ending
    time = 0
    if layout.ending_time:
        (time,) = struct.unpack_from("<Q", data, max(8, len(data) - 8 * layout.ending_time))
    if kind == Kind.COMM:
        pid, tid = struct.unpack_from("<II", data, 8)
        return CommRecord(time, pid, tid, _text(data[16:end]), bool(misc & _MISC_COMM_EXEC))
    if kind in (Kind.FORK, Kind.EXIT):
        pid, parent_pid, tid, parent_tid, when = _PAIRS.unpack_from(data, 8)
        if kind == Kind.FORK:
            return ForkRecord(when, pid, tid, parent_pid, parent_tid)
        return ExitRecord(when, pid, tid)
    if kind in (Kind.MMAP, Kind.MMAP2):
        if misc & _MISC_MMAP_DATA:
            return None  # not code
        pid, _, start, length, offset = _MAPPING.unpack_from(data, 8)
        if kind == Kind.MMAP:
            return MmapRecord(time, pid, start, length, offset, _text(data[8 + _MAPPING.size : end]))
        path = _text(data[8 + _MAPPING.size + FILE_BYTES : end])
        return MmapRecord(time, pid, start, length, offset, path, *file_of(misc, data))
    return LostRecord(time, 0, struct.unpack_from("<Q", data, 16 if kind == Kind.LOST else 8)[0])


def ranks(changes: list[Change], times: Ints, order: Ints | None) -> NDArray[np.int64]:
    """How many hits come before each change, in order of time and, at the same time, of the file.

    Args:
        changes: The changes.
        times: Of the hits, sorted.
        order: Number in the file of each hit, sorted by time; None: that is their order in the file.
    """
    when = np.array([_clamped(each.record.time) for each in changes], np.int64)
    low, high = np.searchsorted(times, when, "left"), np.searchsorted(times, when, "right")
    for at in np.flatnonzero(low < high).tolist():
        first, last, before = int(low[at]), int(high[at]), changes[at].before
        same = np.arange(first, last) if order is None else order[first:last]
        low[at] = first + np.searchsorted(same, before)
    return low


def _clamped(time: int) -> int:
    return min(time, (1 << 63) - 1)


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="replace")
