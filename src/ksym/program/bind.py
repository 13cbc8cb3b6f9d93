# SPDX-License-Identifier: BSD-2-Clause
"""From a condition as it was written to one about a certain variable of this machine.

What the language leaves open is decided here: where in the variable's bytes ``new.count`` lies and how wide
it is (`Part`), which number ``TCP_LISTEN`` is, where the code of ``ip in FUNCTION`` lies (`InRanges`). The
rest of the condition stays as it was. `conditions` makes BPF of the result, `verdict` evaluates it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ksym.errors import Place, RequestError, Span
from ksym.language.condition import (
    VALUE_FIELDS,
    Binary,
    Condition,
    EnumName,
    Field,
    InFunction,
    Number,
    Unary,
)
from ksym.language.request import Index, Member, Step
from ksym.program.layout import MOST_BYTES
from ksym.symbols.nearest import suggestion
from ksym.symbols.path import find_member, member_names
from ksym.symbols.types import Array, Enum, Float, Integer, Pointer, Struct, Type, resolve
from ksym.symbols.variable import Variable

_WIDEST = 8
_SHOWN = 12
"""How many members or constants an error names at most."""
_MOST_RANGES = 2000
"""A jump reaches 32767 instructions, and each range takes some six."""
_TRUTHS = ("&&", "||", "==", "!=", "<", "<=", ">", ">=")

Range = tuple[int, int]
"""First address, and the one behind the last."""
Functions = Callable[[str], tuple[Range, ...]]
"""Where the functions of a name lie."""


@dataclass(frozen=True, kw_only=True)
class Part(Field):
    """A number inside the value: ``size`` bytes at ``offset`` of ``name``, which is ``new`` or ``old``.

    ``bits`` is (first bit, width), counted as in `symbols.types.Field`, but ``size`` may be 9 then.
    """

    offset: int
    size: int
    bits: tuple[int, int] | None
    signed: bool


@dataclass(frozen=True, kw_only=True)
class InRanges(InFunction):
    """``ip in FUNCTION``: in order, none touches another."""

    ranges: tuple[Range, ...]


def bind(
    condition: Condition,
    variable: Variable,
    functions: Functions,
    place: Callable[[Span], Place] | None = None,
) -> Condition:
    """The condition with all names resolved.

    Args:
        condition: One that ``typecheck.check`` accepts.
        variable: What is watched.
        functions: Where a function's code lies; nothing if there is none of the name.
        place: Turns a node's span into the place of an error; ``request.place``.

    Raises:
        RequestError: A member, constant or function does not exist, or the variable has no value that
            could be compared.
    """
    binder = _Binder(variable, functions, place)
    return binder.truth(condition)


def needs_program(condition: Condition) -> bool:
    """Whether it cannot be judged from perf's own records, without a program in the kernel."""
    fields = (*VALUE_FIELDS, "changed", "uid")
    return any(isinstance(leaf, Field) and leaf.name in fields for leaf in leaves(condition))


def leaves(condition: Condition) -> list[Condition]:
    """The fields, names and literals of a condition."""
    found, waiting = list[Condition](), [condition]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Unary):
            waiting.append(node.operand)
        elif isinstance(node, Binary):
            waiting += (node.right, node.left)
        else:
            found.append(node)
    return found


def is_unsigned(node: Condition) -> bool:
    """Whether C would make a bound number an ``unsigned long``: it tells in comparisons and before ``>>``.

    What is narrower than 64 bits fits a ``long``, whatever it was declared as, and becomes one.
    """
    match node:
        case Number(value=value):
            return value >> 63 > 0
        case Part(size=size, bits=bits, signed=signed):
            return not signed and (bits[1] if bits else 8 * size) == 64
        case Unary(op="-" | "~", operand=operand):
            return is_unsigned(operand)
        case Binary(op="<<" | ">>", left=left):
            return is_unsigned(left)
        case Binary(op="+" | "-" | "&" | "|" | "^", left=left, right=right):
            return is_unsigned(left) or is_unsigned(right)
    return False


def computes_unsigned(op: str, left: Condition, right: Condition) -> bool:
    """Whether an operator on two numbers is that of ``unsigned long``; a shift is what its left operand is."""
    return is_unsigned(left) or (op not in ("<<", ">>") and is_unsigned(right))


def is_truth(node: Condition) -> bool:
    """Whether a node of a checked condition is a truth value, and not a number, text or access."""
    match node:
        case Unary(op="!") | InFunction() | Field(name="changed"):
            return True
        case Binary(op=op):
            return op in _TRUTHS
    return False


@dataclass(frozen=True)
class _Place:
    """What a path has led to; ``length`` is that of the watched bytes from ``offset`` on."""

    type: Type | None
    offset: int
    length: int
    bits: tuple[int, int] | None = None


class _Binder:
    def __init__(
        self, variable: Variable, functions: Functions, place: Callable[[Span], Place] | None
    ) -> None:
        self.variable, self.functions, self.place = variable, functions, place
        self.ranges: dict[str, tuple[Range, ...]] = {}
        self.compared = 0
        """Ranges in the whole condition."""

    def error(self, why: str, todo: str, span: Span) -> RequestError:
        place = self.place(span) if self.place else None
        return RequestError(f"cannot use the condition on {self.variable.name}", why, todo, place=place)

    # Nodes. Names of constants are looked up in the types that stand in the same expression of numbers.

    def truth(self, node: Condition) -> Condition:
        match node:
            case Unary(op="!", operand=operand):
                return replace(node, operand=self.truth(operand))
            case Binary(op="&&" | "||", left=left, right=right):
                return replace(node, left=self.truth(left), right=self.truth(right))
            case Binary(op="==" | "!=", left=left, right=right) if is_truth(left):
                return replace(node, left=self.truth(left), right=self.truth(right))
            case InFunction(function=function, span=span):
                return InRanges(function, span, ranges=self.function(function, span))
            case Field(name="changed"):
                return self.changed(node)
        values = [leaf for leaf in leaves(node) if isinstance(leaf, Field) and leaf.name in VALUE_FIELDS]
        return self.number(node, values)

    def number(self, node: Condition, values: list[Field]) -> Condition:
        match node:
            case Field(name=name) if name in VALUE_FIELDS:
                return self.part(node)
            case EnumName():
                return self.constant(node, values)
            case Unary(operand=operand):
                return replace(node, operand=self.number(operand, values))
            case Binary(left=left, right=right):
                return replace(node, left=self.number(left, values), right=self.number(right, values))
        return node

    def changed(self, node: Field) -> Condition:
        self.need_values(node)
        if not self.variable.bits:
            return node
        # The kernel compares whole bytes, in which other bit fields lie, too.
        new, old = (self.part(Field(name, node.span)) for name in VALUE_FIELDS)
        return Binary("!=", new, old, node.span)

    def function(self, name: str, span: Span) -> tuple[Range, ...]:
        if name not in self.ranges:
            joined: list[Range] = []
            for start, end in sorted(self.places(name, span)):
                if joined and start <= joined[-1][1]:
                    joined[-1] = joined[-1][0], max(end, joined[-1][1])
                else:
                    joined.append((start, end))
            self.ranges[name] = tuple(joined)
        found = self.ranges[name]
        if not found:
            raise self.error(
                f"there is no function {name}", "look at the FUNCTION column of a run without it", span
            )
        self.compared += len(found)
        if self.compared > _MOST_RANGES:
            why = f"with {name} it has more than {_MOST_RANGES} functions to compare ip with"
            raise self.error(why, "name fewer", span)
        return found

    def places(self, name: str, span: Span) -> tuple[Range, ...]:
        try:
            return self.functions(name)
        except RequestError as error:
            if self.place and error.place is None:
                error.place = self.place(span)
            raise

    # Values.

    def need_values(self, node: Field) -> None:
        variable = self.variable
        if variable.executable:
            why = f"what is executed has no value that {node.name} could mean"
            raise self.error(why, "compare pid, comm, cpu, uid or ip", node.span)
        if variable.length > MOST_BYTES:
            why = f"values of up to {MOST_BYTES} bytes are taken, it has {variable.length}"
            raise self.error(why, "name one of its members or elements in TARGET", node.span)

    def part(self, node: Field) -> Part:
        self.need_values(node)
        found = self.follow(node)
        kind = resolve(found.type) if found.type else None
        size, signed = self.width(node, found, kind)
        offset, bits = found.offset, found.bits
        if bits:
            # To the bytes that hold them: the unit of a bit field may reach behind the watched bytes.
            first, width = bits
            offset, bits, size = offset + first // 8, (first % 8, width), (first % 8 + width + 7) // 8
        if offset + size > self.variable.length:
            why = f"{node} ends behind the {self.variable.length} bytes that are watched"
            raise self.error(why, "watch all of it", node.span)
        return Part(node.name, node.span, node.path, offset=offset, size=size, bits=bits, signed=signed)

    def width(self, node: Field, found: _Place, kind: Type | None) -> tuple[int, bool]:
        """Bytes, and whether the first bit is a sign."""
        if kind is None:
            if found.length in (1, 2, 4, _WIDEST):
                return found.length, False
            why = f"{node} is {found.length} bytes of unknown type, no number"
            raise self.error(why, "give TARGET a type, as in *(u32 *)0xADDRESS", node.span)
        if _is_number(kind):
            return kind.size, kind.signed if isinstance(kind, Integer | Enum) else False
        why, todo = f"{node} is {_a(kind.name)}, no number", "compare changed instead"
        inside = _numbers_in(kind, str(node), self.variable.length - found.offset)
        if isinstance(kind, Struct) and inside:
            todo = f"compare a member: {_list(inside)}"
        elif isinstance(kind, Array) and inside:
            todo = f"compare an element, as in {inside[0]}"
        elif isinstance(kind, Float):
            why = f"{node} is {_a(kind.name)}, conditions know whole numbers only"
        elif kind.size > _WIDEST and isinstance(kind, Integer | Enum):
            why = f"{node} has {8 * kind.size} bits ({kind.name}), conditions know numbers of up to 64"
        raise self.error(why, todo, node.span)

    def follow(self, node: Field) -> _Place:
        variable = self.variable
        here = _Place(variable.type, 0, variable.length, variable.bits)
        for number, step in enumerate(node.path):
            text = str(Field(node.name, node.span, node.path[:number]))
            if here.type is None:
                why = f"the type of {text} is not known, so neither are its members"
                raise self.error(why, "give TARGET a type, as in *(struct foo *)0xADDRESS", step.span)
            here = (
                self.member(here, step, text) if isinstance(step, Member) else self.element(here, step, text)
            )
        return here

    def member(self, here: _Place, step: Member, text: str) -> _Place:
        kind = self.aggregate(here, step, text)
        if isinstance(kind, Array):
            raise self.error(
                f"{text} is an array ({kind.name})", f"choose an element, as in {text}[0]", step.span
            )
        if not isinstance(kind, Struct):
            why = f"{text} is {_a(kind.name)}, which has no members"
            raise self.error(why, f"compare {text} itself", step.span)
        found = find_member(kind, step.name)
        if found is None:
            names = member_names(kind)
            near = suggestion(step.name, names)
            has = f"it has {_list(names)}" if names else "its members are not known"
            raise self.error(f"{kind.name} has no member '{step.name}'", f"{near} {has}".strip(), step.span)
        return _Place(found.type, here.offset + found.offset, here.length - found.offset, found.bits)

    def element(self, here: _Place, step: Index, text: str) -> _Place:
        kind = self.aggregate(here, step, text)
        if not isinstance(kind, Array):
            why = f"{text} is {_a(kind.name)}, which has no elements"
            raise self.error(why, f"compare {text} itself", step.span)
        size = kind.element.size
        # A flexible array has as many as are watched.
        count = kind.count or (here.length // size if size else 0)
        if step.number >= count:
            todo = f"they are numbered 0 to {count - 1}" if count else "watch one of its elements"
            raise self.error(f"{text} has {count} element{'s' * (count != 1)}", todo, step.span)
        return _Place(kind.element, here.offset + step.number * size, here.length - step.number * size)

    def aggregate(self, here: _Place, step: Step, text: str) -> Type:
        assert here.type is not None
        kind = resolve(here.type)
        if isinstance(kind, Pointer):
            why = f"{text} is a pointer ({kind.name}), and the kernel follows none for a condition"
            raise self.error(why, "name what it points to in TARGET", step.span)
        return kind

    # Constants.

    def constant(self, node: EnumName, values: list[Field]) -> Number:
        kinds = [kind for kind in map(self.type_of, values) if isinstance(kind, Enum)]
        for kind in kinds:
            for name, number in kind.enumerators:
                if name == node.name:
                    return Number(_as_stored(number, kind), node.span)
        if not kinds:
            kind_of = self.type_of(values[0]) if values else None
            what = f"{values[0]} is {_a(kind_of.name)}" if kind_of else "its type is not known"
            why = f"'{node.name}' is no field, and no enum's constant: {what}"
            raise self.error(why, "write a number", node.span)
        names = [name for kind in kinds for name, _ in kind.enumerators]
        near, has = suggestion(node.name, names), f"it has {_list(names)}"
        why = f"{' and '.join(dict.fromkeys(kind.name for kind in kinds))} has no constant '{node.name}'"
        raise self.error(why, f"{near} {has}".strip(), node.span)

    def type_of(self, node: Field) -> Type | None:
        self.need_values(node)
        found = self.follow(node).type
        return resolve(found) if found else None


def _as_stored(number: int, kind: Enum) -> int:
    """A constant as a `Part` of its type reads it: descriptions are not at one about signs."""
    width = 8 * (kind.size or _WIDEST)
    number &= (1 << width) - 1
    return number - (1 << width) if kind.signed and number >> (width - 1) else number


def _is_number(kind: Type) -> bool:
    return isinstance(kind, Integer | Enum | Pointer) and 0 < kind.size <= _WIDEST


def _numbers_in(kind: Type, text: str, length: int, levels: int = 8) -> list[str]:
    # What could be compared in the first ``length`` bytes of a value: of an array its first element alone.
    # Types that come from damaged descriptions can contain themselves.
    kind = resolve(kind)
    if isinstance(kind, Array) and levels:
        return _numbers_in(kind.element, f"{text}[0]", length, levels - 1)
    if isinstance(kind, Struct) and levels:
        members = [(name, find_member(kind, name)) for name in member_names(kind)]
        return [
            number
            for name, member in members
            if member is not None
            for number in _numbers_in(member.type, f"{text}.{name}", length - member.offset, levels - 1)
        ]
    return [text] if _is_number(kind) and kind.size <= length else []


def _list(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _a(name: str) -> str:
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"
