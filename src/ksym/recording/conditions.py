# SPDX-License-Identifier: BSD-2-Clause
"""Conditions that are left to be judged when a recording is read, as notes have them: with all names resolved."""

from __future__ import annotations

from typing import Any

from ksym.errors import Span
from ksym.language.condition import AccessName, Binary, Condition, Field, Number, Text, Unary
from ksym.program.bind import InRanges, Part

_NOWHERE = Span(0, 0)


def condition_data(node: Condition) -> list[Any]:
    """A condition that ``bind`` made, as JSON."""
    match node:
        case Number(value=value):
            return ["number", value]
        case Text(value=value, prefix=prefix):
            return ["text", value, prefix]
        case Part():
            return ["part", node.name, node.offset, node.size, node.bits, node.signed]
        case Field(name=name):
            return ["field", name]
        case AccessName(name=name):
            return ["access", name]
        case InRanges(function=function, ranges=ranges):
            return ["in", function, [list(each) for each in ranges]]
        case Unary(op=op, operand=operand):
            return ["unary", op, condition_data(operand)]
        case Binary(op=op, left=left, right=right):
            return ["binary", op, condition_data(left), condition_data(right)]
    raise AssertionError(f"{node!r} is not bound")


def condition_from(data: Any) -> Condition:
    """The condition that `condition_data` described.

    Raises:
        (KeyError, TypeError, ValueError, RecursionError): it is no such description.
    """
    match data:
        case ["number", int(value)]:
            return Number(value, _NOWHERE)
        case ["text", str(value), bool(prefix)]:
            return Text(value, prefix, _NOWHERE)
        case ["part", "new" | "old" as name, int(offset), int(size), bits, bool(signed)]:
            pair = (int(bits[0]), int(bits[1])) if bits else None
            return Part(name, _NOWHERE, offset=offset, size=size, bits=pair, signed=signed)
        case ["field", str(name)]:
            return Field(name, _NOWHERE)
        case ["access", str(name)]:
            return AccessName(name, _NOWHERE)
        case ["in", str(function), ranges]:
            return InRanges(
                function, _NOWHERE, ranges=tuple((int(first), int(last)) for first, last in ranges)
            )
        case ["unary", str(op), operand]:
            return Unary(op, condition_from(operand), _NOWHERE)
        case ["binary", str(op), left, right]:
            return Binary(op, condition_from(left), condition_from(right), _NOWHERE)
    raise ValueError(data)
