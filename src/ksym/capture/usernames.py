# SPDX-License-Identifier: BSD-2-Clause
"""Names for instruction addresses of user programs: function, offset and object.

The kernel hands out bare addresses, and the process may be gone when they are named: ``snapshot`` keeps its
memory map and opens its files while it lives.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ksym.errors import KsymError
from ksym.linux.maps import Mapping, read_maps
from ksym.symbols.debugfile import find_debug_file
from ksym.symbols.elf import ElfError, ElfFile
from ksym.symbols.loaded import load_bias, readable_path
from ksym.symbols.readable import readable

VDSO = "[vdso]"
_MOST_UNKNOWN = 4096
_EM_386, _EM_ARM = 3, 40


class UserName(NamedTuple):
    """``function+offset`` of ``object``.

    Without a symbol (``in_file``), ``function`` is the object's name too and ``offset`` the one in its file. ``size``
    is the function's, 0 if unknown.
    """

    function: str
    offset: int
    object: str
    size: int = 0
    in_file: bool = False

    def __str__(self) -> str:
        return f"{self.function}+{self.offset:#x}"


class Loaded(NamedTuple):
    """A program or library in memory, from ``start`` to ``end``: link-time address + ``bias`` = run-time address.

    ``files`` has it behind its debug file; ``name`` is a library's, None for the program itself.
    """

    start: int
    end: int
    bias: int
    files: Sequence[ElfFile]
    name: str | None


def loaded_at(files: Sequence[ElfFile], bias: int | None, name: str | None) -> Loaded | None:
    """A file as it lies in memory; None where that is not known."""
    try:
        loads = files[-1].loads if files and bias is not None else ()
    except ElfError:
        return None
    if not loads or bias is None:
        return None
    return Loaded(loads[0].vaddr + bias, max(s.vaddr + s.memsz for s in loads) + bias, bias, files, name)


class ObjectCache:
    """ELF files by identity, shared by all processes that have them mapped."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int, str], list[ElfFile]] = {}
        self._names: dict[tuple[tuple[int, int, str], int], tuple[str, int, int] | None] = {}

    def open(self, pid: int, mapping: Mapping) -> list[ElfFile]:
        """The file of a mapping, behind its debug file where it is stripped; empty if it cannot be read."""
        key = mapping.file_key
        if key not in self._files:
            self._files[key] = self._load(pid, mapping)
        return self._files[key]

    def _load(self, pid: int, mapping: Mapping) -> list[ElfFile]:
        try:
            if mapping.path == VDSO:
                with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                    image = os.pread(memory.fileno(), mapping.end - mapping.start, mapping.start)
                return [ElfFile(VDSO, data=image)]
            path = readable_path(pid, mapping)
            if path is None:
                return []
            elf = ElfFile(path, label=mapping.path)
            extra = None if elf.has_symtab else find_debug_file(elf, root=f"/proc/{pid}/root")
            return [elf] if extra is None else [extra, elf]
        except (ElfError, OSError, ValueError, OverflowError):
            return []

    def function(self, key: tuple[int, int, str], address: int) -> tuple[str, int, int] | None:
        """Function, offset and the function's size of a link-time address in an opened file."""
        place = key, address
        if place not in self._names:
            self._names[place] = self._search(self._files.get(key, []), address)
        return self._names[place]

    def _search(self, files: list[ElfFile], address: int) -> tuple[str, int, int] | None:
        for elf in files:
            try:
                hit = elf.symbol_at(address)
            except ElfError:
                continue
            if hit is not None:
                symbol, offset = hit
                return symbol.function_name, offset, symbol.size
        return None

    def build_ids(self) -> dict[str, str | None]:
        """Build id of each file, by path."""
        return {key[2]: files[-1].build_id for key, files in self._files.items() if files}

    def close(self) -> None:
        """Close all files; names that were found stay known."""
        for files in self._files.values():
            for elf in files:
                elf.close()
        self._files.clear()


class UserNames:
    """Names the instruction addresses of one process.

    Args:
        pid: The process (thread group).
        cache: Shared by the ``UserNames`` of several processes.
        mappings: All that is in its memory, where that is known; left out: what /proc/PID/maps shows when it is needed.
    """

    def __init__(
        self, pid: int, cache: ObjectCache | None = None, mappings: Sequence[Mapping] | None = None
    ) -> None:
        self.pid = pid
        self._cache = cache or ObjectCache()
        self._mappings: Sequence[Mapping] = mappings or ()
        self._program = ""
        self._starts = [mapping.start for mapping in self._mappings]
        self._biases: dict[tuple[int, int, str], int | None] = {}
        self._unknown: set[int] = set()
        self._frozen = mappings is not None

    def freeze(self) -> None:
        """Do not read the memory map again; later changes come from records."""
        self._frozen = True

    def snapshot(self) -> bool:
        """Read the memory map and open the files in it.

        To be called early, and again when the process has started another program. False, keeping what
        was known, where the process is gone.
        """
        if self._frozen:
            return False
        try:
            mappings = read_maps(self.pid)
        except KsymError:
            return False
        if not mappings:  # a process that is about to be reaped has an empty map
            return False
        self._program = _program_of(self.pid) or self._program
        self._mappings = mappings
        self._starts = [mapping.start for mapping in mappings]
        self._biases.clear()
        self._unknown.clear()
        for mapping in mappings:
            if mapping.executable and (mapping.is_file or mapping.path == VDSO):
                self._cache.open(self.pid, mapping)
        return True

    def name(self, ip: int) -> UserName | None:
        """The function that holds ``ip``, or the object with the file offset; None for memory of no file."""
        mapping = self._mapping(ip)
        if mapping is None or not (mapping.is_file or mapping.path == VDSO):
            return None
        basename = readable(mapping.basename)
        bias = self._bias(mapping)
        hit = None if bias is None else self._cache.function(mapping.file_key, ip - bias)
        if hit is None:
            return UserName(basename, ip - mapping.start + mapping.offset, basename, in_file=True)
        return UserName(hit[0], hit[1], basename, hit[2])

    def bits(self, ip: int) -> int | None:
        """Return 32 or 64 by the file mapped at ``ip``, or by the program in memory of no file; None if unknown."""
        mapping = self._mapping(ip)
        files = (
            self._cache.open(self.pid, mapping)
            if mapping and (mapping.is_file or mapping.path == VDSO)
            else []
        )
        program = next((each for each in self._mappings if each.path == self._program), None)
        if not files and program:
            files = self._cache.open(self.pid, program)
        return code_bits(files[-1]) if files else None

    @property
    def mappings(self) -> Sequence[Mapping]:
        """The memory map as of the last snapshot; another object after each."""
        return self._mappings

    def library(self, path: str) -> str | None:
        """What to call a file that the process has mapped; None if it is its program."""
        return None if path == self._program else path.rpartition("/")[2].strip("[]")

    @property
    def code(self) -> Collection[Mapping]:
        """The executable mappings of the program and of its libraries, as of the last snapshot."""
        return {
            mapping.file_key: mapping
            for mapping in self._mappings
            if mapping.executable and (mapping.is_file or mapping.path == VDSO)
        }.values()

    def loaded(self, mapping: Mapping) -> Loaded | None:
        """Return the program or library that a mapping belongs to."""
        files = self._cache.open(self.pid, mapping)
        return loaded_at(files, self._bias(mapping), self.library(mapping.path))

    def read(self, address: int, length: int) -> bytes:
        """Code bytes from the file that was mapped at ``address``, as of the last snapshot; none if there was none."""
        mapping = self._look(address)
        files = self._cache.open(self.pid, mapping) if mapping else []
        if mapping is None or not files:
            return b""
        try:
            length = min(length, mapping.end - address)
            return files[-1].bytes_at(address - mapping.start + mapping.offset, length, "code")
        except ElfError:
            return b""

    def _mapping(self, ip: int) -> Mapping | None:
        found = self._look(ip)
        page = ip >> 12
        # A library that was loaded since; code made at run time must not cost a reading of maps at each hit.
        if found is None and page not in self._unknown and self.snapshot():
            found = self._look(ip)
        if found is None and len(self._unknown) < _MOST_UNKNOWN:
            self._unknown.add(page)
        return found

    def _look(self, ip: int) -> Mapping | None:
        at = bisect_right(self._starts, ip) - 1
        return self._mappings[at] if at >= 0 and ip in self._mappings[at] else None

    def _bias(self, mapping: Mapping) -> int | None:
        key = mapping.file_key
        if key not in self._biases:
            files = self._cache.open(self.pid, mapping)
            same = [each for each in self._mappings if each.file_key == key]
            try:
                # the last one is the file itself: its program headers are those that were loaded
                self._biases[key] = load_bias(files[-1], same) if files else None
            except ElfError:
                self._biases[key] = None
        return self._biases[key]


def code_bits(elf: ElfFile) -> int:
    """Return 32 or 64: what the code in a file is made for; that of x32 has 64 in an ELF file of 32."""
    return 32 if elf.machine in (_EM_386, _EM_ARM) else 64


def _program_of(pid: int) -> str:
    """The program that a process runs, as its memory map shows it; "" if that cannot be told."""
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return ""
