# SPDX-License-Identifier: BSD-2-Clause
"""Random conditions of every kind that the language has, and types for them to be about."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Sequence

from hypothesis import strategies as st

from ksym.errors import Span
from ksym.language import Condition, Kind, check
from ksym.language.condition import ACCESSES, AccessName, Binary, Field, InFunction, Number, Text, Unary
from ksym.language.request import Member
from ksym.program.bind import InRanges, Part, is_truth
from ksym.program.verdict import Seen
from ksym.symbols import types

Ranges = tuple[tuple[int, int], ...]

NO = Span(0, 0)
MEMBERS = ["a", "b", "c"]
ARITHMETIC = ["|", "^", "&", "<<", ">>", "+", "-"]
COMPARISONS = ["==", "!=", "<", "<=", ">", ">="]
TELLING = [0, 1, 2, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1]
_EQUALITY = st.sampled_from(["==", "!="])
_VALUE = st.sampled_from(["new", "old"])

MEMBER_VALUES: st.SearchStrategy[Condition] = st.builds(
    lambda which, name: Field(which, NO, (Member(name, NO),)), _VALUE, st.sampled_from(MEMBERS)
)
"""``new.a`` and the like, of what `structs` makes."""
WHOLE_VALUES: st.SearchStrategy[Condition] = st.builds(Field, _VALUE, st.just(NO))
"""``new`` and ``old``."""


def functions_around(ip: int) -> dict[str, Ranges]:
    """Functions that an access whose ip this is lies in or closely misses."""
    return {
        "ends_at_ip": ((ip - 0x40, ip),),
        "begins_at_ip": ((ip, ip + 0x10),),
        "before": ((ip - 0x80, ip - 1), (0x1000, 0x2000)),
        "everything": ((0, (1 << 64) - 1),),
        "pieces": ((0x1000, 0x1010), (ip - 4, ip + 4), (0x3000, 0x3001)),
    }


@st.composite
def structs(draw: st.DrawFn, length: int | None = None) -> types.Struct:
    """A packed struct of any length up to 64, whose members may overlap and be bit fields."""
    length = draw(st.integers(1, 64)) if length is None else length
    sizes = [size for size in (1, 2, 4, 8) if size <= length]
    fields = []
    for name in MEMBERS:
        size = draw(st.sampled_from(sizes))
        bits, reach = None, size
        if draw(st.booleans()):
            width = draw(st.integers(1, 8 * size))
            bits = draw(st.integers(0, 8 * size - width)), width
            if size < length and draw(st.booleans()):
                bits, reach = (7, 8 * size), size + 1  # packed, it straddles units
        offset = draw(st.integers(0, length - reach))
        fields.append(types.Field(name, types.Integer("int", size, draw(st.booleans())), offset, bits))
    return types.Struct("struct s", length, False, lambda: tuple(fields))


def conditions(
    values: st.SearchStrategy[Condition], *, comms: Sequence[str], ip: int, telling: Sequence[int] = ()
) -> st.SearchStrategy[Condition]:
    """Conditions that ``check`` accepts.

    Args:
        values: What of the variable is compared.
        comms: Names that tasks have, or nearly have.
        ip: That of an access; functions are those of `functions_around` it.
        telling: Numbers that are worth comparing with.
    """
    numbers = _numbers(values, [*TELLING, *telling])
    texts = st.builds(Text, st.sampled_from([*comms, "", "fifteen-letters"]), st.booleans(), st.just(NO))
    accesses = st.builds(AccessName, st.sampled_from(ACCESSES), st.just(NO))
    leaves: st.SearchStrategy[Condition] = st.one_of(
        numbers,
        _binary(st.sampled_from(COMPARISONS), numbers, numbers),
        _binary(_EQUALITY, _field("comm"), texts),
        _binary(_EQUALITY, accesses, _field("access")),
        st.builds(InFunction, st.sampled_from(sorted(functions_around(0))), st.just(NO)),
        _binary(_EQUALITY, _field("ip"), st.builds(Number, st.sampled_from([ip, ip + 1]), st.just(NO))),
        _field("changed"),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(Unary, st.just("!"), inner, st.just(NO)),
            _binary(st.sampled_from(["&&", "||"]), inner, inner),
            _binary(_EQUALITY, inner.map(_as_truth), inner.map(_as_truth)),
        ),
        max_leaves=8,
    )


# What conditions mean, stated anew: C's rules on the C types of ctypes, of an access that is known in all respects.

Long = ctypes.c_int64 | ctypes.c_uint64

_COMPUTE = {
    "|": operator.or_, "^": operator.xor, "&": operator.and_, "+": operator.add, "-": operator.sub,
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def number_in_c(node: Condition, seen: Seen) -> Long:
    """A number of a bound condition, as a ``long`` or ``unsigned long``.

    C leaves shifts by more than 63 undefined; here they are what the machine does.
    """
    match node:
        case Number(value=value):
            return ctypes.c_int64(value) if value < 2**63 else ctypes.c_uint64(value)
        case Part(name=name, offset=offset, size=size, bits=bits, signed=sign):
            whole = int.from_bytes((seen.new if name == "new" else seen.old) or b"", "little")
            first, width = bits or (0, 8 * size)
            value = (whole >> (8 * offset + first)) % 2**width
            if sign and value >= 2 ** (width - 1):
                value -= 2**width
            return ctypes.c_int64(value) if sign or width < 64 else ctypes.c_uint64(value)
        case Field(name=name):
            return ctypes.c_int64(getattr(seen, name))
        case Unary(op=op, operand=operand):
            inner = number_in_c(operand, seen)
            return type(inner)(-inner.value if op == "-" else -1 - inner.value)
        case Binary(op="<<" | ">>" as op, left=left, right=right):
            moved, distance = number_in_c(left, seen), number_in_c(right, seen).value % 64
            return type(moved)(moved.value << distance if op == "<<" else moved.value >> distance)
        case Binary(op=op, left=left, right=right):
            sides = number_in_c(left, seen), number_in_c(right, seen)
            common = next((type(s) for s in sides if isinstance(s, ctypes.c_uint64)), ctypes.c_int64)
            result = _COMPUTE[op](*(common(side.value).value for side in sides))
            return ctypes.c_int64(result) if op in COMPARISONS else common(result)
    raise AssertionError(node)


def holds_in_c(node: Condition, seen: Seen) -> bool:
    """Whether a bound condition holds."""
    match node:
        case Unary(op="!", operand=operand):
            return not holds_in_c(operand, seen)
        case Binary(op="&&", left=left, right=right):
            return holds_in_c(left, seen) and holds_in_c(right, seen)
        case Binary(op="||", left=left, right=right):
            return holds_in_c(left, seen) or holds_in_c(right, seen)
        case InRanges(ranges=ranges):
            return any(seen.at in range(*each) for each in ranges)
        case Field(name="changed"):
            return seen.old != seen.new
        case Binary(op="==" | "!=" as op, left=left, right=right):
            sides = (left, right)
            for literal in sides:
                if isinstance(literal, Text):
                    name = seen.comm[: len(literal.value)] if literal.prefix else seen.comm
                    return (name == literal.value) is (op == "==")
                if isinstance(literal, AccessName):
                    return (seen.access == literal.name) is (op == "==")
            if is_truth(left):
                return (holds_in_c(left, seen) is holds_in_c(right, seen)) is (op == "==")
    return number_in_c(node, seen).value != 0


def _numbers(values: st.SearchStrategy[Condition], telling: list[int]) -> st.SearchStrategy[Condition]:
    literals: st.SearchStrategy[Condition] = st.builds(
        Number, st.sampled_from(telling) | st.integers(0, 70) | st.integers(0, 2**64 - 1), st.just(NO)
    )
    task: st.SearchStrategy[Condition] = st.sampled_from(["pid", "tid", "cpu", "uid"]).flatmap(_field)
    return st.recursive(
        st.one_of(values, values, literals, task),
        lambda inner: (
            st.builds(Unary, st.sampled_from("-~"), inner, st.just(NO))
            | _binary(st.sampled_from(ARITHMETIC), inner, inner)
        ),
        max_leaves=6,
    )


def _field(name: str) -> st.SearchStrategy[Condition]:
    return st.just(Field(name, NO))


def _binary(
    op: st.SearchStrategy[str], left: st.SearchStrategy[Condition], right: st.SearchStrategy[Condition]
) -> st.SearchStrategy[Condition]:
    return st.builds(Binary, op, left, right, st.just(NO))


def _as_truth(node: Condition) -> Condition:
    return node if check(node) is Kind.BOOL else Unary("!", node, NO)
