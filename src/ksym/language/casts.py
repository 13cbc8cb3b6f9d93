# SPDX-License-Identifier: BSD-2-Clause
"""Casts: ``*(u32 *)0xADDR``, ``((struct net *)&init_net)->member``, ``(*(struct foo *)name).member``.

The rules are C's: ``*`` and the cast apply after ``.``, ``->`` and ``[]``, so a cast whose members are
wanted stands in parentheses. Only what names an object is taken; a pointer's value cannot be watched.
"""

from __future__ import annotations

from ksym.errors import RequestError, Span
from ksym.language.names import Names
from ksym.language.request import Address, Cast, Root, Symbol
from ksym.language.tokens import END, NUMBER, WORD, Token, quote

_TAGS = ("struct", "union", "enum")
_BASE_TYPES = frozenset(
    ("unsigned", "signed", "char", "short", "int", "long", "float", "double", "_Bool", "bool", "__int128")
)
_QUALIFIERS = frozenset(("const", "volatile", "restrict", "__user", "__percpu", "__rcu", "__iomem"))
_NESTING_LIMIT = 8


class Casts(Names):
    """Reads what begins with ``*`` or ``(``."""

    def cast(self, star: Token, depth: int = 0) -> Cast:
        """What follows ``*``: ``(TYPE *)operand``, in parentheses or not."""
        if not self.token.is_op("("):
            if self.token.is_op("*"):
                todo = "follow a pointer to a pointer once, as in *(u32 **)NAME"
                raise self.refuse("only one '*' may stand in front", todo, self.token)
            operand = self.slice(star.end, self.end)
            why = "'*' does not know what it points to without a cast"
            raise self.refuse(why, f"write the type, as in *(u32 *){operand}", star)
        start = self.take().start
        if self.token.is_op("(") and depth < _NESTING_LIMIT:
            inner = self.cast(star, depth + 1)
            self.close()
            return inner
        type_name = self.pointed_type(start)
        self.close()
        operand_, by_value = self.operand(type_name)
        return Cast(type_name, operand_, by_value, Span(start, self.taken_end()))

    def group(self, depth: int) -> tuple[Root, bool]:
        """A root in parentheses, and whether it is still a pointer: ``(*(T *)a)`` or ``((T *)a)``."""
        opening = self.take()
        result: tuple[Root, bool]
        if depth > _NESTING_LIMIT:
            raise self.refuse("too many parentheses", "leave out those that hold nothing but others", opening)
        if self.token.is_op("*"):
            result = self.cast(self.take()), False
        elif self.token.is_op("(") and self.peek(1).is_op("(", "*"):
            result = self.group(depth + 1)
        elif self.token.is_op("("):
            result = self.cast(opening), True
        else:
            raise self.lone_cast(opening)
        self.close()
        return result

    def lone_cast(self, opening: Token) -> RequestError:
        """The refusal of ``(T *)a`` at the start, and of names in parentheses."""
        if self.token.kind == WORD and self.peek(1).is_op(")") and self.peek(2).kind == END:
            return self.refuse("parentheses hold only casts", f"write {self.token.text}", opening)
        type_name = self.pointed_type(opening.start)
        self.close()
        start = self.token.start
        self.operand(type_name)
        cast, rest = self.slice(opening.start, self.taken_end()), self.slice(self.taken_end(), self.end)
        if self.token.is_op(".", "->", "["):
            why, todo = "the member is taken before the cast", f"write ({cast}){rest}"
        else:
            why, todo = "a cast alone is a pointer, not the object", f"write *{cast}"
        return self.source.error(why, todo, opening.start, start)

    def close(self) -> None:
        """Takes the ``)`` that must come now."""
        if not self.token.is_op(")"):
            why = f"{quote(self.token.text)} is not expected before ')'"
            raise self.refuse(why, "check the cast", self.token)
        self.take()

    def pointed_type(self, opening: int) -> str:
        """The type before the last ``*`` in a cast, its words and stars spaced as C programmers do."""
        first, words, stars = self.token, list[str](), 0
        while self.token.kind == WORD or self.token.is_op("*"):
            token = self.take()
            if token.text == "*":
                stars += 1
            elif token.text not in _QUALIFIERS:
                if stars:
                    why = f"{quote(token.text)} follows '*' in a type"
                    raise self.refuse(why, "write the '*' last, as in (u32 *)", token)
                words.append(token.text)
        span = (opening, self.token.end)
        if not words:
            raise self.source.error("the parentheses hold no type", "write a type, as in (u32 *)", *span)
        name = " ".join(words)
        tagged = words[0] in _TAGS
        if tagged and len(words) == 1:
            raise self.source.error(f"{quote(name)} has no name", f"write ({name} NAME *)", *span)
        if len(words) > (2 if tagged else 1) and (tagged or not _BASE_TYPES.issuperset(words)):
            why = f"{quote(name)} is not one type"
            raise self.source.error(why, "write one, as in (struct foo *)", *span)
        if not self.token.is_op(")"):
            why = f"{quote(self.token.text)} has no meaning in a type"
            raise self.refuse(why, "write a pointer to a named type, as in (u32 *)", self.token)
        if not stars:
            why = "a cast needs a pointer's type"
            raise self.source.error(why, f"write ({name} *)", first.start, self.token.start)
        if name == "void" and stars == 1:
            raise self.source.error("void has no size", "cast to a type, or write 0xADDRESS/LENGTH", *span)
        return f"{name} {'*' * (stars - 1)}" if stars > 1 else name

    def operand(self, type_name: str) -> tuple[Symbol | Address, bool]:
        """What a cast applies to, and whether the pointer is its value: ``name`` and not ``&name``."""
        token = self.token
        if token.kind == NUMBER and self.scope_end() is None:
            self.take()
            value = self.address_value(token)
            if self.token.is_op("/"):
                why = f"{quote(type_name)} says the length already"
                raise self.refuse(why, "leave the cast or the length out", self.token)
            return Address(value, None, token.span), False
        if token.is_op("-"):
            raise self.refuse("addresses are not negative", "write the address in hexadecimal", token)
        by_value = not token.is_op("&")
        if not by_value:
            self.take()
        if self.token.text == "task" and self.peek(1).is_op("("):
            todo = "write task(PID)->MEMBER without a cast"
            raise self.refuse("a cast applies to a name or an address", todo, self.token)
        if self.token.kind not in (WORD, NUMBER) or (self.token.kind == NUMBER and self.scope_end() is None):
            todo = "write one after the cast, as in *(u32 *)0xADDRESS"
            raise self.refuse("a cast applies to a name or an address", todo, self.token)
        return self.symbol(), by_value
