# SPDX-License-Identifier: BSD-2-Clause
"""The C library, for system calls that Python has no name for."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)

# asm/unistd_64.h for x86-64, asm-generic/unistd.h for arm64.
_NUMBERS = {
    "x86_64": {"perf_event_open": 298, "bpf": 321, "ptrace": 101, "process_vm_readv": 310},
    "aarch64": {"perf_event_open": 241, "bpf": 280, "ptrace": 117, "process_vm_readv": 270},
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
