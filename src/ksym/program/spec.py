# SPDX-License-Identifier: BSD-2-Clause
"""What decides the program of a register."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ksym.linux.bpf_asm import Assembler, Label
from ksym.program.layout import Frame, Sees
from ksym.program.wants import Sink
from ksym.watch.plan import Role

if TYPE_CHECKING:
    from ksym.linux.direct_map import DirectMap
    from ksym.symbols.task_layout import TaskLayout


class Ways(NamedTuple):
    """Where to go with a hit.

    Args:
        keep: It matches, or could.
        reject: It does not.
        unknown: It is to be kept, as a value that is asked for is not known.
    """

    keep: Label
    reject: Label
    unknown: Label


Condition = Callable[[Assembler, Ways, int, int], None]
"""Emits a condition: (assembler, where to go, scratch, where on the stack the task's numbers are or 0)."""


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
        asks_values: The condition needs values.
        asks_numbers: The condition needs the task's numbers.
        sink: Where a kept hit goes.
        guarded: The guard may disarm the watch.
        limited: Only so many hits are kept.
        stop: The task that made the access is stopped.
        atomics: The kernel has BPF_FETCH and BPF_CMPXCHG (5.12).
        place: Number of the place that the register is armed in.
        address: Of the variable in one of its places: how it lies in pages is the same in all.
        tasks: Where a task's memory is and its numbers are; None where that is not known.
        by_memory: Chains belong to address spaces; else to processes.
        walk: Read a user variable through the kernel's mapping of its page (`linux.direct_map`).
        passes_kernel: Accesses that the kernel makes to a user variable are taken for their values' sake only.
        follows: Its memory may have unloaded the variable: then a hit is passed over.
        own_namespace: Inode of ksym's pid namespace, whose numbers count; 0: it is the initial one.
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
    asks_values: bool = False
    asks_numbers: bool = False
    guarded: bool = False
    limited: bool = False
    stop: bool = False
    atomics: bool = True
    place: int = 0
    address: int = 0
    tasks: TaskLayout | None = None
    by_memory: bool = False
    walk: DirectMap | None = None
    passes_kernel: bool = False
    follows: bool = False
    own_namespace: int = 0
