# SPDX-License-Identifier: BSD-2-Clause
"""An ELF file without its DWARF: symbols, or an ElfError."""

from __future__ import annotations

from itertools import islice

from fuzz.contract import Broken
from ksym.symbols.debugfile import find_debug_file
from ksym.symbols.elf import ElfError, ElfFile
from ksym.symbols.symtab import SymbolTable

LONGEST = 16384
_SOME = 4


def run(data: bytes) -> None:
    """Ask all that can be asked."""
    try:
        elf = ElfFile("/nowhere/prog", data=data)
    except ElfError as error:
        _told(error)
        return
    for attribute in (
        "segments",
        "loads",
        "sections",
        "build_id",
        "debuglink",
        "soname",
        "has_symtab",
    ):
        try:
            getattr(elf, attribute)
        except ElfError as error:
            _told(error)
    for attribute in ("soname", "needed", "symbolic", "copies"):
        try:
            getattr(elf.dynamic, attribute)
        except ElfError as error:
            _told(error)
    try:
        _symbols(elf)
    except ElfError as error:
        _told(error)
    try:
        debug = find_debug_file(elf)
        if debug is not None:
            debug.close()
    except ElfError as error:
        _told(error)


def _symbols(elf: ElfFile) -> None:
    for name in [*islice(elf.names(), _SOME), "counter", "ns::counter", "a.0"]:
        for symbol in elf.find(name)[:_SOME]:
            assert symbol.readable_name is not None
    for table in elf.tables:
        try:
            _table(elf, table)
        except ElfError as error:
            _told(error)


def _table(elf: ElfFile, table: SymbolTable) -> None:
    list(islice(table.function_names(), _SOME))
    for index in range(min(table.count, 8)):
        symbol = table.symbol(index)
        table.extent(symbol)
        table.source_file(symbol)
        for address in (symbol.value, symbol.value + 3):
            elf.symbol_at(address)
            elf.holder_at(address)


def _told(error: ElfError) -> None:
    if "\n" in error.line():
        raise Broken("not one line")
