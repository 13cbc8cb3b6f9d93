# SPDX-License-Identifier: BSD-2-Clause
"""Samples as columns: what perf_event_open(2) lays out one after the other, taken by numpy.

Layout of a sample: include/uapi/linux/perf_event.h, PERF_RECORD_SAMPLE. What ksym's programs add to it as RAW is
laid out in `ksym.program.layout`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ksym.program.layout import PIECE_SHIFT, TOLD, Hit
from ksym.recording.header import FileEvent
from ksym.recording.numbering import Ints, alike, distinct
from ksym.recording.stream import Other, Piece
from ksym.symbols.variable import KERNEL_HALF

Words = NDArray[np.uint64]
Offset = int | Ints

_IP, _TID, _TIME, _ADDR, _READ, _CHAIN, _ID, _CPU = (1 << bit for bit in (0, 1, 2, 3, 4, 5, 6, 7))
_PERIOD, _STREAM, _RAW, _IDENTIFIER = 1 << 8, 1 << 9, 1 << 10, 1 << 16
# In the order in which samples have them, a word each (perf_output_sample in kernel/events/core.c).
_ORDER = (_IDENTIFIER, _IP, _TID, _TIME, _ADDR, _ID, _STREAM, _CPU, _PERIOD)
# The same of what every other record ends with (perf_event__output_id_sample).
_ENDING = (_TID, _TIME, _ID, _STREAM, _CPU, _IDENTIFIER)
_FORMAT_GROUP, _FORMAT_MEMBERS, _FORMAT_TIMES = 1 << 3, (1 << 2) | (1 << 4), (1, 2)
_RAW_WORDS = 3
"""Size and flags, time, user; then the two values."""
# ksym plans some hundred events a CPU or thread; the table that tells them apart has a row each.
_MOST_ORIGINS, _MOST_NUMBERS = 1 << 20, 1 << 23
_KNOWN_FLAGS = int(Hit.NEW | Hit.OLD | Hit.CHANGED | Hit.READ | Hit.WROTE | Hit.CODE32 | TOLD)


class Layout:
    """Where the fields of an event's samples are, in words from the record's header; -1: there is no such field."""

    def __init__(self, event: FileEvent) -> None:
        kind, at = event.sample_type, 1
        places = {}
        for field in _ORDER:
            places[field] = at if kind & field else -1
            at += bool(kind & field)
        self.ip, self.tid, self.time, self.cpu = (places[field] for field in (_IP, _TID, _TIME, _CPU))
        self.identifier = places[_IDENTIFIER] if kind & _IDENTIFIER else places[_ID]
        self.fixed = at
        self.chain, self.raw, self.read = bool(kind & _CHAIN), bool(kind & _RAW), bool(kind & _READ)
        self.read_format = event.read_format
        ending, back = {}, 0
        for field in reversed(_ENDING):
            back += bool(kind & field)
            ending[field] = back if kind & field else 0
        sample_id_all = bool(event.flags >> 18 & 1)
        self.ending = back if sample_id_all else 0
        """Words behind every record that is no sample."""
        self.ending_time = ending[_TIME] if sample_id_all else 0
        """The time's place among them, counted from the end; 0: there is none."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def read_words(self, hits: _Hits) -> Offset:
        """Words that the counters take which PERF_SAMPLE_READ puts into a sample."""
        if not self.read:
            return 0
        each = 1 + (self.read_format & _FORMAT_MEMBERS).bit_count()
        times = sum(bool(self.read_format & bit) for bit in _FORMAT_TIMES)
        if not self.read_format & _FORMAT_GROUP:
            return each + times
        return 1 + times + each * np.minimum(hits.word(self.fixed), 1 << 20).astype(np.int64)


Place = tuple[int, int, int]
"""Number of what was planned, pid (0 for the kernel), ip."""
Chain = tuple[int, bool, tuple[int, ...]]
"""Pid (0 where all is the kernel's), whether it begins at an execution, addresses with the kernel's markers."""


class Common(NamedTuple):
    """What many hits have in common: all but their time, values and call chain.

    Args:
        place: Number of the place that they came from.
        pid: Of the process; this and what follows as it is in the records, without a sign.
        tid: Of the thread.
        cpu: Where.
        flags: Of `Hit`.
        uid: The user; 0 where no program told.
    """

    place: int
    pid: int
    tid: int
    cpu: int
    flags: int
    uid: int


class Commons:
    """What hits have in common, and the places that they came from, each numbered as it comes."""

    def __init__(self) -> None:
        self.places: dict[Place, int] = {}
        self.known: dict[Common, int] = {}

    def number(self, planned: Ints, ip: Words, *columns: NDArray[Any]) -> Ints:
        """Numbers of what was not met before, too.

        Args:
            planned: Number of what was planned.
            ip: The address that was reported.
            columns: The further fields of `Common`.
        """
        rows = zip(*(column.tolist() for column in (ip, planned, *columns)), strict=True)
        numbers = np.empty(len(planned), np.intp)
        # Code is numbered by its address, so that the same recording is always shown in the same order.
        for (address, of, pid, *more), at in sorted(zip(rows, range(len(planned)), strict=True)):
            place = of, pid if address < KERNEL_HALF else 0, address
            number = self.places.setdefault(place, len(self.places))
            numbers[at] = self.known.setdefault(Common(number, pid, *more), len(self.known))
        return numbers


class Chains:
    """Call chains, numbered as they come."""

    def __init__(self) -> None:
        self.known: dict[Chain, int] = {}

    def number(
        self, words: Words, at: Ints, count: Ints, pid: Ints, execute: NDArray[np.bool_]
    ) -> NDArray[np.int32]:
        """Numbers of the chains of hits; -1 for an empty one.

        Args:
            words: The piece of the file.
            at: Where each chain's addresses start.
            count: How many it has.
            pid: Whose hit it was.
            execute: Whether the hit was an execution.
        """
        numbers = np.full(len(at), -1, np.int32)
        for length in distinct(count)[0].tolist():
            if not length:
                continue
            which = np.flatnonzero(count == length)
            table = words[at[which][:, None] + np.arange(length)]
            addresses = (table[:, each] for each in range(length))
            group, first = alike(*addresses, pid[which], execute[which])
            rows = zip(
                table[first].tolist(), pid[which][first].tolist(), execute[which][first].tolist(), strict=True
            )
            found = np.array([self._number(tuple(row), of, begins) for row, of, begins in rows], np.int32)
            numbers[which] = found[group]
        return numbers

    def _number(self, chain: tuple[int, ...], pid: int, execute: bool) -> int:
        # From the first marker of user space on (PERF_CONTEXT_USER) addresses belong to the process.
        of = pid if any(ip < KERNEL_HALF for ip in chain) else 0
        return self.known.setdefault((of, execute, chain), len(self.known))


class Columns:
    """The hits of a recording, in the order of the file.

    Args:
        width: Bytes of the widest value.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._columns: dict[str, NDArray[Any]] = {}
        self.count = 0
        self.latest = 0
        """The latest time of all hits."""

    def add(self, columns: dict[str, NDArray[Any]], expected: int) -> None:
        """Take some hits; of all of them there may be so many."""
        self.latest = max(self.latest, int(columns["time"].max(initial=0)))
        end = self.count + len(columns["time"])
        for name, column in columns.items():
            so_far = self._columns.get(name)
            if so_far is None or len(so_far) < end:
                # What is not filled later takes no memory.
                room = np.empty((max(2 * self.count, end, expected), *column.shape[1:]), DTYPES[name])
                if so_far is not None:
                    room[: self.count] = so_far[: self.count]
                self._columns[name] = so_far = room
            so_far[self.count : end] = column
        self.count = end

    def has(self, name: str) -> bool:
        """Whether the hits have that column."""
        return name in self._columns

    def take(self, name: str, count: int) -> NDArray[Any]:
        """The first so many of one column; it is not kept."""
        column = self._columns.pop(name, None)
        if column is None:
            return np.empty((0, self.width) if name in ("old", "new") else 0, DTYPES[name])
        return column[:count]


DTYPES: dict[str, type[np.generic]] = {
    "time": np.int64, "common": np.intp, "old": np.uint8, "new": np.uint8, "chain": np.int32,
}  # fmt: skip
"""Columns of hits; what their samples do not have is left out, values for instance."""


class Decoder:
    """Decodes the samples of a recording.

    Args:
        layout: Of the samples that are hits.
        width: Bytes of the widest value.
        by_program: Samples carry what a program wrote.
        room: Bytes of records that there may be; more may come.
        origin_shift: Where the origin begins in a hit's flags.
    """

    def __init__(
        self, layout: Layout, width: int, *, by_program: bool, room: int = 0, origin_shift: int = PIECE_SHIFT
    ) -> None:
        self._origin_shift = origin_shift
        self._layout, self._by_program = layout, by_program
        self._samples = 0
        self.commons, self.chains = Commons(), Chains()
        self.columns = Columns(width)
        self._room = room
        self.damaged = False
        """One sample cannot be one; it and all behind it are left out."""
        self._only = False
        self._ids = np.zeros(0, np.uint64)
        self._origins = np.zeros(0, np.int64)
        self._numbers = np.full((0, 0), -1, np.int64)
        """Of each identifier, in the order of ``_ids``, and origin, in the order of ``_origins``."""
        self._padded, self._execute = (
            np.zeros(1, np.int64),
            np.zeros(1, np.bool_),
        )  # the last is that of no number

    def plan(
        self, padded: Sequence[int], executes: Sequence[bool], numbers: Mapping[tuple[int, int], int]
    ) -> None:
        """What hits may be of, besides what was told before.

        Args:
            padded: Of each thing that was planned, the bytes of either value in its records.
            executes: Of each, whether it is an execution.
            numbers: (identifier, origin) -> number of what was planned; identifier -1: of all samples.

        Raises:
            ValueError: there are more of them than any machine has.
        """
        self._padded = np.concatenate((self._padded[:-1], np.array([*padded, 0], np.int64)))
        self._execute = np.concatenate((self._execute[:-1], np.array([*executes, False], np.bool_)))
        self._only = self._only or (-1, 0) in numbers
        known = {key: number for key, number in numbers.items() if key[1] < _MOST_ORIGINS}
        if self._only or not known:
            return
        ids = np.array([identifier for identifier, _ in known], np.uint64)
        origins = np.array([origin for _, origin in known], np.int64)
        all_ids = np.array(sorted({*ids.tolist(), *self._ids.tolist()}), np.uint64)
        all_origins = np.array(sorted({*origins.tolist(), *self._origins.tolist()}), np.int64)
        if len(all_ids) * len(all_origins) > _MOST_NUMBERS:
            raise ValueError("too many identifiers")
        numbers_of = np.full((len(all_ids), len(all_origins)), -1, np.int64)
        before = np.searchsorted(all_ids, self._ids), np.searchsorted(all_origins, self._origins)
        numbers_of[np.ix_(*before)] = self._numbers
        numbers_of[np.searchsorted(all_ids, ids), np.searchsorted(all_origins, origins)] = list(known.values())
        self._ids, self._origins, self._numbers = all_ids, all_origins, numbers_of

    def take(self, piece: Piece) -> list[Other]:
        """Take the samples of a piece; returns its other records, with the number of hits in front of each."""
        hits = _Hits(piece.words, piece.samples)
        self._find(hits)
        before, end = self.columns.count, len(piece.samples)
        if len(hits.at):
            self._decode(hits)
        if hits.bad >= 0:
            self.damaged, end = True, hits.bad
        numbers = (
            np.searchsorted(hits.which, [other.before - self._samples for other in piece.others]) + before
        )
        others = [
            other._replace(before=number)
            for other, number in zip(piece.others, numbers.tolist(), strict=True)
            if other.before - self._samples <= end
        ]
        self._samples += len(piece.samples)
        return others

    def _find(self, hits: _Hits) -> None:
        """Leave the samples of what was planned."""
        if self._only:
            return
        place = self._layout.identifier
        hits.keep_while(hits.size > place)
        if not len(self._ids) or not len(hits.at):
            hits.select(slice(0))
            return
        number, first = alike(hits.word(place))
        found = hits.word(place)[first]
        row = np.searchsorted(self._ids, found)
        known = self._ids[np.minimum(row, len(self._ids) - 1)] == found
        hits.row = row[number]
        if not known.all():
            hits.select(np.flatnonzero(known[number]))

    def _decode(self, hits: _Hits) -> None:
        layout = self._layout
        hits.keep_while(hits.size >= layout.fixed + layout.read + layout.chain)
        hits.chain = layout.fixed + layout.read_words(hits)
        hits.keep_while(hits.chain + layout.chain <= hits.size)
        if layout.chain and len(hits.at):
            length = hits.word(hits.chain)
            hits.length = length.astype(np.int64)
            hits.keep_while(length <= np.asarray(hits.size - hits.chain - 1).astype(np.uint64))
            hits.chain += 1
        hits.raw = _alike(hits.chain + hits.length)
        if self._by_program:
            hits.keep_while(hits.raw + _RAW_WORDS <= hits.size)
        if len(hits.at):
            self._add(hits)

    def _planned(self, row: Ints, piece: Ints) -> Ints:
        """Numbers of what was planned; -1 where nothing was."""
        if self._only:
            return np.zeros(len(row), np.int64)
        if not len(self._origins):
            return np.full(len(row), -1, np.int64)
        at = np.minimum(np.searchsorted(self._origins, piece), len(self._origins) - 1)
        return np.where(self._origins[at] == piece, self._numbers[row, at], -1)

    def _add(self, hits: _Hits) -> None:
        """Take what was planned: few of many hits differ in more than time and values, so these few are looked up."""
        layout, none = self._layout, np.broadcast_to(np.uint64(0), len(hits.at))
        columns = [
            hits.row,
            hits.word(layout.ip),
            hits.word(layout.tid),
            hits.word(layout.cpu) if layout.cpu >= 0 else none,
            hits.word(hits.raw) if self._by_program else none,
            hits.word(hits.raw + 2) if self._by_program else none,
            np.broadcast_to(hits.size - hits.raw, len(hits.at)),
        ]
        hits.group, first = alike(*columns)
        row, ip, task, cpu, head, user, room = (column[first] for column in columns)
        size, flags = _halves(head)
        planned = self._planned(row, flags >> self._origin_shift)
        padded = self._padded[planned]
        if self._by_program:
            fits = (size == 20 + 2 * padded) & (room >= _RAW_WORDS + padded // 4)
            hits.keep_while((fits | (planned < 0))[hits.group])
        if (planned < 0).any():
            hits.select(np.flatnonzero(planned[hits.group] >= 0))
        if not len(hits.at):
            return
        there = np.flatnonzero(planned >= 0)
        pid, tid = _halves(task)
        fields = (pid, tid, _halves(cpu)[0], flags & _KNOWN_FLAGS, _halves(user)[0])
        numbers = np.empty(len(first), np.intp)
        numbers[there] = self.commons.number(planned[there], ip[there], *(field[there] for field in fields))
        added: dict[str, NDArray[Any]] = {
            "time": hits.word(hits.raw + 1 if self._by_program else layout.time),
            "common": numbers[hits.group],
        }
        if layout.chain:
            at, count = hits.at + hits.chain, np.broadcast_to(hits.length, len(hits.at))
            execute = self._execute[planned]
            added["chain"] = self.chains.number(hits.words, at, count, pid[hits.group], execute[hits.group])
        if self._by_program:
            added["old"], added["new"] = self._values(hits, padded)
        self.columns.add(added, self._room // (8 * int(np.max(hits.size))))

    def _values(self, hits: _Hits, padded: Ints) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        words = self.columns.width // 8
        at = hits.raw + _RAW_WORDS
        if (
            hits.table is not None
            and isinstance(at, int)
            and (padded[hits.group] == self.columns.width).all()
        ):
            old, new = (
                np.ascontiguousarray(hits.table[:, start : start + words]) for start in (at, at + words)
            )
            return old.view(np.uint8), new.view(np.uint8)
        old, new = (np.zeros((len(hits.at), words), np.uint64) for _ in range(2))
        for size in sorted(set(padded.tolist())):
            which = np.flatnonzero(padded[hits.group] == size)
            for word in range(size // 8):
                old[which, word] = hits.word(at + word)[which]
                new[which, word] = hits.word(at + size // 8 + word)[which]
        return old.view(np.uint8), new.view(np.uint8)


def _halves(word: Words) -> tuple[Ints, Ints]:
    """The lower and the upper half of each."""
    return (word & np.uint64(0xFFFFFFFF)).astype(np.int64), (word >> np.uint64(32)).astype(np.int64)


class _Hits:
    """Samples of a piece that are being looked at.

    Offsets are in words from a sample's header: one number where it is the same for all of them.

    Args:
        words: The piece.
        at: Where they start.
    """

    def __init__(self, words: Words, at: Ints) -> None:
        self.words, self.at = words, at
        self.size = _alike((words[at] >> np.uint64(51)).astype(np.int64))
        self.table = _table(words, at, self.size)
        self.which = np.arange(len(at))
        """Their numbers among all samples of the piece."""
        self.row: Ints = np.broadcast_to(np.int64(0), len(at))
        """Of the table of what was planned."""
        self.group: Ints = self.row
        """Number of what each has in common with others."""
        self.chain: Offset = 0
        """Where the addresses of the call chains are."""
        self.length: Offset = 0
        """How many addresses they have."""
        self.raw: Offset = 0
        """Where what a program wrote is."""
        self.bad = -1
        """The first sample that cannot be one."""

    def word(self, offset: Offset) -> Words:
        """A word of each."""
        # Rows of which none is left may have been too short to have that column.
        if self.table is not None and len(self.at) and isinstance(offset, int):
            found: Words = self.table[:, offset]
            return found
        found = self.words[self.at + offset]
        return found  # noqa: RET504 - mypy knows no type of it otherwise

    def keep_while(self, good: NDArray[np.bool_] | np.bool_ | bool) -> None:
        """Leave out the first one that is not good, and all behind it."""
        if len(self.at) and not np.all(good):
            first = int(np.argmin(good))
            self.bad = int(self.which[first])
            self.select(slice(first))

    def select(self, which: Ints | slice) -> None:
        """Leave these alone."""
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray) and name != "words":
                setattr(self, name, column[which])


def _table(words: Words, at: Ints, step: Offset) -> Words | None:
    """Samples as rows, where all have one size; columns of these are taken faster than words by their places."""
    if not len(at) or not isinstance(step, int):
        return None
    ends = [*(np.flatnonzero(np.diff(at) != step) + 1).tolist(), len(at)]
    runs, first = [], 0
    for end in ends:
        start = int(at[first])
        runs.append(words[start : start + (end - first) * step].reshape(-1, step))
        first = end
    return np.concatenate(runs) if len(runs) > 1 else runs[0]


def _alike(offset: Offset) -> Offset:
    """One number in place of many that are all the same."""
    if isinstance(offset, int) or not len(offset) or (offset != offset[0]).any():
        return offset
    return int(offset[0])
