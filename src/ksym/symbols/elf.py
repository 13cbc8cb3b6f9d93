# SPDX-License-Identifier: BSD-2-Clause
"""ELF files: headers, sections, symbols, build id (elf.h, man 5 elf).

Written to be quick on a kernel's 180,000 symbols, and to trust nothing that a file says about itself: every
offset and size is checked against the file's real length, and what does not fit is an ``ElfError``.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ksym.errors import KsymError
from ksym.linux.regular_file import Bytes, RegularFile

if TYPE_CHECKING:
    from types import TracebackType

    from ksym.symbols.dwarf import Dwarf
    from ksym.symbols.dynamic import Dynamic
    from ksym.symbols.symtab import ElfSymbol, SymbolTable

# elf.h
ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_LOAD, PT_NOTE = 1, 4
PF_X = 1
SHT_SYMTAB, SHT_RELA, SHT_DYNAMIC, SHT_NOTE, SHT_NOBITS, SHT_REL, SHT_DYNSYM = 2, 4, 6, 7, 8, 9, 11
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_TLS, SHF_COMPRESSED = 1, 2, 4, 0x400, 0x800
_SHN_XINDEX = 0xFFFF
_PN_XNUM = 0xFFFF
_NT_GNU_BUILD_ID = 3
_ELFCOMPRESS_ZLIB = 1

# More than any program has; a file of a few bytes can claim as much as it likes, being sparse or compressed.
_LARGEST_INFLATED, _LARGEST_NOTE = 1 << 30, 1 << 16
_MOST_SECTIONS, _MOST_SEGMENTS, _LONGEST_NAME, _LONGEST_SECTION_NAME = 1 << 18, 1 << 16, 1 << 14, 1 << 10


class ElfError(KsymError):
    """The file is not an ELF file, or is damaged."""


@dataclass(frozen=True)
class Segment:
    """A program header."""

    type: int
    flags: int
    offset: int
    vaddr: int
    filesz: int
    memsz: int
    align: int


@dataclass(frozen=True)
class Section:
    """A section header."""

    index: int
    name: str
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    entsize: int


class ElfFile:
    """One ELF file, open for reading; a context manager.

    Args:
        path: The file.
        data: Its bytes, where they do not come from the file (the vDSO, an unpacked image).
        label: What messages call it; by default the path.

    Raises:
        ElfError: it is no ELF file, or cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, data: bytes | None = None, label: str = "") -> None:
        self.path = os.fspath(path)
        self.label = label or self.path
        self._source = _open(self.path, self.label) if data is None else Bytes(data)
        self.length = self._source.length
        try:
            self._read_header()
        except ElfError:
            self.close()
            raise

    def __enter__(self) -> ElfFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; symbols that were read stay usable."""
        self._source.close()
        self.length = 0

    def error(self, why: str) -> ElfError:
        """The error for this file."""
        return ElfError(f"cannot read {self.label}", why)

    # -- bytes ---------------------------------------------------------------------------------------

    def bytes_at(self, offset: int, size: int, what: str) -> bytes:
        """``size`` bytes at a file offset.

        Raises:
            ElfError: they do not lie within the file, or cannot be read.
        """
        if size < 0 or offset < 0 or offset + size > self.length:
            raise self.error(f"it is damaged: its {what} lies outside of the file")
        try:
            data = self._source.read(offset, size)
        except OSError as error:
            raise self.error(f"its {what} cannot be read ({error.strerror})") from error
        if len(data) < size:
            raise self.error("it has become shorter meanwhile")
        return data

    def content(self, section: Section) -> bytes:
        """A section's bytes, unpacked where they are compressed; none for ``.bss`` and its like."""
        if section.type == SHT_NOBITS:
            return b""
        data = self.bytes_at(section.offset, section.size, f"section {section.name}")
        if section.flags & SHF_COMPRESSED:
            return self._inflate(section, data)
        return data

    def _inflate(self, section: Section, data: bytes) -> bytes:
        # Elf64_Chdr: type, reserved, size, alignment; Elf32_Chdr: type, size, alignment.
        layout = struct.Struct(self.order + ("IIQQ" if self.bits == 64 else "III"))
        if len(data) < layout.size:
            raise self.error(f"it is damaged: section {section.name} is too short")
        head = layout.unpack_from(data)
        kind, size = head[0], head[2 if self.bits == 64 else 1]
        if kind != _ELFCOMPRESS_ZLIB:
            raise self.error(
                f"section {section.name} is compressed with method {kind}; only zlib is known here"
            )
        # deflate packs 1 to 1032 at most, so a size beyond that is made up
        if size > min(_LARGEST_INFLATED, 1040 * len(data)):
            raise self.error(f"it is damaged: section {section.name} claims {size} bytes")
        try:
            return zlib.decompressobj().decompress(memoryview(data)[layout.size :], size) if size else b""
        except zlib.error as error:
            raise self.error(f"section {section.name} cannot be unpacked ({error})") from error

    def string(self, table: bytes, offset: int) -> str:
        """The NUL-terminated string at ``offset`` of a string table."""
        end = table.find(b"\0", offset, offset + _LONGEST_NAME)
        if offset < 0 or end < 0:
            raise self.error("it is damaged: a name lies outside of its string table")
        return table[offset:end].decode("utf-8", "surrogateescape")

    # -- headers -------------------------------------------------------------------------------------

    def _read_header(self) -> None:
        ident = self.bytes_at(0, 16, "file header") if self.length >= 16 else b""
        if ident[:4] != b"\x7fELF":
            raise ElfError(
                f"cannot read {self.label}", "it is not an ELF file", "name a program or a shared library"
            )
        if ident[4] not in (1, 2) or ident[5] not in (1, 2):
            raise self.error("it is damaged: its ELF class or byte order does not exist")
        self.bits = 32 * ident[4]
        self.order = "<" if ident[5] == 1 else ">"
        layout = struct.Struct(self.order + ("HHIQQQIHHHHHH" if self.bits == 64 else "HHIIIIIHHHHHH"))
        fields = layout.unpack(self.bytes_at(16, layout.size, "file header"))
        self.type, self.machine, _, self.entry, self._phoff, self._shoff = fields[:6]
        self._phentsize, self._phnum, self._shentsize, self._shnum, self._shstrndx = fields[8:]

    @property
    def little_endian(self) -> bool:
        """Byte order."""
        return self.order == "<"

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """The program headers."""
        layout = struct.Struct(self.order + ("IIQQQQQQ" if self.bits == 64 else "IIIIIIII"))
        count = self._phnum
        if count == _PN_XNUM and self._shoff:
            count = self._raw_section(0)[7]  # sh_info of section 0 holds the real number
        if not count or not self._phoff:
            return ()
        if self._phentsize < layout.size or count > _MOST_SEGMENTS:
            raise self.error("it is damaged: its program headers are too short, or too many")
        table = self.bytes_at(self._phoff, count * self._phentsize, "program header table")
        found = []
        for at in range(0, len(table), self._phentsize):
            if self.bits == 64:
                kind, flags, offset, vaddr, _, filesz, memsz, align = layout.unpack_from(table, at)
            else:
                kind, offset, vaddr, _, filesz, memsz, flags, align = layout.unpack_from(table, at)
            found.append(Segment(kind, flags, offset, vaddr, filesz, memsz, align))
        return tuple(found)

    @cached_property
    def loads(self) -> tuple[Segment, ...]:
        """The ``PT_LOAD`` segments, by address (the ABI asks for that order; the file is not trusted)."""
        return tuple(sorted((s for s in self.segments if s.type == PT_LOAD), key=lambda s: s.vaddr))

    def _raw_section(self, index: int) -> tuple[int, ...]:
        layout = struct.Struct(self.order + ("IIQQQQIIQQ" if self.bits == 64 else "IIIIIIIIII"))
        if self._shentsize < layout.size:
            raise self.error("it is damaged: its section headers are too short")
        data = self.bytes_at(self._shoff + index * self._shentsize, layout.size, "section header table")
        return layout.unpack(data)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The section headers."""
        if not self._shoff:
            return ()
        first = self._raw_section(0)
        # Numbers that do not fit the header are kept in section 0 (man 5 elf, e_shnum and e_shstrndx).
        count = self._shnum or first[5]
        names_index = first[6] if self._shstrndx == _SHN_XINDEX else self._shstrndx
        if self._shoff + count * self._shentsize > self.length or count > _MOST_SECTIONS:
            raise self.error("it is damaged: its section header table lies outside of the file")
        raw = [self._raw_section(index) for index in range(count)]
        names = b""
        if 0 < names_index < count:
            names = self.bytes_at(raw[names_index][4], raw[names_index][5], "table of section names")
        found = []
        for index, (name, kind, flags, addr, offset, size, link, info, _, entsize) in enumerate(raw):
            text = self.string(names[name : name + _LONGEST_SECTION_NAME], 0) if names else ""
            found.append(Section(index, text, kind, flags, addr, offset, size, link, info, entsize))
        return tuple(found)

    @cached_property
    def _by_name(self) -> dict[str, Section]:
        return {section.name: section for section in reversed(self.sections)}

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return self._by_name.get(name)

    def section_at(self, address: int) -> Section | None:
        """The allocated section that holds a link-time address."""
        for section in self.sections:
            if not section.flags & SHF_ALLOC or (section.flags & SHF_TLS and section.type == SHT_NOBITS):
                continue  # .tbss takes no addresses: what follows it has the same
            if section.addr <= address < section.addr + section.size:
                return section
        return None

    # -- identity ------------------------------------------------------------------------------------

    @cached_property
    def build_id(self) -> str | None:
        """The build id as hexadecimal digits, from the note ``GNU``, type 3."""
        if self.sections:
            small = [s for s in self.sections if s.type == SHT_NOTE and s.size <= _LARGEST_NOTE]
            notes = (self.content(s) for s in small if not s.flags & SHF_COMPRESSED)
        else:
            places = [s for s in self.segments if s.type == PT_NOTE and s.filesz <= _LARGEST_NOTE]
            notes = (self.bytes_at(s.offset, s.filesz, "notes") for s in places)
        for data in notes:
            for name, kind, payload in _notes(data, self.order):
                if name == b"GNU\0" and kind == _NT_GNU_BUILD_ID and payload:
                    return payload.hex()
        return None

    @cached_property
    def debuglink(self) -> tuple[str, int] | None:
        """Name and CRC-32 of the separate debug file, from ``.gnu_debuglink``."""
        section = self.section(".gnu_debuglink")
        if section is None:
            return None
        data = self.content(section)
        name = data.split(b"\0", 1)[0]
        at = (len(name) + 4) & ~3
        if not name or at + 4 > len(data):
            return None
        return os.fsdecode(name), int(struct.unpack_from(self.order + "I", data, at)[0])

    @cached_property
    def dynamic(self) -> Dynamic:
        """What the dynamic linker reads of the file."""
        from ksym.symbols.dynamic import Dynamic

        return Dynamic(self)

    @property
    def soname(self) -> str | None:
        """``DT_SONAME``, the name by which other objects ask for this library."""
        return self.dynamic.soname

    @cached_property
    def dwarf(self) -> Dwarf:
        """The file's DWARF; types that come from it need this file to stay open.

        Raises:
            NotAvailable: pyelftools is missing.
        """
        from ksym.symbols.dwarf import Dwarf

        return Dwarf(self)

    # -- symbols -------------------------------------------------------------------------------------

    @cached_property
    def tables(self) -> tuple[SymbolTable, ...]:
        """``.symtab`` and ``.dynsym``, those that there are."""
        from ksym.symbols.symtab import SymbolTable

        # One of each (System V ABI). A separate debug file keeps the headers of what was left out, as SHT_NOBITS.
        kinds = {s.type: s for s in reversed(self.sections)}
        return tuple(SymbolTable(self, kinds[kind]) for kind in (SHT_SYMTAB, SHT_DYNSYM) if kind in kinds)

    @property
    def has_symtab(self) -> bool:
        """False for a stripped file, which knows no more than its dynamic symbols."""
        return any(table.name == ".symtab" and table.count > 1 for table in self.tables)

    def find(self, name: str) -> list[ElfSymbol]:
        """All definitions of a name: C, C++ (``ns::counter``), a static in a function (``counter.0``)."""
        from ksym.symbols.symtab import find

        return find(self.tables, name)

    def symbol_at(self, address: int) -> tuple[ElfSymbol, int] | None:
        """The function that holds a link-time address, and the offset into it."""
        for table in self.tables:
            hit = table.function_at(address)
            if hit is not None:
                return hit
        return None

    def holder_at(self, address: int) -> tuple[ElfSymbol, int] | None:
        """The function or variable that holds a link-time address, and the offset into it."""
        for table in self.tables:
            hit = table.holder_at(address)
            if hit is not None:
                return hit
        return None

    def names(self) -> Iterator[str]:
        """Names of all variables that are defined here, for suggestions; C++ names as they are written."""
        for table in self.tables:
            yield from table.variable_names()


def _open(path: str, label: str) -> RegularFile | Bytes:
    try:
        return RegularFile(path)
    except OSError as error:
        raise ElfError(f"cannot open {label}", error.strerror or str(error)) from error


def _notes(data: bytes, order: str) -> Iterator[tuple[bytes, int, bytes]]:
    # Name and payload are padded to 4 bytes, also in the 64-bit files of GNU tools.
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = struct.unpack_from(order + "III", data, at)
        start = at + 12 + ((name_size + 3) & ~3)
        yield data[at + 12 : at + 12 + name_size], kind, data[start : start + size]
        at = start + ((size + 3) & ~3)
