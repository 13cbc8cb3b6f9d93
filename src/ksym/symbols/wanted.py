# SPDX-License-Identifier: BSD-2-Clause
"""The programs and libraries that a run waits for: which processes have them in memory, and where.

A process is looked at while it is held, so a look at one that has none of them must be quick.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Collection, Iterator, Sequence

from ksym.errors import KsymError
from ksym.linux.memory import MemoryFault
from ksym.symbols.elf import ET_EXEC, SHT_DYNAMIC, SHT_RELA, ElfError, ElfFile
from ksym.symbols.loaded import Process
from ksym.symbols.originals import Originals, file_numbers

_DT_NULL, _DT_INIT, _DT_INIT_ARRAY, _DT_PREINIT_ARRAY, _DT_FLAGS_1 = 0, 12, 25, 32, 0x6FFFFFFB
_DF_1_PIE = 0x08000000

Placement = tuple[frozenset[int], ...]
"""For each wanted file, the load biases of its copies in a process; none where it has not got the file."""


class Wanted:
    """The files that a run waits for.

    Args:
        names: As the user wrote them: a path, or a library's file name or soname.
        originals: The files that had these names at first.
    """

    def __init__(self, names: Sequence[str], originals: Originals | None = None) -> None:
        self.names = list(dict.fromkeys(names))
        self._originals = originals or Originals()
        self._tokens = [_tokens(name, self._originals.numbers(name)) for name in self.names]
        self._root = _identity("/proc/self/root/.")

    def __str__(self) -> str:
        return ", ".join(self.names)

    def placement(self, pid: int) -> Placement | None:
        """Return where a process has the files; None if it has none of them.

        None too when the process is gone or may not be looked into.
        """
        if not self._may_have(pid):
            return None
        try:
            with Process(pid, self._originals) as process:
                found = tuple(process.biases(name) for name in self.names)
        except KsymError:
            return None
        return found if any(found) else None

    def in_use(self, pid: int) -> set[str]:
        """Return the names of the files that a process may have used, because they are already relocated."""
        found = set()
        with contextlib.suppress(KsymError), Process(pid, self._originals) as process:
            for name in self.names:
                with contextlib.suppress(KsymError, MemoryFault):
                    if process.relocated(name):
                        found.add(name)
        return found

    def extent(self, pid: int) -> tuple[int, int]:
        """Return the first address of the files in a process, and the one behind their last; (0, 0) without any."""
        try:
            with Process(pid, self._originals) as process:
                mappings = [mapping for name in self.names for mapping in process.mapped(name)]
        except KsymError:
            return 0, 0
        if not mappings:
            return 0, 0
        return min(mapping.start for mapping in mappings), max(mapping.end for mapping in mappings)

    def _may_have(self, pid: int) -> bool:
        """Look for the files' numbers and names in the memory map, where the process has ksym's root directory."""
        try:
            with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
                maps = file.readall()
        except OSError:
            return False
        if any(token in maps for tokens in self._tokens for token in tokens):
            return True
        return _identity(f"/proc/{pid}/root/.") != self._root

    def file_numbers(self) -> set[int]:
        """Return the inode numbers of those files that are there, or were when the run began."""
        paths = [name for name in self.names if "/" in name]
        there = {number for name in paths for number in file_numbers(os.path.realpath(name))}
        return there.union(*map(self._originals.numbers, paths))

    def file_names(self) -> set[str] | None:
        """Return the beginnings of the files' names, with a NUL where a name is whole.

        None where a file may have any name: it is not there yet, or it is in a container.
        """
        found = set()
        for name in self.names:
            base = os.path.basename(name)
            if "/" not in name:
                found |= {base, f"{base.partition('.so')[0]}-"}
            elif os.path.exists(name):
                found |= {base + "\0", os.path.basename(os.path.realpath(name)) + "\0"}
            else:
                return None
        return found

    def may_be_library(self) -> bool:
        """True unless each file is certainly a program, which only exec(2) brings into memory."""
        return not all(_is_program(path) for path in map(os.path.realpath, self.names))

    def entries(self) -> Iterator[tuple[str, int]]:
        """Yield path and file offset of the first instructions of the files' own code, where these can be found."""
        for name in self.names:
            if "/" not in name:
                continue
            for path in self._paths(name):
                with contextlib.suppress(ElfError), ElfFile(path) as elf:
                    yield from ((path, offset) for offset in _entries(elf))

    def _paths(self, name: str) -> list[str]:
        """Return where the file of a path is, and, if that is another one by now, the one that it was at first."""
        now, first = os.path.realpath(name), self._originals.path(name)
        found = [now] if os.path.isfile(now) else []
        if first and _identity(first) not in map(_identity, found):
            found.append(first)
        return found


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _tokens(name: str, numbers: Collection[int]) -> list[bytes]:
    """Return bytes of which a memory map has some if it has the file; see Process.find_object for the rules."""
    base = os.path.basename(name)
    if "/" not in name:
        return [_shown("/" + base), _shown(f"/{base.partition('.so')[0]}-")]
    real = os.path.realpath(name)
    tokens = [
        _shown("/" + each) + end
        for each in {base, os.path.basename(real)}
        for end in (b"\n", b" (deleted)\n")
    ]
    with contextlib.suppress(OSError):  # it may not be built yet
        tokens.append(b" %d " % os.stat(real).st_ino)
    return tokens + [b" %d " % number for number in numbers]


def _shown(text: str) -> bytes:
    return os.fsencode(text).replace(b"\n", b"\\012")  # see linux.maps


def _is_program(path: str) -> bool:
    try:
        with ElfFile(path) as elf:
            return _starts(elf, _dynamic(elf))
    except ElfError:
        return False


def _dynamic(elf: ElfFile) -> dict[int, int]:
    """The dynamic section: tag to value."""
    layout = struct.Struct(elf.order + ("qQ" if elf.bits == 64 else "iI"))
    found: dict[int, int] = {}
    for section in elf.sections:
        if section.type == SHT_DYNAMIC:
            data = elf.content(section)
            for tag, value in layout.iter_unpack(data[: len(data) - len(data) % layout.size]):
                if tag == _DT_NULL:
                    break
                found[tag] = value
    return found


def _entries(elf: ElfFile) -> set[int]:
    """File offsets of a file's first code: where a program starts, the first function that the dynamic linker calls."""
    dynamic = _dynamic(elf)
    addresses = set()
    if _starts(elf, dynamic):
        addresses.add(elf.entry)
        if dynamic.get(_DT_PREINIT_ARRAY):
            addresses.add(_pointer(elf, dynamic[_DT_PREINIT_ARRAY]))
    else:
        first = dynamic.get(_DT_INIT, 0)
        array = dynamic.get(_DT_INIT_ARRAY, 0)
        addresses.add(first or (_pointer(elf, array) if array else 0))
    offsets = (_offset(elf, address, executable=True) for address in addresses if address)
    return {offset for offset in offsets if offset is not None}


def _starts(elf: ElfFile, dynamic: dict[int, int]) -> bool:
    """True for a program, False for a library."""
    return elf.type == ET_EXEC or bool(dynamic.get(_DT_FLAGS_1, 0) & _DF_1_PIE) or not dynamic


def _pointer(elf: ElfFile, address: int) -> int:
    """The function that an element of an array of constructors points to once it is relocated; 0 if unknown."""
    word = struct.Struct(elf.order + ("Q" if elf.bits == 64 else "I"))
    if elf.bits == 64:
        for section in elf.sections:
            if section.type == SHT_RELA and section.size % 24 == 0:
                for at, _, addend in struct.iter_unpack(elf.order + "QQq", elf.content(section)):
                    if at == address:
                        return int(addend)
    offset = _offset(elf, address)
    if offset is None:
        return 0
    return int(word.unpack(elf.bytes_at(offset, word.size, "array of constructors"))[0])


def _offset(elf: ElfFile, address: int, *, executable: bool = False) -> int | None:
    for segment in elf.loads:
        if segment.vaddr <= address < segment.vaddr + segment.filesz and (
            segment.flags & 1 or not executable
        ):
            return address - segment.vaddr + segment.offset
    return None
