# SPDX-License-Identifier: BSD-2-Clause
"""C types, whatever described them (BTF or DWARF).

Pointers and structs resolve what they refer to only when asked, so that ``task_struct`` costs nothing
until somebody looks inside. ``const``, ``volatile`` and the like are dropped by the makers of types.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property


class Encoding(enum.Enum):
    """How an integer's bytes are meant."""

    INTEGER = "int"
    CHAR = "char"
    BOOL = "bool"


@dataclass(frozen=True)
class Type:
    """A C type; ``name`` is its C spelling (``unsigned int``, ``struct net``), ``size`` its bytes (0: incomplete)."""

    name: str
    size: int


@dataclass(frozen=True)
class Integer(Type):
    """Integers, characters and booleans."""

    signed: bool
    encoding: Encoding = Encoding.INTEGER


@dataclass(frozen=True)
class Float(Type):
    """Binary floating point."""


@dataclass(frozen=True)
class Enum(Type):
    """An enumeration with its constants."""

    signed: bool
    enumerators: tuple[tuple[str, int], ...] = field(repr=False)


@dataclass(frozen=True)
class Function(Type):
    """A function's type; its size is 0."""


@dataclass(frozen=True)
class Pointer(Type):
    """A pointer; ``name`` is spelled ``struct task_struct *``."""

    _target: Callable[[], Type] = field(compare=False, repr=False)

    @cached_property
    def target(self) -> Type:
        """What it points to."""
        return self._target()


@dataclass(frozen=True)
class Array(Type):
    """``count`` elements in a row; a flexible array member has ``count`` 0."""

    element: Type
    count: int


@dataclass(frozen=True)
class Field:
    """A member of a struct or union.

    ``offset`` is in bytes from the object's start. For a bit field, ``bits`` is (first bit, width) counted
    from the least significant bit of the ``type.size`` bytes at ``offset``. An anonymous member has name "".
    """

    name: str
    type: Type
    offset: int
    bits: tuple[int, int] | None = None


@dataclass(frozen=True)
class Struct(Type):
    """A struct or union (C++ class included)."""

    union: bool
    _fields: Callable[[], tuple[Field, ...]] = field(compare=False, repr=False)

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The members in declaration order."""
        return self._fields()


@dataclass(frozen=True)
class Typedef(Type):
    """Another name for a type."""

    target: Type


def resolve(kind: Type) -> Type:
    """The type behind any typedefs."""
    while isinstance(kind, Typedef):
        kind = kind.target
    return kind


def describe(kind: Type) -> str:
    """A type in a few words for display: ``pid_t (int)``, ``struct net, 4352 bytes``.

    >>> from ksym.symbols.ctext import parse_type
    >>> describe(parse_type("u32"))
    'u32 (unsigned int)'
    """
    if isinstance(kind, Typedef):
        return f"{kind.name} ({resolve(kind).name})"
    if isinstance(kind, Struct):
        return f"{kind.name}, {kind.size} bytes" if kind.size else f"{kind.name}, incomplete"
    if isinstance(kind, Enum):
        return f"{kind.name}, {len(kind.enumerators)} constants"
    return kind.name
