# SPDX-License-Identifier: BSD-2-Clause
"""From an object in memory along ``.member``, ``->member`` and ``[index]`` to the part that is meant.

``.`` and ``->`` say the same here: a pointer in the way is read and followed. Nothing is read where
the path stays inside one object.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ksym.errors import KsymError, Place, Span
from ksym.language.request import Index, Member, Step
from ksym.linux.memory import Memory, MemoryFault
from ksym.symbols.ctext import POINTER_SIZE
from ksym.symbols.nearest import suggestion
from ksym.symbols.types import Array, Field, Pointer, Struct, Type, resolve
from ksym.symbols.variable import KERNEL_HALF, Again, Fact

_SET_LATER = "if the program sets it only as it runs, start it, and use -p PID once it has"
_ERR_PTR = 4095
"""MAX_ERRNO of include/linux/err.h: pointers this near to the top are error codes."""
_FIRST_PAGE = 4096
_UNITS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Location:
    """An object of a type at an address.

    For a bit field, ``bits`` is (first bit, width) counted from the least significant bit of the
    ``length`` bytes at ``address``, which are its smallest naturally aligned unit; ``type`` is as declared.
    """

    address: int
    type: Type
    bits: tuple[int, int] | None = None
    unit: int = 0
    """Bytes of a bit field's unit; 0 for all else."""

    @property
    def length(self) -> int:
        """Bytes to watch."""
        return self.unit or self.type.size


class LeadsNowhere(KsymError):
    """A pointer in the way is NULL, or holds an error code."""


class MemberError(KsymError):
    """The type has no member of that name."""


def walk(
    location: Location,
    steps: Iterable[Step],
    memory: Memory,
    place: Callable[[Span], Place] | None = None,
    *,
    byteorder: str = sys.byteorder,
) -> Location:
    """Follow a path.

    Args:
        location: Where it starts.
        steps: Members and indexes.
        memory: The address space in which pointers are followed.
        place: Turns a step's span into the place of an error; ``request.place``.
        byteorder: That of the machine in which ``location`` lies.

    Raises:
        MemberError: With the nearest names.
        KsymError: A pointer is NULL or cannot be read, an index is out of bounds, or a step does not fit
            the type.
    """
    for step in steps:
        here = _Here(location, step, place, memory, byteorder)
        location = here.member(step) if isinstance(step, Member) else here.element(step)
    return location


class Way:
    """A path that is followed in a memory, and may be followed again.

    Args:
        memory: The address space.
        steps: Members and indexes.
        place: See `walk`.
    """

    def __init__(
        self, memory: Memory, steps: Sequence[Step], place: Callable[[Span], Place] | None = None
    ) -> None:
        self._memory, self._steps, self._place = memory, steps, place
        self._followed: list[tuple[Callable[[], Location], int]] = []
        self._reads: set[int] = set()

    def read(self, address: int, length: int) -> bytes:
        """See Memory."""
        self._reads.add(address)
        return self._memory.read(address, length)

    def walk(self, start: Callable[[], Location]) -> Location:
        """Follow the path from where ``start`` says; raises as `walk` does."""
        location = walk(start(), self._steps, self, self._place)
        self._followed.append((start, location.address))
        return location

    def again(self, text: str, *, always: bool = False) -> Again | None:
        """How to follow it again, where there are pointers on it.

        Args:
            text: The path as it was written.
            always: It starts at a pointer's value.
        """
        if not self._reads and not always:
            return None
        told = (
            f"{text} was followed once, at the start; at the last look it led elsewhere, to {{now}}, "
            "which was not watched"
        )
        unseen = f"{text} was followed once, at the start; whether it led there to the end is not known"
        return Again(self._now, told, frozenset(self._reads), unseen)

    def _now(self) -> int | None:
        # For a per-CPU variable, the first of the copies that leads elsewhere.
        now: int | None = None
        for start, before in self._followed:
            try:
                now = walk(start(), self._steps, self._memory).address
            except LeadsNowhere:
                now = 0
            except KsymError:
                return None
            if now != before:
                return now
        return self._followed[0][1]


def find_member(kind: Struct, name: str) -> Field | None:
    """The member of that name, also inside unnamed structs and unions; its offset counts from ``kind``'s."""
    for each, offset in _members(kind):
        if each.name == name:
            return Field(name, each.type, offset, each.bits)
    return None


def member_names(kind: Struct) -> list[str]:
    """All names that `find_member` finds, in declaration order."""
    return [each.name for each, _ in _members(kind)]


def facts_of(location: Location, text: str) -> list[Fact]:
    """What following the path ``text`` has taught."""
    return [
        Fact("address", f"{location.address:#x}", "following the path"),
        Fact("type", location.type.name, f"member {text}"),
        Fact("size", str(location.length), "its type"),
    ]


def _members(kind: Struct) -> Iterator[tuple[Field, int]]:
    """Named members with their offsets, unnamed structs and unions opened up in place."""
    waiting = [(each, each.offset) for each in reversed(kind.fields)]
    # Types that come from damaged descriptions can contain themselves.
    opened = {id(kind)}
    while waiting:
        field, offset = waiting.pop()
        if field.name:
            yield field, offset
            continue
        inner = resolve(field.type)
        if isinstance(inner, Struct) and id(inner) not in opened:
            opened.add(id(inner))
            waiting += [(each, offset + each.offset) for each in reversed(inner.fields)]


@dataclass(frozen=True)
class _Here:
    """One step from one place, with what its errors need."""

    location: Location
    step: Step
    place: Callable[[Span], Place] | None
    memory: Memory
    byteorder: str

    def member(self, step: Member) -> Location:
        address, kind = self.location.address, resolve(self.location.type)
        if self.location.bits:
            raise self.error("it is a member of a bit field, which has none", self.without())
        if isinstance(kind, Pointer):
            address, kind = self.follow(kind)
        if isinstance(kind, Array):
            count = f"{kind.count} elements" if kind.count else "elements"
            why = f"it is a member of an array ({kind.name})"
            place = self.place(self.step.span) if self.place else None
            array = place.text[: place.span.start].rstrip() if place else ""
            raise self.error(why, f"choose one of its {count}, as in {array}[0]")
        if not isinstance(kind, Struct):
            raise self.error(f"it is a member of {_a(kind)}, which has none", self.without())
        if not kind.size and not kind.fields:
            raise self.error(f"{kind.name} is only declared, its members are not known")
        found = find_member(kind, step.name)
        if found is None:
            todo = suggestion(step.name, member_names(kind))
            raise self.error(f"{kind.name} has no member '{step.name}'", todo, cls=MemberError)
        if found.bits is None:
            return Location(address + found.offset, found.type)
        return self.bit_field(address + found.offset, found, found.bits)

    def element(self, step: Index) -> Location:
        kind = resolve(self.location.type)
        if isinstance(kind, Array):
            # Nothing knows how many elements a flexible array has.
            if step.number < 0 or (kind.count and step.number >= kind.count):
                last = f"0 to {kind.count - 1}" if kind.count else "0 and up"
                many = "1 element" if kind.count == 1 else f"{kind.count or 'no negative'} elements"
                raise self.error(f"the array has {many}", f"number them {last}")
            return Location(self.location.address + step.number * kind.element.size, kind.element)
        if not isinstance(kind, Pointer) or self.location.bits:
            raise self.error(f"it is an element of {_a(kind)}, which has none", self.without())
        address, target = self.follow(kind)
        if not target.size:
            raise self.error(f"elements of {target.name} have no known size")
        return Location(address + step.number * target.size, target)

    def follow(self, kind: Pointer) -> tuple[int, Type]:
        """Where the pointer here points to, and what lies there."""
        try:
            data = self.memory.read(self.location.address, POINTER_SIZE)
        except MemoryFault as fault:
            where = f"{self.location.address:#x}"
            raise self.error(f"the pointer ({kind.name}) at {where} cannot be read") from fault
        value = int.from_bytes(data, "big" if self.byteorder == "big" else "little")
        if value < _FIRST_PAGE:
            what = "NULL" if not value else f"{value:#x}, which is no address"
            todo = "choose an object in which it points to something"
            if self.location.address < KERNEL_HALF:
                todo = _SET_LATER
            raise self.error(f"the pointer ({kind.name}) before this step is {what}", todo, LeadsNowhere)
        if value >= 2**64 - _ERR_PTR:
            why = f"the pointer ({kind.name}) before this step holds the error {value - 2**64}"
            raise self.error(why, cls=LeadsNowhere)
        if value < KERNEL_HALF:
            self.check_mapped(kind, value)
        return value, resolve(kind.target)

    def check_mapped(self, kind: Pointer, value: int) -> None:
        """A program that has only just been started has not set its pointers: they hold what its file says."""
        try:
            self.memory.read(value, 1)
        except MemoryFault as fault:
            why = f"the pointer ({kind.name}) before this step holds {value:#x}, where there is nothing"
            raise self.error(why, _SET_LATER) from fault

    def bit_field(self, address: int, found: Field, bits: tuple[int, int]) -> Location:
        """The smallest naturally aligned unit that holds the bits, as the hardware can watch it."""
        first, width = bits
        size = found.type.size
        low, high = first // 8, (first + width - 1) // 8
        if self.byteorder == "big":
            start, end = address + size - 1 - high, address + size - low
        else:
            start, end = address + low, address + high + 1
        for unit in _UNITS:
            base = start & -unit
            if end <= base + unit:
                # Distance from the unit's least significant byte to the field's.
                skipped = base + unit - end if self.byteorder == "big" else start - base
                return Location(base, found.type, (8 * skipped + first % 8, width), unit)
        raise self.error("the bit field crosses a boundary of 8 bytes, which no register can watch at once")

    def without(self) -> str:
        """What to watch instead of what its last step does not lead to."""
        place = self.place(self.step.span) if self.place else None
        return f"write {place.text[: place.span.start].rstrip()}" if place else "leave it out"

    def error(self, why: str, todo: str = "", cls: type[KsymError] = KsymError) -> KsymError:
        place = self.place(self.step.span) if self.place else None
        name = self.step.name if isinstance(self.step, Member) else f"[{self.step.number}]"
        what = place.text[: place.span.end] if place else name
        return cls(f"cannot reach {what}", why, todo, place=place)


def _a(kind: Type) -> str:
    return f"{'an' if kind.name[:1] in 'aeiou' else 'a'} {kind.name}"
