# SPDX-License-Identifier: BSD-2-Clause
"""One section of an ELF file as a stream: for pyelftools to read, and to be searched for bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ksym.symbols.elf import SHF_COMPRESSED, ElfFile, Section

_WINDOW = 4 << 20
"""Bytes searched at a time: the search runs on a copy, mmap's own is several times slower."""


class SectionStream:
    """A section as the seekable stream that pyelftools reads from, with a search."""

    def __init__(self, elf: ElfFile, section: Section) -> None:
        self._elf = elf
        self._data: bytes | None = None
        self._base = section.offset
        self.size = section.size
        self._name = section.name
        if section.flags & SHF_COMPRESSED:
            self._data = elf.content(section)
            self.size = len(self._data)
        elif section.offset + section.size > elf.length:
            raise elf.error(f"it is damaged: section {section.name} lies outside of the file")
        self._at = 0

    def slice(self, start: int, end: int) -> bytes:
        """Bytes ``[start, end)``, cut at the section's end."""
        end = min(end, self.size)
        if start >= end:
            return b""
        if self._data is not None:
            return self._data[start:end]
        return self._elf.bytes_at(self._base + start, end - start, f"section {self._name}")

    def read(self, count: int = -1) -> bytes:
        """As of a file."""
        data = self.slice(self._at, self.size if count < 0 else self._at + count)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """As of a file."""
        return self._at

    def find_all(self, needle: bytes, start: int = 0, end: int | None = None) -> Iterator[int]:
        """Every place of ``needle``, in order."""
        end = self.size if end is None else min(end, self.size)
        for window in range(start, end, _WINDOW):
            data = self.slice(window, min(window + _WINDOW + len(needle) - 1, end))
            at = data.find(needle)
            while at >= 0:
                yield window + at
                at = data.find(needle, at + 1)
