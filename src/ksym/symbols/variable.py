# SPDX-License-Identifier: BSD-2-Clause
"""What the chain of sources found out about a target."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ksym.symbols.types import Type


EXECUTED = 1
"""Length of a variable that is a function: what counts is its first byte."""

KERNEL_HALF = 1 << 63
"""Addresses from here on are the kernel's."""


class Space(enum.Enum):
    """Whose address space an address belongs to."""

    KERNEL = "kernel"
    USER = "user"


@dataclass(frozen=True)
class Fact:
    """One thing that is known, and which link of the chain said it.

    ``what`` is one of ``address``, ``size``, ``type``, ``section``; ``source`` is worded for people,
    e.g. ``/proc/kallsyms`` or ``BTF of vmlinux``.
    """

    what: str
    value: str
    source: str


@dataclass(frozen=True)
class Again:
    """How to ask later on where a request leads whose address came from memory, which may change.

    Args:
        now: Returns the address; 0 where it leads nowhere any more, None where that cannot be told.
        told: What to say once that is another address, which takes the place of ``{now}``.
        reads: Addresses of the pointers that are read for it.
        unseen: What to say where it could not be told at the end of the run; "" for nothing.
    """

    now: Callable[[], int | None]
    told: str
    reads: frozenset[int] = frozenset()
    unseen: str = ""

    def part(self, offset: int) -> Again:
        """The same for a part of what it leads to."""

        def now() -> int | None:
            found = self.now()
            return found + offset if found else found

        return replace(self, now=now)


@dataclass(frozen=True)
class Instance:
    """A file in a process's memory that has a variable.

    Args:
        path: As the kernel shows it.
        value: The variable's link-time address in it.
        biases: What to add to that, for each place at which the file was loaded when it was looked at.
    """

    path: str
    value: int
    biases: frozenset[int]


@dataclass(frozen=True)
class Variable:
    """An object in memory that can be watched.

    ``address`` is that of the object; for a per-CPU variable without ``@cpuN``, ``per_cpu`` maps each
    possible CPU to its copy's address and ``address`` is the copy of the lowest CPU.
    """

    name: str
    """What the SYMBOL column shows: the target as the user wrote it."""
    address: int
    length: int
    """Bytes."""
    space: Space
    type: Type | None = None
    bits: tuple[int, int] | None = None
    """Bit field: offset from the least significant bit of the object, and width."""
    per_cpu: dict[int, int] | None = None
    section: str | None = None
    remark: str | None = None
    """What a user should know of how this was found, one clause; for the summary."""
    module: str | None = None
    """The kernel module that it is in, built in or loaded."""
    executable: bool = False
    """A function: only ``--x`` makes sense."""
    facts: tuple[Fact, ...] = field(default=(), compare=False)
    again: Again | None = field(default=None, compare=False)
    """Of one whose address was read from memory; a register goes on watching what it was."""
    instance: Instance | None = field(default=None, compare=False)
    """Of a user variable in no object that a pointer led to."""
