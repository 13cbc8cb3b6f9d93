# SPDX-License-Identifier: BSD-2-Clause
"""Names and numbers: the leaves of TARGET.

A name may hold dots: compilers call a function's static variable ``counter.0`` and a clone
``foo.isra.0``. As no member of C begins with a digit, all up to the last piece made of digits belongs
to the name.
"""

from __future__ import annotations

from ksym.errors import Span
from ksym.language.request import Address, Symbol, UserSymbol
from ksym.language.tokens import (
    CHARACTER,
    END,
    NUMBER,
    STRING,
    WORD,
    Cursor,
    Source,
    Token,
    in_quotes,
    is_decimal,
    is_word_char,
    number,
    quote,
    unquoted,
)

_HEX = "0123456789abcdef"
_ADDRESS_LIMIT = 1 << 64
_DIGITS_OF_PID = 7  # PID_MAX_LIMIT is 4194304, linux/threads.h


class Names(Cursor):
    """A cursor over the tokens of a TARGET that reads names, with module or program, and addresses.

    Args:
        source: The request.
        start: First character of TARGET.
        end: End of TARGET.
        object_end: Where the colon after a program or library stands; None for a kernel target.
    """

    def __init__(self, source: Source, start: int, end: int, object_end: int | None) -> None:
        super().__init__(source, start if object_end is None else object_end + 1, end)
        self.start, self.end, self.object_end = start, end, object_end

    def slice(self, start: int, end: int) -> str:
        """The request's text between two places, without blanks around it."""
        return self.source.text[start:end].strip()

    # Names.

    def symbol(self) -> Symbol:
        """``name`` or ``module:name``."""
        start, scope = self.token.start, None
        colon = self.scope_end()
        if colon is not None:
            scope = self.source.text[start:colon]
            if scope[:2] in ("0x", "0X"):
                why = "an address belongs to no module"
                rest = self.source.text[colon + 1 : self.end].strip()
                todo = f"write {scope}/{rest}" if is_decimal(rest) else f"write {scope}"
                raise self.source.error(why, todo, start, colon)
            while self.token.start <= colon and self.token.kind != END:
                self.take()
            if self.token.text[:2] in ("0x", "0X"):  # mem:0xADDRESS, as perf has it
                todo = f"write {self.slice(colon + 1, self.end)}"
                raise self.source.error("an address belongs to no module", todo, start, colon)
        name = self.name("of the variable")
        # 16 digits that begin with ffff are a kernel address copied from /proc/kallsyms.
        if len(name) == 16 and name.lower().startswith("ffff") and not name.lower().strip(_HEX):
            token = self.tokens[self.at - 1]
            text = self.source.text
            whole = f"{text[: token.start].strip()}0x{text[token.start : self.end].strip()}"
            todo = f"write {whole}" + ("/4" if whole == f"0x{name}" else "")
            raise self.refuse("this looks like an address without 0x", todo, token)
        # modprobe takes '-' for '_'; the kernel itself knows the underscore alone.
        return Symbol(scope and scope.replace("-", "_"), name, Span(start, self.taken_end()))

    def scope_end(self) -> int | None:
        """The colon that makes what comes next a module's name, which C's tokens would take apart."""
        text, at = self.source.text, self.token.start
        while at < self.end and (is_word_char(text[at]) or text[at] == "-"):
            at += 1
        single = text[at : at + 1] == ":" and text[at + 1 : at + 2] != ":"
        return at if self.token.start < at < self.end and single else None

    def user_symbol(self) -> UserSymbol:
        """The name, with C++ namespaces, behind a program or library."""
        assert self.object_end is not None
        program, start = self.slice(self.start, self.object_end), self.token.start
        if program[:1] in ("'", '"'):
            program = unquoted(program)
        if self.token.is_op("::"):  # the global namespace, as gdb takes it
            self.take()
        names = []
        while scope := self.scope():
            names.append(scope)
            self.take()
        if self.token.kind in (STRING, CHARACTER):
            names.append(unquoted(self.take().text))
        else:
            names.append(self.name(f"of a variable of {quote(program)}"))
        if not names[-1]:
            raise self.refuse("the quotes are empty", "write a name in them", self.tokens[self.at - 1])
        return UserSymbol(program, "::".join(names), Span(start, self.taken_end()))

    def scope(self) -> str:
        """What stands before the next ``::``: a namespace, a function, a source file; empty where none does.

        A file's name may hold dots (``parse.c::state``); with other characters it is quoted.
        """
        if self.token.kind in (STRING, CHARACTER):
            return unquoted(self.take().text) if self.peek(1).is_op("::") else ""
        words = 0
        while self.peek(words).kind in (WORD, NUMBER) and self.peek(words + 1).is_op("."):
            words += 2
        if self.token.kind != WORD or not self.peek(words + 1).is_op("::"):
            return ""
        first = self.token.start
        for _ in range(words + 1):
            self.take()
        return self.slice(first, self.taken_end())

    def name(self, whose: str) -> str:
        """A symbol's name with the suffixes that compilers append."""
        token = self.token
        if token.kind != WORD:
            if token.kind == END:
                raise self.refuse(f"the name {whose} is missing", "put it in front of ACCESS", token)
            if token.kind == NUMBER:
                todo = "write its name"
                if self.object_end is None and (colon := token.start - 1) > 0 and is_decimal(token.text):
                    todo = f"write {self.slice(self.start, colon)}/{token.text} for a length"
                raise self.refuse(f"the name {whose} cannot begin with a digit", todo, token)
            if token.kind in (STRING, CHARACTER):
                todo = f"write {token.text.strip(token.text[0]) or 'its name'}"
                raise self.refuse("names of the kernel stand without quotes", todo, token)
            if token.is_op("&") and self.object_end is not None:
                program, rest = self.slice(self.start, self.object_end), self.slice(token.end, self.end)
                why = "'&' is not needed, the variable itself is watched"
                raise self.refuse(why, f"write {program}:{rest}", token)
            if token.is_op(":"):
                raise self.refuse("the module's name is missing before ':'", "write MODULE:SYMBOL", token)
            if token.is_op("(", "*") and self.object_end is not None:
                program, rest = self.slice(self.start, self.object_end), self.slice(token.start, self.end)
                name = rest.rpartition(")")[2].strip()
                if name and all(map(is_word_char, name)):
                    raise self.refuse("a program's variable takes no cast", f"write {program}:{name}", token)
            if token.is_op("(") and self.object_end is not None:
                why = "a name that holds '(' stands in quotes"
                raise self.refuse(why, f"write {program}:{in_quotes(rest)}", token)
            why = f"the name {whose} is expected, not {quote(token.text)}"
            raise self.refuse(why, "write its name", token)
        self.take()
        pieces = 0
        while self.peek(2 * pieces).is_op(".") and self.peek(2 * pieces + 1).kind in (WORD, NUMBER):
            pieces += 1
        suffix = max((i + 1 for i in range(pieces) if is_decimal(self.peek(2 * i + 1).text)), default=0)
        # A struct may have a member 'cold'; at the very end it is GCC's name for the unlikely part.
        cold = pieces == suffix + 1 and self.peek(2 * suffix + 1).text == "cold"
        if cold and not self.peek(2 * pieces).is_op("->", "["):
            suffix = pieces
        words = [token.text]
        for _ in range(suffix):
            self.take()
            words.append(self.take().text)
        return ".".join(words)

    # Addresses.

    def address(self) -> Address:
        """``0xADDR`` or ``0xADDR/LENGTH``."""
        token = self.take()
        value = self.address_value(token)
        if not self.token.is_op("/"):
            return Address(value, None, token.span)
        self.take()
        length = self.token
        if length.kind != NUMBER:
            raise self.refuse("a length is expected after '/'", f"write {token.text}/4", length)
        count = number(self.source, self.take())
        if count == 0:
            raise self.refuse("nothing can be watched in 0 bytes", f"write {token.text}/4", length)
        if value + count > _ADDRESS_LIMIT:
            raise self.refuse("the length reaches past the end of memory", "write a smaller one", length)
        return Address(value, count, Span(token.start, length.end))

    def address_value(self, token: Token) -> int:
        """The value of a hexadecimal NUMBER."""
        if token.text[:2] in ("0x", "0X"):
            digits = token.text[2:].lower()
            if len(digits.lstrip("0")) > 16 and not digits.strip(_HEX):
                raise self.refuse("an address has at most 64 bits, 16 digits", "check the address", token)
            return number(self.source, token)
        if is_decimal(token.text):
            todo = f"write 0x{token.text}" if len(token.text) <= 16 else "write it with 0x"
            if len(token.text) <= _DIGITS_OF_PID:
                todo += f"; a process is given as -p {token.text}, besides the variable"
            raise self.refuse("addresses are written in hexadecimal", todo, token)
        todo = "check its spelling" if token.text.lower().strip(_HEX) else f"write 0x{token.text}"
        raise self.refuse("a name cannot begin with a digit, and an address begins with 0x", todo, token)
