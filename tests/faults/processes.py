# SPDX-License-Identifier: BSD-2-Clause
"""Finding what a run has started, by a mark in its environment, whoever its parent is by now."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

MARK = "KSYM_FAULTS_RUN"
PATIENCE = 20.0
"""Seconds for what has to come; it comes in a moment on any machine that does not fail the test."""


def marked(mark: str) -> dict[int, str]:
    """The processes of a run, and the name of the program that each runs; those that are zombies are none."""
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"{MARK}={mark}\0".encode() in Path(entry.path, "environ").read_bytes():
                found[int(entry.name)] = os.path.basename(os.readlink(f"{entry.path}/exe"))
    return found


def state(pid: int) -> str:
    """R, S, T, ... as in proc_pid_stat(5); "" where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def go_on(pid: int) -> None:
    """Let a stopped process go on."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def wait_for(true: Callable[[], object], *, seconds: float = PATIENCE) -> bool:
    """Ask again and again until it is so; False if it does not come."""
    latest = time.monotonic() + seconds
    while not true():
        if time.monotonic() > latest:
            return False
        time.sleep(0.002)
    return True


def has_ended(pid: int, seconds: float = PATIENCE) -> bool:
    """Wait for the end of a process that need not be a child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)


def holds(pid: int, kind: str) -> bool:
    """Whether a process has a descriptor of that kind: ``anon_inode:[perf_event]``."""
    with contextlib.suppress(OSError):
        return any(os.readlink(entry.path) == kind for entry in os.scandir(f"/proc/{pid}/fd"))
    return False
