# SPDX-License-Identifier: BSD-2-Clause
"""What decides the program of a register."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksym.linux.bpf_asm import Assembler, Label
from ksym.program.layout import Frame, Sees
from ksym.program.wants import Sink
from ksym.watch.plan import Role

if TYPE_CHECKING:
    from ksym.linux.direct_map import DirectMap

Condition = Callable[[Assembler, Label, Label, int], None]
"""Emits a condition: (assembler, where to go if kept, if rejected, scratch)."""


@dataclass(frozen=True)
class Spec:
    """All that decides a program.

    Args:
        watch: Number of the watch.
        piece: Number of the piece, ``offset`` bytes from the variable's start.
        length: Bytes of the variable.
        user: It lies in user space.
        per_cpu: Each CPU has its own.
        role: Whether the register is one of a twin.
        sees: What the watch's records tell.
        reads_only: Writes are not wanted, though the twin's W register sees them.
        frame: Where the hit lies on the stack; without values where nothing needs them.
        condition: Emits the condition.
        sink: Where a kept hit goes.
        guarded: The guard may disarm the watch.
        limited: Only so many hits are kept.
        stop: The task that made the access is stopped.
        atomics: The kernel has BPF_FETCH and BPF_CMPXCHG (5.12).
        address: Of the variable, where that is the same for all; needed for ``walk``.
        walk: Read a user variable through the kernel's mapping of its page (`linux.direct_map`).
    """

    watch: int
    piece: int
    offset: int
    length: int
    user: bool
    per_cpu: bool
    role: Role
    sees: Sees
    reads_only: bool
    frame: Frame
    condition: Condition | None
    sink: Sink
    guarded: bool = False
    limited: bool = False
    stop: bool = False
    atomics: bool = True
    address: int = 0
    walk: DirectMap | None = None
