# SPDX-License-Identifier: BSD-2-Clause
"""Which programs may trace others, and who traces whom: a process that is traced cannot be stopped by ptrace(2)."""

from __future__ import annotations

import os

from ksym.linux.processes import program_of
from ksym.watch.hold_tracing import mentions_ptrace, name_of, tracer_of

_TRANSLATORS = ("valgrind", "qemu-", "drrun")
"""How parts of paths begin of programs that read another one's code instead of executing it: they would take a uprobe's
breakpoint for code, and end with SIGTRAP. What they trace is themselves."""


class Tracers:
    """Remembers which programs do not trace others."""

    def __init__(self) -> None:
        self._harmless: set[tuple[int, int]] = set()
        """Device and inode of programs that do not trace others."""

    def knows(self, pid: int) -> bool:
        """Return True if a process runs a program that is known not to trace others."""
        return program_of(pid) in self._harmless

    def may_trace(self, pid: int) -> bool:
        """Return True if a process runs a program that may trace others."""
        if may_trace(pid):
            return True
        if program := program_of(pid):
            self._harmless.add(program)
        return False


def may_trace(pid: int) -> bool:
    """Return True if a process runs a program that may trace others, by its path and its file."""
    exe = f"/proc/{pid}/exe"
    try:
        parts = os.readlink(exe).split("/")
    except OSError:
        return False
    return not any(part.startswith(_TRANSLATORS) for part in parts) and mentions_ptrace(exe)


def why_not_stopped(tid: int) -> str:
    """Say in a clause why a thread could not be stopped."""
    tracer = tracer_of(tid)
    if not tracer:
        return "it could not be stopped just then (ptrace)"
    return f"{name_of(tracer) or 'another process'} (process {tracer}) traces it"
