# SPDX-License-Identifier: BSD-2-Clause
"""Writing a recording: append-only data, a header that is true after each flush, features at the end.

A recorder that is killed leaves a file that perf and ksym open: the header's size of the data is written after the
data itself, so that it never counts what is not there. What is missing then are the features, and the last note: by
that a reader knows that the file was cut.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

from ksym.linux.perf_event import Attr
from ksym.linux.perf_record import record
from ksym.recording.perf_file import (
    ATTR_SIZE,
    CHECK,
    CONSTANT,
    EVENT_UPDATE_NAME,
    HEADER,
    MAGIC,
    MAKER,
    SECTION,
    Feature,
    Kind,
    note,
    text,
)

_TRAILER = struct.Struct("<IIQIIQ")
"""sample_id_all for IDENTIFIER | TID | TIME | CPU: pid, tid, time, cpu, 0, identifier."""

_SEALS_KEPT = 256
_PARTS_AT_ONCE = 1024
"""IOV_MAX, linux/uio.h."""
_COMPRESSION = struct.pack("<IIIII", 1, 1, 1, 1, 1 << 20)
"""Version, type (1: zstd), level, ratio, size of the rings (tools/perf/util/header.c, write_compressed)."""


class Event(NamedTuple):
    """One event of the file.

    Args:
        attr: As perf should take it.
        ids: Identifiers by which records name it.
        name: What perf calls it.
    """

    attr: Attr
    ids: tuple[int, ...]
    name: str


class _Seal(NamedTuple):
    size: int
    mark: int
    sum: int


class Compressor(Protocol):
    """What ``-z`` puts between the records and the file: `recording.zstd`."""

    def compress(self, data: bytes) -> bytes:
        """A piece of the stream, flushed: all of ``data`` can be had from it."""
        ...


class FileCut(OSError):
    """Somebody has cut the file while it was written."""

    def __init__(self, size: int) -> None:
        super().__init__(
            errno.EIO, f"it was cut to {size} byte{'' if size == 1 else 's'} while it was written"
        )


class PerfWriter:
    """A perf.data file that grows.

    Args:
        fd: Where to, open for reading and writing, empty; closed by ``close``.
        events: All events; the last one is the sideband, whose identifier records without an event carry.
        compressor: Compresses records; None: they stand as they are.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, fd: int, events: Sequence[Event], compressor: Compressor | None = None) -> None:
        self._fd, self._events, self._compressor = fd, events, compressor
        self._sideband = events[-1].ids[0]
        sections, identifiers = b"", b""
        first = HEADER.size + len(MAKER) + len(events) * (ATTR_SIZE + SECTION.size)
        for event in events:
            sections += event.attr.pack() + SECTION.pack(first + len(identifiers), 8 * len(event.ids))
            identifiers += struct.pack(f"<{len(event.ids)}Q", *event.ids)
        self._data_at = first + len(identifiers)
        self.size = 0
        """Bytes of data that the header counts."""
        self._leading = _compression_feature() if compressor else b""
        """What stands in front of the first flush, as it is; by itself it says nothing, so it is written with that."""
        self._waiting: list[bytes] = []
        self.waiting = 0
        """Bytes that are not flushed yet."""
        self._sealed: list[_Seal] = []
        """The seals among them; ``size`` is the number of parts up to each."""
        self._written: deque[_Seal] = deque(maxlen=_SEALS_KEPT)
        """The last seals in the file."""
        self._most = 0
        """How far the file has reached: when there was no room for more, all that there was."""
        self.mark = 0
        """What the next seal stands for: a number of the caller's, growing."""
        header, behind = self._header(), MAKER + sections + identifiers
        self._sum, self._summed = zlib.crc32(header[CONSTANT] + behind + self._leading), 0
        _write(fd, header + behind, 0)
        self._most = len(header + behind)
        self._name(events)

    def add(self, events: Sequence[Event]) -> None:
        """Write events that were opened after the file was begun; call it before their first records.

        perf takes them so from a pipe (struct perf_record_header_attr), and from a file as well.
        """
        for event in events:
            identifiers = struct.pack(f"<{len(event.ids)}Q", *event.ids)
            self.append(record(Kind.HEADER_ATTR, event.attr.pack() + identifiers))
        self._name(events)

    def _name(self, events: Sequence[Event]) -> None:
        for event in events:
            name = event.name.encode(errors="replace") + b"\0"
            body = struct.pack("<QQ", EVENT_UPDATE_NAME, event.ids[0]) + name
            self.append(record(Kind.EVENT_UPDATE, body))

    @property
    def bytes_written(self) -> int:
        """Size of the file, as far as it is flushed; what ``finish`` puts behind the data is not in it."""
        return self._data_at + self.size

    @property
    def length(self) -> int:
        """Size of the file that was finished."""
        return max(self._most, self.bytes_written)

    def trailer(self, time: int = 0, pid: int = 0, tid: int = 0) -> bytes:
        """What a record of ksym's own making ends with."""
        return _TRAILER.pack(pid, tid, time, 0, 0, self._sideband)

    def append(self, data: bytes) -> None:
        """Take whole records; they are in the file after the next ``flush``."""
        self._waiting.append(data)
        self.waiting += len(data)

    def note(self, name: str, data: bytes) -> None:
        """Take something that ksym alone knows."""
        self.append(self.noted(name, data))

    def noted(self, name: str, data: bytes) -> bytes:
        """Such a note as it stands in the file."""
        return note(name, data, self.trailer())

    @property
    def written_mark(self) -> int:
        """The mark of the last seal in the file."""
        return self._written[-1].mark if self._written else 0

    def seal(self) -> None:
        """Note the check sum of what was taken so far.

        What stands in front of it can be relied upon then, even in a file that was cut or damaged behind it.
        """
        for data in self._waiting[self._summed :]:
            self._sum = zlib.crc32(data, self._sum)
        if self._summed < len(self._waiting):
            self.note(CHECK, str(self._sum).encode())
            self._summed = len(self._waiting)
            self._sealed.append(_Seal(self._summed, self.mark, self._sum))

    def flush(self) -> None:
        """Write what waits, sealed, then let the header count it.

        Raises:
            OSError: it cannot be written; in the file is what fits, up to a seal.
        """
        self._check_whole()
        self.seal()
        if not self._waiting:
            return
        parts, seals, first, size = [self._leading], [], 0, self.size + len(self._leading)
        for end, mark, total in self._sealed:
            sealed = self._waiting[first:end]
            if self._compressor:
                sealed = list(_compressed(self._compressor, b"".join(sealed)))
            parts += sealed
            first, size = end, size + sum(map(len, sealed))
            seals.append(_Seal(size, mark, total))
        self._waiting.clear()
        self._sealed.clear()
        self.waiting = self._summed = 0
        done, error = _written(self._fd, parts, self._data_at + self.size)
        self._most = self._data_at + self.size + done
        self._written.extend(seal for seal in seals if seal.size <= self.size + done)
        if self._written:
            self.size, self._leading = self._written[-1].size, b""
        if error:
            with contextlib.suppress(OSError):  # a device
                os.ftruncate(self._fd, self._data_at + self.size)
        _write(self._fd, self._header(), 0)
        if error:
            raise error

    def finish(self, features: Iterable[tuple[Feature, bytes]]) -> None:
        """Flush, and put the features behind the data.

        Raises:
            OSError: they cannot be written; the data are in the file all the same.
        """
        self.flush()
        at, known = self._data_at + self.size, self._known(features)
        done, error = _written(self._fd, [_table(known, at)], at)
        self._most = at + done
        if error:
            raise error
        _write(self._fd, self._header(known), 0)
        self._check_whole()

    def _check_whole(self) -> None:
        """See that the file has all that was written: writing on would leave a hole in one that was cut.

        Raises:
            FileCut: if it is shorter.
        """
        found = os.fstat(self._fd)
        if stat.S_ISREG(found.st_mode) and found.st_size < self._most:
            self._most = found.st_size
            while self._written and self._data_at + self._written[-1].size > self._most:
                self._written.pop()
            raise FileCut(found.st_size)

    @property
    def readable(self) -> bool:
        """True if a reader finds a hit in the file, which is sealed."""
        return self.written_mark > 0

    def stop(self, end: Callable[[int], bytes], features: Iterable[tuple[Feature, bytes]]) -> None:
        """Give a file an end that has no room for one, in place of what stands behind one of the last seals.

        Args:
            end: The last records, given the mark of that seal.
            features: As with ``finish``.

        Raises:
            OSError: there is no room even so; the file is as it was.
        """
        known = self._known(features)
        for size, mark, total in reversed(self._written):
            last = end(mark)
            last += self.noted(CHECK, str(zlib.crc32(last, total)).encode())
            at = self._data_at + size
            behind = last + _table(known, at + len(last))
            if at + len(behind) <= self._most:
                break
        else:
            return
        os.ftruncate(self._fd, at)
        _write(self._fd, behind, at)
        self._most = at + len(behind)
        self.size = size + len(last)
        while self._written[-1].size > size:
            self._written.pop()
        _write(self._fd, self._header(known), 0)

    def _known(self, features: Iterable[tuple[Feature, bytes]]) -> dict[Feature, bytes]:
        known = dict(features) | {Feature.EVENT_DESC: self._descriptions()}
        if self._compressor:
            known[Feature.COMPRESSED] = _COMPRESSION
        return known

    def _header(self, features: Iterable[Feature] = ()) -> bytes:
        bits = sum(1 << feature for feature in features)
        count = len(self._events) * (ATTR_SIZE + SECTION.size)
        return HEADER.pack(
            MAGIC, HEADER.size, ATTR_SIZE + SECTION.size, HEADER.size + len(MAKER), count, self._data_at, self.size,
            0, 0,
            bits.to_bytes(32, "little"),
        )  # fmt: skip

    def _descriptions(self) -> bytes:
        out = struct.pack("<II", len(self._events), ATTR_SIZE)
        for event in self._events:
            out += event.attr.pack() + struct.pack("<I", len(event.ids)) + text(event.name)
            out += struct.pack(f"<{len(event.ids)}Q", *event.ids)
        return out

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _compression_feature() -> bytes:
    """How the file is compressed, as the first of its records.

    perf unpacks nothing that it has not been told of, and the features come with the end, which a file may never get.
    """
    return record(Kind.HEADER_FEATURE, struct.pack("<Q", Feature.COMPRESSED) + _COMPRESSION)


def _table(known: dict[Feature, bytes], at: int) -> bytes:
    """Features as they stand in the file at ``at``: where each is, then all of them."""
    body_at = at + SECTION.size * len(known)
    table, body = b"", b""
    for _, content in sorted(known.items()):
        table += SECTION.pack(body_at + len(body), len(content))
        body += content
    return table + body


def _write(fd: int, data: bytes, at: int) -> None:
    _, error = _written(fd, [data], at)
    if error:
        raise error


def _written(fd: int, parts: Iterable[bytes], at: int) -> tuple[int, OSError | None]:
    """Write parts one behind the other; how many bytes could be, and why not all of them."""
    views, first = deque(memoryview(part) for part in parts if part), at
    while views:
        try:
            done = os.pwritev(fd, list(islice(views, _PARTS_AT_ONCE)), at)
        except OSError as error:
            return at - first, error
        at += done
        while views and done >= len(views[0]):
            done -= len(views.popleft())
        if done:
            views[0] = views[0][done:]
    return at - first, None


def _compressed(compressor: Compressor, data: bytes) -> Iterable[bytes]:
    """COMPRESSED records of data; each holds at most what its 16 bits of size allow."""
    stream = compressor.compress(data)
    most = 65_000
    for at in range(0, len(stream), most):
        part = stream[at : at + most]
        yield struct.pack("<IHH", Kind.COMPRESSED, 0, 8 + len(part)) + part
