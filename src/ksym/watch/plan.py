# SPDX-License-Identifier: BSD-2-Clause
"""From variables to what will be planted: pure data, that can be printed and tested.

A *watch* is one request on one variable. It takes a register for each of its *pieces*, because a debug
register covers 1, 2, 4 or 8 naturally aligned bytes; two with *twins*, where a W and an RW register on the same address
tell reads from writes. A register becomes one perf event for each CPU (or for each thread, or for each thread and CPU).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ksym.language.request import Mode, Request
from ksym.linux.libc import MACHINE
from ksym.symbols.readable import readable
from ksym.symbols.variable import Space, Variable

if TYPE_CHECKING:
    from ksym.language.condition import Condition

WORD = 8
"""Widest register, bytes; wider ones exist only on some AMD processors (BPEXT)."""

# x86 takes sizeof(long) for execution (arch/x86/kernel/hw_breakpoint.c), arm64 the 4 bytes of one instruction.
EXECUTE_LENGTH = 4 if MACHINE == "aarch64" else 8

READ_REGISTERS = MACHINE == "aarch64"
"""Whether the hardware can watch reads alone; x86 needs twins for that."""

KERNEL_IN_TASKS = MACHINE != "aarch64"
"""Whether a kernel variable can be watched in one task alone; there the kernel refuses it (EINVAL)."""

ANY_BYTES = MACHINE == "aarch64"
"""Whether a register covers any adjacent bytes of an aligned word; on x86 their number is a power of two, and divides
their address (arch/arm64/kernel/hw_breakpoint.c, hw_breakpoint_arch_parse)."""


class Role(enum.Enum):
    """What a register is for."""

    ONLY = "its piece's only register"
    WRITES = "the W register of a twin"
    READS = "the RW register of a twin, for what the W register does not see"


@dataclass(frozen=True)
class Piece:
    """What one debug register covers: ``length`` bytes at ``offset`` from the variable's start."""

    offset: int
    length: int


@dataclass(frozen=True)
class Watch:
    """One request, ready to be planted.

    Args:
        index: Its number in the run.
        request: What was asked for.
        variable: What that means here.
        pieces: What each register covers.
        twin: Two registers a piece.
        condition: The request's, with all names resolved (`program.bind`).
    """

    index: int
    request: Request
    variable: Variable
    pieces: tuple[Piece, ...]
    twin: bool = False
    condition: Condition | None = None

    @property
    def name(self) -> str:
        """What the SYMBOL column shows."""
        return readable(self.variable.name)

    @property
    def mode(self) -> Mode:
        """The accesses asked for."""
        return self.request.mode

    @property
    def registers(self) -> int:
        """Debug registers that it takes."""
        return len(self.pieces) * (2 if self.twin else 1)

    @property
    def roles(self) -> tuple[Role, ...]:
        """What each piece takes registers for. W comes first: it has the lower number then, and fires first."""
        return (Role.WRITES, Role.READS) if self.twin else (Role.ONLY,)

    def base(self, cpu: int) -> int:
        """Return where the variable lies as seen by ``cpu``: its own copy, for a per-CPU variable."""
        copies = self.variable.per_cpu
        return copies.get(cpu, self.variable.address) if copies else self.variable.address


@dataclass(frozen=True)
class Place:
    """A process in which variables are watched, and the addresses of the user variables in its memory.

    Args:
        pid: The process; 0 where only threads are known.
        threads: Its threads that need events of their own. What they start later inherits those.
        addresses: By number of the watch; a watch that is missing is not planted here. None: each user variable lies
            where it was found first.
        number: Tells the places of a run apart; hits carry it. No two places of a run ever have the same.
        conditions: By number of the watch, where the condition names code that lies elsewhere in this process.
    """

    pid: int
    threads: tuple[int, ...]
    addresses: Mapping[int, int] | None = field(default=None, hash=False)
    number: int = 0
    conditions: Mapping[int, Condition | None] = field(default_factory=dict, hash=False)

    def has(self, watch: Watch) -> bool:
        """Return True if ``watch`` is to be planted here."""
        if watch.variable.space is Space.KERNEL or self.addresses is None:
            return True
        return watch.index in self.addresses

    def base(self, watch: Watch) -> int:
        """Return where the user variable of ``watch`` lies here."""
        return watch.variable.address if self.addresses is None else self.addresses[watch.index]

    def condition(self, watch: Watch) -> Condition | None:
        """Return the condition of ``watch``, bound to this process's code."""
        return self.conditions.get(watch.index, watch.condition)


@dataclass(frozen=True)
class PlannedEvent:
    """One perf event to open; ``pid`` and ``cpu`` are as perf_event_open(2) takes them.

    ``place`` is the process of a user variable; None: the variable lies where the watch says.
    """

    watch: Watch
    piece: Piece
    pid: int
    cpu: int
    role: Role = Role.ONLY
    place: Place | None = None

    @property
    def mode(self) -> Mode:
        """What its register is to see."""
        if self.role is Role.ONLY:
            return self.watch.mode
        return Mode.WRITE if self.role is Role.WRITES else Mode.READ_WRITE

    @property
    def base(self) -> int:
        """Address of the variable."""
        return self.place.base(self.watch) if self.place else self.watch.base(self.cpu)

    @property
    def address(self) -> int:
        """The watched address."""
        return self.base + self.piece.offset


@dataclass(frozen=True)
class Scope:
    """Where to watch.

    Kernel variables are watched on ``cpus`` whoever runs there, or, with ``only_threads``, in the threads of
    ``places`` alone. A user variable's address means something in its own process only: always in places.
    """

    cpus: tuple[int, ...]
    places: tuple[Place, ...] = ()
    only_threads: bool = False

    @property
    def threads(self) -> tuple[int, ...]:
        """The threads of all places, each once."""
        return tuple(dict.fromkeys(tid for place in self.places for tid in place.threads))

    def system_wide(self, watch: Watch) -> bool:
        """Whether ``watch`` is planted on CPUs rather than in threads."""
        return watch.variable.space is Space.KERNEL and not self.only_threads

    def targets(self, watch: Watch, *, sampling: bool) -> list[tuple[Place | None, int, int]]:
        """Return the (place, pid, cpu) that need an event each; a kernel variable has no place.

        An inherited event can write into a ring only when it is bound to a CPU (kernel/events/core.c, perf_mmap),
        so that sampling a thread takes one event a CPU; counting it, or running a program, takes one.
        """
        if self.system_wide(watch):
            return [(None, -1, cpu) for cpu in self.cpus]
        cpus = self.cpus if sampling else (-1,)
        if watch.variable.space is Space.KERNEL:
            return [(None, tid, cpu) for tid in self.threads for cpu in cpus]
        return [
            (place, tid, cpu)
            for place in self.places
            if place.has(watch)
            for tid in place.threads
            for cpu in cpus
        ]


@dataclass(frozen=True)
class Plan:
    """All watches of a run."""

    watches: tuple[Watch, ...]

    @property
    def registers(self) -> int:
        """Debug registers that each CPU must have free."""
        return sum(watch.registers for watch in self.watches)

    def events(self, scope: Scope, *, sampling: bool) -> list[PlannedEvent]:
        """Every event to open, watch by watch, so that the first takes the lowest register."""
        return [
            PlannedEvent(watch, piece, pid, cpu, role, place)
            for watch in self.watches
            for piece in watch.pieces
            for role in watch.roles
            for place, pid, cpu in scope.targets(watch, sampling=sampling)
        ]


def split(address: int, length: int) -> tuple[Piece, ...]:
    """Cut ``length`` bytes at ``address`` into the fewest pieces that a register can cover.

    >>> split(0x1002, 4)  # on x86
    (Piece(offset=0, length=2), Piece(offset=2, length=2))
    """
    pieces = []
    offset = 0
    while offset < length:
        at = address + offset
        if ANY_BYTES:
            size = min(WORD - at % WORD, length - offset)
        else:
            aligned = at & -at if at else WORD
            size = min(WORD, aligned, 1 << ((length - offset).bit_length() - 1))
        pieces.append(Piece(offset, size))
        offset += size
    return tuple(pieces)


def make_plan(
    found: Iterable[tuple[Request, Variable]],
    *,
    twin: bool = False,
    conditions: Sequence[Condition | None] = (),
) -> Plan:
    """Plan a run of these requests.

    Args:
        found: The requests and what they mean.
        twin: Tell reads from writes for certain, at two registers a piece. A watch on writes alone needs no twin,
            one on reads alone always has one where the hardware cannot do it.
        conditions: That of each request, bound; left out: none has one.
    """
    watches = []
    for index, (request, variable) in enumerate(found):
        if request.mode is Mode.EXECUTE:
            pieces: tuple[Piece, ...] = (Piece(0, EXECUTE_LENGTH),)
        else:
            pieces = split(variable.address, variable.length)
        condition = conditions[index] if conditions else None
        watches.append(Watch(index, request, variable, pieces, _twin(request.mode, wanted=twin), condition))
    return Plan(tuple(watches))


def _twin(mode: Mode, *, wanted: bool) -> bool:
    if mode is Mode.READ:
        return not READ_REGISTERS
    return wanted and mode is Mode.READ_WRITE
