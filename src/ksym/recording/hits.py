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
from ksym.recording.numbering import Ints, grouped
from ksym.recording.stream import Other, Piece

Words = NDArray[np.uint64]

_IP, _TID, _TIME, _ADDR, _READ, _CHAIN, _ID, _CPU = (1 << bit for bit in (0, 1, 2, 3, 4, 5, 6, 7))
_PERIOD, _STREAM, _RAW, _IDENTIFIER = 1 << 8, 1 << 9, 1 << 10, 1 << 16
# In the order in which samples have them, a word each (perf_output_sample in kernel/events/core.c).
_ORDER = (_IDENTIFIER, _IP, _TID, _TIME, _ADDR, _ID, _STREAM, _CPU, _PERIOD)
# The same of what every other record ends with (perf_event__output_id_sample).
_ENDING = (_TID, _TIME, _ID, _STREAM, _CPU, _IDENTIFIER)
_FORMAT_GROUP, _FORMAT_MEMBERS, _FORMAT_TIMES = 1 << 3, (1 << 2) | (1 << 4), (1, 2)
_RAW_WORDS = 3
"""Size and flags, time, user; then the two values."""
_LEAST_ROOM = 1 << 14
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

    def read_words(self, words: Words, at: Ints) -> Ints:
        """Words that the counters take which PERF_SAMPLE_READ puts into a sample, from ``at`` on."""
        if not self.read:
            return np.zeros(len(at), np.int64)
        each = 1 + (self.read_format & _FORMAT_MEMBERS).bit_count()
        times = sum(bool(self.read_format & bit) for bit in _FORMAT_TIMES)
        if not self.read_format & _FORMAT_GROUP:
            return np.full(len(at), each + times, np.int64)
        return 1 + times + each * np.minimum(words[at], 1 << 20).astype(np.int64)


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
        for length in np.unique(count).tolist():
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
        # Each grows in place: parts put together at the end would take their memory twice.
        self._columns: dict[str, NDArray[Any]] = {}
        self._room = 0
        self.count = 0
        self.latest = 0
        """The latest time of all hits."""

    def add(self, columns: dict[str, NDArray[Any]]) -> None:
        """Take some hits."""
        self.latest = max(self.latest, int(columns["time"].max(initial=0)))
        end = self.count + len(columns["time"])
        if end > self._room:
            self._room = max(end, self._room + self._room // 4, _LEAST_ROOM)
            for column in self._columns.values():
                column.resize((self._room, *column.shape[1:]), refcheck=False)
        for name, column in columns.items():
            if name not in self._columns:
                self._columns[name] = np.empty((self._room, *column.shape[1:]), DTYPES[name])
            self._columns[name][self.count : end] = column
        self.count = end

    def has(self, name: str) -> bool:
        """Whether the hits have that column."""
        return name in self._columns

    def take(self, name: str, count: int) -> NDArray[Any]:
        """The first so many of one column; it is not kept."""
        column = self._columns.pop(name, None)
        if column is None:
            return np.empty((0, self.width) if name in ("old", "new") else 0, DTYPES[name])
        column.resize((count, *column.shape[1:]), refcheck=False)
        return column


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

    def plan(
        self, padded: Sequence[int], executes: Sequence[bool], numbers: Mapping[tuple[int, int], int]
    ) -> None:
        """What hits may be of; more may come later.

        Args:
            padded: Of each thing that was planned, the bytes of either value in its records.
            executes: Of each, whether it is an execution.
            numbers: (identifier, piece) -> number of what was planned; identifier -1: of all samples.
        """
        ids = sorted({identifier for identifier, _ in numbers})
        self._only = ids == [-1]
        self._ids = np.array([] if self._only else ids, np.uint64)
        self._numbers = np.full((max(1, len(ids)), 256), -1, np.int64)
        rows = {identifier: row for row, identifier in enumerate(ids)}
        for (identifier, piece), number in numbers.items():
            if piece < 256:
                self._numbers[rows[identifier], piece] = number
        self._padded = np.array([*padded, 0], np.int64)
        self._execute = np.array([*executes, False], np.bool_)

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
        found = hits.words[hits.at + place]
        row = np.searchsorted(self._ids, found)
        known = row < len(self._ids)
        known &= self._ids[np.where(known, row, 0)] == found
        hits.row = row
        if not known.all():
            hits.select(np.flatnonzero(known))

    def _decode(self, hits: _Hits) -> None:
        layout = self._layout
        words = hits.words
        chain_at = np.full(len(hits.at), layout.fixed)
        hits.keep_while(hits.size >= layout.fixed + layout.read + layout.chain)
        chain_at = hits.at + layout.fixed
        chain_at += layout.read_words(words, chain_at)
        hits.keep_while(chain_at + layout.chain <= hits.at + hits.size)
        chain_at = chain_at[: len(hits.at)]
        length = np.zeros(len(hits.at), np.int64)
        raw_at = chain_at
        if layout.chain:
            room = hits.at + hits.size - chain_at - 1
            found = words[chain_at]
            hits.keep_while(found <= room.astype(np.uint64))
            chain_at, length = chain_at[: len(hits.at)] + 1, found[: len(hits.at)].astype(np.int64)
            raw_at = chain_at + length
        flags = np.zeros(len(hits.at), np.int64)
        if self._by_program:
            hits.keep_while(raw_at + _RAW_WORDS <= hits.at + hits.size)
            raw_at = raw_at[: len(hits.at)]
            head = words[raw_at]
            flags = (head >> np.uint64(32)).astype(np.int64)
        planned = self._numbers[hits.row, flags >> PIECE_SHIFT]
        if self._by_program:
            padded = self._padded[planned]
            fits = (head & np.uint64(0xFFFFFFFF)).astype(np.int64) == 20 + 2 * padded
            fits &= raw_at + _RAW_WORDS + padded // 4 <= hits.at + hits.size
            hits.keep_while(fits | (planned < 0))
            planned = planned[: len(hits.at)]
        if (planned < 0).any():
            known = np.flatnonzero(planned >= 0)
            hits.select(known)
            planned, flags, raw_at, chain_at, length = (
                each[known] for each in (planned, flags, raw_at, chain_at, length)
            )
        count = len(hits.at)
        self._add(hits, planned, flags[:count], raw_at[:count], chain_at[:count], length[:count])

    def _add(
        self, hits: _Hits, planned: Ints, flags: Ints, raw_at: Ints, chain_at: Ints, length: Ints
    ) -> None:
        layout, words, at = self._layout, hits.words, hits.at
        task = words[at + layout.tid]
        pid, tid = (task & np.uint64(0xFFFFFFFF)).astype(np.int64), (task >> np.uint64(32)).astype(np.int64)
        columns: dict[str, NDArray[Any]] = {
            "pid": pid,
            "tid": tid,
            "place": self.places.number(planned, pid, words[at + layout.ip]),
            "cpu": words[at + layout.cpu] & np.uint64(0xFFFFFFFF) if layout.cpu >= 0 else np.zeros(len(at)),
            "time": words[raw_at + 1] if self._by_program else words[at + layout.time],
        }
        if layout.chain:
            execute = self._execute[planned]
            columns["chain"] = self.chains.number(words, chain_at, length, pid, execute)
        if self._by_program:
            columns["flags"] = flags & _KNOWN_FLAGS
            columns["uid"] = words[raw_at + 2] & np.uint64(0xFFFFFFFF)
            columns["old"], columns["new"] = self._values(words, raw_at + _RAW_WORDS, self._padded[planned])
        self.columns.add(columns)

    def _values(self, words: Words, at: Ints, padded: Ints) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        width = self.columns.width
        old, new = (np.zeros((len(at), width // 8), np.uint64) for _ in range(2))
        for size in np.unique(padded).tolist():
            which = np.flatnonzero(padded == size)
            count = size // 8
            for word in range(count):
                old[which, word] = words[at[which] + word]
                new[which, word] = words[at[which] + count + word]
        return old.view(np.uint8), new.view(np.uint8)


class _Hits:
    """Samples of a piece that are being looked at.

    Args:
        words: The piece.
        at: Where they start.
    """

    def __init__(self, words: Words, at: Ints) -> None:
        self.words, self.at = words, at
        self.size = (words[at] >> np.uint64(51)).astype(np.int64)
        self.which = np.arange(len(at))
        """Their numbers among all samples of the piece."""
        self.row = self.which
        self.bad = -1
        """The first sample that cannot be one."""

    def keep_while(self, good: NDArray[np.bool_]) -> None:
        """Leave out the first one that is not good, and all behind it."""
        if not good.all():
            first = int(good.argmin())
            self.bad = int(self.which[first])
            self.select(slice(first))

    def select(self, which: Ints | slice) -> None:
        """Leave these alone."""
        self.at, self.size, self.which = self.at[which], self.size[which], self.which[which]
        self.row = self.row[which]
