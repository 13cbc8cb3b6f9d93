# SPDX-License-Identifier: BSD-2-Clause
"""DWARF: a type, no knowledge, or an ElfError; nothing of what pyelftools raises comes through."""

from __future__ import annotations

from itertools import islice

from fuzz.contract import Broken
from ksym.symbols import dwarf
from ksym.symbols.elf import ElfError, ElfFile
from ksym.symbols.types import Array, Pointer, Struct, Type, Typedef

LONGEST = 16384
NAMES = ("counter", "first", "bits", "ns::derived", "matrix", "shade")
_DEEP = 4


def run(data: bytes) -> None:
    """Look up variables by their symbols, by name alone, and types by name."""
    try:
        elf = ElfFile("/nowhere/prog", data=data)
        if not dwarf.has_dwarf(elf):
            return
        known = elf.dwarf
    except ElfError as error:
        _told(error)
        return
    for name in NAMES:
        try:
            for symbol in elf.find(name)[:2]:
                _walk(dwarf.variable(elf, symbol.name, symbol.value), 0)
            _walk(dwarf.variable(elf, name), 0)
        except ElfError as error:
            _told(error)
    for name in ("struct node", "enum color", "point_t", "ns::Derived"):
        try:
            _walk(known.type_named(name, attempts=20), 0)
        except ElfError as error:
            _told(error)


def _walk(kind: Type | None, depth: int) -> None:
    if kind is None or depth > _DEEP:
        return
    assert isinstance(kind.name, str)
    try:
        match kind:
            case Typedef():
                _walk(kind.target, depth + 1)
            case Array():
                _walk(kind.element, depth + 1)
            case Pointer():
                _walk(kind.target, depth + 1)
            case Struct():
                for field in islice(kind.fields, 5):
                    _walk(field.type, depth + 1)
    except ElfError as error:
        _told(error)


def _told(error: ElfError) -> None:
    if "\n" in error.line():
        raise Broken("not one line")
