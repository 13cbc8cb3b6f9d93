# SPDX-License-Identifier: BSD-2-Clause
"""Accesses as an Arrow table: what Parquet files and the Python API's ``to_arrow`` are made from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ksym.exports.columns import (
    Coded,
    Known,
    Number,
    lengths,
    number_of,
    numbers,
    places,
    texts,
    value_texts,
)
from ksym.recording.accesses import Accesses
from ksym.symbols.readable import readable

_WORDS = pa.dictionary(pa.int32(), pa.string())
_WIDE = pa.decimal128(20, 0)
"""Holds every number of 64 bits, signed or not; what Spark makes of uint64 itself."""

_ALWAYS = (
    "time_ns", "time", "cpu", "pid", "tid", "comm", "symbol", "address", "length", "access", "ip", "hits",
)  # fmt: skip


def table(accesses: Accesses, *, fleet: bool = False) -> Any:
    """The accesses as a ``pyarrow.Table``.

    Args:
        accesses: The accesses.
        fleet: The same schema whatever was watched, of types that Spark reads: times in microseconds and
            values as decimals. ``time_ns`` has all of the time; reals have their text alone.
    """
    words, addresses = texts(accesses), places(accesses)
    unit = "us" if fleet else "ns"
    times = accesses.time_ns // 1000 if fleet else accesses.time_ns
    uid = accesses.uid
    columns = {
        "time_ns": _array(accesses.time_ns),
        "time": _array(times, kind=pa.timestamp(unit, "UTC")),
        "cpu": _array(accesses.cpu),
        "pid": _array(accesses.pid),
        "tid": _array(accesses.tid),
        "comm": _words(words["comm"]()),
        "symbol": _words(words["symbol"]()),
        "address": _array(accesses.address),
        "length": _array(lengths(accesses)),
        "access": _words(words["access"]()),
        "old": _values(accesses, "old", fleet=fleet),
        "new": _values(accesses, "new", fleet=fleet),
        "old_text": _words(value_texts(accesses, "old")),
        "new_text": _words(value_texts(accesses, "new")),
        **({} if fleet else _reals(accesses)),
        "ip": _numbers(addresses["ip"]()),
        "function": _words(words["function"]()),
        "offset": _numbers(addresses["offset"](), np.int64),
        "instruction": _words(words["instruction"]()),
        "hits": _array(accesses.hits),
        "stack": _stacks(accesses),
        "module": _words(words["module"]()),
        "instruction_address": _numbers(addresses["instruction_address"]()),
        "uid": _numbers(Known(uid, None if (uid >= 0).all() else uid >= 0)),
    }
    # What is always known is cheaper to store, too.
    fields = [pa.field(name, column.type, nullable=name not in _ALWAYS) for name, column in columns.items()]
    return pa.Table.from_arrays(list(columns.values()), schema=pa.schema(fields))


# ``pyarrow.array`` would import pandas, where it is installed, to look at what it is given: 0.3 s. So all arrays are
# made from their buffers (https://arrow.apache.org/docs/format/Columnar.html).


def _array(numbers: NDArray[Any], known: NDArray[np.bool_] | None = None, kind: Any = None) -> Any:
    """A column in the memory of its numpy array.

    Args:
        numbers: The elements.
        known: Where there is one; None: everywhere.
        kind: Their type, as long as that of ``numbers``.
    """
    numbers = np.ascontiguousarray(numbers)
    valid = None if known is None else _bits(known)
    kind = kind or pa.from_numpy_dtype(numbers.dtype)
    return pa.Array.from_buffers(kind, len(numbers), [valid, pa.py_buffer(numbers)])


def _words(column: Coded) -> Any:
    known = column.codes >= 0 if column.gaps else None
    return pa.DictionaryArray.from_arrays(_array(column.codes, known), _strings(column.words))


def _bits(flags: NDArray[np.bool_]) -> Any:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _strings(words: Iterable[str]) -> Any:
    """Arrow's strings are UTF-8; a name need not be."""
    texts = [readable(word).encode() for word in words]
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))


def _numbers(column: Known, kind: Any = None) -> Any:
    return _array(column.numbers if kind is None else column.numbers.astype(kind), column.known)


def _values(accesses: Accesses, which: str, *, fleet: bool) -> Any:
    """The values that are numbers; null for the others, and for reals where there are integers, too (`_reals`)."""
    kinds = {number_of(watch.variable) for watch in accesses.watches}
    whole = [kind for kind in (Number.SIGNED, Number.UNSIGNED) if kind in kinds]
    if Number.REAL in kinds and not whole and not fleet:
        return _numbers(numbers(accesses, which, Number.REAL))
    if not whole:
        return pa.nulls(len(accesses), _WIDE if fleet else pa.int64())
    if len(whole) == 1:
        column = _numbers(numbers(accesses, which, whole[0]))
        return column.cast(_WIDE) if fleet else column
    signed, unsigned = (_numbers(numbers(accesses, which, kind)).cast(_WIDE) for kind in whole)
    from pyarrow import compute

    return compute.coalesce(signed, unsigned)


def _reals(accesses: Accesses) -> dict[str, Any]:
    """Columns of their own for reals beside integers: one type for both would change the one or the other."""
    kinds = {number_of(watch.variable) for watch in accesses.watches} - {None}
    if Number.REAL not in kinds or len(kinds) == 1:
        return {}
    return {f"{which}_real": _numbers(numbers(accesses, which, Number.REAL)) for which in ("old", "new")}


def _stacks(accesses: Accesses) -> Any:
    """Frames as JSON has them, innermost first."""
    kind = pa.list_(_WORDS)
    if not accesses.stacks or not (accesses.stack >= 0).any():
        return pa.nulls(len(accesses), kind)
    different: dict[str, int] = {}
    chains = [
        np.array([different.setdefault(str(frame), len(different)) for frame in stack], np.int32)
        for stack in accesses.stacks
    ]
    # The chains one behind the other, and of each access the numbers of its frames in there.
    sizes = np.array([len(chain) for chain in chains], np.int64)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    known = (accesses.stack >= 0) & (sizes > 0)[accesses.stack]
    of_access = np.where(known, sizes[accesses.stack], 0)
    ends = np.cumsum(of_access)
    offsets = np.concatenate(([0], ends)).astype(np.int32)
    where = _ranges(starts[accesses.stack], of_access, ends)
    frames = pa.DictionaryArray.from_arrays(_array(np.concatenate(chains)[where]), _strings(different))
    missing = None
    if not known.all():
        missing = pa.BooleanArray.from_buffers(pa.bool_(), len(known), [None, _bits(~known)])
    return pa.ListArray.from_arrays(_array(offsets), frames, type=kind, mask=missing)


def _ranges(
    starts: NDArray[np.int64], sizes: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    """``start, start + 1, ...`` of each size, one behind the other."""
    every = np.arange(int(ends[-1]) if len(ends) else 0, dtype=np.int64)
    return np.asarray(every + np.repeat(starts - (ends - sizes), sizes))
