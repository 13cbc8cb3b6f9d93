# SPDX-License-Identifier: BSD-2-Clause
"""The records of a recording, in pieces of bounded size: where the samples are, and all that is no sample.

Nearly all records are samples, and runs of them have one size, so that a step through the file goes from run to run.
Records that perf compressed (``-z``) are unpacked on the way. Whatever cannot be a record ends the stream there: what
was in front of it is whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ksym.recording import zstd
from ksym.recording.ahead import DEPTH
from ksym.recording.header import Bytes, FileHead, error
from ksym.recording.perf_file import CHECK, Kind, is_note

_PIECE = 1 << 20
_MOST_LEFT = 1 << 16
"""Bytes of a record that is not whole yet: sizes are of 16 bits."""
_HEADER = struct.Struct("<IHH")
_KIND_AND_SIZE = 0xFFFF0000FFFFFFFF
_COMPRESSED = (Kind.COMPRESSED, Kind.COMPRESSED2)
_ALIKE = 16
"""After so many samples of one size one after the other, the rest of the run is looked for at once."""
_BAD_SIZE = "a record has an impossible size"
_MOST_UNPACKED = 256
"""How many times its size a file may unpack to; ksym's own samples, all alike, come to 40."""
_SMALL = 1 << 16
"""A smaller file counts as one of that size."""


class Other(NamedTuple):
    """A record that is no sample.

    Args:
        before: Samples in front of it in the file.
        kind: Its type.
        misc: As in its header.
        data: All of it, header included.
    """

    before: int
    kind: int
    misc: int
    data: bytes


@dataclass
class Piece:
    """Some records, in the order of the file.

    Args:
        words: The bytes, as 64-bit words; they last until so many more pieces are asked for as are read ahead.
        samples: Where in them samples start.
        others: What is no sample, with the number of samples in front of it counted from the start of the stream.
        first: Samples in front of the piece.
        at: Where in the file it starts, or where that starts which it was unpacked from.
        damage: Why the stream ends behind it, if it does for a damage.
    """

    words: NDArray[np.uint64]
    samples: NDArray[np.int64]
    others: list[Other]
    first: int
    at: int
    damage: str | None = None


@dataclass
class Stream:
    """The records of a file.

    Args:
        file: The file.
        head: Its head.
        progress: Told how much of the file has been read: (bytes, of so many).
    """

    file: Bytes
    head: FileHead
    progress: Callable[[int, int], None] = lambda done, total: None
    damage: str | None = None
    """Why it ended before its end."""
    count: int = 0
    """Samples so far."""
    at: int = 0
    """How far the file has been read: up to there, all records were whole."""
    _unpack: zstd.Decompressor | None = None
    _unpacked: int = 0
    _inner: bytes = b""
    _sum: int = 0

    def pieces(self) -> Iterator[Piece]:
        """All records, until the end or the first damage.

        Raises:
            KsymError: it is compressed, and libzstd is missing.
        """
        try:
            yield from self._pieces()
        finally:
            if self._unpack:
                self._unpack.close()

    def _pieces(self) -> Iterator[Piece]:
        start, end = self.head.data_at, self.head.data_end
        self._sum = self.head.check_sum
        # The same buffers again: what is new to the process costs more to get than to fill.
        size = min(_PIECE, max(0, end - start)) + _MOST_LEFT
        buffers = cycle([bytearray(size) for _ in range(DEPTH + 2)])
        buffer = next(buffers)
        at, left = start, 0
        while at < end and self.damage is None:
            self.file.seek(at)
            got = self.file.readinto(memoryview(buffer)[left : left + min(_PIECE, end - at)])
            if not got:
                break
            at += got
            self.progress(at - start, end - start)
            self.at = at - got - left
            yield from self._outer(memoryview(buffer)[: left + got])
            taken = self.at - (at - got - left)
            rest = buffer[taken : left + got]
            buffer, left = next(buffers), len(rest)
            buffer[:left] = rest
        if self.damage is None and (left or self._inner):
            self.damage = "its last record is not whole"

    def _outer(self, data: memoryview) -> Iterator[Piece]:
        """Pieces of some of the file's own bytes."""
        start, at = self.at, 0
        while self.damage is None and len(data) - at >= _HEADER.size:
            kind, _, size = _HEADER.unpack_from(data, at)
            if kind not in _COMPRESSED:
                piece, taken = self._plain(data[at:])
                at += taken
                self.at = start + at
                if piece is None:
                    return
                piece.at = start + at - taken
                yield piece
                continue
            if at + size > len(data):
                return
            skip = 16 if kind == Kind.COMPRESSED2 else _HEADER.size
            if size < skip:
                self.damage = _BAD_SIZE
                return
            body = bytes(data[at + skip : at + size])
            if kind == Kind.COMPRESSED2:
                body = body[: struct.unpack_from("<Q", data, at + 8)[0]]
            for piece in self._unpacked_pieces(body):
                piece.at = self.at
                yield piece
            at += size
            self.at = start + at

    def _unpacked_pieces(self, body: bytes) -> Iterator[Piece]:
        if self._unpack is None:
            try:
                self._unpack = zstd.Decompressor()
            except zstd.ZstdMissing:
                raise error(
                    self.head.path, "it is compressed, and libzstd.so.1 is not installed", "install libzstd1"
                ) from None
        most = max(self.head.data_end, _SMALL) * _MOST_UNPACKED
        try:
            for part in self._unpack.parts(body):
                self._unpacked += len(part)
                if self._unpacked > most:
                    self.damage = "it unpacks to an impossible size"
                    return
                self._inner += part
                if len(self._inner) >= 1 << 20:
                    yield from self._inner_pieces()
                    if self.damage is not None:
                        return
        except ValueError:
            self.damage = "its compressed part is damaged"
        yield from self._inner_pieces()

    def _inner_pieces(self) -> Iterator[Piece]:
        piece, taken = self._plain(memoryview(self._inner))
        self._inner = self._inner[taken:]
        if piece is not None:
            yield piece
        if self.damage is None and len(self._inner) >= _HEADER.size:
            kind, _, _ = _HEADER.unpack_from(self._inner)
            if kind in _COMPRESSED:
                self.damage = "its compressed part is compressed again"

    def _plain(self, data: memoryview) -> tuple[Piece | None, int]:
        """The records at the start of ``data``, up to one that is compressed or not whole, and their bytes."""
        usable = len(data) // 8 * 8
        words: NDArray[np.uint64] = np.frombuffer(data, "<u8", usable // 8)
        view = data[:usable].cast("Q")
        runs: list[NDArray[np.int64]] = []
        singles: list[int] = []
        others: list[Other] = []
        at, end, count = 0, len(view), self.count
        alike = previous = summed = 0
        while at < end:
            head = view[at]
            kind, size = head & 0xFFFFFFFF, head >> 48
            if kind in _COMPRESSED:
                break
            step = size >> 3
            if not step or size & 7 or not kind:
                self.damage = _BAD_SIZE if kind else "a record has no type"
                break
            if at + step > end:
                break
            if kind != Kind.SAMPLE:
                other = Other(count, kind, head >> 32 & 0xFFFF, bytes(data[at * 8 : (at + step) * 8]))
                if kind == Kind.BPF_EVENT and is_note(other.data, CHECK):
                    if not self._right(data[summed * 8 : at * 8], other.data):
                        self.damage = "a check sum is wrong"
                        break
                    summed = at + step
                others.append(other)
                at += step
                continue
            key = head & _KIND_AND_SIZE
            alike = alike + 1 if key == previous else 0
            previous = key
            if alike < _ALIKE:
                singles.append(at)
                at, count = at + step, count + 1
                continue
            length = _run(words, at, step, key)
            if singles:
                runs.append(np.array(singles, np.int64))
                singles = []
            runs.append(np.arange(at, at + length * step, step, dtype=np.int64))
            at, count = at + length * step, count + length
        if singles:
            runs.append(np.array(singles, np.int64))
        if not at:
            return None, 0
        self._sum = zlib.crc32(data[summed * 8 : at * 8], self._sum)
        samples = np.concatenate(runs) if runs else np.empty(0, np.int64)
        first, self.count = self.count, count
        return Piece(words, samples, others, first, 0, self.damage), at * 8

    def _right(self, data: memoryview, note: bytes) -> bool:
        """Whether a note holds the check sum of all up to there."""
        so_far = self._sum = zlib.crc32(data, self._sum)
        digits = note.partition(CHECK.encode() + b"\0")[2].partition(b"\0")[0]
        return digits == b"%d" % so_far


def _run(words: NDArray[np.uint64], at: int, step: int, key: int) -> int:
    """How many samples of one size there are from ``at`` on."""
    most = (len(words) - at) // step
    length, block = 1, 64
    while length < most:
        block = min(block, most - length)
        start = at + length * step
        same = (words[start : start + block * step : step] & np.uint64(_KIND_AND_SIZE)) == key
        if not same.all():
            return length + int(same.argmin())
        length += block
        block *= 8
    return length
