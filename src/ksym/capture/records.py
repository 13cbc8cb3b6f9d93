# SPDX-License-Identifier: BSD-2-Clause
"""perf's records, decoded from a ring's bytes.

Layouts: include/uapi/linux/perf_event.h, enum perf_event_type. Every event of a run has ``sample_id_all`` and the
sample type of ``watch.rings.SAMPLE_TYPE``, so that each record that is no sample ends with 32 bytes:
pid, tid, time, cpu, identifier. What a program adds to a sample is laid out in ``program.layout``.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from ksym.linux.maps import DELETED

_LOST, _COMM, _EXIT, _FORK, _SAMPLE, _MMAP2 = 2, 3, 4, 7, 9, 10
_MISC_COMM_EXEC = _MISC_MMAP_DATA = 1 << 13
_MISC_BUILD_ID = 1 << 14
_HEADER = struct.Struct("=IHH")
# identifier, ip, pid, tid, time, cpu
_SAMPLE_BODY = struct.Struct("=QQIIQI4x")
_RAW_HEAD = struct.Struct("=IIQI4x")
"""Size of the raw bytes, then theirs: flags, time, uid; gid is not used."""
_TRAILER = struct.Struct("=IIQI4xQ")
_PAIRS = struct.Struct("=IIIIQ")
_MAPPING = struct.Struct("=IIQQQ")
_FILE, _BUILD_ID = struct.Struct("=IIQQ"), struct.Struct("=B3x20s")
FILE_BYTES = _FILE.size + 8
"""What an MMAP2 record has between pgoff and the path."""
_CHAIN_AT = 8 + _SAMPLE_BODY.size

# From here on a call chain holds the kernel's markers (enum perf_callchain_context), as unsigned numbers.
CONTEXT_LEAST = 2**64 - 4095


class SampleRecord(NamedTuple):
    """One hit. ``time`` is CLOCK_MONOTONIC nanoseconds; ``chain`` raw, with context markers, or empty.

    What follows it is what a program adds (`program.layout`): 0, None and empty where there was none.
    """

    time: int
    cpu: int
    id: int
    ip: int
    pid: int
    tid: int
    chain: tuple[int, ...] = ()
    flags: int = 0
    uid: int | None = None
    old: bytes = b""
    new: bytes = b""


@dataclass(frozen=True, slots=True)
class CommRecord:
    """A thread took a new name; ``exec``: because it runs a new program."""

    time: int
    pid: int
    tid: int
    comm: str
    exec: bool


@dataclass(frozen=True, slots=True)
class ForkRecord:
    """Thread ``tid`` of ``pid`` was started by ``parent_tid``."""

    time: int
    pid: int
    tid: int
    parent_pid: int
    parent_tid: int


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """A thread ended."""

    time: int
    pid: int
    tid: int


@dataclass(frozen=True, slots=True)
class MmapRecord:
    """A process mapped a file executable: ``length`` bytes at ``start``, from ``offset`` of ``path``.

    ``device``, ``inode`` and its ``generation`` say which file that is, or its ``build_id``; 0 and "" where not told.
    """

    time: int
    pid: int
    start: int
    length: int
    offset: int
    path: str
    device: int = 0
    inode: int = 0
    generation: int = 0
    build_id: str = ""

    @property
    def name(self) -> str:
        """The path without the mark of a removed file."""
        return self.path.removesuffix(DELETED)

    @property
    def is_file(self) -> bool:
        """False for ``[vdso]``, ``//anon`` and the like."""
        return self.path.startswith("/") and not self.path.startswith("//")

    @property
    def file(self) -> tuple[object, ...]:
        """Equal for all mappings of one file."""
        return self.name, self.device, self.inode, self.generation, self.build_id


@dataclass(frozen=True, slots=True)
class DataRecord:
    """A process mapped memory that is not executable: ``length`` bytes at ``start``.

    ``path`` is ``//anon`` or the like, and ``inode`` 0, where it is not a file's.
    """

    time: int
    pid: int
    start: int
    length: int
    offset: int
    path: str
    device: int = 0
    inode: int = 0


@dataclass(frozen=True, slots=True)
class LostRecord:
    """The ring of ``cpu`` had no room for ``count`` records."""

    time: int
    cpu: int
    count: int


Record = SampleRecord | CommRecord | ForkRecord | ExitRecord | MmapRecord | DataRecord | LostRecord


def parse(data: bytes, *, chains: bool, raw: bool, out: list[Record]) -> None:
    """Append the records in ``data`` to ``out``; kinds that ksym has no use for are passed over.

    Args:
        data: Whole records, as ``Ring.drain`` gives them.
        chains: Whether samples carry call chains.
        raw: Whether they carry what a program wrote.
        out: Where to.
    """
    at, end = 0, len(data)
    while at < end:
        kind, misc, size = _HEADER.unpack_from(data, at)
        if kind != _SAMPLE:
            record = sideband(kind, misc, data[at : at + size])
            if record is not None:
                out.append(record)
            at += size
        elif chains:
            out.append(_chained(data, at, raw))
            at += size
        else:
            at = _parse_equal(data, at, size, raw, out)


def _parse_equal(data: bytes, at: int, size: int, raw: bool, out: list[Record]) -> int:
    """Append the samples from ``at`` on that are ``size`` bytes long; returns where something else begins.

    All of one watch are equally long, so this is the path of nearly every hit.
    """
    make = tuple.__new__  # SampleRecord(...) without the detour, at a third of its cost
    whole = memoryview(data)[at : at + (len(data) - at) // size * size]
    if not raw:
        for kind, length, event_id, ip, pid, tid, time, cpu in _shape(size, raw).iter_unpack(whole):
            if kind != _SAMPLE or length != size:
                break
            out.append(make(SampleRecord, (time, cpu, event_id, ip, pid, tid, (), 0, None, b"", b"")))
            at += size
        return at
    for kind, length, event_id, ip, pid, tid, cpu, flags, time, uid, old, new in _shape(
        size, raw
    ).iter_unpack(whole):
        if kind != _SAMPLE or length != size:
            break
        out.append(make(SampleRecord, (time, cpu, event_id, ip, pid, tid, (), flags, uid, old, new)))
        at += size
    return at


@cache
def _shape(size: int, raw: bool) -> struct.Struct:
    """A whole sample without call chain; its time is the program's own, taken together with the value."""
    if not raw:
        return struct.Struct("=I2xHQQIIQI4x")
    value = (size - 8 - _SAMPLE_BODY.size - _RAW_HEAD.size) // 2
    return struct.Struct(f"=I2xHQQII8xI4x4xIQI4x{value}s{value}s")


def _chained(data: bytes, at: int, raw: bool) -> SampleRecord:
    event_id, ip, pid, tid, time, cpu = _SAMPLE_BODY.unpack_from(data, at + 8)
    (count,) = struct.unpack_from("=Q", data, at + _CHAIN_AT)
    chain = struct.unpack_from(f"={count}Q", data, at + _CHAIN_AT + 8)
    if not raw:
        return SampleRecord(time, cpu, event_id, ip, pid, tid, chain)
    at += _CHAIN_AT + 8 + 8 * count
    size, flags, time, uid = _RAW_HEAD.unpack_from(data, at)
    at += _RAW_HEAD.size
    value = (size - (_RAW_HEAD.size - 4)) // 2
    old, new = data[at : at + value], data[at + value : at + 2 * value]
    return SampleRecord(time, cpu, event_id, ip, pid, tid, chain, flags, uid, old, new)


def sideband(kind: int, misc: int, data: bytes) -> Record | None:
    """Decode a record that is no sample; None for a kind that ksym has no use for."""
    _, _, time, cpu, _ = _TRAILER.unpack_from(data, len(data) - _TRAILER.size)
    if kind == _COMM:
        pid, tid = struct.unpack_from("=II", data, 8)
        return CommRecord(time, pid, tid, _text(data[16 : -_TRAILER.size]), bool(misc & _MISC_COMM_EXEC))
    if kind in (_FORK, _EXIT):
        pid, parent_pid, tid, parent_tid, when = _PAIRS.unpack_from(data, 8)
        if kind == _FORK:
            return ForkRecord(when, pid, tid, parent_pid, parent_tid)
        return ExitRecord(when, pid, tid)
    if kind == _MMAP2:
        pid, _, start, length, offset = _MAPPING.unpack_from(data, 8)
        path = _text(data[8 + _MAPPING.size + FILE_BYTES : -_TRAILER.size])
        device, inode, generation, build_id = file_of(misc, data)
        if misc & _MISC_MMAP_DATA:
            return DataRecord(time, pid, start, length, offset, path, device, inode)
        return MmapRecord(time, pid, start, length, offset, path, device, inode, generation, build_id)
    if kind == _LOST:
        return LostRecord(time, cpu, struct.unpack_from("=Q", data, 16)[0])
    return None


def file_of(misc: int, data: bytes) -> tuple[int, int, int, str]:
    """Device, inode, generation and build id in an MMAP2 record: behind pgoff, in front of protection and flags."""
    at = 8 + _MAPPING.size
    if misc & _MISC_BUILD_ID:
        size, build_id = _BUILD_ID.unpack_from(data, at)
        return 0, 0, 0, build_id[:size].hex()
    major, minor, inode, generation = _FILE.unpack_from(data, at)
    # Of damaged records, too, no more than the bits of a dev_t (linux/kdev_t.h).
    return os.makedev(major & 0xFFF, minor & 0xFFFFF), inode, generation, ""


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="replace")
