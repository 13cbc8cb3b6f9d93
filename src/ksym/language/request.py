# SPDX-License-Identifier: BSD-2-Clause
"""What a user asks for, as data: ``TARGET[:ACCESS][ if CONDITION]``.

Nothing here knows the machine: names are not looked up, types not resolved. Every node carries the
span of the text that it came from, so that later stages can point at it.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ksym.errors import Place, Span
from ksym.language.tokens import in_quotes

if TYPE_CHECKING:
    from ksym.language.condition import Condition


class Mode(enum.Flag):
    """Which accesses are asked for; bit values are those of ``HW_BREAKPOINT_*`` (linux/hw_breakpoint.h)."""

    CLEAR = 0
    READ = 1
    WRITE = 2
    EXECUTE = 4
    READ_WRITE = 3

    def __str__(self) -> str:
        letters = (("r", Mode.READ), ("w", Mode.WRITE), ("x", Mode.EXECUTE))
        return "".join(letter if bit in self else "-" for letter, bit in letters)


@dataclass(frozen=True)
class Member:
    """One ``.name`` or ``->name`` step."""

    name: str
    span: Span = field(compare=False)


@dataclass(frozen=True)
class Index:
    """One ``[number]`` step."""

    number: int
    span: Span = field(compare=False)


Step = Member | Index


@dataclass(frozen=True)
class Symbol:
    """A kernel variable, function or module parameter by name.

    ``scope`` is what stood before the colon: a module, or None.
    """

    scope: str | None
    name: str
    span: Span = field(compare=False)


@dataclass(frozen=True)
class TaskRoot:
    """``task(PID)``; ``pid`` is None for ``task(self)``."""

    pid: int | None
    span: Span = field(compare=False)


@dataclass(frozen=True)
class Address:
    """A number; ``length`` from ``0x.../4``, else None."""

    value: int
    length: int | None
    span: Span = field(compare=False)


@dataclass(frozen=True)
class Cast:
    """``(TYPE *)operand``, dereferenced: the object of type ``type_name`` that lies at ``operand``.

    ``*(u32 *)0xff..`` and ``((struct net *)&init_net)->x`` both become a Cast, with
    ``type_name`` the pointed-to type (``"u32"``, ``"struct net"``, ``"struct page *"``).
    ``*(u32 *)name`` (no ``&``) reads the pointer that is stored in ``name`` first: ``by_value`` is True.
    """

    type_name: str
    operand: Symbol | Address
    by_value: bool
    span: Span = field(compare=False)


@dataclass(frozen=True)
class UserSymbol:
    """A variable of a program or library: ``./prog:counter``, ``libc.so.6:environ``, ``./p:ns::name``."""

    object: str
    name: str
    span: Span = field(compare=False)


def written(program: str, *scopes_and_name: str) -> str:
    """Return the text that names a variable of a program, with quotes where they are needed.

    >>> written("./a:b", "parse.c", "state")
    "'./a:b':parse.c::state"
    >>> written("./a", "main.count"), written("./a", "count.0")
    ("./a:'main.count'", './a:count.0')
    """
    head = program if re.fullmatch(r"[^:'\"\\\s]+", program) else in_quotes(program)
    # After a variable's name, `.x` is a member, and `.0` is not; a scope may be `parse.c`.
    last = len(scopes_and_name) - 1
    plain = [r"[^\W\d][\w$]*(\.[\w$]+)*"] * last + [r"[^\W\d][\w$]*(\.\d[\w$]*)*"]
    parts = [
        part if re.fullmatch(plain[at], part) else in_quotes(part) for at, part in enumerate(scopes_and_name)
    ]
    return f"{head}:{'::'.join(parts)}"


Root = Symbol | TaskRoot | Address | Cast | UserSymbol


@dataclass(frozen=True)
class Target:
    """What to watch: a root, then members and elements; ``cpu`` from ``@cpuN``."""

    root: Root
    path: tuple[Step, ...]
    cpu: int | None
    text: str
    """As the user wrote it, without ACCESS and CONDITION: what the SYMBOL column shows."""
    length: int | None = None
    """Bytes to watch, from ``NAME/LENGTH``; None: as many as the variable has."""


@dataclass(frozen=True)
class Request:
    """One request, whole."""

    target: Target
    mode: Mode
    condition: Condition | None
    text: str = field(compare=False)

    def place(self, span: Span) -> Place:
        """The place of ``span`` for an error message."""
        return Place(self.text, span)

    @property
    def clears_all(self) -> bool:
        """Whether this is the tracing directory's ``*:---``, which clears every watch."""
        return self.mode is Mode.CLEAR and self.target.text == "*"

    def __str__(self) -> str:
        return f"{self.target.text}:{self.mode}" + (f" if {self.condition}" if self.condition else "")
