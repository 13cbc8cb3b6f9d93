# SPDX-License-Identifier: BSD-2-Clause
"""The processes of this machine: who started whom, as /proc/PID/stat has it (man 5 proc)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import NamedTuple

_FORKNOEXEC = 0x40


class ProcessState(NamedTuple):
    """What a process is now.

    Args:
        name: Its name.
        state: ``R``, ``S``, ``Z`` and so on.
        parent: Its parent's PID; 0 where that lies outside of this PID namespace.
        started: When it was started, in clock ticks since boot.
        forked: It was forked and has not run another program since (PF_FORKNOEXEC, linux/sched.h).
    """

    name: str
    state: str
    parent: int
    started: int
    forked: bool

    @property
    def ended(self) -> bool:
        """True if it has ended; a zombie is left until its parent asks for its status."""
        return self.state in "ZX"


def process_state(pid: int) -> ProcessState | None:
    """Return what a process is now; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read()
    except OSError:
        return None
    # The name may hold blanks and parentheses, so the fields are counted from the last one on.
    head, _, rest = data.rpartition(b")")
    fields = rest.split()
    if len(fields) < 20:
        return None
    name = head.partition(b"(")[2].decode(errors="replace")
    forked = bool(int(fields[6]) & _FORKNOEXEC)
    return ProcessState(name, fields[0].decode("ascii", "replace"), int(fields[1]), int(fields[19]), forked)


def ticks_now() -> int:
    """Return the clock that `ProcessState.started` is read from."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def all_pids() -> Iterator[int]:
    """Yield the PID of every process."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def descendants(pid: int) -> list[int]:
    """Return the living children of a process, their children and so on, by PID."""
    children: dict[int, list[int]] = {}
    for each in all_pids():
        state = process_state(each)
        if state is not None and not state.ended:
            children.setdefault(state.parent, []).append(each)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        fresh = [each for each in children.pop(waiting.pop(), ()) if each != pid]
        found += fresh
        waiting += fresh
    return sorted(found)


def threads_of(pid: int) -> tuple[int, ...]:
    """Return the threads of a process; none where it has ended."""
    try:
        return tuple(sorted(int(name) for name in os.listdir(f"/proc/{pid}/task")))
    except OSError:
        return ()


def program_of(pid: int) -> tuple[int, int] | None:
    """Return device and inode of the program that a process runs; None if that cannot be told."""
    try:
        status = os.stat(f"/proc/{pid}/exe")
    except OSError:
        return None
    return status.st_dev, status.st_ino
