# SPDX-License-Identifier: BSD-2-Clause
"""From the bytes of an object to its value, by type.

A type is compiled once, to functions that take the bytes and give a `Value`. Bytes count from the least
significant one, as on all machines that ksym runs on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import reduce
from operator import or_
from struct import Struct as Layout
from typing import NamedTuple, TypeAlias

from ksym.capture.floats import float_reader
from ksym.errors import KsymError
from ksym.program.layout import MOST_BYTES
from ksym.symbols.readable import readable
from ksym.symbols.types import Array, Encoding, Enum, Float, Integer, Pointer, Struct, Type, resolve
from ksym.symbols.variable import Variable

_MOST_PARTS = 4096
"""Of a variable whose type is taken for a sensible one."""

Plain: TypeAlias = "int | float | str | list[Plain] | dict[str, Plain]"
"""What Python and JSON have in common (bool is an int), and the numbers ``inf``, ``-inf`` and ``nan``."""


class Value(NamedTuple):
    """A value, decoded.

    Args:
        text: For people: ``32768``, ``true``, ``65 'A'``, ``"sshd"``, ``{a = 1, b = 2}``.
        plain: For programs: number, bool, string, list or dict.
        json: ``plain`` as JSON, in ASCII.
    """

    text: str
    plain: Plain
    json: str


Names = Callable[[int], str | None]
"""Says what a pointer points to (``jiffies``, ``tcp_prot+0x10``); None where nothing known lies."""

Decoder = Callable[[bytes], Value]
"""Takes the bytes of the whole object, though it may tell of a part alone."""
_Show = Callable[[int], Value]

INTEGERS = {
    (size, signed): Layout(f"<{letter if signed else letter.upper()}")
    for size, letter in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
    for signed in (False, True)
}
"""Integers by size and whether they are signed."""

_ESCAPES = {
    **{ord(c): f"\\{mark}" for c, mark in zip('\0\a\b\t\n\v\f\r"\\', '0abtnvfr"\\', strict=True)},
    # Bytes that are no UTF-8, as the decoder's surrogateescape leaves them.
    **{0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)},
}


class _Unfit(Exception):
    """The type does not describe the variable's bytes: its description is damaged, or of another version."""


def decoder_of(variable: Variable, names: Names | None) -> Decoder:
    """What decodes the bytes of ``variable``: by its type as far as that describes it, else as plain bytes."""
    kind, length = variable.type, variable.length
    if kind is not None and length <= MOST_BYTES:
        compiler = _Compiler(length, names)
        try:
            if variable.bits:
                return compiler.bit_field(resolve(kind), 0, variable.bits)
            if kind.size:
                return compiler.decoder(kind, 0)
        except (_Unfit, KsymError, RecursionError):
            pass  # types are read as far as they are needed, so this may be the first to find them damaged
    return _untyped(0, length)


class _Compiler:
    """Makes decoders for the parts of an object of ``length`` bytes; places are offsets in it."""

    def __init__(self, length: int, names: Names | None) -> None:
        self._length, self._names = length, names
        self._open: list[Struct] = []
        self._parts = 0

    def decoder(self, kind: Type, at: int) -> Decoder:
        """A decoder of the ``kind`` at ``at``."""
        kind = resolve(kind)
        self._count_part()
        if at < 0 or at + kind.size > self._length:
            raise _Unfit
        if isinstance(kind, Struct):
            return _members(dict(self._fields(kind, at)))
        if isinstance(kind, Array):
            return self._array(kind, at)
        if isinstance(kind, Float):
            return _real(at, kind)
        show = self._show(kind)
        if show is None:
            return _untyped(at, kind.size)
        if not kind.size:
            raise _Unfit  # an enum that is only declared
        return _number(show, at, kind.size, signed=_signed(kind))

    def bit_field(self, kind: Type, at: int, bits: tuple[int, int]) -> Decoder:
        """A decoder of ``bits``, counted as in `ksym.symbols.types.Field`."""
        self._count_part()
        first, width = bits
        start, shift = at + first // 8, first % 8
        end = start + (shift + width + 7) // 8
        if first < 0 or width < 1 or start < 0 or end > self._length:
            raise _Unfit
        return _bits(self._show(kind) or show_number, start, end, shift, width, signed=_signed(kind))

    def _count_part(self) -> None:
        # Unions in unions, two and two, make a type of few lines and of parts without end.
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise _Unfit

    def _show(self, kind: Type) -> _Show | None:
        """How a number of that type is shown; None if it is no number."""
        if isinstance(kind, Enum):
            return _enumerator(kind)
        if isinstance(kind, Pointer):
            return _pointer(self._names)
        if not isinstance(kind, Integer):
            return None
        if kind.encoding is Encoding.BOOL:
            return _show_bool
        return _show_char if _is_char(kind) else show_number

    def _fields(self, kind: Struct, at: int) -> Iterator[tuple[str, Decoder]]:
        """Names and decoders of the members, those of unnamed structs and unions among them."""
        if any(kind is outer for outer in self._open):
            raise _Unfit  # a struct that holds itself
        self._open.append(kind)
        for field in kind.fields:
            inner, start = resolve(field.type), at + field.offset
            if field.name:
                if field.bits:
                    yield readable(field.name), self.bit_field(inner, start, field.bits)
                else:
                    yield readable(field.name), self.decoder(inner, start)
            elif isinstance(inner, Struct) and not field.bits:
                yield from self._fields(inner, start)
        self._open.pop()

    def _array(self, kind: Array, at: int) -> Decoder:
        element = resolve(kind.element)
        # An array without a length has no elements to show, one of empty elements nothing in them.
        count = kind.count if element.size else 0
        if at + count * element.size > self._length:
            raise _Unfit
        if _is_char(element):
            return _text(at, count)
        return _elements([self.decoder(element, at + index * element.size) for index in range(count)])


def _signed(kind: Type) -> bool:
    return isinstance(kind, (Integer, Enum)) and kind.signed


def _is_char(kind: Type) -> bool:
    # DWARF says char of s8 and u8, too, which are numbers.
    return (
        isinstance(kind, Integer)
        and kind.encoding is Encoding.CHAR
        and kind.size == 1
        and kind.name not in ("signed char", "unsigned char")
    )


# -- numbers: how their bytes are read, and how they are shown --------------------------------------------


def _number(show: _Show, at: int, size: int, *, signed: bool) -> Decoder:
    layout = INTEGERS.get((size, signed))
    if layout is None:
        return _bits(show, at, at + size, 0, 8 * size, signed=signed)
    unpack = layout.unpack_from

    def decode(data: bytes) -> Value:
        return show(unpack(data, at)[0])

    return decode


def _bits(show: _Show, start: int, end: int, shift: int, width: int, *, signed: bool) -> Decoder:
    mask = (1 << width) - 1
    sign = 1 << (width - 1) if signed else 0

    def decode(data: bytes) -> Value:
        number = int.from_bytes(data[start:end], "little") >> shift & mask
        return show((number ^ sign) - sign)

    return decode


def show_number(number: int) -> Value:
    """The value of an integer."""
    text = str(number)
    return Value(text, number, text)


def _show_bool(number: int) -> Value:
    if number == 1:
        return Value("true", True, "true")
    return show_number(number) if number else Value("false", False, "false")


def _show_char(number: int) -> Value:
    byte = number & 0xFF
    shown = "\\'" if byte == ord("'") else '"' if byte == ord('"') else _escaped(bytes((byte,)))
    return Value(f"{number} '{shown}'", number, str(number))


def _real(at: int, kind: Float) -> Decoder:
    read = float_reader(kind, at)
    raw = raw_bytes(at, kind.size)
    if read is None:
        return raw

    def decode(data: bytes) -> Value:
        number = read(data)
        if number is None:
            return raw(data)
        text = repr(number)
        # JSON has no infinities and no NaN; `views.text.as_json` has the same texts for them.
        return Value(text, number, text if math.isfinite(number) else f'"{text}"')

    return decode


def _enumerator(kind: Enum) -> _Show:
    names: dict[int, str] = {}
    for name, number in kind.enumerators:
        names.setdefault(number, readable(name))
    single_bits = all(number >= 0 and not number & (number - 1) for number in names)
    flags = sorted(number for number in names if number) if single_bits else []
    everything = reduce(or_, flags, 0)
    encode = _json_encoder()

    def show(number: int) -> Value:
        name = names.get(number)
        if name is None:
            if not number or number & ~everything:
                return show_number(number)
            name = " | ".join(names[flag] for flag in flags if flag & number)
        return Value(name, name, encode(name))

    return show


def _pointer(names: Names | None) -> _Show:
    encode = _json_encoder()

    def show(number: int) -> Value:
        text = (names(number) if names and number else None) or hex(number)
        return Value(text, text, encode(text))

    return show


# -- what consists of several ----------------------------------------------------------------------------


def _members(members: dict[str, Decoder]) -> Decoder:
    encode = _json_encoder()
    names, decoders = list(members), list(members.values())
    text = _template("{", [f"{name} = " for name in names], "}")
    json = _template("{", [f"{encode(name)}: " for name in names], "}")

    def decode(data: bytes) -> Value:
        values = [decode_one(data) for decode_one in decoders]
        return Value(
            text % tuple([value.text for value in values]),
            dict(zip(names, [value.plain for value in values], strict=True)),
            json % tuple([value.json for value in values]),
        )

    return decode


def _elements(decoders: list[Decoder]) -> Decoder:
    def decode(data: bytes) -> Value:
        values = [decode_one(data) for decode_one in decoders]
        return Value(
            "{" + ", ".join([value.text for value in values]) + "}",
            [value.plain for value in values],
            "[" + ", ".join([value.json for value in values]) + "]",
        )

    return decode


def _template(before: str, parts: list[str], behind: str) -> str:
    return before + ", ".join(part.replace("%", "%%") + "%s" for part in parts) + behind


def _text(at: int, count: int) -> Decoder:
    encode = _json_encoder()

    def decode(data: bytes) -> Value:
        text = data[at : at + count].partition(b"\0")[0]
        plain = text.decode("utf-8", "backslashreplace")
        return Value(f'"{_escaped(text)}"', plain, encode(plain))

    return decode


def _escaped(text: bytes) -> str:
    """Text as C writes it between quotes."""
    shown = text.decode("utf-8", "surrogateescape").translate(_ESCAPES)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else _escape(ord(c)) for c in shown)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _untyped(at: int, size: int) -> Decoder:
    if (size, False) in INTEGERS:
        return _number(show_number, at, size, signed=False)
    return raw_bytes(at, size)


def raw_bytes(at: int, size: int) -> Decoder:
    """A decoder of what has no better description: ``01 02 0a``."""

    def decode(data: bytes) -> Value:
        text = data[at : at + size].hex(" ")
        return Value(text, text, f'"{text}"')

    return decode


def _json_encoder() -> Callable[[str], str]:
    from json.encoder import encode_basestring_ascii  # late: before a watch is armed nobody needs it

    return encode_basestring_ascii
