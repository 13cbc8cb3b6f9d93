# SPDX-License-Identifier: BSD-2-Clause
"""Writing a recording: append-only data, a header that is true after each flush, features at the end.

A recorder that is killed leaves a file that perf and ksym open: the header's size of the data is written after the
data itself, so that it never counts what is not there. What is missing then are the features, and the last note: by
that a reader knows that the file was cut.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from ksym.linux.perf_event import Attr
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
    record,
    text,
)

_TRAILER = struct.Struct("<IIQIIQ")
"""sample_id_all for IDENTIFIER | TID | TIME | CPU: pid, tid, time, cpu, 0, identifier."""


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


class Compressor(Protocol):
    """What ``-z`` puts between the records and the file: `recording.zstd`."""

    def compress(self, data: bytes) -> bytes:
        """A piece of the stream, flushed: all of ``data`` can be had from it."""
        ...


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
        self._waiting: list[bytes] = []
        self.waiting = 0
        """Bytes that are not flushed yet."""
        header, behind = self._header(), MAKER + sections + identifiers
        self._sum, self._summed = zlib.crc32(header[CONSTANT] + behind), 0
        _write(fd, header + behind, 0)
        for event in events:
            name = event.name.encode(errors="replace") + b"\0"
            body = struct.pack("<QQ", EVENT_UPDATE_NAME, event.ids[0]) + name
            self.append(record(Kind.EVENT_UPDATE, body))

    @property
    def bytes_written(self) -> int:
        """Size of the file, as far as it is flushed."""
        return self._data_at + self.size

    def trailer(self, time: int = 0, pid: int = 0, tid: int = 0) -> bytes:
        """What a record of ksym's own making ends with."""
        return _TRAILER.pack(pid, tid, time, 0, 0, self._sideband)

    def append(self, data: bytes) -> None:
        """Take whole records; they are in the file after the next ``flush``."""
        self._waiting.append(data)
        self.waiting += len(data)

    def note(self, name: str, data: bytes) -> None:
        """Take something that ksym alone knows."""
        self.append(note(name, data, self.trailer()))

    def seal(self) -> None:
        """Note the check sum of what was taken since the last one.

        What stands in front of it can be relied upon then, even in a file that was cut or damaged behind it.
        """
        for data in self._waiting[self._summed :]:
            self._sum = zlib.crc32(data, self._sum)
        if self._summed < len(self._waiting):
            self.note(CHECK, str(self._sum).encode())
            self._sum, self._summed = 0, len(self._waiting)

    def flush(self) -> None:
        """Write what waits, sealed, then let the header count it.

        Raises:
            OSError: it cannot be written; the file is as it was after the last flush.
        """
        self.seal()
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        if self._compressor:
            data = b"".join(_compressed(self._compressor, data))
        try:
            _write(self._fd, data, self._data_at + self.size)
        except OSError:
            os.ftruncate(self._fd, self._data_at + self.size)
            raise
        self.size += len(data)
        _write(self._fd, self._header(), 0)
        self._waiting.clear()
        self.waiting = self._summed = 0

    def finish(self, features: Iterable[tuple[Feature, bytes]]) -> None:
        """Flush, and put the features behind the data.

        Raises:
            OSError: they cannot be written; the data are in the file all the same.
        """
        self.flush()
        known = dict(features) | {Feature.EVENT_DESC: self._descriptions()}
        if self._compressor:
            # version, type (1: zstd), level, ratio, size of the rings (tools/perf/util/header.c, write_compressed)
            known[Feature.COMPRESSED] = struct.pack("<IIIII", 1, 1, 1, 1, 1 << 20)
        at = self._data_at + self.size
        body_at = at + SECTION.size * len(known)
        table, body = b"", b""
        for _, content in sorted(known.items()):
            table += SECTION.pack(body_at + len(body), len(content))
            body += content
        _write(self._fd, table + body, at)
        _write(self._fd, self._header(known), 0)

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


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def _compressed(compressor: Compressor, data: bytes) -> Iterable[bytes]:
    """COMPRESSED records of data; each holds at most what its 16 bits of size allow."""
    stream = compressor.compress(data)
    most = 65_000
    for at in range(0, len(stream), most):
        part = stream[at : at + most]
        yield struct.pack("<IHH", Kind.COMPRESSED, 0, 8 + len(part)) + part
