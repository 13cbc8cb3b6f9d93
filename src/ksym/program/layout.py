# SPDX-License-Identifier: BSD-2-Clause
"""What the programs in the kernel and their reader agree on: the record of a hit, and the shared memory.

A record's RAW bytes, behind perf's own 32-bit size:

    u32 flags          Hit
    u64 time           CLOCK_MONOTONIC ns, taken together with the value
    u64 user           user id, and in the upper half group id, of the task
    u8  old[padded]    what the watch last saw, valid with Hit.OLD
    u8  new[padded]    what the variable holds now, valid with Hit.NEW

``padded`` is the variable's length rounded up to 8; the bytes behind the variable are 0.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

MOST_BYTES = 64
"""Values of larger objects are not taken; that is more than any machine's registers cover."""


class Hit(enum.IntFlag):
    """Flags of a record: the lowest 12 bits; above them is what was hit, see `origin`."""

    NEW = 1 << 0
    OLD = 1 << 1
    CHANGED = 1 << 2
    """Both are known and differ."""
    READ = 1 << 3
    """For certain no write (twin)."""
    WROTE = 1 << 4
    """For certain a write, or a read and write (twin, or the register sees writes alone)."""
    CODE32 = 1 << 5
    """Made by 32-bit code."""
    SAME = 1 << 6
    """One trap with the hit of the watch that this CPU recorded before: made by one execution of one instruction.

    Every record of a program has one of this and the following two; one that perf made has none of them.
    """
    LATER = 1 << 7
    """Another trap; of the same execution if the instruction repeats itself (``rep``), and the thread's hit before was
    made by it."""
    ANEW = 1 << 8
    """Another execution than the one that made the hit before."""


TOLD = Hit.SAME | Hit.LATER | Hit.ANEW
"""A record of a program has one of these."""
PIECE_SHIFT = 12
"""``flags >> PIECE_SHIFT`` is a hit's `origin`."""
_PLACE_SHIFT = 4
"""No machine has registers for more than 16 pieces."""
MOST_PLACES = 1 << 32 - PIECE_SHIFT - _PLACE_SHIFT
"""Numbers of places that a record can hold."""


def origin(piece: int, place: int) -> int:
    """Return the number by which records of one event tell what was hit.

    Args:
        piece: Number of the variable's piece.
        place: Number of the place (`watch.plan.Place`).
    """
    return piece | place << _PLACE_SHIFT


def code_bits(flags: int) -> int | None:
    """Return 32 or 64 for code whose hit has these flags; None if no program has told."""
    if flags & Hit.CODE32:
        return 32
    return 64 if flags & TOLD else None


def padded(length: int) -> int:
    """Bytes that a value of ``length`` takes in records and shared memory; 0 for one that is not taken."""
    return -(-length // 8) * 8 if 0 < length <= MOST_BYTES else 0


@dataclass(frozen=True)
class Frame:
    """Where a program keeps its hit on the stack; offsets from r10, so all are negative.

    Args:
        padded: Bytes of a value, `padded`; 0: no values.
    """

    padded: int

    @property
    def new(self) -> int:
        """First byte of the value after the access."""
        return -self.padded

    @property
    def old(self) -> int:
        """First byte of the value before it."""
        return -2 * self.padded

    @property
    def user(self) -> int:
        """u64."""
        return self.old - 8

    @property
    def time(self) -> int:
        """u64."""
        return self.user - 8

    @property
    def flags(self) -> int:
        """u32, `Hit`; also the start of the record."""
        return self.time - 4

    @property
    def size(self) -> int:
        """Bytes of the record."""
        return 20 + 2 * self.padded

    @property
    def free(self) -> int:
        """Everything below this is free for other uses; a multiple of 8."""
        return self.time - 8


@dataclass(frozen=True)
class Sees:
    """Which accesses a program's register can tell of, and what its records will say of them.

    Args:
        execute: Executions, and nothing else.
        writes_only: Writes alone: every hit has `Hit.WROTE`.
        twin: Every hit has `Hit.READ` or `Hit.WROTE`; else neither.
    """

    execute: bool = False
    writes_only: bool = False
    twin: bool = False
