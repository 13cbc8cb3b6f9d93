# SPDX-License-Identifier: BSD-2-Clause
"""perf's records, decoded from a ring's bytes.

Layouts: include/uapi/linux/perf_event.h, enum perf_event_type. Every event of a run has ``sample_id_all`` and the
sample type of ``watch.arm.SAMPLE_TYPE``, so that each record that is no sample ends with 32 bytes:
pid, tid, time, cpu, identifier.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

_LOST, _COMM, _EXIT, _FORK, _SAMPLE, _MMAP2 = 2, 3, 4, 7, 9, 10
_MISC_COMM_EXEC = 1 << 13
_HEADER = struct.Struct("=IHH")
# identifier, ip, pid, tid, time, cpu
_SAMPLE_BODY = struct.Struct("=QQIIQI4x")
_PLAIN = struct.Struct("=I2xHQQIIQI4x")
"""Header and body of a sample without call chain."""
_TRAILER = struct.Struct("=IIQI4xQ")
_PAIRS = struct.Struct("=IIIIQ")
_MAPPING = struct.Struct("=IIQQQ")
_CHAIN_AT = 8 + _SAMPLE_BODY.size

# From here on a call chain holds the kernel's markers (enum perf_callchain_context), as unsigned numbers.
CONTEXT_LEAST = 2**64 - 4095


class SampleRecord(NamedTuple):
    """One hit. ``time`` is CLOCK_MONOTONIC nanoseconds; ``chain`` raw, with context markers, or empty."""

    time: int
    cpu: int
    id: int
    ip: int
    pid: int
    tid: int
    chain: tuple[int, ...]


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
    """A process mapped a file executable: ``length`` bytes at ``start``, from ``offset`` of ``path``."""

    time: int
    pid: int
    start: int
    length: int
    offset: int
    path: str


@dataclass(frozen=True, slots=True)
class LostRecord:
    """The ring of ``cpu`` had no room for ``count`` records."""

    time: int
    cpu: int
    count: int


Record = SampleRecord | CommRecord | ForkRecord | ExitRecord | MmapRecord | LostRecord


def parse(data: bytes, *, chains: bool, out: list[Record]) -> None:
    """Append the records in ``data`` to ``out``; kinds that ksym has no use for are passed over.

    Args:
        data: Whole records, as ``Ring.drain`` gives them.
        chains: Whether samples carry call chains.
        out: Where to.
    """
    at, end = 0, len(data)
    if not chains:
        at = _parse_plain(data, out)
    header, body = _HEADER.unpack_from, _SAMPLE_BODY.unpack_from
    make = tuple.__new__  # SampleRecord(...) without the detour, at a third of its cost
    while at < end:
        kind, misc, size = header(data, at)
        if kind == _SAMPLE:
            event_id, ip, pid, tid, time, cpu = body(data, at + 8)
            chain: tuple[int, ...] = ()
            if chains:
                (count,) = struct.unpack_from("=Q", data, at + _CHAIN_AT)
                chain = struct.unpack_from(f"={count}Q", data, at + _CHAIN_AT + 8)
            out.append(make(SampleRecord, (time, cpu, event_id, ip, pid, tid, chain)))
        else:
            record = _sideband(kind, misc, data[at : at + size])
            if record is not None:
                out.append(record)
        at += size


def _parse_plain(data: bytes, out: list[Record]) -> int:
    """Append the samples that ``data`` starts with, all of one size; returns where something else begins."""
    make = tuple.__new__
    at = 0
    whole = len(data) - len(data) % _PLAIN.size
    for kind, size, event_id, ip, pid, tid, time, cpu in _PLAIN.iter_unpack(memoryview(data)[:whole]):
        if kind != _SAMPLE or size != _PLAIN.size:
            break
        out.append(make(SampleRecord, (time, cpu, event_id, ip, pid, tid, ())))
        at += size
    return at


def _sideband(kind: int, misc: int, data: bytes) -> Record | None:
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
        # Behind pgoff: device numbers, inode and its generation (or a build id), protection and flags: 32 bytes.
        return MmapRecord(time, pid, start, length, offset, _text(data[72 : -_TRAILER.size]))
    if kind == _LOST:
        return LostRecord(time, cpu, struct.unpack_from("=Q", data, 16)[0])
    return None


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode(errors="replace")
