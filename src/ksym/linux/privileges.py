# SPDX-License-Identifier: BSD-2-Clause
"""Why the kernel refuses a system call with EPERM or EACCES, told apart by facts.

The errno is the same for a missing capability, a seccomp filter, a sysctl, lockdown and a foreign process. What
tells them apart is asked of the kernel: /proc/self/status has the effective capabilities and the seccomp mode, and
a call with arguments that are refused for themselves shows whether calls of that name reach the kernel at all.
"""

from __future__ import annotations

import errno
import os

from ksym.linux.files import read_text
from ksym.linux.libc import syscall

# include/uapi/linux/capability.h
SYS_PTRACE, SYS_ADMIN, SYSLOG, PERFMON, BPF = 19, 21, 34, 38, 39
_NAMES = {SYS_PTRACE: "SYS_PTRACE", SYS_ADMIN: "SYS_ADMIN", SYSLOG: "SYSLOG", PERFMON: "PERFMON", BPF: "BPF"}
_FILTER = "2"
"""SECCOMP_MODE_FILTER, include/uapi/linux/seccomp.h."""
_ALL_IDS = ("0", "0", "4294967295")
"""The user namespace that the machine booted with maps each id to itself."""

_INVALID = {
    "perf_event_open": (0, 0, 0, -1, -1),  # no flags are called so: EINVAL (kernel/events/core.c)
    "bpf": (-1, 0, 0),  # nor is a command: EINVAL (kernel/bpf/syscall.c)
    "ptrace": (-1, 0, 0, 0),  # nor is there a process 0: ESRCH (kernel/ptrace.c)
    "process_vm_readv": (0, 0, 0, 0, 0, -1),  # nor flags: EINVAL (mm/process_vm_access.c)
}
"""Arguments that the kernel refuses before it looks at privileges, with another errno than EPERM."""


def paranoid() -> int | None:
    """Return kernel.perf_event_paranoid; None where there are no perf events at all."""
    try:
        return int(read_text("/proc/sys/kernel/perf_event_paranoid"))
    except (OSError, ValueError):
        return None


def lacks(*capabilities: int) -> bool:
    """Return True if none of ``capabilities`` is effective; False where that cannot be told."""
    try:
        effective = int(_status("CapEff"), 16)
    except (OSError, ValueError):
        return False
    return not any(effective >> each & 1 for each in capabilities)


def in_user_namespace() -> bool:
    """Return True in a user namespace other than the machine's own, where root has no say over the machine."""
    try:
        return tuple(read_text("/proc/self/uid_map").split()) != _ALL_IDS
    except OSError:
        return False


def is_filtered(name: str) -> bool:
    """Return True if a seccomp filter keeps the system call ``name`` from the kernel."""
    try:
        if _status("Seccomp") != _FILTER:
            return False
    except OSError:
        return False
    try:
        syscall(name, *_INVALID[name])
    except OSError as error:
        return error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS)
    return False


def refusal(name: str, *capabilities: int) -> tuple[str, str] | None:
    """Explain why a system call was refused to this process as such, whatever it was asked for.

    Args:
        name: The system call: ``perf_event_open``, ``bpf``, ``ptrace`` or ``process_vm_readv``.
        capabilities: The capabilities that allow the call; any one is enough, the first is the one to give.

    Returns:
        The cause and what to do; None where neither a filter nor a missing capability explains it.
    """
    wanted = _NAMES[capabilities[0]]
    if is_filtered(name):
        why = f"a seccomp filter forbids {name} (Seccomp: 2 in /proc/self/status)"
        also = f"CAP_{wanted} and " if lacks(*capabilities) else ""
        return (
            why,
            f"run it outside of the container, or give the container {also}a seccomp profile that allows {name}",
        )
    if os.geteuid() != 0:
        return (f"it takes CAP_{wanted}, or root", "run it with sudo") if lacks(*capabilities) else None
    return missing(*capabilities)


def missing(*capabilities: int) -> tuple[str, str] | None:
    """Explain that root lacks a capability, and what to do; None where it has one of them.

    Args:
        capabilities: Any one of them is enough; the first is the one to give.
    """
    wanted = _NAMES[capabilities[0]]
    if lacks(*capabilities):
        why = f"root lacks CAP_{wanted} here (CapEff in /proc/self/status)"
        return (
            why,
            f"run it outside of the container, or give the container CAP_{wanted} (--cap-add {wanted})",
        )
    if in_user_namespace():
        why = f"root of a user namespace has no CAP_{wanted} on this machine (/proc/self/uid_map)"
        return why, "run it as the machine's own root"
    return None


def _status(name: str) -> str:
    for line in read_text("/proc/self/status").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    raise OSError(errno.ENOENT, f"/proc/self/status has no {name}")
