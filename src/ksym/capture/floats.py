# SPDX-License-Identifier: BSD-2-Clause
"""C's floating point as Python's.

Source of the formats: IEEE 754-2019, table 3.5 (binary16 to binary128), and for x86's long double the Intel SDM,
volume 1, 4.2.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from struct import Struct as Layout

from ksym.linux.libc import MACHINE
from ksym.symbols.types import Float

_LAYOUTS = {2: Layout("<e"), 4: Layout("<f"), 8: Layout("<d")}
# Fewest and most decimal digits that may be needed to tell a value from its neighbours.
_DIGITS = {2: range(3, 6), 4: range(6, 10)}
_EXACT = 1e16
"""Integers below this are read as they are: 65504 is not shortened to 65500. Python writes those above as 1e+16."""


def float_reader(kind: Float, at: int) -> Callable[[bytes], float | None] | None:
    """What reads a float of that type at that offset; None if the format is not known.

    The shortest number is read that is the same in the type: 0.1f as 0.1, not as 0.10000000149011612. None is
    read where a long double is larger than a Python float can be.
    """
    size = kind.size
    if size == 16:
        return _quadruple(at, x87=kind.name == "long double" and MACHINE == "x86_64")
    layout = _LAYOUTS.get(size)
    if layout is None:
        return None

    def read(data: bytes) -> float:
        number: float = layout.unpack_from(data, at)[0]
        if math.isfinite(number) and not (number.is_integer() and abs(number) < _EXACT):
            for digits in _DIGITS.get(size, ()):
                short = float(f"{number:.{digits}g}")
                if layout.unpack(layout.pack(short))[0] == number:
                    return short
        return number

    return read


def _quadruple(at: int, *, x87: bool) -> Callable[[bytes], float | None]:
    """A sign, 15 bits of exponent (bias 16383) and a fraction: of 112 bits, or x87's 63 behind a bit for the one."""
    fraction_bits = 63 if x87 else 112
    exponent_at = 64 if x87 else 112

    def read(data: bytes) -> float | None:
        number = int.from_bytes(data[at : at + 16], "little")
        sign = -1.0 if number >> (exponent_at + 15) & 1 else 1.0
        exponent = number >> exponent_at & 0x7FFF
        fraction = number & ((1 << fraction_bits) - 1)
        if exponent == 0x7FFF:
            return math.nan if fraction else sign * math.inf
        one = number >> 63 & 1 if x87 else exponent > 0
        significand = fraction | one << fraction_bits
        try:
            return sign * math.ldexp(significand, max(exponent, 1) - 16383 - fraction_bits)
        except OverflowError:
            return None

    return read
