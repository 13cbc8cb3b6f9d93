# SPDX-License-Identifier: BSD-2-Clause
"""Scopes of a program's static variables: the source file, namespaces, classes and function around each.

C has one name for many static variables, and so has the symbol table. A user tells them apart as in gdb:
``parse.c::state``, ``parse::calls``, or ``parse.c::parse::calls``. The scopes come from DWARF; without it the file
comes from the symbol table (``STT_FILE``), and the function from a mangled C++ name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ksym.errors import KsymError
from ksym.language.request import written
from ksym.symbols import dwarf
from ksym.symbols.loaded import LoadedObject
from ksym.symbols.symtab import ElfSymbol, SymbolTable, find, find_statics


def split_name(name: str) -> list[str]:
    """Split a name at each ``::`` that stands outside brackets.

    >>> split_name("parse.c::Box<a::b>::count")
    ['parse.c', 'Box<a::b>', 'count']
    """
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"::|[<>(){}]", name):
        if match.group() == "::":
            if not depth:
                parts.append(name[start : match.start()])
                start = match.end()
        else:
            depth = max(0, depth + (1 if match.group() in "<({" else -1))
    return [part for part in (*parts, name[start:]) if part]


def find_in_scope(loaded: LoadedObject, name: str) -> list[ElfSymbol]:
    """Return the definitions whose name ends ``name``, and in whose scopes all that stands before it is found."""
    *wanted, last = split_name(name) or [""]
    if not wanted:
        return []
    tables = loaded.tables
    return [s for s in find_statics(tables, last) if _lies_in(scopes_of(loaded, s), wanted)]


def scopes_of(loaded: LoadedObject, symbol: ElfSymbol) -> list[str]:
    """Return the scopes around a variable, the outermost (its source file) first; empty where nothing is known."""
    for elf in (loaded.elf, loaded.debug):
        if elf is None or not dwarf.has_dwarf(elf):
            continue
        try:
            if found := elf.dwarf.scopes(symbol.name, symbol.value):
                return found
        except KsymError:  # pyelftools is missing, or the DWARF is damaged
            break
    files = (table.source_file(symbol) for table in loaded.tables)
    file = next((file for file in files if file), None)
    return ([file] if file else []) + split_name(symbol.readable_name)[:-1]


def spellings(loaded: LoadedObject, symbols: Sequence[ElfSymbol], name: str) -> list[str]:
    """Return how each of several variables called ``name`` can be named alone; empty if one of them cannot be."""
    last = (split_name(name) or [name])[-1]
    scopes = [scopes_of(loaded, symbol) for symbol in symbols]
    for choose in (_innermost, _file, _file_and_innermost, _path):
        names = [[*choose(each), last] for each in scopes]
        found = [find_in_scope(loaded, "::".join(each)) for each in names]
        if all(len({s.value for s in each}) == 1 for each in found):
            return sorted(written(loaded.label, *each) for each in names)
    names_of = [symbol.name for symbol in symbols]
    if all(len({s.value for s in _exact(loaded.tables, each)}) == 1 for each in names_of):
        return sorted(written(loaded.label, each) for each in names_of)
    return []


def _exact(tables: Sequence[SymbolTable], name: str) -> list[ElfSymbol]:
    return [symbol for symbol in find(tables, name) if symbol.name == name]


def _innermost(scopes: list[str]) -> list[str]:
    return scopes[-1:] if len(scopes) > 1 else [_base(scope) for scope in scopes]


def _file(scopes: list[str]) -> list[str]:
    return [_base(scope) for scope in scopes[:1]]


def _file_and_innermost(scopes: list[str]) -> list[str]:
    return _file(scopes) + scopes[1:][-1:]


def _path(scopes: list[str]) -> list[str]:
    return scopes


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _lies_in(scopes: list[str], wanted: list[str]) -> bool:
    """Return True if each of ``wanted`` is one of the scopes, in their order; a file may be named by its last parts."""
    left = iter(scopes)
    return all(any(scope == each or scope.endswith("/" + each) for scope in left) for each in wanted)
