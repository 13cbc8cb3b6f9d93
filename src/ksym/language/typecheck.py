# SPDX-License-Identifier: BSD-2-Clause
"""Which comparisons make sense, found out when a request is read and not when it runs.

Numbers count as true where they are not 0, as in C. The other way round is refused, because
``new & 1 == 0`` and ``1 < new < 5`` are C, but never what was meant.
"""

from __future__ import annotations

import enum

from ksym.errors import RequestError
from ksym.language.condition import (
    ACCESSES,
    FIELDS,
    NUMBER_FIELDS,
    VALUE_FIELDS,
    AccessName,
    Binary,
    Condition,
    EnumName,
    Field,
    InFunction,
    Number,
    Text,
    Unary,
    whole_span,
)
from ksym.language.request import Index
from ksym.language.tokens import Source, quote


class Kind(enum.Enum):
    """The type of an expression; the value is what messages call it."""

    INT = "a number"
    BOOL = "a truth value"
    STRING = "a text"
    ACCESS = "an access"
    IP = "an address"


_FIELD_KINDS = dict.fromkeys(NUMBER_FIELDS, Kind.INT)
_FIELD_KINDS |= {"comm": Kind.STRING, "access": Kind.ACCESS, "ip": Kind.IP, "changed": Kind.BOOL}
_EQUALITY = ("==", "!=")
_COMPARISON = (*_EQUALITY, "<", "<=", ">", ">=")
_HOW = {
    Kind.STRING: 'write comm == "NAME"',
    Kind.ACCESS: "write access == R, W, RW or X",
    Kind.IP: "write ip in FUNCTION, or ip == 0xADDRESS",
}


def check(condition: Condition, source: Source | None = None) -> Kind:
    """The type of a condition: INT or BOOL.

    Args:
        condition: What was read.
        source: The text it was read from, which its spans point into; None if there was none.

    Raises:
        RequestError: Operands do not fit their operators, or a word is no field and no enum name.
    """
    checker = _Checker(source, condition)
    kind = checker.truth(condition)
    checker.names(condition)
    return kind


class _Checker:
    def __init__(self, source: Source | None, condition: Condition) -> None:
        self.source, self.condition = source, condition

    def refuse(self, why: str, todo: str, node: Condition, *, operator: bool = False) -> RequestError:
        if self.source is None:
            return RequestError(f"cannot read condition {quote(str(self.condition))}", why, todo)
        span = node.span if operator else whole_span(node)
        return self.source.error(why, todo, span.start, span.end)

    def kind(self, node: Condition) -> Kind:
        match node:
            case Number() | EnumName():
                return Kind.INT
            case Text():
                return Kind.STRING
            case AccessName():
                return Kind.ACCESS
            case InFunction():
                return Kind.BOOL
            case Field(name=name):
                return _FIELD_KINDS[name]
            case Unary(op="!", operand=operand):
                self.truth(operand)
                return Kind.BOOL
            case Unary(op=op, operand=operand):
                self.number(operand, op)
                return Kind.INT
            case Binary(op="&&" | "||", left=left, right=right):
                self.truth(left)
                self.truth(right)
                return Kind.BOOL
            case Binary(op=op) if op in _COMPARISON:
                self.comparison(node)
                return Kind.BOOL
            case Binary(op="|", right=AccessName() as right):
                why = "'|' does not join accesses"
                todo = f"write || access == {right.name}, or RW for an access that did both"
                raise self.refuse(why, todo, node, operator=True)
            case Binary(op=op, left=left, right=right):
                self.number(left, op)
                self.number(right, op)
                return Kind.INT

    def truth(self, node: Condition) -> Kind:
        kind = self.kind(node)
        if kind in _HOW:
            raise self.refuse(f"{kind.value} is neither true nor false", _HOW[kind], node)
        return kind

    def number(self, node: Condition, op: str) -> None:
        kind = self.kind(node)
        if kind is Kind.INT:
            return
        todo = _HOW.get(kind, "put what comes first in parentheses, as in (new & 1) == 0")
        if op == "|" and kind is Kind.BOOL:
            todo = "write || between comparisons, or (new | 1) == 1"
        raise self.refuse(f"'{op}' needs numbers, this is {kind.value}", todo, node)

    def comparison(self, node: Binary) -> None:
        left, right = self.kind(node.left), self.kind(node.right)
        # From most to least specific, so that of two wrong sides the telling one is named.
        for kind, judge in (
            (Kind.STRING, self.text_comparison),
            (Kind.ACCESS, self.access_comparison),
            (Kind.IP, self.ip_comparison),
            (Kind.BOOL, self.truth_comparison),
        ):
            if left is kind:
                return judge(node, node.left, node.right, right)
            if right is kind:
                return judge(node, node.right, node.left, left)
        return None

    def text_comparison(self, node: Binary, side: Condition, other: Condition, kind: Kind) -> None:
        if kind is not Kind.STRING:
            raise self.text_with(side, other, kind)
        if node.op not in _EQUALITY:
            raise self.refuse("texts have no order here", "write == or !=", node, operator=True)
        if isinstance(side, Text) == isinstance(other, Text):
            raise self.refuse("only comm is compared with a text in quotes", _HOW[kind], node)

    def text_with(self, side: Condition, other: Condition, kind: Kind) -> RequestError:
        """The refusal of comparing a text, ``side``, with something else."""
        if not isinstance(side, Text):
            if isinstance(other, EnumName):
                why = f"comm is a text, {quote(other.name)} lacks its quotes"
                return self.refuse(why, f'write "{other.name}"', other)
            return self.refuse(f"comm is a text, not {kind.value}", _HOW[Kind.STRING], other)
        if kind is Kind.IP:
            todo = f"write ip in {side.value or 'FUNCTION'}"
            return self.refuse("ip is an address, not a text", todo, side)
        if kind is Kind.ACCESS:
            return self.refuse("an access is not a text", "write R, W, RW or X without quotes", side)
        if isinstance(other, Field) and other.name in VALUE_FIELDS:
            why = f"only comm is compared with a text, {other} is compared with numbers and characters"
            return self.refuse(why, _as_character(other, side), side)
        name = str(other) if isinstance(other, Field) else "this side"
        todo = "compare a text in quotes with comm only"
        return self.refuse(f"{name} is {kind.value}, not a text", todo, side)

    def access_comparison(self, node: Binary, side: Condition, other: Condition, kind: Kind) -> None:
        if kind is not Kind.ACCESS:
            if isinstance(side, AccessName):
                todo = f"write access {'!=' if node.op == '!=' else '=='} {side.name}"
                raise self.refuse(f"{side.name} is an access, not {kind.value}", todo, side)
            why = f"an access is one of {', '.join(ACCESSES)}, not {kind.value}"
            raise self.refuse(why, _HOW[Kind.ACCESS], other)
        if node.op not in _EQUALITY:
            raise self.refuse("accesses have no order", "write == or !=", node, operator=True)
        if isinstance(side, AccessName) == isinstance(other, AccessName):
            raise self.refuse("only access is compared with R, W, RW or X", _HOW[kind], node)

    def ip_comparison(self, node: Binary, side: Condition, other: Condition, kind: Kind) -> None:
        words = _leaves(other)
        if not _has_value(words):
            for leaf in words:
                if isinstance(leaf, EnumName):
                    todo = f"write ip in {leaf.name}" + (", or ip == 0xADDRESS" if leaf is not other else "")
                    raise self.refuse(f"{quote(leaf.name)} is not an address", todo, leaf)
        if kind is not Kind.INT:
            why = "ip is compared with itself" if kind is Kind.IP else f"ip is an address, not {kind.value}"
            raise self.refuse(why, _HOW[Kind.IP], other)
        if node.op not in _EQUALITY:
            todo = "write ip in FUNCTION"
            raise self.refuse("ip is compared by == and != only", todo, node, operator=True)

    def truth_comparison(self, node: Binary, side: Condition, other: Condition, kind: Kind) -> None:
        if kind is not Kind.BOOL or node.op not in _EQUALITY:
            why = f"'{node.op}' compares {Kind.BOOL.value} with {kind.value}"
            todo = "write changed or !changed" if isinstance(side, Field) else "join comparisons with &&"
            raise self.refuse(why, todo, node, operator=True)

    def names(self, node: Condition) -> None:
        """Refuses enum names that no ``new`` or ``old`` gives a type; most are misspelt fields."""
        match node:
            case Unary(op="!", operand=operand):
                self.names(operand)
            case Binary(left=left, right=right) if self.kind(left) is Kind.BOOL or node.op in ("&&", "||"):
                self.names(left)
                self.names(right)
            case _:
                leaves = list(_leaves(node))
                if _has_value(leaves):
                    return
                for leaf in leaves:
                    if isinstance(leaf, EnumName):
                        raise self.unknown(leaf)

    def unknown(self, node: EnumName) -> RequestError:
        from difflib import get_close_matches  # slow to import, and needed only here

        near = get_close_matches(node.name.lower(), (*FIELDS, "access"), n=1)
        todo = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(FIELDS)}"
        why = f"{quote(node.name)} is not a field, and enum names are compared only with new or old"
        return self.refuse(why, todo, node)


def _as_character(value: Field, text: Text) -> str:
    """What to write instead of comparing a value, an array of characters maybe, with a text."""
    element = str(value) if value.path and isinstance(value.path[-1], Index) else f"{value}[0]"
    first = text.value[:1]
    if not first:
        shown = "0"
    elif first.isascii() and first.isprintable():
        shown = f"'{first}'" if first not in "'\\" else f"'\\{first}'"
    else:
        return f"compare bytes as numbers, as in {element} == 10"
    return f"write {element} == {shown}" + (" and so on" if len(text.value) > 1 else "")


def _has_value(leaves: list[Condition]) -> bool:
    return any(isinstance(leaf, Field) and leaf.name in VALUE_FIELDS for leaf in leaves)


def _leaves(node: Condition) -> list[Condition]:
    match node:
        case Unary(operand=operand):
            return _leaves(operand)
        case Binary(left=left, right=right):
            return _leaves(left) + _leaves(right)
    return [node]
