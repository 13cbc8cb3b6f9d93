# SPDX-License-Identifier: BSD-2-Clause
"""ptrace(2), as far as holding a process takes it. Numbers: include/uapi/linux/ptrace.h.

Everything begins with PTRACE_SEIZE: a tracee goes on, wherever it is stopped, when its tracer is killed, and no
signal is made up that it or its parent could notice.
"""

from __future__ import annotations

import contextlib
import os
import signal

from ksym.linux.libc import MACHINE, ptrace

_PEEKUSER, _CONT, _DETACH, _SYSCALL = 3, 7, 17, 24
_SEIZE, _INTERRUPT, _LISTEN = 0x4206, 0x4207, 0x4208
_O_SYSGOOD, _O_FORK, _O_VFORK, _O_CLONE, _O_EXEC = 1, 2, 4, 8, 16
_EVENT_EXEC, _EVENT_STOP = 4, 128
_WALL = 0x40000000
_STOPS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

_SYSCALL_STOP = signal.SIGTRAP | 0x80
# offsetof(struct user, regs.orig_rax), sys/user.h; mmap of asm/unistd_64.h, mmap2 of asm/unistd_32.h.
_ORIG_RAX, _MMAP, _MMAP2 = 15 * 8, 9, 192


def seize(pid: int, *, children: bool = False) -> None:
    """Trace a thread, without stopping it.

    Args:
        pid: The thread.
        children: Trace what it starts, too, and stop it at each exec(2).

    Raises:
        PermissionError: Somebody else traces it, or it may not be traced.
        ProcessLookupError: It has ended.
    """
    options = _O_SYSGOOD | _O_FORK | _O_VFORK | _O_CLONE | _O_EXEC if children else 0
    ptrace(_SEIZE, pid, 0, options)


def interrupt(pid: int) -> None:
    """Stop a tracee before it returns to user mode (or at once, where it is there)."""
    ptrace(_INTERRUPT, pid)


def resume(pid: int, status: int, *, system_calls: bool = False) -> None:
    """Let a tracee go on from a stop.

    Args:
        pid: The tracee.
        status: That of its stop: a signal is delivered, and one that is stopped by job control stays so.
        system_calls: Stop it again at its next system call.
    """
    with contextlib.suppress(ProcessLookupError):
        if status >> 16 == _EVENT_STOP and os.WSTOPSIG(status) in _STOPS:
            ptrace(_LISTEN, pid)
        else:
            ptrace(_SYSCALL if system_calls else _CONT, pid, 0, _signal(status))


def detach(pid: int, status: int) -> None:
    """Let a stopped tracee go for good; see `resume`."""
    with contextlib.suppress(ProcessLookupError):
        ptrace(_DETACH, pid, 0, _signal(status))


def wait(pid: int = -1, *, block: bool = True) -> tuple[int, int]:
    """waitpid(2) for ``pid``, or any child or tracee; (0, 0) if ``block`` is off and none has news.

    Raises:
        ChildProcessError: there is none left.
    """
    return os.waitpid(pid, _WALL | (0 if block else os.WNOHANG))


def _signal(status: int) -> int:
    """The signal that a stop announces; 0 for ptrace's own stops."""
    number = os.WSTOPSIG(status)
    return 0 if status >> 16 or number == _SYSCALL_STOP else number


def is_exec(status: int) -> bool:
    """True for the stop at the end of exec(2)."""
    return status >> 16 == _EVENT_EXEC


def is_after_mmap(pid: int, status: int) -> bool:
    """True for a stop at a system call that may be the end of mmap(2)."""
    if os.WSTOPSIG(status) != _SYSCALL_STOP:
        return False
    if MACHINE != "x86_64":
        return True
    try:
        return ptrace(_PEEKUSER, pid, _ORIG_RAX) in (_MMAP, _MMAP2)
    except OSError:
        return False
