# SPDX-License-Identifier: BSD-2-Clause
"""Writes small ELF files: parsers are tested without a compiler, and with files that none would make."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field


@dataclass
class Sym:
    """A symbol; ``section`` is an index into the written sections (0: undefined)."""

    name: str
    value: int
    size: int = 4
    type: int = 1
    bind: int = 1
    section: int = 1


@dataclass
class Sec:
    """A section with its bytes; ``size`` for one that has none in the file."""

    name: str
    type: int
    data: bytes = b""
    flags: int = 0
    addr: int = 0
    link: int = 0
    entsize: int = 0
    size: int | None = None


@dataclass
class Image:
    """An ELF file. The sections ``.text`` (1), ``.data`` (2) and ``.tdata`` (3) always are there."""

    bits: int = 64
    order: str = "<"
    type: int = 3
    machine: int = 62
    symbols: list[Sym] = field(default_factory=list)
    dynamic_symbols: list[Sym] = field(default_factory=list)
    sections: list[Sec] = field(default_factory=list)
    loads: list[tuple[int, int, int, int]] = field(default_factory=list)
    """``(offset, vaddr, filesz, memsz)``."""
    build_id: bytes = b""

    def write(self) -> bytes:
        """The file's bytes."""
        sections = [
            Sec("", 0),
            Sec(".text", 1, b"\x90" * 0x100, 6, 0x1000),
            Sec(".data", 1, bytes(0x100), 3, 0x2000),
            Sec(".tdata", 1, bytes(16), 0x403, 0x3000),
        ]
        for name, kind, symbols in ((".symtab", 2, self.symbols), (".dynsym", 11, self.dynamic_symbols)):
            if symbols:
                table, strings = self._symbols(symbols)
                size = 24 if self.bits == 64 else 16
                sections.append(Sec(name, kind, table, link=len(sections) + 1, entsize=size))
                sections.append(Sec(".strtab" if kind == 2 else ".dynstr", 3, strings))
        if self.build_id:
            note = struct.pack(self.order + "III", 4, len(self.build_id), 3) + b"GNU\0" + self.build_id
            sections.append(Sec(".note.gnu.build-id", 7, note, 2))
        sections += self.sections
        names = bytearray(b"\0")
        sections.append(Sec(".shstrtab", 3))
        places = []
        for section in sections:
            places.append(len(names))
            names += section.name.encode() + b"\0"
        places[0] = 0
        sections[-1].data = bytes(names)
        return self._layout(sections, places)

    def _symbols(self, symbols: list[Sym]) -> tuple[bytes, bytes]:
        strings, table = bytearray(b"\0"), bytearray(24 if self.bits == 64 else 16)
        for symbol in symbols:
            info = symbol.bind << 4 | symbol.type
            at = len(strings)
            strings += symbol.name.encode() + b"\0"
            if self.bits == 64:
                table += struct.pack(
                    self.order + "IBBHQQ", at, info, 0, symbol.section, symbol.value, symbol.size
                )
            else:
                table += struct.pack(
                    self.order + "IIIBBH", at, symbol.value, symbol.size, info, 0, symbol.section
                )
        return bytes(table), bytes(strings)

    def _layout(self, sections: list[Sec], names: list[int]) -> bytes:
        wide = self.bits == 64
        head, program, entry = (64, 56, 64) if wide else (52, 32, 40)
        body, offsets = bytearray(), []
        start = head + program * len(self.loads)
        for section in sections:
            body += bytes(-(start + len(body)) % 8)
            offsets.append(start + len(body))
            body += section.data
        table_at = start + len(body)
        out = bytearray(b"\x7fELF" + bytes((self.bits // 32, 1 if self.order == "<" else 2, 1)) + bytes(9))
        fields = (self.type, self.machine, 1, 0x1000, head if self.loads else 0, table_at, 0, head, program)
        counts = (len(self.loads), entry, len(sections), len(sections) - 1)
        out += struct.pack(self.order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"), *fields, *counts)
        for offset, vaddr, filesz, memsz in self.loads:
            if wide:
                out += struct.pack(self.order + "IIQQQQQQ", 1, 6, offset, vaddr, vaddr, filesz, memsz, 0x1000)
            else:
                out += struct.pack(self.order + "IIIIIIII", 1, offset, vaddr, vaddr, filesz, memsz, 6, 0x1000)
        out += body
        for section, name, offset in zip(sections, names, offsets, strict=True):
            size = len(section.data) if section.size is None else section.size
            values = (section.flags, section.addr, offset, size)
            out += struct.pack(
                self.order + ("IIQQQQIIQQ" if wide else "IIIIIIIIII"),
                name,
                section.type,
                *values,
                section.link,
                0,
                1,
                section.entsize,
            )
        return bytes(out)
