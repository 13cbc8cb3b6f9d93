# SPDX-License-Identifier: BSD-2-Clause
"""From text to a condition, by precedence climbing over C's table of operators."""

from __future__ import annotations

from ksym.errors import RequestError, Span
from ksym.language.condition import (
    ACCESSES,
    CONSTANTS,
    FIELDS,
    PRECEDENCE,
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
)
from ksym.language.request import Index, Member, Step
from ksym.language.tokens import (
    CHARACTER,
    END,
    NUMBER,
    STRING,
    WORD,
    Cursor,
    Source,
    Token,
    number,
    quote,
)
from ksym.language.typecheck import check

_NESTING_LIMIT = 40
_OPERATOR_LIMIT = 200
_COMM_BYTES = 15  # TASK_COMM_LEN, linux/sched.h, less the closing NUL
_WORD_OPERATORS = {"and": "&&", "or": "||", "not": "!", "is": "=="}
_ESCAPES = {"n": "\n", "t": "\t", "0": "\0", "\\": "\\", '"': '"', "'": "'", "*": "*"}


def parse_condition(text: str) -> Condition:
    """Reads a condition that stands alone, as ``--if`` has it, and checks its types.

    Raises:
        RequestError: The text is no condition, or compares what cannot be compared.
    """
    source = Source(text.strip(), "condition")
    condition = parse_expression(source, 0)
    check(condition, source)
    return condition


def parse_expression(source: Source, start: int) -> Condition:
    """Reads ``source.text[start:]`` without a look at types.

    Raises:
        RequestError: The text is no condition.
    """
    parser = _Parser(source, start)
    condition = parser.binary(1)
    if parser.token.kind != END:
        raise parser.leftover()
    return condition


class _Parser(Cursor):
    def __init__(self, source: Source, start: int) -> None:
        super().__init__(source, start, len(source.text))
        self.nesting = self.operators = 0

    def count(self, operator: Token) -> None:
        # Also keeps the recursion of those who walk the tree within Python's limit.
        self.operators += 1
        if self.operators > _OPERATOR_LIMIT:
            raise self.refuse(f"a condition has at most {_OPERATOR_LIMIT} operators", "shorten it", operator)

    def binary(self, least: int) -> Condition:
        left = self.unary()
        # No other token than an operator, or the word "in", is a key of PRECEDENCE.
        while (level := PRECEDENCE.get(self.token.text, 0)) >= least:
            operator = self.take()
            self.count(operator)
            if operator.text == "in":
                left = self.in_function(left, operator)
            else:
                left = Binary(operator.text, left, self.binary(level + 1), operator.span)
        return left

    def unary(self) -> Condition:
        token = self.token
        if token.is_op("!", "-", "~"):
            self.count(self.take())
            return Unary(token.text, self.nested(token), token.span)
        return self.primary()

    def nested(self, token: Token) -> Condition:
        """What stands behind a prefix operator or inside parentheses."""
        self.nesting += 1
        if self.nesting > _NESTING_LIMIT:
            raise self.refuse(f"more than {_NESTING_LIMIT} levels are nested", "write it flatter", token)
        inner = self.binary(1) if token.text == "(" else self.unary()
        self.nesting -= 1
        return inner

    def primary(self) -> Condition:
        token = self.take()
        if token.kind == NUMBER:
            return Number(number(self.source, token), token.span)
        if token.kind == STRING:
            return self.text(token)
        if token.kind == CHARACTER:
            return Number(self.character(token), token.span)
        if token.kind == WORD:
            return self.word(token)
        if token.is_op("("):
            if self.token.is_op(")"):
                raise self.refuse("the parentheses are empty", "leave them out", token)
            inner = self.nested(token)
            if not self.token.is_op(")"):
                raise self.leftover()
            self.take()
            return inner
        if token.kind == END and token.start == self.tokens[0].start:
            raise self.refuse("the condition is empty", "write one, as in: new > 100", token)
        if token.kind == END:
            before = self.tokens[-2]
            raise self.refuse(f"nothing follows {quote(before.text)}", "write what to compare with", before)
        if token.text in PRECEDENCE or token.is_op(")"):
            why = f"a value is missing before {quote(token.text)}"
            raise self.refuse(why, "write a field or a number", token)
        raise self.stray(token)

    def word(self, token: Token) -> Condition:
        if token.text in FIELDS:
            return self.field(token)
        if token.text in ACCESSES:
            return AccessName(token.text, token.span)
        if token.text in CONSTANTS:
            return Number(CONSTANTS[token.text], token.span)
        if token.text in _WORD_OPERATORS:
            todo = f"write {_WORD_OPERATORS[token.text]}"
            raise self.refuse(f"conditions are written as in C, without {quote(token.text)}", todo, token)
        if token.text in ("in", "if"):
            raise self.refuse(f"a value is missing before {quote(token.text)}", "write ip in FUNCTION", token)
        return EnumName(token.text, token.span)

    def field(self, token: Token) -> Field:
        path: list[Step] = []
        while self.token.is_op(".", "->", "["):
            if token.text not in VALUE_FIELDS:
                why = f"{token.text} has no members or elements, only new and old do"
                raise self.refuse(why, "leave them out", self.token)
            if self.token.is_op("->"):
                why = "the kernel follows no pointer for a condition"
                raise self.refuse(
                    why, "watch the member itself, or write . for a member of the variable", self.token
                )
            path.append(self.index() if self.token.is_op("[") else self.member())
        end = path[-1].span.end if path else token.end
        return Field(token.text, Span(token.start, end), tuple(path))

    def member(self) -> Member:
        dot, token = self.take(), self.token
        if token.kind != WORD:
            raise self.refuse("a member's name is missing after '.'", "write one", token)
        return Member(self.take().text, Span(dot.start, token.end))

    def index(self) -> Index:
        opening, token = self.take(), self.token
        if token.kind != NUMBER or not self.peek(1).is_op("]"):
            raise self.refuse("an index is one number, not negative", "write one, as in new[0]", token)
        self.take()
        return Index(number(self.source, token), Span(opening.start, self.take().end))

    def in_function(self, left: Condition, operator: Token) -> InFunction:
        if not isinstance(left, Field) or left.name != "ip":
            raise self.refuse("only ip can be in a function", "write ip in FUNCTION", operator)
        if self.token.kind != WORD:
            raise self.refuse("a function's name is missing after 'in'", "write ip in FUNCTION", self.token)
        last = self.take()
        name = last.text
        while self.token.is_op(".", "::"):  # a compiler's clone, foo.isra.0, or a C++ name
            joint = self.take()
            if self.token.kind not in (WORD, NUMBER):
                why = f"a name is missing after '{joint.text}'"
                raise self.refuse(why, "write the function's name", self.token)
            last = self.take()
            name += joint.text + last.text
        if self.token.is_op("+", "-"):
            raise self.refuse("a function takes no offset", "write ip == 0xADDRESS for one place", self.token)
        return InFunction(name, Span(left.span.start, last.end))

    # Literals.

    def text(self, token: Token) -> Text:
        chars = self.unescape(token)
        prefix = bool(chars) and chars[-1] == ("*", False)
        value = "".join(char for char, _ in chars[: len(chars) - prefix])
        try:
            encoded = value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise self.refuse("the text is not UTF-8", "write it with \\xHH escapes", token) from None
        if len(encoded) > _COMM_BYTES:
            why = f"comm holds at most {_COMM_BYTES} bytes, the kernel cuts longer names"
            short = encoded[:_COMM_BYTES].decode("utf-8", "ignore")
            raise self.refuse(why, f'write "{short}"', token)
        # Bytes that \x wrote one by one may form a character; the same text must be the same value.
        return Text(encoded.decode("utf-8", "surrogateescape"), prefix, token.span)

    def character(self, token: Token) -> int:
        chars = self.unescape(token)
        if len(chars) != 1:
            inner = token.text[1:-1]
            todo = f'write "{inner}" for text' if inner else "write 0 for the end of a text"
            raise self.refuse("single quotes hold one character", todo, token)
        if not chars[0][0].isascii():
            raise self.refuse("only ASCII characters are one byte", "write the byte as a number", token)
        return ord(chars[0][0])

    def unescape(self, token: Token) -> list[tuple[str, bool]]:
        """The characters between the quotes, each with whether a backslash stood before it."""
        chars, at, end = list[tuple[str, bool]](), token.start + 1, token.end - 1
        raw = self.source.text
        while at < end:
            if raw[at] != "\\":
                chars.append((raw[at], False))
                at += 1
                continue
            escape, digits = raw[at + 1], raw[at + 2 : min(at + 4, end)]
            if escape == "x" and len(digits) == 2 and not digits.lower().strip("0123456789abcdef"):
                byte = int(digits, 16)
                chars.append((chr(byte) if byte < 0x80 else chr(0xDC00 + byte), True))
                at += 4
            elif escape in _ESCAPES:
                chars.append((_ESCAPES[escape], True))
                at += 2
            else:
                why = f"{quote(raw[at : at + 2])} is no escape"
                todo = 'use \\n, \\t, \\\\, \\", \\*, or \\xHH'
                raise self.source.error(why, todo, at, at + 2)
        if token.kind == STRING and any(char == "\0" for char, _ in chars):
            raise self.refuse("comm cannot hold a NUL", "leave it out", token)
        return chars

    # What cannot stand where it stands.

    def leftover(self) -> RequestError:
        token = self.token
        if token.text in _WORD_OPERATORS:
            todo = f"write {_WORD_OPERATORS[token.text]}"
            return self.refuse(f"conditions are written as in C, without {quote(token.text)}", todo, token)
        if token.kind in (WORD, NUMBER, STRING, CHARACTER) or token.is_op("("):
            before = self.tokens[self.at - 1].text
            why = f"an operator is missing between {quote(before)} and {quote(token.text)}"
            return self.refuse(why, "join them with && or ||, or compare them", token)
        return self.stray(token)

    def stray(self, token: Token) -> RequestError:
        if token.is_op("="):
            return self.refuse("'=' assigns, a condition compares", "write ==", token)
        if token.is_op(".") and self.at and self.tokens[self.at - 1].kind == NUMBER:
            return self.refuse("numbers have no fraction", "write a whole number", token)
        if token.is_op(".", "->", "["):
            why = "only new and old have members and elements"
            return self.refuse(why, "write them right behind, as in new.member", token)
        if token.is_op(":"):
            return self.refuse("':' has no meaning in a condition", "put ACCESS before 'if'", token)
        todo = "use && || ! == != < <= > >= & | ^ + - ~ << >>"
        return self.refuse(f"{quote(token.text)} is no operator of conditions", todo, token)
