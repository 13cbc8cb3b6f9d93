# SPDX-License-Identifier: BSD-2-Clause
"""Debug registers of this machine's kernel, taken one by one through `ksym.linux.perf_event`."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator

from ksym.linux import perf_event
from ksym.linux.perf_event import Attr, Flag, PerfEvent

W, RW, X = 2, 3, 4
"""HW_BREAKPOINT_*, linux/hw_breakpoint.h."""

USER = Flag.DISABLED | Flag.EXCLUDE_KERNEL | Flag.EXCLUDE_HV

_NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}  # which has two names


class Area:
    """Memory of this process that nothing else touches; two pages, which a child does not share."""

    def __init__(self, *, code: bytes = b"") -> None:
        protection = mmap.PROT_READ | mmap.PROT_WRITE | (mmap.PROT_EXEC if code else 0)
        self._map = mmap.mmap(-1, 2 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, protection)
        self._map.write(code or bytes(len(self._map)))  # so that no page is missing
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._words = memoryview(self._map).cast("Q")

    def write(self, offset: int, times: int = 1) -> None:
        """Write the 8 bytes at ``offset``, by one instruction each time."""
        for value in range(times):
            self._words[offset // 8] = value

    def read(self, offset: int, times: int = 1) -> None:
        """Read the 8 bytes at ``offset``, by one instruction each time."""
        for _ in range(times):
            self._words[offset // 8]


def attr(kind: int, address: int, length: int, *, flags: int = USER, **more: int) -> Attr:
    """What watches an address, disabled at first and for the program's own accesses alone."""
    return Attr(
        perf_event.TYPE_BREAKPOINT, flags=flags, bp_type=kind, bp_address=address, bp_length=length, **more
    )


@contextlib.contextmanager
def opened(*attrs: Attr, pid: int = 0, cpu: int = -1) -> Iterator[list[PerfEvent]]:
    """Events in this order, enabled one by one: each takes the lowest register that is free."""
    with contextlib.ExitStack() as stack:
        events = []
        for each in attrs:
            event = PerfEvent(each, pid=pid, cpu=cpu)
            stack.callback(event.close)
            event.enable()
            events.append(event)
        yield events


def refusal(made: Attr, *, pid: int = 0, cpu: int = -1) -> str:
    """The errno by which the kernel refuses an event, by name; empty where it does not."""
    try:
        PerfEvent(made, pid=pid, cpu=cpu).close()
    except OSError as error:
        return _NAMES[error.errno or 0]
    return ""


def count(event: PerfEvent) -> int:
    """Hits so far."""
    return event.read()[0]


_IOC_PERIOD = 0x40082404
_F_SETSIG = 10


def set_period(event: PerfEvent, period: int) -> None:
    """PERF_EVENT_IOC_PERIOD."""
    fcntl.ioctl(event.fd, _IOC_PERIOD, struct.pack("=Q", period))


def signals(event: PerfEvent, number: int) -> None:
    """Have each overflow send a signal to this process; a real-time signal is queued, so that none is lost."""
    fcntl.fcntl(event.fd, _F_SETSIG, number)
    fcntl.fcntl(event.fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(event.fd, fcntl.F_SETFL, os.O_RDWR | os.O_ASYNC)
