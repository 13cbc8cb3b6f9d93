# SPDX-License-Identifier: BSD-2-Clause
"""Debug registers: how many are free, and who may hold the others.

The machine is asked, by taking registers until the kernel says ENOSPC; a slot is reserved when an event
is opened, whether or not it is enabled (kernel/events/hw_breakpoint.c, reserve_bp_slot).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from ksym.linux import perf_event
from ksym.linux.files import read_text
from ksym.linux.perf_event import Attr, Flag, PerfEvent

_MOST = 64  # no architecture has more; ends the loop if a kernel never said ENOSPC


def free_registers(*, pid: int = -1, cpu: int = 0, execute: bool = False) -> int:
    """Count the registers that a watch on (``pid``, ``cpu``) could take now.

    Raises:
        OSError: the kernel refuses even to try (EACCES, EPERM, ENOENT).
    """
    target = ctypes.c_uint64()
    events: list[PerfEvent] = []
    attr = Attr(
        perf_event.TYPE_BREAKPOINT,
        flags=Flag.DISABLED | Flag.EXCLUDE_KERNEL | Flag.EXCLUDE_HV,
        bp_type=4 if execute else 2,
        bp_address=ctypes.addressof(target),
        bp_length=8,
    )
    try:
        while len(events) < _MOST:
            try:
                events.append(PerfEvent(attr, pid=pid, cpu=cpu))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                break
        return len(events)
    finally:
        for event in events:
            event.close()


@contextlib.contextmanager
def own_place(*, system_wide: bool) -> Iterator[tuple[int, int]]:
    """Where to try something on ourselves, as (pid, cpu): a CPU that we stay on, or this thread.

    The machine's first event on a thread makes the kernel wait for all CPUs, 10 ms (kernel/events/core.c,
    account_event): a run that plants none should not have to.
    """
    if not system_wide:
        yield 0, -1
        return
    before = os.sched_getaffinity(0)
    cpu = min(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield -1, cpu
    finally:
        os.sched_setaffinity(0, before)


_both_fired: dict[bool, bool] = {}


def both_fire(*, system_wide: bool) -> bool:
    """Whether a write fires both watchpoints on an address, as processors do; tried on a variable of our own.

    QEMU, where it emulates the processor, reports the first one alone (cpu_check_watchpoint() in its
    accel/tcg/watchpoint.c). Where no two registers are free to try it, what was found before, or True.
    """
    target = ctypes.c_uint64()
    cell = memoryview(target).cast("B").cast("Q")  # one store, and no read; ctypes reads as well
    with contextlib.ExitStack() as stack:
        pid, cpu = stack.enter_context(own_place(system_wide=system_wide))
        events = []
        for kind in (2, 3):
            attr = Attr(
                perf_event.TYPE_BREAKPOINT,
                flags=Flag.DISABLED | Flag.EXCLUDE_KERNEL | Flag.EXCLUDE_HV,
                bp_type=kind,
                bp_address=ctypes.addressof(target),
                bp_length=8,
            )
            try:
                events.append(PerfEvent(attr, pid=pid, cpu=cpu))
            except OSError:
                return _both_fired.get(system_wide, True)
            stack.callback(events[-1].close)
        for event in events:
            event.enable()
        cell[0] = 1
        for event in events:
            event.disable()
        _both_fired[system_wide] = events[1].read()[0] > 0
        return _both_fired[system_wide]


@dataclass(frozen=True)
class Holder:
    """A process that may hold debug registers."""

    pid: int
    comm: str
    why: str

    def __str__(self) -> str:
        return f"{self.comm} (pid {self.pid}, {self.why})"


def holders() -> list[Holder]:
    """Processes that hold perf events, and debuggers that trace somebody.

    The kernel does not tell which of their events are breakpoints, so these are candidates.
    """
    found: dict[int, Holder] = {}
    own = os.getpid()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == own:
            continue
        pid = int(name)
        # Processes come and go while we look, and without privileges most may not be looked into.
        with contextlib.suppress(OSError):
            tracer = _tracer(pid)
            if tracer and tracer != own:
                found.setdefault(tracer, Holder(tracer, _comm(tracer), f"debugs pid {pid}"))
            if any(
                os.readlink(f"/proc/{pid}/fd/{fd}") == "anon_inode:[perf_event]"
                for fd in os.listdir(f"/proc/{pid}/fd")
            ):
                found[pid] = Holder(pid, _comm(pid), "perf events")
    return list(found.values())


def _comm(pid: int) -> str:
    with contextlib.suppress(OSError):
        return read_text(f"/proc/{pid}/comm").rstrip("\n")
    return "?"


def _tracer(pid: int) -> int:
    with open(f"/proc/{pid}/status", "rb") as status:
        for line in status:
            if line.startswith(b"TracerPid:"):
                return int(line.split()[1])
    return 0
