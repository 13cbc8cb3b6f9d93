# SPDX-License-Identifier: BSD-2-Clause
"""Writes perf's records as a ring holds them, and stands in for the ring. Source: linux/perf_event.h."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple


def _record(kind: int, body: bytes, misc: int = 0) -> bytes:
    return struct.pack("=IHH", kind, misc, 8 + len(body)) + body


def _trailer(pid: int, tid: int, time: int, cpu: int, event: int) -> bytes:
    return struct.pack("=IIQIIQ", pid, tid, time, cpu, 0, event)


def _padded(text: str) -> bytes:
    data = text.encode() + b"\0"
    return data + bytes(-len(data) % 8)


class Hit(NamedTuple):
    """What a program of ksym's adds to a sample (ksym.program.layout)."""

    flags: int
    time: int
    uid: int
    old: bytes
    new: bytes

    def raw(self) -> bytes:
        size = padded(len(self.old))
        values = self.old.ljust(size, b"\0") + self.new.ljust(size, b"\0")
        return struct.pack("=IIQQ", 20 + 2 * size, self.flags, self.time, self.uid | 77 << 32) + values


def padded(length: int) -> int:
    return -(-length // 8) * 8


def sample(
    time: int, *, cpu: int = 0, event: int = 1, ip: int = 0, pid: int = 1, tid: int = 1,
    chain: Sequence[int] | None = None, hit: Hit | None = None,
) -> bytes:  # fmt: skip
    """PERF_RECORD_SAMPLE of IDENTIFIER | IP | TID | TIME | CPU, and CALLCHAIN and RAW where there is one."""
    body = struct.pack("=QQIIQII", event, ip, pid, tid, time, cpu, 0)
    if chain is not None:
        body += struct.pack(f"={1 + len(chain)}Q", len(chain), *chain)
    if hit is not None:
        body += hit.raw()
    return _record(9, body)


def comm(time: int, pid: int, tid: int, name: str, *, by_exec: bool = False) -> bytes:
    body = struct.pack("=II", pid, tid) + _padded(name) + _trailer(pid, tid, time, 0, 0)
    return _record(3, body, 1 << 13 if by_exec else 0)


def fork(time: int, pid: int, tid: int, parent_pid: int, parent_tid: int) -> bytes:
    body = struct.pack("=IIIIQ", pid, parent_pid, tid, parent_tid, time)
    return _record(7, body + _trailer(parent_pid, parent_tid, time, 0, 0))


def leave(time: int, pid: int, tid: int) -> bytes:
    """PERF_RECORD_EXIT."""
    return _record(4, struct.pack("=IIIIQ", pid, pid, tid, tid, time) + _trailer(pid, tid, time, 0, 0))


def mmap2(
    time: int, pid: int, start: int, length: int, offset: int, path: str,
    *, file: tuple[int, int, int, int] = (0, 0, 0, 0), build_id: bytes = b"",
) -> bytes:  # fmt: skip
    """PERF_RECORD_MMAP2; ``file`` is major, minor, inode and generation."""
    body = struct.pack("=IIQQQ", pid, pid, start, length, offset)
    body += struct.pack("=B3x20s", len(build_id), build_id) if build_id else struct.pack("=IIQQ", *file)
    body += bytes(8) + _padded(path)
    return _record(10, body + _trailer(pid, pid, time, 0, 0), misc=1 << 14 if build_id else 0)


def lost(time: int, cpu: int, count: int) -> bytes:
    return _record(2, struct.pack("=QQ", 1, count) + _trailer(0, 0, time, cpu, 0))


def throttle(time: int) -> bytes:
    """A kind that ksym passes over."""
    return _record(5, struct.pack("=QQQ", time, 1, 1) + _trailer(0, 0, time, 0, 0))


class FakeRing:
    """Drains what was put into it."""

    def __init__(self) -> None:
        self.data = b""

    def put(self, *records: bytes) -> None:
        self.data += b"".join(records)

    def drain(self) -> bytes:
        data, self.data = self.data, b""
        return data
