# SPDX-License-Identifier: BSD-2-Clause
"""Protocol buffers by the column: a million like messages are one array of bytes, filled column by column.

The protobuf library makes and fills one object a message, 2.6 us for a small one: 8 s for the messages of a million
accesses, where this takes 0.8 s. So only the format's two rules are here: a field is its number and
type, then its content; a number is 7 bits a byte, the least significant first
(https://protobuf.dev/programming-guides/encoding/). All messages of an array are equally long because each number in
a column takes as many bytes as the largest one needs, which the format allows: leading zeros do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ksym.symbols.readable import readable

Part: TypeAlias = "bytes | NDArray[np.uint8]"
"""What is the same in all messages, or an array with a row for each."""
Message: TypeAlias = "list[Part]"

_VARINT, _FIXED64, _BYTES = 0, 1, 2


def varint(number: int) -> bytes:
    """A number from 0 to 2**64 - 1."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varints(column: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Numbers, negative ones as 64 bits."""
    numbers = (
        column.astype(np.int64).view(np.uint64) if column.dtype.kind == "i" else column.astype(np.uint64)
    )
    most = int(numbers.max()) if len(numbers) else 0
    size = max(1, -(-most.bit_length() // 7))
    out = np.empty((len(numbers), size), np.uint8)
    for place in range(size):
        out[:, place] = (numbers >> np.uint64(7 * place)).astype(np.uint8)
    out[:, :-1] |= 0x80
    out[:, -1] &= 0x7F
    return out


def number(field: int, value: int | NDArray[np.integer[Any]]) -> Message:
    """A field that is a number (uint64, int64, enum, bool)."""
    tag = varint(field << 3 | _VARINT)
    if isinstance(value, int):
        return [tag + varint(value & (1 << 64) - 1)]
    return [tag, _varints(value)]


def real(field: int, value: NDArray[np.float64]) -> Message:
    """A field that is a double."""
    column = np.ascontiguousarray(value, "<f8").view(np.uint8).reshape(len(value), 8)
    return [varint(field << 3 | _FIXED64), column]


def text(field: int, value: str | bytes) -> Message:
    """A field that is a string or bytes."""
    data = value if isinstance(value, bytes) else readable(value).encode()
    return [varint(field << 3 | _BYTES) + varint(len(data)) + data]


def message(field: int, *parts: Message) -> Message:
    """A field that is a message."""
    inner = [part for each in parts for part in each]
    return [varint(field << 3 | _BYTES) + varint(sum(map(_size, inner))), *inner]


def _size(part: Part) -> int:
    return len(part) if isinstance(part, bytes) else part.shape[1]


def rows(parts: Message, count: int) -> bytes:
    """``count`` messages, one behind the other."""
    out = np.empty((count, sum(map(_size, parts))), np.uint8)
    at = 0
    for part in parts:
        end = at + _size(part)
        out[:, at:end] = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
        at = end
    return out.tobytes()


def single(parts: Sequence[Part]) -> bytes:
    """One message, of which nothing is a column."""
    return b"".join(part for part in parts if isinstance(part, bytes))
