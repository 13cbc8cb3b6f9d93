# SPDX-License-Identifier: BSD-2-Clause
"""Symbol tables of ELF files, searched without decoding them.

A name is looked up by searching its bytes in the string table and then the records that point there; a
kernel's 180,000 symbols are never turned into objects. Only the table of functions, which an address is
looked up in, passes over all of them, once.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from ksym.symbols import demangle

if TYPE_CHECKING:
    from ksym.symbols.elf import ElfFile, Section

# elf.h
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE, STT_COMMON, STT_TLS, STT_GNU_IFUNC = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    10,
)
STB_LOCAL, STB_GLOBAL, STB_WEAK = 0, 1, 2
_SHN_LORESERVE, _SHN_ABS = 0xFF00, 0xFFF1
_SHF_EXECINSTR = 4
_MOST_SYMBOLS = 1 << 22
"""Each takes some 200 bytes here; what a file claims to have costs it next to nothing, being sparse or compressed."""
_MANY_PLACES = 8
"""From so many places in the string table on, one pass over all records is cheaper than a search for each."""


@dataclass(frozen=True)
class ElfSymbol:
    """A symbol as the file has it: ``value`` is the link-time address (an offset for a thread-local one)."""

    name: str
    value: int
    size: int
    type: int
    bind: int
    section: str | None
    table: str
    """``.symtab`` or ``.dynsym``."""
    index: int

    @property
    def is_function(self) -> bool:
        """Code, not data."""
        return self.type in (STT_FUNC, STT_GNU_IFUNC)

    @property
    def thread_local(self) -> bool:
        """Each thread has its own copy; ``value`` is no address."""
        return self.type == STT_TLS

    @property
    def readable_name(self) -> str:
        """The name as its source has it: demangled, without a version or ``.0`` behind a static of a function."""
        name = self.name.partition("@")[0] or self.name
        return demangle.demangle(name) or re.sub(r"\.\d+$", "", name)

    @property
    def function_name(self) -> str:
        """The name as a row shows it: demangled, without a symbol version (``@@GLIBC_2.34``)."""
        name = self.name.partition("@")[0] or self.name
        return demangle.demangle(name) or name


class SymbolTable:
    """``.symtab`` or ``.dynsym`` of a file."""

    def __init__(self, elf: ElfFile, section: Section) -> None:
        self._elf = elf
        self.name = section.name
        self._sections = elf.sections
        self._layout = struct.Struct(elf.order + ("IBBHQQ" if elf.bits == 64 else "IIIBBH"))
        self._wide = elf.bits == 64
        self._shndx = struct.Struct(elf.order + ("6xH" if self._wide else "14xH"))
        data = elf.content(section)
        self.count = len(data) // self._layout.size
        if self.count > _MOST_SYMBOLS:
            raise elf.error(f"its {self.name} has {self.count} symbols, more than any program has")
        self._data = data[: self.count * self._layout.size]
        self._strings_index = section.link

    @cached_property
    def _strings(self) -> bytes:
        if not self.count:
            return b""
        if self._strings_index >= len(self._sections):
            raise self._elf.error(f"it is damaged: {self.name} has no string table")
        return self._elf.content(self._sections[self._strings_index])

    def _records(self) -> Iterator[tuple[int, int, int, int, int]]:
        # (name, info, section index, value, size) of each symbol
        if self._wide:
            return ((n, i, x, v, s) for n, i, _, x, v, s in self._layout.iter_unpack(self._data))
        return ((n, i, x, v, s) for n, v, s, i, _, x in self._layout.iter_unpack(self._data))

    def symbol(self, index: int) -> ElfSymbol:
        """The symbol of that number.

        Raises:
            ElfError: its name lies outside of the string table.
        """
        raw = self._layout.unpack_from(self._data, index * self._layout.size)
        name, info, shndx, value, size = (
            (raw[0], raw[1], *raw[3:]) if self._wide else (raw[0], raw[3], raw[5], *raw[1:3])
        )
        section = None
        if shndx < min(_SHN_LORESERVE, len(self._sections)):
            section = self._sections[shndx].name
        elif shndx >= _SHN_LORESERVE and (holder := self._elf.section_at(value)):
            section = holder.name
        text = self._elf.string(self._strings, name)
        return ElfSymbol(text, value, size, info & 15, info >> 4, section, self.name, index)

    # -- by name -------------------------------------------------------------------------------------

    def find(self, name: bytes) -> list[ElfSymbol]:
        """Definitions of exactly this name."""
        return self._defined(_positions(self._strings, name + b"\0"))

    def find_matching(self, part: bytes, whole: re.Pattern[bytes]) -> list[ElfSymbol]:
        """Definitions whose names hold ``part`` and match ``whole``."""
        strings, places = self._strings, set()
        for at in _positions(strings, part):
            start = strings.rfind(b"\0", 0, at) + 1
            if whole.fullmatch(strings, start, strings.find(b"\0", at)):
                places.add(start)
        return self._defined(places)

    def _defined(self, places: set[int]) -> list[ElfSymbol]:
        indexes: list[int] = []
        size = self._layout.size
        if len(places) >= _MANY_PLACES:
            only_names = struct.Struct(f"{self._elf.order}I{size - 4}x")
            indexes = [i for i, (name,) in enumerate(only_names.iter_unpack(self._data)) if name in places]
        else:
            for place in sorted(places):
                needle = struct.pack(self._elf.order + "I", place)
                indexes += [at // size for at in _positions(self._data, needle) if at % size == 0]
        symbols = (self.symbol(index) for index in sorted(indexes) if self._section_index(index))
        return [symbol for symbol in symbols if symbol.type not in (STT_SECTION, STT_FILE)]

    def _section_index(self, index: int) -> int:
        # st_shndx; 0 for what is only referred to
        found: int = self._shndx.unpack_from(self._data, index * self._layout.size)[0]
        return found

    def variable_names(self) -> Iterator[str]:
        """Names of what could be a variable and is defined here."""
        strings = self._strings
        for name, info, shndx, _, _ in self._records():
            if shndx and name and info & 15 in (STT_OBJECT, STT_COMMON, STT_TLS, STT_NOTYPE):
                text = strings[name : strings.find(b"\0", name)].decode("utf-8", "surrogateescape")
                yield (demangle.demangle(text) or text) if text.startswith("_Z") else text

    def source_file(self, symbol: ElfSymbol) -> str | None:
        """The source file of a local symbol: the nearest ``STT_FILE`` before it (System V ABI)."""
        if symbol.bind != STB_LOCAL or symbol.table != self.name:
            return None
        at = 4 if self._wide else 12
        for index in range(symbol.index - 1, 0, -1):
            if self._data[index * self._layout.size + at] & 15 == STT_FILE:
                return self.symbol(index).name or None
        return None

    # -- by address ----------------------------------------------------------------------------------

    @cached_property
    def _code(self) -> set[int]:
        return {s.index for s in self._sections if s.flags & _SHF_EXECINSTR}

    @cached_property
    def _functions(self) -> _ByAddress:
        # NOTYPE in code: what assembly sources define without annotations, e.g. the kernel's entry points.
        code = self._code
        return _by_address(
            (value, size, index)
            for index, (_, info, shndx, value, size) in enumerate(self._records())
            if (info & 15 in (STT_FUNC, STT_GNU_IFUNC) and shndx) or (shndx in code and not info & 15)
        )

    @cached_property
    def _objects(self) -> _ByAddress:
        code = self._code
        return _by_address(
            # A function of a library that has a value here is called by its entry in the program's PLT, whose
            # address is the function's for everyone (System V ABI, "Function Addresses").
            (value, size if shndx else 1, index)
            for index, (_, info, shndx, value, size) in enumerate(self._records())
            if (
                size
                and shndx
                and shndx != _SHN_ABS
                and shndx not in code
                and info & 15 in (STT_OBJECT, STT_NOTYPE)
            )
            or (value and not shndx and info & 15 == STT_FUNC)
        )

    def function_at(self, address: int) -> tuple[ElfSymbol, int] | None:
        """The function that holds a link-time address, and the offset into it."""
        return self._search(self._functions, address)

    def extent(self, symbol: ElfSymbol) -> tuple[int, int] | None:
        """First link-time address of a function of this table and the one behind its last, as `function_at` has it.

        One without a size, from an assembly source, reaches to the next; None: it is no function.
        """
        starts, found = self._functions
        here = found[bisect_left(starts, symbol.value) : bisect_right(starts, symbol.value)]
        if all(index != symbol.index for _, _, index in here):
            return None
        # Where another name of the place has a size, that is its size.
        size = symbol.size or here[-1][1]
        if size:
            return symbol.value, symbol.value + size
        following = bisect_right(starts, symbol.value)
        if following < len(starts):
            return symbol.value, starts[following]
        ends = [s.addr + s.size for s in self._sections if s.flags & _SHF_EXECINSTR]
        return symbol.value, max([symbol.value + 1, *ends])

    def function_names(self) -> Iterator[str]:
        """Names of the functions that are defined here, as rows show them."""
        for _, _, index in self._functions[1]:
            yield self.symbol(index).function_name

    def holder_at(self, address: int) -> tuple[ElfSymbol, int] | None:
        """The function or variable that holds a link-time address, and the offset into it.

        Other than `function_at` this is for addresses that may be anything: what has no size is a function, and
        reaches to the next one, but not out of its section.
        """
        hit = self.function_at(address)
        if hit is not None:
            section = None if hit[0].size else self._elf.section_at(address)
            if hit[0].size or (section and section.name == hit[0].section):
                return hit
        return self._search(self._objects, address)

    def _search(self, table: _ByAddress, address: int) -> tuple[ElfSymbol, int] | None:
        starts, found = table
        at = bisect_right(starts, address) - 1
        # Small symbols lie within larger ones; a few steps back are enough to leave them.
        for candidate in range(at, max(-1, at - 16), -1):
            start, size, _ = found[candidate]
            if address < start + size or (not size and candidate == at):
                same = [i for s, z, i in found[bisect_right(starts, start - 1) : candidate + 1] if z == size]
                best = min((self.symbol(i) for i in same[-8:]), key=_rank)
                return best, address - start
        return None


_ByAddress: TypeAlias = tuple[list[int], list[tuple[int, int, int]]]
"""Symbols as (value, size, index), sorted, and their values alone."""


def _by_address(symbols: Iterable[tuple[int, int, int]]) -> _ByAddress:
    found = sorted(symbols)
    return [entry[0] for entry in found], found


def _rank(symbol: ElfSymbol) -> tuple[bool, int, int, int, str]:
    # Of several names for one address, the one that a reader knows: public (puts, not _IO_puts), global, short.
    order = {STB_GLOBAL: 0, STB_WEAK: 1}.get(symbol.bind, 2)
    inner = len(symbol.name) - len(symbol.name.lstrip("_"))
    return not symbol.is_function, inner, order, len(symbol.name), symbol.name


def _positions(data: bytes, needle: bytes) -> set[int]:
    found = set()
    at = data.find(needle)
    while at >= 0:
        found.add(at)
        at = data.find(needle, at + 1)
    return found


def find(tables: Sequence[SymbolTable], name: str) -> list[ElfSymbol]:
    """All definitions of a C or C++ name in a file's tables, each address once.

    The first of these that finds something decides: the name itself; the mangled forms that a plain C++
    variable of that name has; ``name.0``, a static of a C function; any mangled name that reads so.
    """
    raw = name.encode("utf-8", "surrogateescape")
    if not raw or b"\0" in raw:
        return []
    exact = _unique(symbol for table in tables for symbol in table.find(raw))
    if exact:
        return exact
    forms = demangle.candidates(name)
    found = _unique(symbol for form in forms for table in tables for symbol in table.find(form))
    if found:
        return found
    # gcc counts the statics of functions (counter.0); link-time optimisation renames too
    static = re.compile(re.escape(raw) + rb"\.(?:lto_priv\.|llvm\.)?\d+")
    found = _unique(symbol for table in tables for symbol in table.find_matching(raw + b".", static))
    if found:
        return found
    last = re.sub(rb"[<(].*", b"", raw).rpartition(b"::")[2] or raw
    part = str(len(last)).encode() + last
    similar = _unique(
        symbol for table in tables for symbol in table.find_matching(part, re.compile(rb"_Z[^\0]*"))
    )
    return [symbol for symbol in similar if demangle.same_name(symbol.name, name)]


def find_statics(tables: Sequence[SymbolTable], name: str) -> list[ElfSymbol]:
    """All variables whose own name is ``name``, whatever is around them, those included that `find` has no need of."""
    raw = name.encode("utf-8", "surrogateescape")
    static = re.compile(re.escape(raw) + rb"\.(?:lto_priv\.|llvm\.)?\d+")
    mangled = re.compile(rb"_Z[^\0]*")
    part = str(len(raw)).encode() + raw
    found = [symbol for table in tables for symbol in table.find(raw)]
    found += [symbol for table in tables for symbol in table.find_matching(raw + b".", static)]
    for table in tables:
        similar = table.find_matching(part, mangled)
        found += [s for s in similar if demangle.without_scopes(s.name) == name]
    return _unique(found)


def _unique(symbols: Iterable[ElfSymbol]) -> list[ElfSymbol]:
    # .dynsym repeats what .symtab has; aliases of one name at one address are one variable
    seen: dict[tuple[str, int], ElfSymbol] = {}
    for symbol in symbols:
        seen.setdefault((symbol.name, symbol.value), symbol)
    return list(seen.values())
