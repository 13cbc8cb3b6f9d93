# SPDX-License-Identifier: BSD-2-Clause
"""TARGET: C's own notation for an object, read by recursive descent.

``.`` and ``->`` are the same step here: the types decide later whether there is a pointer to follow.
"""

from __future__ import annotations

from ksym.errors import RequestError, Span
from ksym.language.casts import Casts
from ksym.language.request import Address, Cast, Index, Member, Root, Step, Target, TaskRoot, UserSymbol
from ksym.language.tokens import (
    END,
    NUMBER,
    WORD,
    Source,
    in_quotes,
    is_decimal,
    is_digit,
    is_word_char,
    number,
    quote,
)

_ACCESSES = ("rw-", "-w-", "r--", "--x")
_TYPE_WORDS = frozenset(
    (
        "int",
        "char",
        "long",
        "short",
        "unsigned",
        "float",
        "double",
        "bool",
        "struct",
        "static",
        "volatile",
        "extern",
    )
)
_INDEX_LIMIT = 1 << 32
_PID_LIMIT = 1 << 22  # PID_MAX_LIMIT, linux/threads.h
_CPU_LIMIT = 8192  # the largest CONFIG_NR_CPUS of x86, arch/x86/Kconfig


def parse_target(source: Source, start: int, end: int, object_end: int | None = None) -> Target:
    """Reads ``source.text[start:end]`` as TARGET.

    Args:
        source: The request.
        start: First character of TARGET.
        end: End of TARGET.
        object_end: Where the colon after a program or library stands; None for a kernel target.

    Raises:
        RequestError: It is no TARGET.
    """
    return _Parser(source, start, end, object_end).target()


class _Parser(Casts):
    def target(self) -> Target:
        first = self.at
        root = self.root()
        path = self.steps(root, bare=self.tokens[first].is_op("*"))
        length = self.length(root, path) if self.token.is_op("/") else None
        cpu = self.cpu(root) if self.token.is_op("@") else None
        if self.token.kind != END:
            raise self.leftover()
        return Target(root, path, cpu, self.slice(self.start, self.end), length)

    def root(self) -> Root:
        token = self.token
        if self.object_end is not None:
            return self.user_symbol()
        if token.is_op("*"):
            if self.peek(1).kind == END:
                why = "'*' by itself names no variable, only '*:---' in the tracing directory"
                raise self.refuse(why, "write a variable's name", token)
            self.take()
            return self.cast(token)
        if token.is_op("("):
            root, is_pointer = self.group(0)
            if is_pointer and not self.token.is_op(".", "->"):
                end = self.taken_end()
                inner, why = self.slice(token.start, end), "a cast by itself is a pointer, not the object"
                if self.token.is_op("["):
                    why = "a pointer's elements are not counted out"
                    raise self.source.error(why, "cast the element's own address", self.token.start)
                raise self.source.error(why, f"write *{inner} or {inner}->MEMBER", token.start, end)
            return root
        if token.is_op("&"):
            name = self.slice(token.end, self.end)
            raise self.refuse("'&' is not needed, the variable itself is watched", f"write {name}", token)
        if token.kind == NUMBER and self.scope_end() is None:
            return self.address()
        if token.text == "task" and self.peek(1).is_op("("):
            return self.task()
        return self.symbol()

    def task(self) -> TaskRoot:
        start = self.take().start
        self.take()
        token = self.token
        if token.is_op(")"):
            raise self.refuse("task() names no task", "write task(PID) or task(self)", token)
        self.take()
        pid = None
        if token.text != "self":
            if not is_decimal(token.text):
                why = f"{quote(token.text)} is not a task"
                raise self.refuse(why, "write task(PID) with a number, or task(self)", token)
            pid = self.decimal(token.text, _PID_LIMIT)
            if not 0 < pid <= _PID_LIMIT:
                raise self.refuse(f"PIDs are 1 to {_PID_LIMIT}", "write a task's PID", token)
        if not self.token.is_op(")"):
            raise self.refuse("task() takes one PID", "write task(PID) or task(self)", self.token)
        return TaskRoot(pid, Span(start, self.take().end))

    def decimal(self, digits: str, limit: int) -> int:
        """The value of ``digits``, or ``limit + 1`` for those that are longer than the limit's."""
        digits = digits.lstrip("0") or "0"
        return int(digits) if len(digits) <= len(str(limit)) else limit + 1

    # Steps and CPU.

    def steps(self, root: Root, *, bare: bool) -> tuple[Step, ...]:
        path: list[Step] = []
        while self.token.is_op(".", "->", "["):
            if bare and isinstance(root, Cast):
                cast = self.slice(root.span.start, self.token.start)
                rest = self.slice(self.token.end, self.end)
                todo = f"write ({cast})->{rest}"
                if self.token.is_op("["):
                    todo = "write the element's own address"
                raise self.refuse("C takes the member before the '*'", todo, self.token)
            if isinstance(root, Address):
                todo = f"write ((struct NAME *){self.slice(root.span.start, self.token.start)})->MEMBER"
                raise self.refuse("a bare address has no type, so no members", todo, self.token)
            path.append(self.index() if self.token.is_op("[") else self.member())
        return tuple(path)

    def member(self) -> Member:
        dot, token = self.take(), self.token
        if token.kind == NUMBER:
            why = f"{quote(token.text)} is not a member, as a name does not begin with a digit"
            element = f"{self.slice(self.start, dot.start)}[{token.text}]"
            raise self.refuse(why, f"write {element} for an element", token)
        if token.kind != WORD:
            why = f"a member's name is missing after '{dot.text}'"
            raise self.source.error(why, "write one", token.start, token.end)
        return Member(self.take().text, Span(dot.start, token.end))

    def length(self, root: Root, path: tuple[Step, ...]) -> int:
        """Reads ``/LENGTH``: that many bytes of a variable, from its start on."""
        slash, token = self.take(), self.token
        if token.kind != NUMBER:
            before = self.slice(self.start, slash.start)
            raise self.refuse("a length is expected after '/'", f"write {before}/4", token)
        if not path and isinstance(root, (Address, Cast)):
            why = f"{quote(self.slice(self.start, slash.start))} says the length already"
            raise self.refuse(why, f"write {self.slice(self.start, slash.start)}", slash)
        value = number(self.source, self.take())
        if not 0 < value < _INDEX_LIMIT:
            before = self.slice(self.start, slash.start)
            why = "nothing can be watched in 0 bytes" if not value else f"no variable has {value} bytes"
            raise self.refuse(why, f"write {before}/4", token)
        return value

    def index(self) -> Index:
        opening, token = self.take(), self.token
        if token.is_op("-"):
            raise self.refuse("an index cannot be negative", "count from 0", token)
        if token.kind != NUMBER:
            todo = f"write one, as in {self.slice(self.start, opening.start)}[0]"
            raise self.refuse("an index is a number", todo, token)
        value = number(self.source, token)
        if value >= _INDEX_LIMIT:
            raise self.refuse(f"the index {value} is larger than any array", "write a smaller one", token)
        self.take()
        if not self.token.is_op("]"):
            before = self.slice(self.start, opening.start)
            raise self.refuse("an index is one number", f"write {before}[{token.text}]", self.token)
        return Index(value, Span(opening.start, self.take().end))

    def cpu(self, root: Root) -> int:
        at, token = self.take(), self.token
        where, span = "write @cpuN with a CPU's number", (at.start, token.end)
        if isinstance(root, UserSymbol):
            raise self.source.error("programs have no per-CPU variables", "use -C to pick CPUs", *span)
        if token.kind == NUMBER and is_decimal(token.text):
            why = f"{quote('@' + token.text)} lacks the word cpu"
            raise self.source.error(why, f"write @cpu{token.text}", *span)
        word, digits = token.text[:3], token.text[3:]
        if word != "cpu" or not is_decimal(digits):
            why = f"{quote(self.slice(*span))} names no CPU"
            todo = f"write @cpu{digits}" if word.lower() == "cpu" and is_decimal(digits) else where
            raise self.source.error(why, todo, *span)
        value = self.decimal(digits, _CPU_LIMIT)
        if value >= _CPU_LIMIT:
            raise self.source.error(f"no machine has a CPU {digits[:8]}", where, *span)
        self.take()
        if self.token.is_op(".", "->", "["):
            before, after = self.slice(self.start, at.start), self.slice(self.token.start, self.end)
            if "@" not in after:
                where = f"write {before}{after}@{token.text}"
            raise self.source.error("@cpuN stands at the end of TARGET", where, *span)
        return value

    # What cannot follow.

    def leftover(self) -> RequestError:
        token = self.token
        before, rest = self.slice(self.start, token.start), self.slice(token.end, self.end)
        if (access := self.slice(token.start, self.end)) in _ACCESSES:
            return self.refuse("ACCESS follows a ':'", f"write {before}:{access}", token)
        start = 0 if self.object_end is None else self.object_end + 1
        if token.kind == WORD and self.slice(start, token.start) in _TYPE_WORDS and not rest:
            todo = f"write {self.slice(self.start, start)}{token.text}"
            return self.refuse("a variable is named without its type", todo, token)
        if self.object_end is not None and token.is_op("<", "("):
            program = self.slice(self.start, self.object_end + 1)
            name = self.source.text[self.object_end + 1 : self.end].strip()
            if rest == ")" and all(map(is_word_char, name[:-2])):
                why, todo = "a name takes no parentheses", f"write {before}, or {before}:--x for a function"
                return self.refuse(why, todo, token)
            why = f"a name that holds {quote(token.text)} stands in quotes"
            return self.refuse(why, f"write {program}{in_quotes(name)}", token)
        if token.kind == WORD:
            todo = "put conditions after 'if', and one variable in each request"
            return self.refuse(f"the word {quote(token.text)} is not understood here", todo, token)
        if token.kind == NUMBER:
            why = f"{quote(token.text)} is not expected here"
            is_task = before == "task" and is_decimal(token.text)
            todo = f"write task({token.text})" if is_task else f"write {before}[{token.text}] for an element"
        elif token.is_op("::") and self.object_end is None:
            why = "'::' belongs to C++ names of programs"
            todo = f"write ./PROGRAM:{before}::{rest}, or {before}:{rest} for a module's variable"
        elif token.is_op(":"):
            why = f"{quote(rest)} is neither ACCESS nor a module's symbol"
            todo = "end with one of rw-, -w-, r-- or --x"
        elif token.is_op("/"):
            why, todo = "a length is given twice", f"write {before}"
        elif token.is_op("@"):
            why, todo = "@cpuN is given twice", "leave one out"
        elif token.is_op("==", "!=", "<", "<=", ">", ">=", "=") and rest and is_word_char(rest[0]):
            operator = "==" if token.text == "=" else token.text
            why, todo = "a condition follows 'if'", f"write {before} if new {operator} {rest}"
        elif token.is_op("("):
            why, todo = "only task(PID) takes parentheses after a name", "name the variable itself"
        elif token.is_op(","):
            why, todo = "a request names one variable", "write a request for each"
        elif token.is_op("-") and rest and is_word_char(rest[0]) and not is_digit(rest[0]):
            why, todo = "names are not spelled with '-'", f"write {before}_{rest}"
        elif token.is_op("-", "+") and rest and is_digit(rest[0]):
            why, todo = (
                f"{quote(token.text)} does not compute with names",
                f"name a part, as in {before}[N] or .NAME",
            )
            if before[:2].lower() == "0x" and not before[2:].strip("0123456789abcdefABCDEF"):
                digits = rest.partition("/")[0]
                why, todo = (
                    f"{quote(token.text)} does not compute with addresses",
                    "write the resulting address",
                )
                if is_decimal(digits):
                    value = int(before, 16) + (int(digits) if token.text == "+" else -int(digits))
                    todo = f"write {value:#x}{rest[len(digits) :]}"
        else:
            why, todo = f"{quote(token.text)} has no meaning here", f"write {before}"
        return self.refuse(why, todo, token)
