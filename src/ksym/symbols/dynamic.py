# SPDX-License-Identifier: BSD-2-Clause
"""What the dynamic linker reads of an ELF file: libraries that it needs, definitions with versions, relocations.

System V ABI ("Dynamic Linking"), its supplements for x86-64, i386, ARM and AArch64, and LSB ("Symbol Versioning").
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from ksym.linux.memory import Memory
from ksym.symbols.elf import SHF_ALLOC, SHT_DYNAMIC, SHT_NOBITS, SHT_REL, SHT_RELA, ElfFile, Section
from ksym.symbols.symtab import STB_LOCAL, ElfSymbol, SymbolTable

_DT_NULL, _DT_NEEDED, _DT_SONAME, _DT_SYMBOLIC, _DT_FLAGS, _DF_SYMBOLIC = 0, 1, 14, 16, 30, 2
_SHT_VERDEF, _SHT_VERSYM = 0x6FFFFFFD, 0x6FFFFFFF
_VERSYM_HIDDEN, _VER_BASE = 0x8000, 1
_MOST_VERSIONS = 1 << 15
_MOST_COMPARED = 64
STV_DEFAULT = 0


class Kinds(NamedTuple):
    """Numbers of the relocations that matter to variables (elf.h, ``R_*``).

    Args:
        slot: GLOB_DAT, the linker's own table of addresses.
        words: An address in data, plus an addend.
        copy: The program's own copy of a library's variable.
        relative: The address of something in the file itself.
    """

    slot: int
    words: frozenset[int]
    copy: int
    relative: int


_KINDS = {
    3: Kinds(6, frozenset({1}), 5, 8),  # EM_386
    62: Kinds(6, frozenset({1, 10}), 5, 8),  # EM_X86_64; 10 is R_X86_64_32, of x32
    40: Kinds(21, frozenset({2}), 20, 23),  # EM_ARM
    183: Kinds(1025, frozenset({257}), 1024, 1027),  # EM_AARCH64
}


class Reference(NamedTuple):
    """A word that the linker sets to the address of a symbol plus ``addend``; ``address`` is its own, at link time."""

    address: int
    addend: int
    is_slot: bool


@dataclass(frozen=True)
class Definition:
    """A symbol that other objects may be bound to; ``version`` is "" without one, ``hidden`` if not the default one."""

    symbol: ElfSymbol
    version: str
    hidden: bool

    def serves(self, version: str) -> bool:
        """True if a reference of that version may be bound to it (glibc, elf/dl-lookup.c, check_match)."""
        if not version or not self.version:
            return not self.hidden or not self.version
        return self.version == version


class Dynamic:
    """The dynamic linker's view of a file.

    Args:
        elf: The file, open.
    """

    def __init__(self, elf: ElfFile) -> None:
        self._elf = elf
        self.word = elf.bits // 8
        self._kinds = _KINDS.get(elf.machine)

    @cached_property
    def _entries(self) -> tuple[list[tuple[int, int]], Section | None]:
        # Tags and values of .dynamic, and the section of their strings.
        elf, found = self._elf, []
        for section in elf.sections:
            if section.type != SHT_DYNAMIC or section.link >= len(elf.sections):
                continue
            layout = struct.Struct(elf.order + ("qQ" if elf.bits == 64 else "iI"))
            data = elf.content(section)
            for tag, value in layout.iter_unpack(data[: len(data) - len(data) % layout.size]):
                if tag == _DT_NULL:
                    break
                found.append((tag, value))
            return found, elf.sections[section.link]
        return [], None

    def _strings(self, wanted: int) -> list[str]:
        entries, section = self._entries
        table = self._elf.content(section) if section else b""
        return [self._elf.string(table, value) for tag, value in entries if tag == wanted]

    @cached_property
    def soname(self) -> str | None:
        """``DT_SONAME``, the name by which other objects ask for this library."""
        return next(iter(self._strings(_DT_SONAME)), None)

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """``DT_NEEDED``: names of the libraries that it is linked to, in order."""
        return tuple(self._strings(_DT_NEEDED))

    @cached_property
    def symbolic(self) -> bool:
        """It was linked with ``-Bsymbolic``: its code uses its own definitions."""
        return any(
            tag == _DT_SYMBOLIC or (tag == _DT_FLAGS and value & _DF_SYMBOLIC)
            for tag, value in self._entries[0]
        )

    # -- definitions ---------------------------------------------------------------------------------

    @cached_property
    def _table(self) -> SymbolTable | None:
        return next((table for table in self._elf.tables if table.name == ".dynsym"), None)

    def definitions(self, name: str) -> list[Definition]:
        """What other objects may be bound to by this name."""
        found = self._table.find(name.encode("utf-8", "surrogateescape")) if self._table else []
        return [self._definition(symbol) for symbol in found if self._exported(symbol)]

    def definitions_at(self, address: int) -> list[Definition]:
        """The same by link-time address: a variable may have several names."""
        found = self._table.defined_at(address) if self._table else []
        return [self._definition(symbol) for symbol in found if self._exported(symbol)]

    def _exported(self, symbol: ElfSymbol) -> bool:
        return symbol.bind != STB_LOCAL and bool(symbol.value) and not symbol.thread_local

    def interposable(self, symbol: ElfSymbol) -> bool:
        """True if another object's definition may come first; a protected one is always the file's own."""
        return self._table is not None and self._table.visibility(symbol.index) == STV_DEFAULT

    def _definition(self, symbol: ElfSymbol) -> Definition:
        numbers = self._version_numbers
        number = numbers[symbol.index] if symbol.index < len(numbers) else _VER_BASE
        version = self._versions.get(number & ~_VERSYM_HIDDEN, "")
        return Definition(symbol, version, bool(number & _VERSYM_HIDDEN))

    @cached_property
    def _version_numbers(self) -> tuple[int, ...]:
        for section in self._elf.sections:
            if section.type == _SHT_VERSYM:
                data = self._elf.content(section)
                return struct.unpack(f"{self._elf.order}{len(data) // 2}H", data[: len(data) & ~1])
        return ()

    @cached_property
    def _versions(self) -> dict[int, str]:
        """Names of the versions that the file defines, by number; not that of the file itself."""
        elf, found = self._elf, {}
        for section in elf.sections:
            if section.type != _SHT_VERDEF or section.link >= len(elf.sections):
                continue
            data, names, at = elf.content(section), elf.content(elf.sections[section.link]), 0
            for _ in range(_MOST_VERSIONS):
                if at + 20 > len(data):
                    break
                _, flags, number, _, _, first, following = struct.unpack_from(elf.order + "HHHHIII", data, at)
                if not flags & _VER_BASE and at + first + 4 <= len(data):
                    name = struct.unpack_from(elf.order + "I", data, at + first)[0]
                    found[number] = elf.string(names, name)
                if not following:
                    break
                at += following
        return found

    # -- relocations ---------------------------------------------------------------------------------

    def _relocations(self) -> Iterator[tuple[int, int, int, int | None]]:
        """Address, kind, number of the symbol, addend; None where that stands at the address (REL)."""
        elf = self._elf
        wide = elf.bits == 64
        for section in elf.sections:
            if section.type not in (SHT_RELA, SHT_REL) or not section.flags & SHF_ALLOC:
                continue
            with_addend = section.type == SHT_RELA
            layout = struct.Struct(
                elf.order + ("QQ" if wide else "II") + (("q" if wide else "i") if with_addend else "")
            )
            data = elf.content(section)
            shift, mask = (32, 0xFFFFFFFF) if wide else (8, 0xFF)
            for address, info, *addend in layout.iter_unpack(data[: len(data) - len(data) % layout.size]):
                yield address, info & mask, info >> shift, addend[0] if addend else None

    def references(self, indexes: Collection[int]) -> list[Reference]:
        """The words that the linker sets to addresses of these dynamic symbols."""
        kinds = self._kinds
        if kinds is None:
            return []
        return [
            Reference(address, self._original(address) if addend is None else addend, kind == kinds.slot)
            for address, kind, index, addend in self._relocations()
            if index in indexes and (kind == kinds.slot or kind in kinds.words)
        ]

    @cached_property
    def copies(self) -> frozenset[int]:
        """Addresses in an executable that hold the copy of a library's variable (``R_*_COPY``)."""
        kinds = self._kinds
        return frozenset(each[0] for each in self._relocations() if kinds and each[1] == kinds.copy)

    def points_to(self, address: int) -> bool:
        """True if some of the file's data is set to an address in it without asking for a symbol."""
        kinds = self._kinds
        return kinds is not None and any(
            (self._original(at) if addend is None else addend) == address
            for at, kind, _, addend in self._relocations()
            if kind == kinds.relative
        )

    def relocated(self, memory: Memory, bias: int) -> bool:
        """Return True if a process's copy of the file has been relocated.

        The dynamic linker maps all files that are loaded together, then relocates them, then runs their code.

        Args:
            memory: The process's.
            bias: Where the copy lies.

        Raises:
            MemoryFault: the copy is not there.
        """
        return any(
            self._number(memory.read(address + bias, self.word)) != self._original(address)
            for address, *_ in islice(self._relocations(), _MOST_COMPARED)
        )

    def _original(self, address: int) -> int:
        """The word that the file has at a link-time address."""
        section = self._elf.section_at(address)
        if section is None or section.type == SHT_NOBITS:
            return 0
        return self._number(self._elf.bytes_at(section.offset + address - section.addr, self.word, "data"))

    def _number(self, word: bytes) -> int:
        return int.from_bytes(word, "little" if self._elf.little_endian else "big")
