# SPDX-License-Identifier: BSD-2-Clause
"""A bound condition evaluated by ksym itself, for what the kernel could not decide.

What is not known makes a comparison neither true nor false, and an access is kept if it could match:

    access == W && pid == 1     an access of ``?`` is kept if pid is 1
    !(access == W) || pid == 1  kept, whatever pid is

Only of values the kernel takes a simpler view, and so does this: an access whose ``new``, ``old`` or
``changed`` is asked for and not known is kept, whatever else the condition says.
"""

from __future__ import annotations

from typing import NamedTuple

from ksym.language.condition import (
    Binary,
    Condition,
    Field,
    Number,
    Text,
    Unary,
    arithmetic,
    has_literal,
    literal_first,
    same_comm,
    signed,
)
from ksym.program.bind import InRanges, Part, computes_unsigned, is_truth, leaves

_UNKNOWN = "?"


class Seen(NamedTuple):
    """An access, as far as it is known; None where it is not, ``?`` for ``access``.

    ``at`` is an address inside the instruction that made the access: on x86, where a watchpoint traps
    behind the access, one byte before ``ip``; for an execution, and on arm64, ``ip`` itself.
    """

    old: bytes | None
    new: bytes | None
    changed: bool | None
    pid: int
    tid: int
    cpu: int
    uid: int | None
    comm: str
    access: str
    ip: int
    at: int


def could_match(condition: Condition, seen: Seen) -> bool:
    """Whether to keep an access: False only if the condition certainly does not hold.

    Args:
        condition: One that ``bind`` made.
        seen: The access.
    """
    for leaf in leaves(condition):
        if (
            isinstance(leaf, Field)
            and leaf.name in ("new", "old", "changed")
            and getattr(seen, leaf.name) is None
        ):
            return True
    return _truth(condition, seen) is not False


def _truth(node: Condition, seen: Seen) -> bool | None:
    match node:
        case Unary(op="!", operand=operand):
            value = _truth(operand, seen)
            return None if value is None else not value
        case Binary(op="&&" | "||" as op, left=left, right=right):
            decisive = op == "||"
            first = _truth(left, seen)
            if first is decisive:
                return decisive
            second = _truth(right, seen)
            return second if second is decisive or first is not None else None
        case Binary(op="==" | "!=" as op, left=left, right=right) if has_literal(left, right):
            same = _same(left, right, seen)
            return None if same is None else same == (op == "==")
        case Binary(op="==" | "!=" as op, left=left, right=right) if is_truth(left):
            first, second = _truth(left, seen), _truth(right, seen)
            return None if first is None or second is None else (first == second) == (op == "==")
        case InRanges(ranges=ranges):
            return any(start <= seen.at < end for start, end in ranges)
        case Field(name="changed"):
            return seen.changed
    number = _number(node, seen)
    return None if number is None else number != 0


def _same(left: Condition, right: Condition, seen: Seen) -> bool | None:
    literal, _ = literal_first(left, right)
    if isinstance(literal, Text):
        return same_comm(literal, seen.comm)
    if seen.access == _UNKNOWN and literal.name != "X":  # executions are always known for such
        return None
    return seen.access == literal.name


def _number(node: Condition, seen: Seen) -> int | None:
    # As `signed` has it, also where it is unsigned: only some operators tell them apart.
    match node:
        case Number(value=value):
            return signed(value)
        case Part():
            return part_value(node, seen)
        case Field(name=name):
            value = getattr(seen, name)
            assert value is None or isinstance(value, int)
            return None if value is None else signed(value)
        case Unary(op=op, operand=operand):
            inner = _number(operand, seen)
            return None if inner is None else signed(-inner if op == "-" else ~inner)
        case Binary(op=op, left=left, right=right):
            first, second = _number(left, seen), _number(right, seen)
            if first is None or second is None:
                return None
            return arithmetic(op, first, second, unsigned=computes_unsigned(op, left, right))
    raise AssertionError(f"{node!r} is no number")


def part_value(part: Part, seen: Seen) -> int:
    """The number that a part of a known value is; one of 64 unsigned bits as `signed` has it."""
    data = seen.new if part.name == "new" else seen.old
    assert data is not None
    number = int.from_bytes(data[part.offset : part.offset + part.size], "little")
    first, width = part.bits or (0, 8 * part.size)
    number = number >> first & ((1 << width) - 1)
    if part.signed and number >> (width - 1):
        number -= 1 << width
    return signed(number)
