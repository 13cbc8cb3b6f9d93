# SPDX-License-Identifier: BSD-2-Clause
"""What a run wants of its programs. Here alone, so that a run that wants none does not load what makes them."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ksym.linux.direct_map import DirectMap
    from ksym.symbols.task_layout import TaskLayout


class Sink(enum.Enum):
    """Where a kept hit goes."""

    RECORD = "ring"
    COUNT = "table"
    NOTHING = "nowhere"


class Wants(NamedTuple):
    """What the programs of a run are to do.

    Args:
        sink: Where kept hits go.
        limit: Keep so many hits; 0: all.
        stop: Stop the tasks that make them.
        guarded: For each watch, whether the guard may disarm it.
        walk: How to read user variables without tripping over one's own register, and those of a child at its fork.
        tasks: Where a task's memory is and its numbers are; None where that is not known.
        kernel_accesses: Accesses that the kernel makes to user variables are kept.
        unloads: A file with a user variable may be unloaded by one process while another one, which has inherited its
            events, keeps it: each hit is asked whether its memory has the variable.
    """

    sink: Sink
    limit: int = 0
    stop: bool = False
    guarded: tuple[bool, ...] = ()
    walk: DirectMap | None = None
    tasks: TaskLayout | None = None
    kernel_accesses: bool = True
    unloads: bool = False
