# SPDX-License-Identifier: BSD-2-Clause
"""Types of variables from DWARF (versions 2 to 5), without reading a program's DWARF through.

A variable's DIE says where the variable is: ``DW_AT_location`` is an expression block of a length byte,
``DW_OP_addr`` and the address. Those bytes are searched in ``.debug_info``, the DIE around them is found by
trying the few starts in front of them that the unit's abbreviations allow, and only that DIE and the types
that it refers to are parsed. Where no address is known, the bytes of the reference to the name are searched
likewise. A pass over all DIEs of a kernel takes many minutes; this takes 10 to 90 ms by address and 0.3 to
5 s by name alone, on the 165 MB of a Debian kernel's ``.debug_info``.

DIEs are decoded by pyelftools, which is imported when the first type is asked for.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ksym.errors import KsymError
from ksym.symbols import demangle
from ksym.symbols.debugfile import find_shared_dwarf
from ksym.symbols.elf import SHT_NOBITS, ElfFile
from ksym.symbols.section_stream import SectionStream

if TYPE_CHECKING:
    from ksym.symbols.types import Type

_T = TypeVar("_T")

_DW_OP_ADDR, _DW_OP_ADDRX = 0x03, 0xA1
_DW_UT_TYPE = 2
_BACK = {"DW_AT_location": 320, "DW_AT_name": 24}
"""How far in front of an attribute a DIE may begin; before a location, a long name may stand in it."""
_VARIABLES = frozenset({"DW_TAG_variable"})
_LOCALS = frozenset({"DW_TAG_variable", "DW_TAG_formal_parameter"})
_SCOPES = frozenset(
    {
        "DW_TAG_compile_unit", "DW_TAG_namespace", "DW_TAG_structure_type", "DW_TAG_class_type",
        "DW_TAG_union_type", "DW_TAG_subprogram", "DW_TAG_inlined_subroutine",
    }
)  # fmt: skip
_DEFINITIONS = {
    "struct": frozenset({"DW_TAG_structure_type", "DW_TAG_class_type"}),
    "class": frozenset({"DW_TAG_structure_type", "DW_TAG_class_type"}),
    "union": frozenset({"DW_TAG_union_type"}),
    "enum": frozenset({"DW_TAG_enumeration_type"}),
    "": frozenset({"DW_TAG_typedef", "DW_TAG_base_type", "DW_TAG_structure_type", "DW_TAG_class_type"}),
}


class NotAvailable(KsymError):
    """What is needed to read DWARF is not installed."""


@dataclass(frozen=True)
class _Unit:
    offset: int
    end: int
    wide: bool
    """64-bit DWARF: offsets of 8 bytes."""
    signature: int | None = None
    """Of a DWARF 5 type unit."""
    type_offset: int = 0


class Dwarf:
    """The DWARF of one file. Types that it gives read more of the file when they are looked into.

    Args:
        elf: The file.
        elf_is_shared: It is itself what others refer to (dwz).

    Raises:
        NotAvailable: pyelftools is missing.
        ElfError: the sections are damaged.
    """

    def __init__(self, elf: ElfFile, *, elf_is_shared: bool = False) -> None:
        try:
            from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo
        except ImportError:
            raise NotAvailable(
                f"cannot read the types of {elf.label}", "pyelftools is missing", "pip install pyelftools"
            ) from None
        import inspect

        self.elf = elf
        self._streams: dict[str, SectionStream] = {}
        arguments: dict[str, Any] = {}
        # pyelftools' list of sections has grown over its versions: give those that this one asks for.
        for parameter in inspect.signature(DWARFInfo.__init__).parameters:
            if not parameter.endswith("_sec"):
                continue
            section = elf.section("." + parameter.removesuffix("_sec"))
            arguments[parameter] = None
            if section is not None and section.type != SHT_NOBITS:
                stream = self._streams[section.name] = SectionStream(elf, section)
                arguments[parameter] = DebugSectionDescriptor(
                    cast(Any, stream), section.name, section.offset, stream.size, 0
                )
        machine = {3: "x86", 62: "x64", 183: "AArch64"}.get(elf.machine, "")
        config = DwarfConfig(
            little_endian=elf.little_endian, machine_arch=machine, default_address_size=elf.bits // 8
        )
        self.info = DWARFInfo(config=config, **arguments)
        # What dwz moved out of several programs' DWARF; without that file, types that need it are unknown.
        # Such a file has no other behind it: what claims so could lead round in a circle.
        shared = None if elf_is_shared else find_shared_dwarf(elf)
        self.info.supplementary_dwarfinfo = None if shared is None else Dwarf(shared, elf_is_shared=True).info

    @cached_property
    def _types(self) -> Any:
        from ksym.symbols.dwarf_types import TypeReader

        return TypeReader(self)

    # -- units ---------------------------------------------------------------------------------------

    @cached_property
    def _units(self) -> list[_Unit]:
        # DWARF 5, section 7.5.1: unit_length, version, [unit_type], address_size and debug_abbrev_offset
        stream = self._streams.get(".debug_info")
        if stream is None:
            return []
        order, found, at = self.elf.order, [], 0
        while at + 12 <= stream.size:
            head = stream.slice(at, at + 40).ljust(40, b"\0")
            (length,) = struct.unpack_from(order + "I", head)
            start, wide = at + 4, length == 0xFFFFFFFF
            if wide:
                (length,) = struct.unpack_from(order + "Q", head, 4)
                start = at + 12
            end = start + length
            if length < 7 or end > stream.size:
                raise self.elf.error("its DWARF is damaged: a unit does not fit")
            version, kind = struct.unpack_from(order + "HB", head, start - at)
            if version >= 5 and kind == _DW_UT_TYPE:
                place = start - at + 4 + (8 if wide else 4)
                signature, offset = struct.unpack_from(order + ("QQ" if wide else "QI"), head, place)
                found.append(_Unit(at, end, wide, signature, offset))
            else:
                found.append(_Unit(at, end, wide))
            at = end
        return found

    @cached_property
    def _starts(self) -> list[int]:
        return [unit.offset for unit in self._units]

    def _unit_at(self, offset: int) -> _Unit | None:
        at = bisect_right(self._starts, offset) - 1
        return self._units[at] if at >= 0 else None

    def type_unit_die(self, signature: int) -> Any:
        """The DIE of a type that is kept in a unit of its own (``-fdebug-types-section``), or None."""
        for unit in self._units:
            if unit.signature == signature:
                return self.info.get_CU_at(unit.offset).get_DIE_from_refaddr(unit.offset + unit.type_offset)
        return self.info.get_DIE_by_sig8(signature)

    def split_off(self) -> str | None:
        """The file to which the first unit without DIEs has moved them (``-gsplit-dwarf``); None: all are here."""
        for unit in self._units:
            top = self.info.get_CU_at(unit.offset).get_top_DIE() if unit.signature is None else None
            for name in ("DW_AT_dwo_name", "DW_AT_GNU_dwo_name"):
                if top is not None and name in top.attributes:
                    return str(top.attributes[name].value.decode("utf-8", "replace"))
        return None

    # -- search --------------------------------------------------------------------------------------

    def variable(self, name: str, address: int | None) -> Type | None:
        """The type of a variable, by its symbol's name and link-time address; None where DWARF has none."""
        plain = demangle.demangle(name) or name
        last = (
            plain.rpartition("::")[2].partition("<")[0].partition(".")[0].encode("utf-8", "surrogateescape")
        )
        if address is None:
            places = {symbol.value for symbol in self.elf.find(name) if not symbol.thread_local}
            address = places.pop() if len(places) == 1 else None

        def search() -> Type | None:
            best: tuple[int, Any] | None = None
            for die in self._by_address(address) if address is not None else self._by_name(last, _VARIABLES):
                rank = self._rank(die, last, name, plain, address)
                if rank is not None and (best is None or rank < best[0]):
                    best = rank, die
                if rank == 0:
                    break
            return None if best is None else self._types.of_variable(best[1])

        return self.guarded(search)

    def scopes(self, name: str, address: int) -> list[str]:
        """The scopes around a variable, the outermost (its source file) first; empty where DWARF has none.

        Args:
            name: Its symbol's name.
            address: Its link-time address.
        """
        from ksym.symbols.dwarf_tree import Parents

        plain = demangle.demangle(name) or name
        last = plain.rpartition("::")[2].partition(".")[0].encode("utf-8", "surrogateescape")

        def search() -> list[str]:
            for die in self._by_address(address):
                if self._rank(die, last, name, plain, address) != 0:
                    continue
                # A definition outside of its namespace or class refers to the declaration inside.
                inner = list(self._types.chain(die))[-1]
                return self._around(Parents(), inner) or self._around(Parents(), die)
            return []

        return self.guarded(search)

    def functions_with(self, name: str) -> list[str]:
        """The functions that have a local variable or parameter of that name, without a fixed address."""
        from ksym.symbols.dwarf_tree import Parents

        raw = name.encode("utf-8", "surrogateescape")

        def search() -> list[str]:
            found: list[str] = []
            for die in self._by_name(raw, _LOCALS):
                around = self._around(Parents(), die)
                named = [part.attributes.get("DW_AT_name") for part in self._types.chain(die)]
                if len(around) > 1 and any(each and each.value == raw for each in named):
                    found.append(around[-1])
            return list(dict.fromkeys(found))

        return self.guarded(search)

    def _around(self, parents: Any, die: Any) -> list[str]:
        names: list[str] = []
        while (die := parents.of(die)) is not None:
            if die.tag in _SCOPES and (name := self._name_of(die)):
                names.insert(0, name)
        return names

    def _name_of(self, die: Any) -> str:
        for part in self._types.chain(die):
            if "DW_AT_name" in part.attributes:
                return str(part.attributes["DW_AT_name"].value.decode("utf-8", "surrogateescape"))
        return ""

    def _rank(self, die: Any, last: bytes, symbol: str, plain: str, address: int | None) -> int | None:
        # 0: surely this one; None: surely not.
        names: set[bytes] = set()
        linkage: set[bytes] = set()
        for part in self._types.chain(die):
            for key, into in (("DW_AT_name", names), ("DW_AT_linkage_name", linkage)):
                if key in part.attributes:
                    into.add(part.attributes[key].value)
        known = symbol.encode("utf-8", "surrogateescape")
        if address is not None:
            if last in names or known in linkage:
                return 0
            # An alias (environ, __environ) has the address, but not the name. Address 0 is where the linker
            # leaves what it threw away.
            return 3 if address and names else None
        qualified = {demangle.demangle(item.decode("utf-8", "replace")) for item in linkage - {known}}
        if "::" in plain and linkage and known not in linkage and plain not in qualified:
            return None
        if "DW_AT_declaration" in die.attributes:
            return 1
        # A local variable of that name lies on the stack or in registers.
        place = die.attributes.get("DW_AT_location")
        fixed = (
            place is not None
            and isinstance(place.value, list)
            and place.value[:1] in ([_DW_OP_ADDR], [_DW_OP_ADDRX])
        )
        return 0 if fixed else None

    def type_named(self, name: str, *, attempts: int = 2000) -> Type | None:
        """The definition of ``struct foo``, ``union foo``, ``enum foo`` or a typedef or C++ class ``foo``."""
        keyword, _, word = name.rpartition(" ")
        tags = _DEFINITIONS.get(keyword)
        if tags is None:
            return None
        last = word.rpartition("::")[2].encode("utf-8", "surrogateescape")

        def search() -> Type | None:
            for number, die in enumerate(self._by_name(last, tags)):
                if number > attempts:
                    break
                if "DW_AT_declaration" not in die.attributes:
                    found: Type = self._types.convert(die)
                    if "::" not in word or found.name.endswith(word):
                        return found
            return None

        return self.guarded(search)

    def guarded(self, action: Callable[[], _T]) -> _T:
        """Run ``action`` with whatever damaged DWARF makes of pyelftools' insides told as one error."""
        try:
            return action()
        except KsymError:
            raise
        # construct, assert, KeyError, struct.error, RecursionError: pyelftools has no one root of errors
        except Exception as error:
            why = f"its DWARF is damaged, or of a kind not known here ({type(error).__name__}: {error})"
            raise self.elf.error(why) from error

    def _by_address(self, address: int) -> Iterator[Any]:
        stream = self._streams.get(".debug_info")
        size = self.elf.bits // 8
        if stream is None or not 0 <= address < 1 << self.elf.bits:
            return
        raw = address.to_bytes(size, "little" if self.elf.little_endian else "big")
        for place in stream.find_all(bytes((size + 1, _DW_OP_ADDR)) + raw):
            yield from self._dies_with(stream, place, "DW_AT_location", _VARIABLES)
        table = self._streams.get(".debug_addr")
        if table is None:
            return
        # clang's DWARF 5: DW_OP_addrx and the number of the address in the unit's part of .debug_addr
        spots = list(table.find_all(raw))
        for unit in self._units if spots else ():
            base = self._base(unit, "DW_AT_addr_base", "DW_AT_GNU_addr_base")
            for spot in spots:
                if base is None or spot < base or (spot - base) % size:
                    continue
                number = _uleb((spot - base) // size)
                needle = bytes((len(number) + 1, _DW_OP_ADDRX)) + number
                for place in stream.find_all(needle, unit.offset, unit.end):
                    yield from self._dies_with(stream, place, "DW_AT_location", _VARIABLES)

    def _by_name(self, name: bytes, tags: frozenset[str]) -> Iterator[Any]:
        stream, strings = self._streams.get(".debug_info"), self._streams.get(".debug_str")
        if stream is None or not name:
            return
        order = self.elf.order
        places = []
        if strings is not None:
            # a name that is the end of another may be kept only there: what is in front does not matter
            places = list(strings.find_all(name + b"\0"))
            places.sort(key=lambda at: at and strings.slice(at - 1, at) != b"\0")
        wide = any(unit.wide for unit in self._units)
        for place in places[:100]:
            for found in stream.find_all(struct.pack(order + ("Q" if wide else "I"), place)):
                yield from self._dies_with(stream, found, "DW_AT_name", tags)
        # DW_FORM_string: gcc puts short names into the DIE itself
        for found in stream.find_all(name + b"\0"):
            yield from self._dies_with(stream, found, "DW_AT_name", tags)
        offsets = self._streams.get(".debug_str_offsets")
        if offsets is None:
            return
        # DW_FORM_strx: small numbers, which cannot be searched; look through the units that know the name
        known = [at for place in places[:100] for at in offsets.find_all(struct.pack(order + "I", place))]
        bases = sorted(
            (base, unit) for unit in self._units if (base := self._base(unit, "DW_AT_str_offsets_base"))
        )
        owners = {bisect_right(bases, at, key=lambda pair: pair[0]) - 1 for at in known}
        for owner in sorted(owners - {-1}):
            cu = self.info.get_CU_at(bases[owner][1].offset)
            for die in cu.iter_DIEs():
                if (
                    die.tag in tags
                    and "DW_AT_name" in die.attributes
                    and die.attributes["DW_AT_name"].value == name
                ):
                    yield die

    def _base(self, unit: _Unit, *names: str) -> int | None:
        if unit.signature is not None:
            return None
        top = self.info.get_CU_at(unit.offset).get_top_DIE()
        return next((int(top.attributes[name].value) for name in names if name in top.attributes), None)

    def _dies_with(
        self, stream: SectionStream, place: int, attribute: str, tags: frozenset[str]
    ) -> Iterator[Any]:
        # The DIEs of one of the tags whose attribute's value begins at `place`. A start that is none can
        # look like one, so all that fit are given; the caller compares names.
        from elftools.dwarf.die import DIE

        unit = self._unit_at(place)
        if unit is None or place >= unit.end:
            return
        cu = self.info.get_CU_at(unit.offset)
        abbreviations = cu.get_abbrev_table()
        first = max(cu.cu_die_offset, place - _BACK[attribute])
        data = stream.slice(first, place + 4)
        fits: dict[int, bool] = {}
        for start in range(place - 1, first - 1, -1):
            code = _read_uleb(data, start - first)
            if code not in fits:
                try:
                    fits[code] = code > 0 and abbreviations.get_abbrev(code)["tag"] in tags
                except KeyError:
                    fits[code] = False
            if not fits[code]:
                continue
            try:
                die = DIE(cu, cast(Any, stream), start)
            except Exception:  # noqa: S112 - what is not a DIE fails in any way that pyelftools knows
                continue
            found = die.attributes.get(attribute)
            if found is not None and found.offset == place and self._types.plausible(die):
                yield die


def _uleb(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def _read_uleb(data: bytes, at: int) -> int:
    value = shift = 0
    for byte in data[at : at + 4]:
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
    return 0


def variable(source: str | os.PathLike[str] | ElfFile, name: str, address: int | None = None) -> Type | None:
    """The type of a variable of a program, library or kernel image with DWARF.

    Args:
        source: The file, or its path. A file that was given has to stay open while the type is looked into.
        name: The symbol's name, mangled or not: ``counter.0``, ``_ZN2ns7counterE``, ``ns::counter``.
        address: Its link-time address; without it the first definition of the name is taken.

    Returns:
        The type, or None where the file has no DWARF or no such variable.

    Raises:
        NotAvailable: pyelftools is missing.
        ElfError: the file is damaged.
    """
    elf = source if isinstance(source, ElfFile) else ElfFile(source)
    if not has_dwarf(elf):
        return None
    return elf.dwarf.variable(name, address)


def split_into(elf: ElfFile) -> str | None:
    """The file that a program's debug information is split off into; None where it is not, or cannot be read."""
    if not has_dwarf(elf):
        return None
    try:
        return elf.dwarf.guarded(elf.dwarf.split_off)
    except KsymError:
        return None


def readable() -> bool:
    """Whether pyelftools is installed."""
    return find_spec("elftools") is not None


def has_dwarf(elf: ElfFile) -> bool:
    """Whether the file has a ``.debug_info`` with content."""
    section = elf.section(".debug_info")
    return section is not None and section.type != SHT_NOBITS and section.size > 0
