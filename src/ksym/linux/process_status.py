# SPDX-License-Identifier: BSD-2-Clause
"""Processes that have no memory of their own to look into: kernel threads, and those that have ended (man 5 proc)."""

from __future__ import annotations

import os

from ksym.errors import KsymError, NotPermitted
from ksym.linux.files import read_text

_PF_KTHREAD = 0x00200000  # include/linux/sched.h
_ENDED = ("Z", "X", "x")


def check_process(pid: int, *, user: bool = False) -> None:
    """Refuse a process that is not there, has ended, or has no programs.

    Args:
        pid: The process, as ksym's own pid namespace numbers it.
        user: A variable of a program is asked for, which kernel threads do not have.

    Raises:
        KsymError: There is nothing to watch in it.
    """
    what = f"cannot watch process {pid}"
    if not os.path.exists(f"/proc/{pid}"):
        if _is_hidden(pid):
            why = "it belongs to another user, and /proc is mounted with hidepid, which hides it"
            raise NotPermitted(what, why, "run it with sudo")
        raise KsymError(what, "there is no such process", "see ps -e")
    try:
        state, parent, flags = _stat(pid)
        threads = os.listdir(f"/proc/{pid}/task")
        # The first thread may have ended alone.
        ended = state in _ENDED and all(_thread_ended(pid, int(each)) for each in threads)
    except (OSError, ValueError, IndexError):
        return  # it ends just now: whoever opens something of it will tell
    if ended:
        why = f"it has ended and waits for its parent, process {parent}, to take its status"
        raise KsymError(what, why, "start it again with -- COMMAND")
    if user and state in _ENDED:
        # mm_access() of its first thread is what /proc/PID/maps shows, and exit_mm() has taken that away.
        why = "its first thread has ended, and with it what /proc shows of its memory"
        raise KsymError(what, why, "start it with -- COMMAND")
    if user and flags & _PF_KTHREAD:
        why = "it is a kernel thread, which has no programs and libraries"
        raise KsymError(what, why, "see ps -e for the processes, or name a variable of the kernel")


def _is_hidden(pid: int) -> bool:
    """Return True for a process that is there and may not be seen: only then kill(2) fails with EPERM."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _stat(pid: int, file: str = "stat") -> tuple[str, int, int]:
    """Return state, parent and flags (PF_*) of a process; its name may hold anything, so the last ``)`` ends it."""
    fields = read_text(f"/proc/{pid}/{file}").rpartition(")")[2].split()
    return fields[0], int(fields[1]), int(fields[6])


def _thread_ended(pid: int, tid: int) -> bool:
    try:
        return _stat(pid, f"task/{tid}/stat")[0] in _ENDED
    except FileNotFoundError:
        return True
