# SPDX-License-Identifier: BSD-2-Clause
"""The values of a variable, from its bytes to what every output prints.

>>> from ksym.symbols.ctext import parse_type
>>> from ksym.symbols.variable import Space
>>> Values(Variable("v", 0x1000, 4, Space.USER, parse_type("int"))).of(bytes.fromhex("feffffff00000000"))
Value(text='-2', plain=-2, json='-2')

Values are remembered as far as that is quicker than decoding them again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from ksym.capture.decoders import INTEGERS, Decoder, Names, Value, decoder_of, raw_bytes, show_number
from ksym.symbols.types import Encoding, Integer, resolve
from ksym.symbols.variable import Variable

__all__ = ["VALUES_KEPT", "Names", "Value", "Values"]

VALUES_KEPT = 4096
"""How many values of a variable are remembered: a state's few for ever, those of a time stamp for a while."""


class Values:
    """The values of one variable.

    Args:
        variable: What the bytes are of.
        names: Names what pointers point to; may be None. Numbers are shown where it knows nothing.
    """

    of: Callable[[bytes], Value]
    """Decode a value: the variable's bytes, and any number of bytes behind them that do not count."""

    def __init__(self, variable: Variable, names: Names | None = None) -> None:
        layout = integer_layout(variable)
        self._known = _Known(variable, names)
        self.of = _counter(layout) if layout else self._known.__getitem__

    def forget(self) -> None:
        """Drop decoded values: the names of the addresses in them may have changed."""
        self._known.clear()


def integer_layout(variable: Variable) -> struct.Struct | None:
    """How to read a variable that is a plain integer, or that has the bytes of one and no type."""
    kind, length = variable.type and resolve(variable.type), variable.length
    if variable.bits or not (
        kind is None
        or (isinstance(kind, Integer) and kind.encoding is Encoding.INTEGER and kind.size == length)
    ):
        return None
    return INTEGERS.get((length, kind is not None and kind.signed))


def _counter(layout: struct.Struct) -> Callable[[bytes], Value]:
    """Decodes integers, whose values change with every hit where it matters that this is quick.

    So no table of values is kept, and Value's own constructor is avoided. A hit's old value mostly is the new one
    of the hit before; three are remembered, because hits give their new value first, and of two values the one
    that is needed next would be forgotten for good once the first old value was another.
    """
    unpack, text_of, make, of_class = layout.unpack_from, str, tuple.__new__, Value
    first = second = third = bytes(layout.size)
    first_value = second_value = third_value = show_number(0)

    def decode(data: bytes) -> Value:
        nonlocal first, second, third, first_value, second_value, third_value
        if data == first:
            return first_value
        if data == second:
            return second_value
        if data == third:
            return third_value
        try:
            (number,) = unpack(data)
        except struct.error:
            return raw_bytes(0, len(data))(data)  # of a damaged recording
        text = text_of(number)
        third, second, first = second, first, data
        third_value, second_value = second_value, first_value
        first_value = make(of_class, (text, number, text))
        return first_value

    return decode


class _Known(dict[bytes, Value]):
    """Values by bytes, found by C code; those not yet known are decoded."""

    def __init__(self, variable: Variable, names: Names | None) -> None:
        super().__init__()
        self._variable, self._names, self._length = variable, names, variable.length
        self._decode: Decoder | None = None

    def __missing__(self, data: bytes) -> Value:
        decode = self._decode
        if decode is None:
            decode = self._decode = decoder_of(self._variable, self._names)
        if len(self) >= VALUES_KEPT:
            self.clear()
        # Of fewer bytes (a damaged recording) only those can be told.
        value = self[data] = decode(data) if len(data) >= self._length else raw_bytes(0, len(data))(data)
        return value
