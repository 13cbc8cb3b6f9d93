# SPDX-License-Identifier: BSD-2-Clause
"""Types, per-CPU variables and functions from BTF, the kernel's own description of itself.

The running kernel shows it at /sys/kernel/btf/vmlinux and, for each module, at /sys/kernel/btf/NAME
as split BTF that continues vmlinux's. Types are made when they are asked for, members when somebody
looks inside.

>>> kernel = Btf.vmlinux()                            # doctest: +SKIP
>>> kernel.find("struct", "task_struct").size         # doctest: +SKIP
9856

Source of the format: include/uapi/linux/btf.h and Documentation/bpf/btf.rst of Linux.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple
from weakref import WeakValueDictionary

from ksym.errors import SHORT_OF
from ksym.linux.files import StrPath, read_bytes
from ksym.symbols.btf_index import BtfError, BtfIndex, Kind, Record
from ksym.symbols.ctext import POINTER_SIZE, VOID, c_spelling
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

__all__ = ["Btf", "BtfError", "BtfVariable"]

DIRECTORY = "/sys/kernel/btf"

_DEPTH = 64
"""How many types may wrap one another (libbpf gives up at 32): typedefs of a damaged blob can form a ring."""

_QUALIFIERS = frozenset((Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG))
_KINDS: dict[str | None, tuple[int, ...]] = {
    "int": (Kind.INT,),
    "float": (Kind.FLOAT,),
    "typedef": (Kind.TYPEDEF,),
    "struct": (Kind.STRUCT, Kind.FWD),
    "union": (Kind.UNION, Kind.FWD),
    "enum": (Kind.ENUM, Kind.ENUM64),
    None: tuple(Kind),
}
_ORDINARY = frozenset((Kind.INT, Kind.TYPEDEF, Kind.FLOAT))  # names that C uses without a keyword
_COMPILER_SPELLING = {
    c_spelling(f"{size} {sign}int"): f"{size} {sign}int"
    for size in ("short", "long", "long long")
    for sign in ("", "unsigned ")
}
_INT_SIGNED, _INT_CHAR, _INT_BOOL = 1, 2, 4


class BtfVariable(NamedTuple):
    """A global or per-CPU variable that BTF knows."""

    type: Type
    size: int
    section: str
    """E.g. ``.data..percpu``."""
    offset: int
    """In bytes from the section's start."""


_in_use: WeakValueDictionary[StrPath, Btf] = WeakValueDictionary()
"""By path."""


class Btf:
    """The types of one BTF blob, and through its base those it builds on.

    Args:
        data: The blob.
        base: What split BTF continues; must stay as it was when the split one was made.
        name: The kernel or module that it describes, for error messages.

    Raises:
        BtfError: Here or from any method, when the blob is damaged.
    """

    def __init__(self, data: bytes, base: Btf | None = None, name: str = "vmlinux") -> None:
        self.name, self.base = name, base
        self._index: BtfIndex = BtfIndex(data, base._index if base else None, name)
        self._made: dict[int, Type] = {}

    @classmethod
    def vmlinux(cls, directory: StrPath = DIRECTORY) -> Btf:
        """The running kernel's; read anew only once nobody has it any more."""
        path = os.path.join(directory, "vmlinux")
        found = _in_use.get(path)
        if found is None:
            found = cls(_read(path, "the kernel was built without CONFIG_DEBUG_INFO_BTF"))
            _in_use[path] = found
        return found

    @classmethod
    def module(cls, name: str, base: Btf | None = None, directory: StrPath = DIRECTORY) -> Btf:
        """A loaded module's; ``base`` saves reading vmlinux's again."""
        name = name.replace("-", "_")  # as the kernel spells module names
        missing = "no such module is loaded, or the kernel was built without CONFIG_DEBUG_INFO_BTF_MODULES"
        if "/" in name:
            raise BtfError(f"cannot read the BTF of {name}", "this is not a module's name")
        data = _read(os.path.join(directory, name), missing)
        return cls(data, base or cls.vmlinux(directory), name)

    # -- looking up -----------------------------------------------------------------------------

    def find(self, kind: str | None, name: str) -> Type | None:
        """The type of that name, or None.

        Args:
            kind: ``struct``, ``union``, ``enum``, ``typedef``, ``int``, ``float``; None for any, when
                an integer or typedef is preferred and ``name`` may begin with the keyword.
            name: As in C: ``net``, ``u32``, ``unsigned long``.
        """
        head, _, rest = name.partition(" ")
        if kind is None and rest and head in ("struct", "union", "enum"):
            kind, name = head, rest
        number = self._find(kind, name)
        if number is None and kind in (None, "int") and name in _COMPILER_SPELLING:
            number = self._find(kind, _COMPILER_SPELLING[name])
        if number is not None:
            return self.type_by_id(number)
        return self.base.find(kind, name) if self.base else None

    def offset(self, struct: str, *names: str) -> int | None:
        """Return the byte offset of a struct's member, nested members one after the other; None where it is not there.

        No types are made for it, so it is quick where `find` takes milliseconds (``task_struct``).

        Args:
            struct: Name of the struct.
            names: Of the members, also of those inside unnamed structs and unions.
        """
        number = self._find("struct", struct)
        if number is None:
            return self.base.offset(struct, *names) if self.base else None
        total = 0
        for name in names:
            found = self._member(number, name, 0)
            if found is None:
                return None
            total, number = total + found[0], found[1]
        return total

    def _member(self, number: int, name: str, depth: int) -> tuple[int, int] | None:
        """Byte offset and type of a struct's or union's member; None where it has none of that name."""
        record = self._index.record(number) if number else None
        wrapped = 0
        while record and (record.kind == Kind.TYPEDEF or record.kind in _QUALIFIERS) and wrapped < _DEPTH:
            record = self._index.record(record.word) if record.word else None
            wrapped += 1
        if record is None or record.kind not in (Kind.STRUCT, Kind.UNION) or depth > _DEPTH:
            return None
        unnamed = []
        for name_at, kind, at in zip(record.body[::3], record.body[1::3], record.body[2::3], strict=True):
            offset = (at & 0xFFFFFF if record.flag else at) // 8
            text = self._index.text(name_at) if name_at else ""
            if text == name:
                return offset, kind
            if not text:
                unnamed.append((offset, kind))
        for offset, kind in unnamed:
            inner = self._member(kind, name, depth + 1)
            if inner is not None:
                return offset + inner[0], inner[1]
        return None

    def names(self, kind: str | None = None) -> Iterator[str]:
        """Names that `find` knows; decodes them all, so for suggestions only."""
        yield from self._index.names(_KINDS[kind])
        if self.base:
            yield from self.base.names(kind)

    def variable_names(self) -> Iterator[str]:
        """Names that `variable` knows, for suggestions."""
        yield from self._index.names((Kind.VAR,))

    def type_by_id(self, number: int) -> Type:
        """The type with this id; 0 is void."""
        return self._type(number, 0)

    def variable(self, name: str) -> BtfVariable | None:
        """A variable: the per-CPU ones, and all globals where pahole was recent enough (1.28)."""
        for number in self._index.named(name):
            record = self._index.record(number)
            if record.kind == Kind.VAR:
                for section in self._index.of_kind(Kind.DATASEC):
                    found = self._in_section(number, record, section)
                    if found:
                        return found
        return self.base.variable(name) if self.base else None

    def function(self, name: str) -> Function | None:
        """A function's type; its name is spelled ``int (...)``."""
        for number in self._index.named(name):
            record = self._index.record(number)
            if record.kind == Kind.FUNC:
                made = self.type_by_id(record.word)
                if not isinstance(made, Function):
                    raise self._index.damage(f"function {name} has the type {made.name}")
                return made
        return self.base.function(name) if self.base else None

    def _find(self, kind: str | None, name: str) -> int | None:
        """Id of the best own type: the first definition, or if there is none the first declaration."""
        tagged: int | None = None
        declared: int | None = None
        for number in self._index.named(name):
            record = self._index.record(number)
            if record.kind not in _KINDS[kind]:
                continue
            if record.kind in _ORDINARY:
                return number
            union = record.kind == Kind.FWD and record.flag
            if kind in ("struct", "union") and record.kind == Kind.FWD and union != (kind == "union"):
                continue
            if record.kind == Kind.FWD or (record.kind == Kind.ENUM and not record.vlen):
                declared = declared or number
            elif kind is not None:
                return number
            else:
                tagged = tagged or number
        return tagged or declared

    def _in_section(self, number: int, variable: Record, section: int) -> BtfVariable | None:
        record = self._index.record(section)
        try:
            at = record.body[::3].index(number)
        except ValueError:
            return None
        _, offset, size = record.body[3 * at : 3 * at + 3]
        return BtfVariable(self.type_by_id(variable.word), size, self._index.text(record.name), offset)

    # -- making types ---------------------------------------------------------------------------

    def _type(self, number: int, depth: int) -> Type:
        made = self._made.get(number)
        if made is None:
            if depth > _DEPTH:
                raise self._index.damage(f"type {number} is wrapped in more than {_DEPTH} others")
            if number == 0:
                made = VOID
            elif self.base and number < self._index.first_id:
                made = self.base._type(number, depth)
            else:
                made = self._make(number, self._index.record(number), depth)
            self._made[number] = made
        return made

    def _make(self, number: int, record: Record, depth: int) -> Type:
        name = self._index.text(record.name)
        kind = record.kind
        if kind in _QUALIFIERS or kind in (Kind.VAR, Kind.DECL_TAG, Kind.FUNC):
            return self._type(record.word, depth + 1)
        if kind == Kind.INT:
            return self._integer(name, record)
        if kind == Kind.FLOAT:
            return Float(c_spelling(name), record.word)
        if kind == Kind.PTR:
            return Pointer(self._spell(number), POINTER_SIZE, partial(self._type, record.word, 0))
        if kind == Kind.ARRAY:
            element, _, count = record.body
            made = self._type(element, depth + 1)
            return Array(self._spell(number), made.size * count, made, count)
        if kind in (Kind.STRUCT, Kind.UNION):
            fields = partial(self._fields, record)
            return Struct(_tagged(record, name), record.word, kind == Kind.UNION, fields)
        if kind in (Kind.ENUM, Kind.ENUM64):
            return self._enum(name, record)
        if kind == Kind.FWD:
            return self._declared(name, record)
        if kind == Kind.TYPEDEF:
            target = self._type(record.word, depth + 1)
            return Typedef(name, target.size, target)
        if kind == Kind.FUNC_PROTO:
            return Function(self._spell(number), 0)
        raise self._index.damage(f"type {number} is used as a type, but is of kind {kind}")

    def _integer(self, name: str, record: Record) -> Integer:
        how, start, bits = record.body[0] >> 24 & 0xF, record.body[0] >> 16 & 0xFF, record.body[0] & 0xFF
        if not bits or start + bits > 8 * record.word:
            raise self._index.damage(f"integer {name} has {bits} bits from {start} in {record.word} bytes")
        encoding = Encoding.INTEGER
        if how & _INT_BOOL:
            encoding = Encoding.BOOL
        elif name == "char" or (how & _INT_CHAR and name not in ("signed char", "unsigned char")):
            # Those two are s8 and u8: numbers, whatever the compiler calls them.
            encoding = Encoding.CHAR
        return Integer(c_spelling(name), record.word, bool(how & _INT_SIGNED), encoding)

    def _enum(self, name: str, record: Record) -> Enum:
        if record.word not in (1, 2, 4, 8):
            raise self._index.damage(f"enum {name} has {record.word} bytes")
        if record.kind == Kind.ENUM64:
            names, low, high = record.body[::3], record.body[1::3], record.body[2::3]
            values = [upper << 32 | lower for lower, upper in zip(low, high, strict=True)]
        else:
            names, values = record.body[::2], record.body[1::2]
        if record.flag:
            limit = 1 << (63 if record.kind == Kind.ENUM64 else 31)
            values = [value - 2 * limit if value >= limit else value for value in values]
        text = self._index.text
        constants = tuple((text(name), value) for name, value in zip(names, values, strict=True))
        return Enum(_tagged(record, name), record.word, record.flag, constants)

    def _declared(self, name: str, record: Record) -> Type:
        """A struct that its own unit only declares is often defined by another one."""
        number = self._find("union" if record.flag else "struct", name)
        if number is not None and self._index.record(number).kind != Kind.FWD:
            return self.type_by_id(number)
        return Struct(_tagged(record, name), 0, record.flag, tuple)

    def _fields(self, record: Record) -> tuple[Field, ...]:
        members = zip(record.body[::3], record.body[1::3], record.body[2::3], strict=True)
        return tuple(self._field(name, number, at, record.flag) for name, number, at in members)

    def _field(self, name_at: int, number: int, at: int, flag: bool) -> Field:
        """A member; ``at`` holds its place in bits and, with ``kind_flag``, a bit field's width above."""
        name, kind = self._index.text(name_at), self._type(number, 0)
        width = 0
        if flag:
            at, width = at & 0xFFFFFF, at >> 24
        else:
            # The old way: the integer type itself is narrower than its bytes, or begins inside them.
            start, bits = self._narrow(number)
            if bits and (start or at % 8 or bits != 8 * kind.size):
                at, width = at + start, bits
        if not width:
            if at % 8:
                raise self._index.damage(f"member {name} begins at bit {at}")
            return Field(name, kind, at // 8)
        unit = 8 * kind.size
        if width > unit:
            raise self._index.damage(f"bit field {name} has {width} bits in a type of {unit}")
        first = at % unit
        if first + width > unit:
            # Packed: it straddles two units of its type, so let its unit begin at the nearest byte.
            first = at % 8
        byte = (at - first) // 8
        if self._index.big_endian:
            # Counted from the most significant bit there; fields count from the least.
            first = unit - first - width
        return Field(name, kind, byte, (first, width))

    def _narrow(self, number: int) -> tuple[int, int]:
        """First bit and width of an integer type, behind typedefs and qualifiers; (0, 0) for others."""
        for _ in range(_DEPTH):
            if not number:
                break
            record = self._index.record(number)
            if record.kind == Kind.INT:
                return record.body[0] >> 16 & 0xFF, record.body[0] & 0xFF
            if record.kind != Kind.TYPEDEF and record.kind not in _QUALIFIERS:
                break
            number = record.word
        return 0, 0

    def _spell(self, number: int) -> str:
        """C's name of a type: C writes it around the place of the identifier, from the inside out."""
        inner = ""
        for _ in range(_DEPTH):
            record = self._index.record(number) if number else None
            if record is None:
                return _join("void", inner)
            if record.kind == Kind.PTR:
                inner = "*" + inner
            elif record.kind == Kind.ARRAY:
                inner = (f"({inner})" if inner.startswith("*") else inner) + f"[{record.body[2] or ''}]"
            elif record.kind == Kind.FUNC_PROTO:
                inner = (f"({inner})" if inner.startswith("*") else inner) + "(...)"
            elif record.kind not in _QUALIFIERS:
                name = self._index.text(record.name)
                if record.kind in (Kind.INT, Kind.FLOAT):
                    return _join(c_spelling(name), inner)
                return _join(name if record.kind == Kind.TYPEDEF else _tagged(record, name), inner)
            number = record.body[0] if record.kind == Kind.ARRAY else record.word
        raise self._index.damage(f"type {number} is wrapped in more than {_DEPTH} others")


def _join(name: str, declarator: str) -> str:
    return name + (" " if declarator[:1] in ("*", "(") else "") + declarator


def _tagged(record: Record, name: str) -> str:
    """``struct net``; one without a name is shown as ``struct {...}``."""
    union = record.kind == Kind.UNION or (record.kind == Kind.FWD and record.flag)
    enum = record.kind in (Kind.ENUM, Kind.ENUM64)
    return f"{'union' if union else 'enum' if enum else 'struct'} {name or '{...}'}"


def _read(path: str, missing: str) -> bytes:
    what = f"cannot read the BTF of {os.path.basename(path)}"
    try:
        return read_bytes(path)
    except FileNotFoundError:
        raise BtfError(what, missing, "types need DWARF or an explicit one, as in *(u32 *)0xff...") from None
    except OSError as error:
        if error.errno in SHORT_OF:
            raise
        raise BtfError(what, f"{path}: {error.strerror}") from None
