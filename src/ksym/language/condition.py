# SPDX-License-Identifier: BSD-2-Clause
"""CONDITION as data: which accesses to keep. Built by ``condition_parser``, checked by ``typecheck``.

Arithmetic is C's on ``long`` and ``unsigned long``: every number is 64 bits wide, results wrap around,
and a shift counts its distance modulo 64 (C leaves larger ones undefined; BPF masks them, and so does
this). A value of a narrower type is widened before by the rules of its type. So ``new == -1`` and
``new == 0xffffffffffffffff`` mean the same, and both hold for an ``int`` of -1, but not for an
``unsigned int`` of 4294967295. Which numbers are unsigned their types tell, and those only a condition
knows that is bound to a variable (`program.bind`).

``str()`` of a condition is its canonical text: reading it back gives an equal condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ksym.errors import Span
from ksym.language.request import Member, Step

VALUE_FIELDS = ("new", "old")
"""What has members and elements where the watched variable has them."""
NUMBER_FIELDS = (*VALUE_FIELDS, "pid", "tid", "cpu", "uid")
FIELDS = (*NUMBER_FIELDS, "comm", "access", "ip", "changed")
ACCESSES = ("R", "W", "RW", "X")
"""The access that was made, as the TYPE column shows it. ``RW`` is one instruction that did both."""
CONSTANTS = {"true": 1, "false": 0, "NULL": 0}

PRECEDENCE = {"||": 1, "&&": 2, "|": 3, "^": 4, "&": 5, "==": 6, "!=": 6}
PRECEDENCE |= dict.fromkeys(("<", "<=", ">", ">=", "in"), 7) | {"<<": 8, ">>": 8, "+": 9, "-": 9}
"""C's precedence; ``in`` binds like a comparison."""
_UNARY_PRECEDENCE = 10

_MASK, _SIGN = (1 << 64) - 1, 1 << 63
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}


class _Node:
    __slots__ = ()

    def __str__(self) -> str:
        return _render(self, 0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Number(_Node):
    """A literal, 0 to 2**64-1; a minus sign is a Unary around it. In a bound condition, an enum's constant too."""

    value: int
    span: Span = field(compare=False)


@dataclass(frozen=True)
class Text(_Node):
    """A string literal; ``prefix`` where it ended in an unescaped ``*``, which ``value`` lacks."""

    value: str
    prefix: bool
    span: Span = field(compare=False)


@dataclass(frozen=True)
class Field(_Node):
    """One of FIELDS; ``path`` leads to a member or element, and only from one of VALUE_FIELDS."""

    name: str
    span: Span = field(compare=False)
    path: tuple[Step, ...] = ()


@dataclass(frozen=True)
class AccessName(_Node):
    """One of ACCESSES."""

    name: str
    span: Span = field(compare=False)


@dataclass(frozen=True)
class EnumName(_Node):
    """A constant of the watched variable's type, whose value only the symbol stage knows."""

    name: str
    span: Span = field(compare=False)


@dataclass(frozen=True)
class InFunction(_Node):
    """``ip in FUNCTION``."""

    function: str
    span: Span = field(compare=False)


@dataclass(frozen=True)
class Unary(_Node):
    """``!``, ``-`` or ``~`` before an operand."""

    op: str
    operand: Condition
    span: Span = field(compare=False)


@dataclass(frozen=True)
class Binary(_Node):
    """Two operands; ``op`` is a key of PRECEDENCE other than ``in``. ``span`` is the operator's own."""

    op: str
    left: Condition
    right: Condition
    span: Span = field(compare=False)


Condition = Number | Text | Field | AccessName | EnumName | InFunction | Unary | Binary


def whole_span(node: Condition) -> Span:
    """From the first to the last character of ``node``, without parentheses around it."""
    match node:
        case Unary(operand=operand, span=span):
            return Span(span.start, whole_span(operand).end)
        case Binary(left=left, right=right):
            return Span(whole_span(left).start, whole_span(right).end)
    return node.span


def _render(node: Condition, least: int) -> str:
    """Text of ``node``, in parentheses if it binds less tightly than ``least``."""
    match node:
        case Number(value=value):
            return str(value)
        case Text(value=value, prefix=prefix):
            return _render_text(value, prefix=prefix)
        case Field(name=name, path=path):
            return name + "".join(
                f".{step.name}" if isinstance(step, Member) else f"[{step.number}]" for step in path
            )
        case AccessName(name=name) | EnumName(name=name):
            return name
        case InFunction(function=function):
            text, own = f"ip in {function}", PRECEDENCE["in"]
        case Unary(op=op, operand=operand):
            text, own = op + _render(operand, _UNARY_PRECEDENCE), _UNARY_PRECEDENCE
        case Binary(op=op, left=left, right=right):
            own = PRECEDENCE[op]
            # All operators group to the left, so an equal one on the right needs parentheses.
            text = f"{_render(left, own)} {op} {_render(right, own + 1)}"
    return f"({text})" if own < least else text


def _render_text(value: str, *, prefix: bool) -> str:
    literal_star = value.endswith("*") and not prefix
    shown = []
    for char in value[:-1] if literal_star else value:
        if char in _ESCAPES or char.isprintable():
            shown.append(_ESCAPES.get(char, char))
        else:
            shown += (f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
    return f'"{"".join(shown)}{"*" if prefix else chr(92) + "*" if literal_star else ""}"'


def signed(value: int) -> int:
    """``value`` wrapped to 64 bits in two's complement."""
    return ((value + _SIGN) & _MASK) - _SIGN


def evaluate(condition: Condition, env: Mapping[str, int | str]) -> bool:
    """Whether an access would be kept, as far as that can be told without types: all numbers are signed.

        >>> evaluate(parse_condition('new > old && comm == "ssh*"'), {"new": 2, "old": 1, "comm": "sshd"})
        True

    Args:
        condition: A condition that ``check`` accepts.
        env: Each field by its name: numbers as int, ``comm`` as text, ``access`` as one of ACCESSES,
            ``changed`` as 0 or 1. A member or element by its text, ``new.flags[2]``. Enum constants by
            their own names, and ``function``, the name of the function that ``ip`` lies in, for ``ip in``.

    Raises:
        KeyError: ``env`` lacks a name that was needed; operands that ``&&`` and ``||`` pass over are not.
    """
    return _value(condition, env) != 0


def _value(node: Condition, env: Mapping[str, int | str]) -> int:
    match node:
        case Number(value=value):
            return signed(value)
        case Field() | EnumName():
            have = env[str(node)]
            assert isinstance(have, int), f"{node} is no number"
            return signed(have)
        case InFunction(function=function):
            return int(env["function"] == function)
        case Unary(op=op, operand=operand):
            value = _value(operand, env)
            return int(value == 0) if op == "!" else signed(-value if op == "-" else ~value)
        case Binary(op="&&", left=left, right=right):
            return int(_value(left, env) != 0 and _value(right, env) != 0)
        case Binary(op="||", left=left, right=right):
            return int(_value(left, env) != 0 or _value(right, env) != 0)
        case Binary(op="==" | "!=" as op, left=left, right=right) if has_literal(left, right):
            return int(_same_text(left, right, env) == (op == "=="))
        case Binary(op=op, left=left, right=right):
            return arithmetic(op, _value(left, env), _value(right, env))
    raise AssertionError(f"{node!r} has no value of its own")


def has_literal(left: Condition, right: Condition) -> bool:
    """Whether this is a comparison of ``comm`` or ``access``."""
    return isinstance(left, Text | AccessName) or isinstance(right, Text | AccessName)


def _same_text(left: Condition, right: Condition, env: Mapping[str, int | str]) -> bool:
    literal, other = literal_first(left, right)
    have = str(env[other.name])
    return same_comm(literal, have) if isinstance(literal, Text) else have == literal.name


def literal_first(left: Condition, right: Condition) -> tuple[Text | AccessName, Field]:
    """The sides of a comparison of ``comm`` or ``access``, in whichever order they were written."""
    literal, other = (left, right) if isinstance(left, Text | AccessName) else (right, left)
    assert isinstance(literal, Text | AccessName)
    assert isinstance(other, Field)
    return literal, other


def same_comm(literal: Text, comm: str) -> bool:
    """Whether a task's name is the one of a text; byte by byte, as the kernel cuts names inside characters."""
    wanted, have = (each.encode("utf-8", "surrogateescape") for each in (literal.value, comm))
    return have.startswith(wanted) if literal.prefix else have == wanted


def arithmetic(op: str, left: int, right: int, *, unsigned: bool = False) -> int:
    """The result of an operator on two numbers of 64 bits, wrapped to signed; a comparison's is 0 or 1.

    Args:
        op: A key of PRECEDENCE that computes or compares numbers.
        left: As `signed` has it.
        right: Likewise.
        unsigned: Whether C would compute on ``unsigned long``.
    """
    if unsigned:
        left, right = left & _MASK, right & _MASK
    match op:
        case "|":
            return signed(left | right)
        case "^":
            return signed(left ^ right)
        case "&":
            return signed(left & right)
        case "==":
            return int(left == right)
        case "!=":
            return int(left != right)
        case "<":
            return int(left < right)
        case "<=":
            return int(left <= right)
        case ">":
            return int(left > right)
        case ">=":
            return int(left >= right)
        case "<<":
            return signed(left << (right & 63))
        case ">>":
            return signed(left >> (right & 63))
        case "+":
            return signed(left + right)
        case "-":
            return signed(left - right)
    raise AssertionError(f"unknown operator {op}")
