# SPDX-License-Identifier: BSD-2-Clause
"""From characters to tokens, for targets and conditions alike.

The lexer is written by hand: a regular expression would have to be compiled at every start of the
program, and would not know where an unfinished string began. A token remembers where it stood, so
that every later refusal can put a caret under it.
"""

from __future__ import annotations

from ksym.errors import Place, RequestError, Span

WORD, NUMBER, OPERATOR, STRING, CHARACTER, END = "word", "number", "operator", "string", "character", "end"

_DOUBLE = frozenset(("->", "::", "&&", "||", "==", "!=", "<=", ">=", "<<", ">>"))
# "=", "?", "%" and "," have no meaning anywhere; they are tokens so that the parsers can say what to write.
_SINGLE = frozenset("()[].*&@/:-+~!<>|^=?%,")
_PAIRS = {")": "(", "]": "["}
_LONGEST_QUOTE = 60
_BITS = 64


class Token:
    """One token: its kind, its text, and the half-open range of characters it came from."""

    __slots__ = ("end", "kind", "start", "text")

    def __init__(self, kind: str, text: str, start: int, end: int) -> None:
        self.kind, self.text, self.start, self.end = kind, text, start, end

    def __repr__(self) -> str:
        return f"Token({self.kind}, {self.text!r}, {self.start}, {self.end})"

    def is_op(self, *texts: str) -> bool:
        """Whether this is one of the operators ``texts``."""
        return self.kind == OPERATOR and self.text in texts

    @property
    def span(self) -> Span:
        """The token's place in the text."""
        return Span(self.start, self.end)


class Source:
    """The text being read, and what to call it in a refusal.

    Args:
        text: What the user typed.
        noun: ``request`` or ``condition``.
    """

    __slots__ = ("noun", "text")

    def __init__(self, text: str, noun: str) -> None:
        self.text, self.noun = text, noun

    def error(self, why: str, todo: str, start: int, end: int | None = None) -> RequestError:
        """The refusal of the characters ``[start, end)``; ``end`` left out means one character."""
        span = Span(start, start + 1 if end is None else end)
        shown = printable(self.text)
        return RequestError(f"cannot read {self.noun} {quote(shown)}", why, todo, place=Place(shown, span))


def printable(text: str) -> str:
    """``text`` as a terminal may show it, character for character, so that spans stay true."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def quote(text: str) -> str:
    """``text`` in single quotes, cut where it is too long for a one-line message."""
    shown = printable(text)
    return f"'{shown[: _LONGEST_QUOTE - 3]}...'" if len(shown) > _LONGEST_QUOTE else f"'{shown}'"


def unquoted(text: str) -> str:
    r"""Return what stands in the quotes of ``text``; a backslash hides the character after it.

    >>> unquoted("'it\\'s'")
    "it's"
    """
    inner, at, kept = text[1:-1], 0, list[str]()
    while at < len(inner):
        at += inner[at] == "\\" and at + 1 < len(inner)
        kept.append(inner[at])
        at += 1
    return "".join(kept)


def in_quotes(text: str) -> str:
    """Return ``text`` in single quotes, so that `unquoted` gives it back."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def is_word_char(char: str) -> bool:
    """Whether ``char`` may stand in a name: C's letters, ``$`` as compilers allow it, other alphabets."""
    return (char.isalnum() or char in "_$") if char.isascii() else f"a{char}".isidentifier()


def is_digit(char: str) -> bool:
    """Whether ``char`` is an ASCII digit; ``str.isdigit`` takes a superscript two for one."""
    return "0" <= char <= "9"


def is_decimal(text: str) -> bool:
    """Whether ``text`` is ASCII digits and nothing else."""
    return text.isascii() and text.isdigit()


def tokenize(source: Source, start: int, end: int) -> list[Token]:
    """The tokens of ``source.text[start:end]``; the last one is END, at ``end``.

    Raises:
        RequestError: A character belongs to no token, a quote is not closed, or brackets do not pair.
    """
    text, tokens, at = source.text, list[Token](), start
    while at < end:
        char, first = text[at], at
        if char.isspace():
            at += 1
            continue
        if is_word_char(char):
            while at < end and is_word_char(text[at]):
                at += 1
            kind = NUMBER if is_digit(char) else WORD
        elif char in "\"'":
            at = _closing_quote(source, at, end) + 1
            kind = STRING if char == '"' else CHARACTER
        elif text[at : min(at + 2, end)] in _DOUBLE:
            at, kind = at + 2, OPERATOR
        elif char in _SINGLE:
            at, kind = at + 1, OPERATOR
        else:
            raise source.error(f"{quote(char)} has no meaning in a {source.noun}", "leave it out", at)
        tokens.append(Token(kind, text[first:at], first, at))
    tokens.append(Token(END, "", end, end))
    _check_brackets(source, tokens)
    return tokens


class Cursor:
    """What the parsers have in common: a place among the tokens of ``source.text[start:end]``."""

    def __init__(self, source: Source, start: int, end: int) -> None:
        self.source = source
        self.tokens = tokenize(source, start, end)
        self.at = 0

    @property
    def token(self) -> Token:
        """The token to be read next."""
        return self.tokens[self.at]

    def peek(self, ahead: int) -> Token:
        """The token ``ahead`` places behind the next one, or END."""
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def take(self) -> Token:
        """Steps over the next token, and returns it; END stays."""
        token = self.token
        self.at = min(self.at + 1, len(self.tokens) - 1)
        return token

    def taken_end(self) -> int:
        """The end of the token that was taken last."""
        return self.tokens[self.at - 1].end

    def refuse(self, why: str, todo: str, token: Token) -> RequestError:
        """The refusal of one token."""
        return self.source.error(why, todo, token.start, token.end)


def _closing_quote(source: Source, opening: int, end: int) -> int:
    mark, at = source.text[opening], opening + 1
    while at < end and source.text[at] != mark:
        at += 2 if source.text[at] == "\\" else 1
    if at >= end:
        raise source.error(f"the quote {mark} is never closed", f"close it with {mark}", opening)
    return at


def _check_brackets(source: Source, tokens: list[Token]) -> None:
    opened: list[Token] = []
    for token in tokens:
        if token.is_op("(", "["):
            opened.append(token)
        elif token.is_op(")", "]"):
            if not opened or opened[-1].text != _PAIRS[token.text]:
                why = f"no '{_PAIRS[token.text]}' opens this '{token.text}'"
                raise source.error(why, "pair the brackets", token.start)
            opened.pop()
    if opened:
        closing = ")" if opened[-1].text == "(" else "]"
        raise source.error(f"the '{opened[-1].text}' is never closed", f"add '{closing}'", opened[-1].start)


def number(source: Source, token: Token) -> int:
    """The value of a NUMBER token, by C's rules: decimal, ``0x`` hexadecimal, leading 0 octal.

    Raises:
        RequestError: It is no such number, or does not fit 64 bits.
    """
    text = token.text.lower()
    if text.startswith("0b"):
        bits = text[2:]
        is_number = 0 < len(bits) <= _BITS and not bits.strip("01")
        todo = f"write {int(bits, 2):#x}" if is_number else "write it in hexadecimal"
        raise source.error("binary numbers are not known", todo, token.start, token.end)
    base, digits, name = 10, text, "decimal"
    if text.startswith("0x"):
        base, digits, name = 16, text[2:], "hexadecimal"
    elif text.startswith("0") and len(text) > 1:
        base, digits, name = 8, text[1:], "octal"
    if not digits:
        raise source.error("no digits follow 0x", "write the number's digits", token.start, token.end)
    allowed = "0123456789abcdef"[:base]
    for place, digit in enumerate(digits, token.end - len(digits)):
        if digit in allowed:
            continue
        if text[: place - token.start] != "0x" and not digits[place - token.end :].strip("ul"):
            todo = f"write {source.text[token.start : place]}"
            raise source.error("numbers take no suffix, all are 64 bits wide", todo, place, token.end)
        todo = "write it without the leading 0" if base == 8 and is_digit(digit) else "write digits only"
        raise source.error(f"{quote(digit)} is not a digit of {name} numbers", todo, place)
    # The length is looked at first: int() refuses thousands of digits with an error of its own.
    if len(digits) > _BITS or int(digits, base) >> _BITS:
        raise source.error("the number does not fit 64 bits", "write a smaller one", token.start, token.end)
    return int(digits, base)
