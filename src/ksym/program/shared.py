# SPDX-License-Identifier: BSD-2-Clause
"""The memory that programs in the kernel and ksym share: two mapped arrays of one element each, and two hashes.

``state``, written by all CPUs:

    control             Control
    for each watch      Slot: the guard's; then its Chain, one for each CPU of a per-CPU variable; of a user
                        variable a blank one
    seeds               Seed: what variables held before they were watched

``cells``, for each CPU, written by that CPU alone:

    window              Window: the guard's
    for each watch      Cell: counters
    for each watch      for each of its pieces a mark: the write that its W register has told of
    for each watch      Trap: its hit before

``chains``, by u64 memory and u64 key (`key_of`): the Chain of a user variable in a memory. A memory is an address
space, by the address of its ``struct mm_struct``, or what several have in common, by a small number.

``memories``, by u64 address space: `PLACES` keys of its chains, 0 where there are fewer.

A chain is the values of one variable in one memory in order of time: each access finds there what the one before
has left.

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

    TRIPPED = 0
    """Hits in the window in which the guard took the watch off; 0: it did not."""
    TRIPPED_NS = 8
    """How long that window was, ns."""
    TRIPPED_CPU = 16
    OFF = 24
    """1 while the watch is off: what happens then is not seen, and not to be told of."""
    LEFT = 32
    """Processes that ended with another value in the variable than the last access had left."""
    LEFT_BASE = 40
    """Where the variable lay in the last of them."""
    LEFT_OLD = 48
    """What that access had left there, and behind it what the variable held at the end."""
    SIZE = LEFT_OLD + 2 * MOST_BYTES


class Chain(enum.IntEnum):
    """Bytes from the start of a chain."""

    LOCK = 0
    """1 while a CPU takes a value."""
    KNOWN = 8
    """1 if VALUE holds anything."""
    SEED = 16
    """Number of the Seed that tells what the variable held before the first hit; 0: none does."""
    SHARED = 24
    """The memory whose chain is to be used instead, as several address spaces have it; 0: this one."""
    OVER = 32
    """1 once the memory has unloaded the variable: what lies at its address is not the variable any more."""
    PLACE = 40
    """1 + number of the place that it belongs to, also in memory that was forked from that; 0: that is not known."""
    VALUE = 48


class Seed(enum.IntEnum):
    """Bytes from the start of a seed."""

    SET = 0
    """1 once VALUE holds what the variable held."""
    VALUE = 8


PLACES = 4
"""Chains of an address space: each needs a debug register of its threads, of which x86 has four."""
MEMORY_BYTES = 8 * PLACES
"""Size of an element of ``memories``."""
PLACED_SEEDS = 256
"""Seeds for user variables; of those that are placed beyond, the first access has no old value."""
KEY_SHIFT = 57
"""User addresses have 56 bits at most (5-level page tables)."""


def key_of(watch: int, base: int) -> int:
    """The number that tells a watch's variable at address ``base`` from all others in the same memory."""
    return (watch << KEY_SHIFT) + base


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
    KERNEL = 64
    """Hits that the kernel made on a user variable and nobody asked for; not in SEEN."""
    UNJUDGED = 72
    """Hits that were kept as a value which the condition asks for is not known."""
    STALE = 80
    """Reads that found another value than the last access had left."""
    FOREIGN = 88
    """Hits of memory that has unloaded the variable (`Chain.OVER`); not in SEEN."""
    SIZE = 96


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
        user: For each watch, whether its variable lies in user space.
        value_bytes: Bytes of the longest value, padded.
    """

    cpus: int
    per_cpu: Sequence[bool]
    pieces: Sequence[int]
    user: Sequence[bool]
    value_bytes: int

    def slot(self, watch: int) -> int:
        """Where a watch's slot is in ``state``."""
        return Control.SIZE + Slot.SIZE * watch + self.chain_bytes * self._chains(watch)

    def chain(self, watch: int) -> int:
        """Where a watch's first chain is in ``state``."""
        return self.slot(watch) + Slot.SIZE

    def _chains(self, watch: int) -> int:
        """Chains in ``state`` of the watches before this one."""
        return sum(self.chains(each) for each in range(watch))

    def chains(self, watch: int) -> int:
        """Chains of a watch in ``state``."""
        return self.cpus if self.per_cpu[watch] else 1

    @property
    def chain_bytes(self) -> int:
        """Size of a chain."""
        return Chain.VALUE + self.value_bytes

    @property
    def seed_bytes(self) -> int:
        """Size of a seed."""
        return Seed.VALUE + self.value_bytes

    @property
    def seeds(self) -> int:
        """How many seeds there are; number 0 is never used."""
        return 1 + self._chains(len(self.per_cpu)) + (PLACED_SEEDS if any(self.user) else 0)

    def seed_number(self, watch: int, cpu: int = 0) -> int:
        """The seed of a kernel variable's chain."""
        return 1 + self._chains(watch) + cpu

    @property
    def first_placed_seed(self) -> int:
        """The first seed for user variables."""
        return 1 + self._chains(len(self.per_cpu))

    def seed(self, number: int) -> int:
        """Where a seed is in ``state``."""
        return self.slot(len(self.per_cpu)) + self.seed_bytes * number

    @property
    def state_bytes(self) -> int:
        """Size of ``state``."""
        return self.seed(self.seeds)

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
        self._bytes = state
        self._state, self._cells = state.cast("Q"), cells.cast("Q")
        for watch in range(len(shape.per_cpu)):
            for copy in range(0 if shape.user[watch] else shape.chains(watch)):
                at = shape.chain(watch) + copy * shape.chain_bytes
                self._state[(at + Chain.SEED) // 8] = shape.seed_number(watch, copy)

    def control(self, field: Control, value: int) -> None:
        """Set a number of the control part."""
        self._state[field // 8] = value

    def begin_windows(self) -> None:
        """Let the guard's windows of all CPUs start anew: a watch that is off has made hits in them."""
        for cpu in range(self._shape.cpus):
            self._cells[(cpu * self._shape.cpu_bytes + Window.HITS) // 8] = 0

    def taken(self) -> int:
        """Hits counted against the limit, those that came too late included."""
        return self._state[Control.TAKEN // 8]

    def seed(self, number: int, value: bytes) -> None:
        """Tell what a variable holds, read after its watch was enabled.

        From then on every write is a hit. So if there was none yet, this is what the first one finds; and if there
        was one, the program has a value of its own and looks here no more.

        Args:
            number: That of the chain's seed.
            value: The variable's bytes.
        """
        at = self._shape.seed(number) // 8
        words = memoryview(value.ljust(-(-len(value) // 8) * 8, b"\0")).cast("Q")
        for index, word in enumerate(words):
            self._state[at + Seed.VALUE // 8 + index] = word
        self._state[at + Seed.SET // 8] = 1

    def unseed(self, number: int) -> None:
        """Forget a seed; its number may then be another chain's."""
        self._state[(self._shape.seed(number) + Seed.SET) // 8] = 0

    def switch(self, watch: int, *, on: bool) -> None:
        """Say whether the accesses to a variable are seen."""
        self._state[(self._shape.slot(watch) + Slot.OFF) // 8] = not on

    def begin_anew(self, watch: int, cpu: int = 0) -> None:
        """Forget a kernel variable's value, while no program runs."""
        at = (self._shape.chain(watch) + cpu * self._shape.chain_bytes) // 8
        self._state[at + Chain.KNOWN // 8] = 0
        self._state[at + Chain.SEED // 8] = number = self._shape.seed_number(watch, cpu)
        self.unseed(number)

    def offer(self, watch: int, shared: int) -> None:
        """Let processes that nobody has placed use the values of memory that several have."""
        self._state[(self._shape.chain(watch) + Chain.SHARED) // 8] = shared

    def value(self, watch: int, length: int, *, cpu: int = 0) -> bytes | None:
        """The last value of a kernel variable; None where it is not known."""
        at = self._shape.chain(watch) + cpu * self._shape.chain_bytes
        return self.end_of(bytes(self._bytes[at : at + self._shape.chain_bytes]), length)

    def end_of(self, chain: bytes, length: int) -> bytes | None:
        """The last value of a chain, given its bytes; None where it is not known."""
        if any(chain[Chain.KNOWN : Chain.KNOWN + 8]):
            return chain[Chain.VALUE : Chain.VALUE + length]
        number = int.from_bytes(chain[Chain.SEED : Chain.SEED + 8], "little")
        at = self._shape.seed(number)
        if not number or not self._state[(at + Seed.SET) // 8]:
            return None
        return bytes(self._bytes[at + Seed.VALUE : at + Seed.VALUE + length])

    def slot(self, watch: int, field: Slot) -> int:
        """A number of a watch's slot."""
        return self._state[(self._shape.slot(watch) + field) // 8]

    def left(self, watch: int, length: int) -> tuple[bytes, bytes]:
        """Of the last process that ended with another value than the last access had left: that, and the value."""
        at = self._shape.slot(watch) + Slot.LEFT_OLD
        return bytes(self._bytes[at : at + length]), bytes(self._bytes[at + MOST_BYTES :][:length])

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
        self._bytes.release()
