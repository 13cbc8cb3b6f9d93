# SPDX-License-Identifier: BSD-2-Clause
"""From DWARF's description of types to ksym's (DWARF 5, chapter 5).

What a pointer points to and what a struct holds is read when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ksym.symbols.dwarf_tree import Parents, children
from ksym.symbols.types import (
    Array,
    Encoding,
    Enum,
    Field,
    Float,
    Function,
    Integer,
    Pointer,
    Struct,
    Type,
    Typedef,
)

if TYPE_CHECKING:
    from ksym.symbols.dwarf import Dwarf

# DWARF 5, table 7.11: DW_ATE_*
_BOOLEAN, _COMPLEX, _FLOAT, _SIGNED, _SIGNED_CHAR, _UNSIGNED_CHAR, _UTF = 2, 3, 4, 5, 6, 8, 0x10
# DWARF 5, table 7.17: languages whose struct names are written without the keyword (C++ 98 to 20, Rust)
_PLAIN_NAMES = frozenset({0x04, 0x1A, 0x1C, 0x21, 0x2B, 0x2C})
_QUALIFIERS = frozenset(
    f"DW_TAG_{word}_type"
    for word in ("const", "volatile", "restrict", "atomic", "immutable", "packed", "shared")
)
_POINTERS = {"DW_TAG_pointer_type": "*", "DW_TAG_reference_type": "&", "DW_TAG_rvalue_reference_type": "&&"}
_STRUCTS = {
    "DW_TAG_structure_type": "struct",
    "DW_TAG_class_type": "class",
    "DW_TAG_union_type": "union",
    "DW_TAG_enumeration_type": "enum",
}
_SCOPES = frozenset({"DW_TAG_namespace", *_STRUCTS})
_DEEPEST = 200
_VOID = Type("void", 0)


class TypeReader:
    """Converts the DIEs of one file; the same DIE gives the same object."""

    def __init__(self, dwarf: Dwarf) -> None:
        self._dwarf = dwarf
        self._known: dict[tuple[int, int], Type] = {}
        self._parents = Parents()
        self._depth = 0

    # -- DIEs ----------------------------------------------------------------------------------------

    def chain(self, die: Any) -> Iterator[Any]:
        """The DIE and those that it completes: a definition's declaration, an instance's abstract origin."""
        for _ in range(8):
            yield die
            for name in ("DW_AT_specification", "DW_AT_abstract_origin"):
                if name in die.attributes:
                    die = self._referred(die, name)
                    break
            else:
                return

    def _referred(self, die: Any, name: str) -> Any:
        attribute = die.attributes[name]
        if attribute.form == "DW_FORM_ref_sig8":
            return self._dwarf.type_unit_die(attribute.raw_value)
        return die.get_DIE_from_attribute(name)

    def _target(self, die: Any) -> Any:
        # The DIE in DW_AT_type behind qualifiers; None is void.
        for _ in range(_DEEPEST):
            if "DW_AT_type" not in die.attributes:
                return None
            die = self._referred(die, "DW_AT_type")
            # a type unit's user may keep a declaration with the signature of the whole
            if "DW_AT_signature" in die.attributes:
                die = self._referred(die, "DW_AT_signature")
            if die.tag not in _QUALIFIERS:
                return die
        raise self._dwarf.elf.error("its DWARF is damaged: a type is defined by itself")

    def plausible(self, die: Any) -> bool:
        """Whether what a DIE refers to as its type, if anything, is one."""
        try:
            target = self._target(die)
            return target is None or "_type" in str(target.tag) or target.tag == "DW_TAG_typedef"
        except (
            Exception
        ):  # the DIE was guessed; references into nowhere fail in any way that pyelftools knows
            return False

    def of_variable(self, die: Any) -> Type | None:
        """The type of a variable's DIE."""
        for part in self.chain(die):
            if "DW_AT_type" in part.attributes:
                return self.convert(self._target(part))
        return None

    # -- conversion ----------------------------------------------------------------------------------

    def convert(self, die: Any) -> Type:
        """The type that a DIE describes; None is void."""
        if die is None:
            return _VOID
        key = (id(die.cu), die.offset)
        found = self._known.get(key)
        if found is None:
            self._depth += 1
            try:
                if self._depth > _DEEPEST:
                    raise self._dwarf.elf.error("its DWARF is damaged: a type is defined by itself")
                found = self._known[key] = self._convert(die)
            finally:
                self._depth -= 1
        return found

    def _convert(self, die: Any) -> Type:
        tag = die.tag
        if tag in _QUALIFIERS:
            return self.convert(self._target(die))
        if tag == "DW_TAG_base_type":
            return _base(die)
        if tag in _POINTERS:
            size = _number(die, "DW_AT_byte_size", die.cu["address_size"])
            return Pointer(self.spell(die), size, lambda: self._dwarf.guarded(lambda: self._complete(die)))
        if tag == "DW_TAG_typedef":
            target = self.convert(self._target(die))
            return Typedef(self._qualified(die), target.size, target)
        if tag == "DW_TAG_enumeration_type":
            return self._enum(die)
        if tag in _STRUCTS:
            size = _number(die, "DW_AT_byte_size", 0)
            union = tag == "DW_TAG_union_type"
            return Struct(
                self.spell(die), size, union, lambda: self._dwarf.guarded(lambda: self._fields(die))
            )
        if tag == "DW_TAG_array_type":
            return self._array(die)
        if tag == "DW_TAG_subroutine_type":
            return Function(self.spell(die), 0)
        if tag == "DW_TAG_ptr_to_member_type":
            return Type(self.spell(die), _number(die, "DW_AT_byte_size", die.cu["address_size"]))
        return Type(self.spell(die), _number(die, "DW_AT_byte_size", 0))

    def _complete(self, pointer: Any) -> Type:
        # What a pointer points to; for `struct foo;` the definition that another unit may have.
        die = self._target(pointer)
        found = self.convert(die)
        if die is not None and "DW_AT_declaration" in die.attributes and die.tag in _STRUCTS:
            name = found.name if " " in found.name else f"{_STRUCTS[die.tag]} {found.name}"
            return self._dwarf.type_named(name) or found
        return found

    def _enum(self, die: Any) -> Type:
        names = [
            (_text(child), int(child.attributes["DW_AT_const_value"].value))
            for child in children(die)
            if child.tag == "DW_TAG_enumerator" and "DW_AT_const_value" in child.attributes
        ]
        under = self._target(die)
        size = _number(die, "DW_AT_byte_size", 0)
        signed = any(value < 0 for _, value in names)
        if under is not None:
            plain = self.convert(under)
            while isinstance(plain, Typedef):
                plain = plain.target
            size = size or plain.size
            signed = signed or (isinstance(plain, Integer) and plain.signed)
        return Enum(self.spell(die), size, signed, tuple(names))

    def _array(self, die: Any) -> Type:
        element = self.convert(self._target(die))
        suffix = ""
        found: Type = element
        for count in reversed(_bounds(die)):
            suffix = f"[{count or ''}]" + suffix
            # int[2][3] is two of int[3]: named from the element outwards
            found = Array(self._spell(self._target(die), suffix, 0), found.size * count, found, count)
        return found

    def _fields(self, die: Any) -> tuple[Field, ...]:
        found = []
        for child in children(die):
            if child.tag == "DW_TAG_inheritance":
                place = child.attributes.get("DW_AT_data_member_location")
                if place is None or not isinstance(place.value, int):
                    continue  # a virtual base: where it is depends on the object
                found.append(Field("", self.convert(self._target(child)), place.value))
            elif (
                child.tag == "DW_TAG_member"
                and not {"DW_AT_declaration", "DW_AT_external"} & child.attributes.keys()
            ):
                found.append(self._field(child))
        return tuple(found)

    def _field(self, die: Any) -> Field:
        kind = self.convert(self._target(die))
        name = _text(die)
        offset = _member_location(die)
        if "DW_AT_bit_size" not in die.attributes:
            return Field(name, kind, offset)
        width = _number(die, "DW_AT_bit_size", 0)
        little = self._dwarf.elf.little_endian
        size = _number(die, "DW_AT_byte_size", 0) or kind.size or 1
        if "DW_AT_data_bit_offset" in die.attributes:
            # Since DWARF 4: counted from the beginning of the struct, in the order of memory.
            first = offset * 8 + _number(die, "DW_AT_data_bit_offset", 0)
            offset = first // (8 * size) * size
            first -= offset * 8
            if first + width > 8 * size:  # a packed struct's field that straddles its type's unit
                offset, first = offset + first // 8, first % 8
                while first + width > 8 * size:
                    size *= 2
                kind = (
                    Integer(kind.name, size, isinstance(kind, Integer) and kind.signed)
                    if size > kind.size
                    else kind
                )
            return Field(name, kind, offset, (first if little else 8 * size - first - width, width))
        # DWARF 2 and 3: from the most significant bit of the unit of byte_size bytes at offset.
        first = _number(die, "DW_AT_bit_offset", 0)
        shift = 8 * size - first - width
        return Field(name, kind, offset + (shift // (8 * size)) * size, (shift % (8 * size), width))

    # -- names ---------------------------------------------------------------------------------------

    def spell(self, die: Any) -> str:
        """A type in C's notation, e.g. ``struct foo *``, ``int (*)(char *)``, ``char[16]``."""
        return self._spell(die, "", 0)

    def _spell(self, die: Any, inner: str, depth: int) -> str:
        if depth > _DEEPEST:
            raise self._dwarf.elf.error("its DWARF is damaged: a type is defined by itself")
        if die is None:
            return _join("void", inner)
        tag = die.tag
        if tag in _QUALIFIERS:
            return self._spell(self._target(die), inner, depth + 1)
        if tag in _POINTERS:
            target = self._target(die)
            inner = _POINTERS[tag] + inner
            if target is not None and target.tag in ("DW_TAG_array_type", "DW_TAG_subroutine_type"):
                inner = f"({inner})"
            return self._spell(target, inner, depth + 1)
        if tag == "DW_TAG_array_type":
            suffix = "".join(f"[{count or ''}]" for count in _bounds(die))
            return self._spell(self._target(die), inner + suffix, depth + 1)
        if tag == "DW_TAG_subroutine_type":
            arguments = []
            for child in children(die):
                if child.tag == "DW_TAG_formal_parameter":
                    arguments.append(self._spell(self._target(child), "", depth + 1))
                elif child.tag == "DW_TAG_unspecified_parameters":
                    arguments.append("...")
            return self._spell(self._target(die), f"{inner}({', '.join(arguments) or 'void'})", depth + 1)
        if tag in _STRUCTS:
            keyword, name = _STRUCTS[tag], self._qualified(die)
            if not name:
                return _join(f"{keyword} {{...}}", inner)
            return _join(name if self._plain_names(die.cu) else f"{keyword} {name}", inner)
        return _join(self._qualified(die) or "?", inner)

    def _plain_names(self, cu: Any) -> bool:
        top = cu.get_top_DIE()
        return _number(top, "DW_AT_language", 0) in _PLAIN_NAMES

    def _qualified(self, die: Any) -> str:
        # A class defined outside of its scope, or in a type unit, completes a declaration in that scope.
        whole = list(self.chain(die))
        name = next((text for part in whole if (text := _text(part))), "")
        if not name or not self._plain_names(die.cu) or die.tag == "DW_TAG_base_type":
            return name
        parts = [name]
        parent = self._parents.of(whole[-1])
        while parent is not None and parent.tag in _SCOPES:
            parts.append(_text(parent) or "(anonymous namespace)")
            parent = self._parents.of(parent)
        return "::".join(reversed(parts))


def _join(base: str, inner: str) -> str:
    return f"{base}{inner}" if not inner or inner.startswith("[") else f"{base} {inner}"


def _text(die: Any) -> str:
    attribute = die.attributes.get("DW_AT_name")
    if attribute is None:
        return ""
    if not isinstance(attribute.value, bytes):
        raise ValueError("a name lies in the file of .gnu_debugaltlink, which is missing")
    return attribute.value.decode("utf-8", "surrogateescape")


def _number(die: Any, name: str, default: int) -> int:
    # Sizes may also be expressions or references (Ada, VLAs): those count as unknown.
    attribute = die.attributes.get(name)
    if attribute is None or not isinstance(attribute.value, int) or "ref" in attribute.form:
        return default
    return attribute.value


def _member_location(die: Any) -> int:
    attribute = die.attributes.get("DW_AT_data_member_location")
    if attribute is None:
        return 0
    if isinstance(attribute.value, int):
        return attribute.value
    # DWARF 2: an expression; compilers write DW_OP_plus_uconst (0x23) and the offset
    value = shift = 0
    if attribute.value and attribute.value[0] == 0x23:
        for byte in attribute.value[1:]:
            value |= (byte & 0x7F) << shift
            shift += 7
    return value


def _bounds(die: Any) -> list[int]:
    # Elements of each dimension; 0 where it is open (a flexible array) or known only at run time.
    found = []
    for child in children(die):
        if child.tag == "DW_TAG_subrange_type":
            count = _number(child, "DW_AT_count", -1)
            found.append(
                count if count >= 0 else max(0, _signed(_number(child, "DW_AT_upper_bound", -1)) + 1)
            )
    return found or [0]


def _signed(bound: int) -> int:
    # `int x[0]` is written as an upper bound of all ones by some compilers
    return -1 if bound in (0xFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF) and bound != 0xFF else bound


def _base(die: Any) -> Type:
    name, size = _text(die), _number(die, "DW_AT_byte_size", 0)
    encoding = _number(die, "DW_AT_encoding", 0)
    if encoding == _FLOAT:
        return Float(name, size)
    if encoding == _COMPLEX:
        part = Float(name.removeprefix("complex "), size // 2)
        return Array(name, size, part, 2)
    if encoding == _BOOLEAN:
        return Integer(name, size, False, Encoding.BOOL)
    if encoding in (_SIGNED_CHAR, _UNSIGNED_CHAR, _UTF):
        kind = Encoding.CHAR if size == 1 else Encoding.INTEGER
        return Integer(name, size, encoding == _SIGNED_CHAR, kind)
    return Integer(name, size, encoding == _SIGNED)
