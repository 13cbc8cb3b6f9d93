# SPDX-License-Identifier: BSD-2-Clause
"""Samples as columns: what perf_event_open(2) lays out one after the other, taken by numpy.

Layout of a sample: include/uapi/linux/perf_event.h, PERF_RECORD_SAMPLE. What ksym's programs add to it as RAW is
laid out in `ksym.program.layout`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ksym.capture.sites import KERNEL_HALF
from ksym.program.layout import PIECE_SHIFT, Hit
from ksym.recording.header import FileEvent
from ksym.recording.numbering import Ints, distinct, grouped
from ksym.recording.stream import Other, Piece

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
_MOST_PIECES, _MOST_NUMBERS = 256, 1 << 23
_KNOWN_FLAGS = int(Hit.NEW | Hit.OLD | Hit.CHANGED | Hit.READ | Hit.WROTE)


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


class Places:
    """The places that hits came from, numbered as they come."""

    def __init__(self) -> None:
        self.known: dict[Place, int] = {}

    def number(self, planned: Ints, pid: Ints, ip: Words) -> NDArray[np.int32]:
        """Numbers of the places of hits."""
        user = ip < np.uint64(KERNEL_HALF)
        owner = np.where(user, pid, 0)
        group, first = grouped(ip, owner, planned)
        numbers = np.empty(len(first), np.int32)
        for at, (each, of, address) in enumerate(
            zip(planned[first].tolist(), owner[first].tolist(), ip[first].tolist(), strict=True)
        ):
            numbers[at] = self.known.setdefault((each, of, address), len(self.known))
        return numbers[group]


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
            # One column stands for all: of a random sum of them, as equal rows have equal sums.
            mixed = (table * _mixers(length)).sum(axis=1, dtype=np.uint64)
            group, first = grouped(mixed, pid[which], execute[which].astype(np.int64))
            if not np.array_equal(table, table[first][group]):
                columns = [table[:, each] for each in range(length)]
                group, first = grouped(*columns, pid[which], execute[which].astype(np.int64))
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


def _mixers(count: int) -> Words:
    return np.random.default_rng(count).integers(1, 1 << 63, count, np.uint64) | np.uint64(1)


class Columns:
    """The hits of a recording, in the order of the file.

    Args:
        width: Bytes of the widest value.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        # Parts, put together column by column: what grew in place would be zeroed or copied each time.
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self.count = 0
        self.latest = 0
        """The latest time of all hits."""

    def add(self, columns: dict[str, NDArray[Any]]) -> None:
        """Take some hits."""
        self.latest = max(self.latest, int(columns["time"].max(initial=0)))
        self.count += len(columns["time"])
        for name, column in columns.items():
            self._parts.setdefault(name, []).append(column.astype(DTYPES[name]))

    def has(self, name: str) -> bool:
        """Whether the hits have that column."""
        return name in self._parts

    def take(self, name: str, count: int) -> NDArray[Any]:
        """The first so many of one column; it is not kept."""
        parts = self._parts.pop(name, [])
        if not parts:
            return np.empty((0, self.width) if name in ("old", "new") else 0, DTYPES[name])
        return np.concatenate(parts)[:count]


DTYPES: dict[str, type[np.generic]] = {
    "time": np.int64, "cpu": np.int32, "pid": np.int32, "tid": np.int32, "place": np.int32,
    "flags": np.uint8, "uid": np.uint32, "old": np.uint8, "new": np.uint8, "chain": np.int32,
}  # fmt: skip
"""Columns of hits; what their samples do not have is left out, values for instance."""


class Decoder:
    """Decodes the samples of a recording.

    Args:
        layout: Of the samples that are hits.
        width: Bytes of the widest value.
        by_program: Samples carry what a program wrote.
    """

    def __init__(self, layout: Layout, width: int, *, by_program: bool) -> None:
        self._layout, self._by_program = layout, by_program
        self._samples = 0
        self.places, self.chains = Places(), Chains()
        self.columns = Columns(width)
        self.damaged = False
        """One sample cannot be one; it and all behind it are left out."""
        self._only = False
        self._ids = np.zeros(0, np.uint64)
        self._numbers = np.full((0, 1), -1, np.int64)
        """Of each identifier, in the order of ``_ids``, and piece."""
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
            numbers: (identifier, piece) -> number of what was planned; identifier -1: of all samples.

        Raises:
            ValueError: there are more of them than any machine has.
        """
        self._padded = np.concatenate((self._padded[:-1], np.array([*padded, 0], np.int64)))
        self._execute = np.concatenate((self._execute[:-1], np.array([*executes, False], np.bool_)))
        self._only = self._only or (-1, 0) in numbers
        known = {key: number for key, number in numbers.items() if key[1] < _MOST_PIECES}
        if self._only or not known:
            return
        ids = np.array([identifier for identifier, _ in known], np.uint64)
        pieces = np.array([piece for _, piece in known], np.int64)
        width = max(self._numbers.shape[1], int(pieces.max()) + 1)
        fresh = np.setdiff1d(ids, self._ids)
        if (len(self._ids) + len(fresh)) * width > _MOST_NUMBERS:
            raise ValueError("too many identifiers")
        at = np.searchsorted(self._ids, fresh)
        self._ids = np.insert(self._ids, at, fresh)
        wider = np.pad(self._numbers, ((0, 0), (0, width - self._numbers.shape[1])), constant_values=-1)
        self._numbers = np.insert(wider, at, -1, axis=0)
        self._numbers[np.searchsorted(self._ids, ids), pieces] = list(known.values())

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
            hits.row = np.zeros(len(hits.at), np.int64)
            return
        place = self._layout.identifier
        hits.keep_while(hits.size > place)
        if not len(self._ids):
            hits.select(slice(0))
            return
        found = hits.word(place)
        row = np.searchsorted(self._ids, found)
        known = row < len(self._ids)
        known &= self._ids[np.where(known, row, 0)] == found
        hits.row = row
        if not known.all():
            hits.select(np.flatnonzero(known))

    def _decode(self, hits: _Hits) -> None:
        layout = self._layout
        hits.keep_while(hits.size >= layout.fixed + layout.read + layout.chain)
        hits.chain = layout.fixed + layout.read_words(hits)
        hits.keep_while(hits.chain + layout.chain <= hits.size)
        if layout.chain and len(hits.at):
            length = hits.word(hits.chain)
            hits.length = length.astype(np.int64)
            hits.keep_while(length <= (hits.size - hits.chain - 1).astype(np.uint64))
            hits.chain += 1
        hits.raw = _alike(hits.chain + hits.length)
        if self._by_program:
            hits.keep_while(hits.raw + _RAW_WORDS <= hits.size)
            head = hits.word(hits.raw)
            hits.flags = (head >> np.uint64(32)).astype(np.int64)
        hits.planned = self._planned(hits.row, hits.flags >> PIECE_SHIFT)
        if self._by_program:
            padded = self._padded[hits.planned]
            fits = (head & np.uint64(0xFFFFFFFF)).astype(np.int64) == 20 + 2 * padded
            fits &= hits.raw + _RAW_WORDS + padded // 4 <= hits.size
            hits.keep_while(fits | (hits.planned < 0))
        if (hits.planned < 0).any():
            hits.select(np.flatnonzero(hits.planned >= 0))
        if len(hits.at):
            self._add(hits)

    def _planned(self, row: Ints, piece: Ints) -> Ints:
        """Numbers of what was planned; -1 where nothing was."""
        if self._only:
            return np.zeros(len(row), np.int64)
        width = self._numbers.shape[1]
        if (inside := piece < width).all():
            return self._numbers[row, piece]
        return np.where(inside, self._numbers[row, np.minimum(piece, width - 1)], -1)

    def _add(self, hits: _Hits) -> None:
        layout = self._layout
        pid, tid = hits.halves(layout.tid)
        columns: dict[str, NDArray[Any]] = {
            "pid": pid,
            "tid": tid,
            "place": self.places.number(hits.planned, pid.astype(np.int64), hits.word(layout.ip)),
            "cpu": hits.halves(layout.cpu)[0] if layout.cpu >= 0 else np.zeros(len(hits.at), np.uint32),
            "time": hits.word(hits.raw + 1 if self._by_program else layout.time),
        }
        if layout.chain:
            at, count = hits.at + hits.chain, np.broadcast_to(hits.length, len(hits.at))
            execute = self._execute[hits.planned]
            columns["chain"] = self.chains.number(hits.words, at, count, pid.astype(np.int64), execute)
        if self._by_program:
            columns["flags"] = hits.flags & _KNOWN_FLAGS
            columns["uid"] = hits.halves(hits.raw + 2)[0]
            columns["old"], columns["new"] = self._values(hits, self._padded[hits.planned])
        self.columns.add(columns)

    def _values(self, hits: _Hits, padded: Ints) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        words = self.columns.width // 8
        at = hits.raw + _RAW_WORDS
        if hits.table is not None and isinstance(at, int) and (padded == self.columns.width).all():
            old, new = (
                np.ascontiguousarray(hits.table[:, start : start + words]) for start in (at, at + words)
            )
            return old.view(np.uint8), new.view(np.uint8)
        old, new = (np.zeros((len(hits.at), words), np.uint64) for _ in range(2))
        for size in distinct(padded)[0].tolist():
            which = np.flatnonzero(padded == size)
            for word in range(size // 8):
                old[which, word] = hits.word(at + word)[which]
                new[which, word] = hits.word(at + size // 8 + word)[which]
        return old.view(np.uint8), new.view(np.uint8)


class _Hits:
    """Samples of a piece that are being looked at.

    Offsets are in words from a sample's header: one number where it is the same for all of them.

    Args:
        words: The piece.
        at: Where they start.
    """

    def __init__(self, words: Words, at: Ints) -> None:
        self.words, self.at = words, at
        self.size = (words[at] >> np.uint64(51)).astype(np.int64)
        self.table = _table(words, at, self.size)
        self.which = np.arange(len(at))
        """Their numbers among all samples of the piece."""
        self.row = self.flags = self.planned = self.which
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

    def halves(self, offset: Offset) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """The lower and the upper half of a word of each."""
        word = np.ascontiguousarray(self.word(offset)).view("<u4")
        return word[::2], word[1::2]

    def keep_while(self, good: NDArray[np.bool_]) -> None:
        """Leave out the first one that is not good, and all behind it."""
        if not good.all():
            first = int(good.argmin())
            self.bad = int(self.which[first])
            self.select(slice(first))

    def select(self, which: Ints | slice) -> None:
        """Leave these alone."""
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray) and name != "words":
                setattr(self, name, column[which])


def _table(words: Words, at: Ints, size: Ints) -> Words | None:
    """Samples as rows, where all have one size; columns of these are taken faster than words by their places."""
    if not len(at) or (size != size[0]).any():
        return None
    step = int(size[0])
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
