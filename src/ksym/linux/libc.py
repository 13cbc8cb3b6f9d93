# SPDX-License-Identifier: BSD-2-Clause
"""The C library, for system calls that Python has no name for."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.ptrace.restype = ctypes.c_long
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)

# asm/unistd_64.h for x86-64, asm-generic/unistd.h for arm64.
_NUMBERS = {
    "x86_64": {"perf_event_open": 298, "bpf": 321, "membarrier": 324, "ptrace": 101, "process_vm_readv": 310},
    "aarch64": {
        "perf_event_open": 241,
        "bpf": 280,
        "membarrier": 283,
        "ptrace": 117,
        "process_vm_readv": 270,
    },
}
MACHINE = os.uname().machine
"""The machine's architecture as uname(2) has it."""


def _fail(name: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{name}: {os.strerror(number)}")


def syscall(name: str, *args: object) -> int:
    """Make the system call ``name``.

    Args:
        name: ``perf_event_open``, ``bpf``, ``ptrace`` or ``process_vm_readv``.
        args: Integers, bytes or ctypes objects; each is passed as a ``long``.

    Returns:
        The call's result.

    Raises:
        OSError: it failed; ``errno`` is set.
    """
    numbers = _NUMBERS.get(MACHINE)
    if numbers is None:
        raise OSError(38, f"{name}: no system call number known for {MACHINE}")
    longs = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = int(_libc.syscall(ctypes.c_long(numbers[name]), *longs))
    if result < 0:
        raise _fail(name)
    return result


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    """Make a ptrace request.

    Raises:
        OSError: it failed; ``errno`` is set.
    """
    ctypes.set_errno(0)
    result = int(_libc.ptrace(request, pid, address, data))
    if result == -1 and ctypes.get_errno():
        raise _fail("ptrace")
    return result


_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE, _PR_SET_PTRACER, _PTRACER_ANY = 4, 0x59616D61, (1 << 64) - 1  # linux/prctl.h


def allow_tracing() -> None:
    """Let processes of the same user with the same capabilities trace this one until its next exec(2).

    An interpreter with capabilities of its own is not dumpable, and Yama lets only ancestors trace
    (Documentation/admin-guide/LSM/Yama.rst).
    """
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    _libc.prctl(_PR_SET_PTRACER, _PTRACER_ANY, 0, 0, 0)


def set_parent_death_signal(number: int) -> None:
    """Ask for a signal to this process when the thread that forked it ends (man 2 prctl, PR_SET_PDEATHSIG)."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
