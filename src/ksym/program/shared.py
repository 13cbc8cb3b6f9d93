# SPDX-License-Identifier: BSD-2-Clause
"""The memory that programs in the kernel and ksym share: two mapped arrays of one element each.

``state``, written by all CPUs:

    control             Control
    for each watch      Slot: lock, whether the value is known, the value; once, or once a CPU for a per-CPU variable

``cells``, for each CPU, written by that CPU alone:

    window              Window: the guard's
    for each watch      Cell: counters
    for each watch      for each of its pieces a mark: the write that its W register has told of
    for each watch      Trap: its hit before

All numbers are u64, so that reading one is reading one word.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from ksym.program.layout import MOST_BYTES


class Control(enum.IntEnum):
    """Bytes from the start of ``state``."""

    LIMIT = 0
    """End after so many hits; 0: never."""
    TAKEN = 8
    """Hits counted against the limit."""
    WINDOW_HITS = 16
    """The guard: more hits in a window on one CPU disarm; 0: no guard."""
    READER = 24
    """pid_tgid of a thread of ksym's own while it reads what is watched; 0: none does."""
    SIZE = 64


class Slot(enum.IntEnum):
    """Bytes from the start of a watch's slot."""

    LOCK = 0
    """1 while a CPU takes a value."""
    KNOWN = 8
    """Whether VALUE holds anything."""
    OWNER = 16
    """Of a user variable: the process whose copy it is."""
    SEEDED = 24
    """Whether SEED holds what the variable held before the first hit."""
    TRIPPED = 32
    """Hits in the window in which the guard took the watch off; 0: it did not."""
    TRIPPED_NS = 40
    """How long that window was, ns."""
    TRIPPED_CPU = 48
    VALUE = 56
    SEED = VALUE + MOST_BYTES
    SIZE = SEED + MOST_BYTES


class Window(enum.IntEnum):
    """Bytes from the start of a CPU's part of ``cells``."""

    START = 0
    """CLOCK_MONOTONIC ns."""
    HITS = 8
    SIZE = 64


class Cell(enum.IntEnum):
    """Bytes from the start of a watch's cell."""

    SEEN = 0
    """Hits that the program saw, of the accesses asked for."""
    REJECTED = 8
    """Of those, the ones that the condition refused."""
    LIMITED = 16
    """Of those, the ones behind the limit."""
    DROPPED = 24
    """Of those, the ones for which there was no room."""
    UNORDERED = 32
    """Values taken without the lock, as another CPU held it too long."""
    MISORDERED = 40
    """Writes whose RW register did not fire right after the W register: it may have been taken for a read before."""
    DISARMED = 48
    """Hits seen after the guard had disarmed the watch."""
    OWN = 56
    """Hits of ksym's own reading, which are no accesses; not in SEEN."""
    SIZE = 64


MARK_BYTES = 16
"""u64 ip, u64 pid_tgid; an ip of 0 is no mark."""


class Trap(enum.IntEnum):
    """Bytes from the start of a watch's account of its last hit on a CPU; registers are those of the trapped code."""

    IP = 0
    TASK = 8
    """pid_tgid."""
    COUNT = 16
    """What a repeated string instruction has left to do (rcx)."""
    SOURCE = 24
    """Where it reads (rsi)."""
    DESTINATION = 32
    """Where it writes (rdi)."""
    REGISTERS = 40
    """A hash of all registers."""
    RECORDED = 48
    """Bit 0: a hit of this trap has been recorded, bit 1: one of this execution."""
    SIZE = 56


@dataclass(frozen=True)
class Shape:
    """How the shared memory of a run is laid out.

    Args:
        cpus: Possible CPUs.
        per_cpu: For each watch, whether each CPU has its own value.
        pieces: For each watch, how many pieces it has.
    """

    cpus: int
    per_cpu: Sequence[bool]
    pieces: Sequence[int]

    def slot(self, watch: int) -> int:
        """Where a watch's first slot is in ``state``."""
        return Control.SIZE + Slot.SIZE * sum(self.cpus if each else 1 for each in self.per_cpu[:watch])

    @property
    def state_bytes(self) -> int:
        """Size of ``state``."""
        return self.slot(len(self.per_cpu))

    def cell(self, watch: int) -> int:
        """Where a watch's cell is in a CPU's part of ``cells``."""
        return Window.SIZE + Cell.SIZE * watch

    def mark(self, watch: int, piece: int) -> int:
        """Where the mark of a watch's piece is in a CPU's part of ``cells``."""
        return self.cell(len(self.pieces)) + MARK_BYTES * (sum(self.pieces[:watch]) + piece)

    def trap(self, watch: int) -> int:
        """Return the place of a watch's Trap in a CPU's part of ``cells``."""
        return self.mark(len(self.pieces), 0) + Trap.SIZE * watch

    @property
    def cpu_bytes(self) -> int:
        """Size of a CPU's part of ``cells``: whole cache lines, so that CPUs do not disturb each other."""
        return -(-self.trap(len(self.pieces)) // 64) * 64

    @property
    def cells_bytes(self) -> int:
        """Size of ``cells``."""
        return self.cpu_bytes * self.cpus


class Shared:
    """The shared memory of a run, as ksym sees it.

    Args:
        shape: Its layout.
        state: The bytes of ``state``; words are written at once.
        cells: The bytes of ``cells``.
    """

    def __init__(self, shape: Shape, state: memoryview, cells: memoryview) -> None:
        self._shape = shape
        self._state, self._cells = state.cast("Q"), cells.cast("Q")

    def control(self, field: Control, value: int) -> None:
        """Set a number of the control part."""
        self._state[field // 8] = value

    def taken(self) -> int:
        """Hits counted against the limit, those that came too late included."""
        return self._state[Control.TAKEN // 8]

    def own(self, watch: int, pid: int) -> None:
        """Say whose a user variable is; before it is watched."""
        self._state[(self._shape.slot(watch) + Slot.OWNER) // 8] = pid

    def seed(self, watch: int, value: bytes, *, cpu: int = 0) -> None:
        """Tell what a variable holds, read after its watch was enabled.

        From then on every write is a hit. So if there was none yet, this is what the first one finds; and if there
        was one, the program has a value of its own and looks here no more.

        Args:
            watch: Its number.
            value: Its bytes.
            cpu: Whose copy.
        """
        at = (self._shape.slot(watch) + Slot.SIZE * cpu) // 8
        words = memoryview(value.ljust(-(-len(value) // 8) * 8, b"\0")).cast("Q")
        for number, word in enumerate(words):
            self._state[at + Slot.SEED // 8 + number] = word
        self._state[at + Slot.SEEDED // 8] = 1

    def slot(self, watch: int, field: Slot) -> int:
        """A number of a watch's first slot."""
        return self._state[(self._shape.slot(watch) + field) // 8]

    def total(self, watch: int, field: Cell) -> int:
        """A counter of a watch, over all CPUs."""
        return sum(self.by_cpu(watch, field))

    def by_cpu(self, watch: int, field: Cell) -> list[int]:
        """A counter of a watch, on each CPU."""
        first = (self._shape.cell(watch) + field) // 8
        return self._cells[first :: self._shape.cpu_bytes // 8].tolist()

    def close(self) -> None:
        """Let go of the memory."""
        self._state.release()
        self._cells.release()
