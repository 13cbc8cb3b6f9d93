# SPDX-License-Identifier: BSD-2-Clause
"""perf_event_open(2): attributes, opening, ioctls, counter reads.

Source of every number: include/uapi/linux/perf_event.h and include/uapi/linux/hw_breakpoint.h.
No policy: what to open where is decided in ``watch/``.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from functools import cache

from ksym.linux.libc import syscall

TYPE_SOFTWARE = 1
TYPE_BREAKPOINT = 5
COUNT_SW_DUMMY = 9
COUNT_SW_BPF_OUTPUT = 10

FLAG_FD_CLOEXEC = 8
CLOCK_MONOTONIC = 1


class Sample(enum.IntFlag):
    """PERF_SAMPLE_*: which fields a sample carries."""

    IP = 1 << 0
    TID = 1 << 1
    TIME = 1 << 2
    ADDR = 1 << 3
    CALLCHAIN = 1 << 5
    CPU = 1 << 7
    RAW = 1 << 10
    IDENTIFIER = 1 << 16


class Flag(enum.IntFlag):
    """The bit field of ``struct perf_event_attr`` (from ``disabled`` on)."""

    DISABLED = 1 << 0
    INHERIT = 1 << 1
    EXCLUDE_KERNEL = 1 << 5
    EXCLUDE_HV = 1 << 6
    MMAP = 1 << 8
    COMM = 1 << 9
    TASK = 1 << 13
    WATERMARK = 1 << 14
    MMAP_DATA = 1 << 17
    SAMPLE_ID_ALL = 1 << 18
    MMAP2 = 1 << 23
    COMM_EXEC = 1 << 24
    USE_CLOCKID = 1 << 25
    REMOVE_ON_EXEC = 1 << 36


FORMAT_ID = 1 << 2
FORMAT_LOST = 1 << 4

IOC_ENABLE = 0x2400
IOC_DISABLE = 0x2401
IOC_REFRESH = 0x2402
IOC_SET_OUTPUT = 0x2405
IOC_SET_BPF = 0x40042408
IOC_MODIFY_ATTRIBUTES = 0x4008240B

# struct perf_event_attr up to sample_max_stack: 112 bytes, PERF_ATTR_SIZE_VER5 (4.8).
_ATTR = struct.Struct("=IIQQQQQIIQQQQIiQIHH")


@dataclass(frozen=True)
class Attr:
    """``struct perf_event_attr``, as far as ksym uses it; ``bp_*`` are those of a breakpoint."""

    type: int
    config: int = 0
    sample_period: int = 0
    sample_type: int = 0
    read_format: int = 0
    flags: int = 0
    wakeup: int = 0
    bp_type: int = 0
    bp_address: int = 0
    bp_length: int = 0
    clockid: int = 0

    def pack(self) -> bytes:
        """The structure's bytes."""
        return _ATTR.pack(
            self.type, _ATTR.size, self.config, self.sample_period, self.sample_type, self.read_format,
            self.flags, self.wakeup, self.bp_type, self.bp_address, self.bp_length,
            0, 0, 0, self.clockid, 0, 0, 0, 0,
        )  # fmt: skip


class PerfEvent:
    """One open event: a file descriptor that gives its debug register back when closed."""

    __slots__ = ("_link", "cpu", "fd", "id", "pid", "read_format")

    def __init__(self, attr: Attr, *, pid: int, cpu: int) -> None:
        """Open the event.

        Args:
            attr: What to count or sample.
            pid: Thread to follow, or -1 for all.
            cpu: CPU to follow, or -1 for all of the thread's.

        Raises:
            OSError: the kernel refused; ``errno`` says why.
        """
        self.pid, self.cpu, self.read_format = pid, cpu, attr.read_format
        self.fd = syscall("perf_event_open", attr.pack(), pid, cpu, -1, FLAG_FD_CLOEXEC)
        self._link = -1
        self.id = 0
        if attr.read_format & FORMAT_ID:
            self.id = self.read()[1]

    def close(self) -> None:
        """Give the event back; closing twice does nothing."""
        self.detach()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def enable(self) -> None:
        """Start counting and sampling."""
        fcntl.ioctl(self.fd, IOC_ENABLE, 0)

    def disable(self) -> None:
        """Stop counting and sampling; the counter keeps its value."""
        fcntl.ioctl(self.fd, IOC_DISABLE, 0)

    def refresh(self, hits: int) -> None:
        """Start; the kernel stops the event by itself after so many overflows (not for inherited events: EINVAL)."""
        fcntl.ioctl(self.fd, IOC_REFRESH, hits)

    def modify(self, attr: Attr) -> None:
        """Watch something else, with the same register and on the same counter (4.17, commit 32ff77e8cc9e).

        Args:
            attr: Address, length and kind as they are to be, DISABLED in its flags or not: the event is off or on
                accordingly. All else as the event was opened with.

        Raises:
            OSError: EINVAL, EOPNOTSUPP: it watches what it did; but if it was opened with DISABLED it is off now,
                whether or not it had been enabled since (kernel/events/core.c, perf_event_modify_breakpoint).
        """
        fcntl.ioctl(self.fd, IOC_MODIFY_ATTRIBUTES, attr.pack())

    def attach(self, program: int, *, for_good: bool = True) -> None:
        """Run a BPF program at each overflow; where it returns 0 there is no sample (4.9, commit aa6a5f3cb2b2).

        Args:
            program: Its descriptor.
            for_good: There will never be another one; else one more descriptor is needed.
        """
        if not for_good:
            from ksym.linux import bpf

            try:
                self._link = bpf.link(program, self.fd)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                return
        fcntl.ioctl(self.fd, IOC_SET_BPF, program)

    @property
    def linked(self) -> bool:
        """Whether it has a program that can be taken off."""
        return self._link >= 0

    def detach(self) -> None:
        """Take the program off, if it was not attached for good."""
        if self._link >= 0:
            os.close(self._link)
            self._link = -1

    def output_to(self, other: PerfEvent) -> None:
        """Send this event's records into the ring of ``other``, an event of the same CPU."""
        fcntl.ioctl(self.fd, IOC_SET_OUTPUT, other.fd)

    def read(self) -> tuple[int, int, int]:
        """Return (count, id, lost); ``id`` and ``lost`` are 0 where the read format has them not."""
        words = memoryview(os.read(self.fd, 64)).cast("Q")
        at = 1
        event_id = lost = 0
        if self.read_format & FORMAT_ID:
            event_id, at = words[at], at + 1
        if self.read_format & FORMAT_LOST:
            lost = words[at]
        return words[0], event_id, lost


@cache
def understands(*, flags: int = 0, read_format: int = 0) -> bool:
    """Whether this kernel knows all of these bits; asked with a dummy event, which takes no register.

    Unknown bits are EINVAL (kernel/events/core.c, perf_copy_attr). PERF_FORMAT_LOST came in 6.0 (commit
    119a784c8127), ``remove_on_exec`` in 5.13 (commit 2e498d0a74e5).
    """
    attr = Attr(
        TYPE_SOFTWARE,
        COUNT_SW_DUMMY,
        read_format=read_format,
        flags=flags | Flag.DISABLED | Flag.EXCLUDE_KERNEL,
    )
    try:
        PerfEvent(attr, pid=0, cpu=-1).close()
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.E2BIG):
            return False
        raise
    return True
