# SPDX-License-Identifier: BSD-2-Clause
"""ptrace(2), as far as starting a program stopped takes it. Numbers: include/uapi/linux/ptrace.h."""

from __future__ import annotations

import contextlib
import os
import signal

from ksym.linux.libc import MACHINE, ptrace

_TRACEME, _PEEKUSER, _CONT, _DETACH, _SYSCALL, _SETOPTIONS, _SEIZE = 0, 3, 7, 17, 24, 0x4200, 0x4206
_O_SYSGOOD, _O_FORK, _O_VFORK, _O_CLONE, _O_EXEC = 1, 2, 4, 8, 16
_OPTIONS = _O_SYSGOOD | _O_FORK | _O_VFORK | _O_CLONE | _O_EXEC
_EVENT_EXEC, _EVENT_STOP = 4, 128
_EVENTS = (1, 2, 3, _EVENT_EXEC, _EVENT_STOP)
_WALL = 0x40000000

_SYSCALL_STOP = signal.SIGTRAP | 0x80
# offsetof(struct user, regs.orig_rax), sys/user.h; and the number of mmap, asm/unistd_64.h.
_ORIG_RAX, _MMAP = 15 * 8, 9


def seize(pid: int) -> None:
    """Trace a child and what it starts; an exec will stop it.

    If the tracer is killed, it goes on, wherever it is stopped. That cannot be said of one that is traced by
    `trace_me`: an exec sends it SIGTRAP, and what it starts SIGSTOP, and nobody takes them back.

    Raises:
        PermissionError: it is not dumpable (the interpreter has capabilities of its own), and we may not trace all.
    """
    ptrace(_SEIZE, pid, 0, _OPTIONS)


def trace_me() -> None:
    """In the child, before exec: let the parent trace this process; exec will then stop it."""
    ptrace(_TRACEME, 0)


def follow_children(pid: int) -> None:
    """Trace what ``pid`` starts, too, and mark system call stops apart from SIGTRAP."""
    ptrace(_SETOPTIONS, pid, 0, _OPTIONS)


def has_executed(status: int) -> bool:
    """Whether this stop is that of an exec: an event, or the SIGTRAP that it sends to who asked to be traced."""
    return os.WSTOPSIG(status) == signal.SIGTRAP and status >> 16 in (0, _EVENT_EXEC)


def go_on(pid: int, number: int = 0) -> None:
    """Let a stopped tracee run, delivering signal ``number``."""
    with contextlib.suppress(ProcessLookupError):
        ptrace(_CONT, pid, 0, number)


def to_next_syscall(pid: int, number: int = 0) -> None:
    """Let a stopped tracee run up to its next system call stop, delivering signal ``number``."""
    with contextlib.suppress(ProcessLookupError):
        ptrace(_SYSCALL, pid, 0, number)


def detach(pid: int, number: int = 0) -> None:
    """Let a stopped tracee go for good, delivering signal ``number``."""
    with contextlib.suppress(ProcessLookupError):
        ptrace(_DETACH, pid, 0, number)


def wait_any(*, block: bool = True, pid: int = -1) -> tuple[int, int]:
    """waitpid(2) for ``pid``, or any child or tracee; (0, 0) if ``block`` is off and none has news.

    Raises:
        ChildProcessError: there is none left.
    """
    return os.waitpid(pid, _WALL | (0 if block else os.WNOHANG))


def signal_to_pass(status: int) -> int:
    """Which signal a stop must deliver when the tracee goes on: none for ptrace's own stops."""
    number = os.WSTOPSIG(status)
    if number == _SYSCALL_STOP or status >> 16 in _EVENTS:
        return 0
    # A new tracee starts with a SIGSTOP that nobody sent.
    return 0 if number in (signal.SIGTRAP, signal.SIGSTOP) else number


def may_have_mapped(pid: int, status: int) -> bool:
    """Whether this stop can come right after a change of mappings: an exec, or the end of mmap(2)."""
    if os.WSTOPSIG(status) == signal.SIGTRAP:
        return True
    if os.WSTOPSIG(status) != _SYSCALL_STOP:
        return False
    if MACHINE != "x86_64":
        return True
    try:
        return ptrace(_PEEKUSER, pid, _ORIG_RAX) == _MMAP
    except OSError:
        return False
