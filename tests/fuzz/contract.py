# SPDX-License-Identifier: BSD-2-Clause
"""What holds for every target: no other error than those that it documents, no hang, no blow-up of memory."""

from __future__ import annotations

import os
import resource
import signal
import traceback
from collections.abc import Callable
from types import FrameType

SECONDS = 5
"""Processor time of one input, so that a busy machine makes no difference; inputs are of some KB."""
_MEGABYTES = 512
"""What one input may add to the largest size that the process ever had."""


class Broken(Exception):
    """A target did what it must not."""


class _TooLong(BaseException):
    """Not an Exception, so that a target that catches everything does not catch it."""


class _Watch:
    """Ends what takes too long."""

    def __init__(self) -> None:
        self.rang = False

    def ring(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGPROF."""
        self.rang = True
        raise _TooLong


def fault_of(run: Callable[[bytes], None], data: bytes, *, seconds: float = SECONDS) -> str | None:
    """Give a target its input.

    Returns:
        None: it kept its contract; else what it did, in words that are the same for the same fault.
    """
    watch, before = _Watch(), _peak()
    old = signal.signal(signal.SIGPROF, watch.ring)
    found = None
    try:
        try:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            run(data)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except _TooLong as late:
        found = f"TooLong at {_place(late)}"
    except Exception as error:
        found = f"{type(error).__name__} at {_place(error)}"
    finally:
        signal.signal(signal.SIGPROF, old)
    if watch.rang and found is None:
        found = "TooLong, caught"
    if found is None and _peak() - before > _MEGABYTES << 20:
        found = "Memory"
    return found


def limit_memory(size: int) -> None:
    """Let what wants far too much of it fail, not the machine."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (used + size, hard))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _place(error: BaseException) -> str:
    """The innermost line of ksym's that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/ksym/" in frame.filename] or list(frames)
    return f"{ours[-1].filename.rpartition('/ksym/')[2]}:{ours[-1].lineno} {ours[-1].name}"
