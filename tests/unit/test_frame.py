# SPDX-License-Identifier: BSD-2-Clause
"""Values of any mix of types, on their way to Arrow, Parquet and pandas: none becomes another one."""

from __future__ import annotations

import io
import math
import struct
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksym.api.recording import Columns
from ksym.exports import parquet
from ksym.recording.accesses import Accesses
from ksym.symbols.types import Array, Encoding, Enum, Field, Float, Integer, Pointer, Struct, Type
from support.accesses import Row, make_accesses, make_site, make_watch
from support.exports import written

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pd = pytest.importorskip("pandas")

from ksym.exports.arrow import table  # noqa: E402
from ksym.exports.frame import frame  # noqa: E402

WORD = Integer("int", 4, signed=True)
CHAR = Integer("char", 1, True, Encoding.CHAR)


class Case(NamedTuple):
    """A type, how to pack its numbers (None: it has none), and its bytes."""

    kind: Type
    form: str | None
    contents: st.SearchStrategy[bytes]


def whole(size: int, *, signed: bool) -> Case:
    form = "<" + "bhiq"["1248".index(str(size))]
    form = form if signed else form.upper()
    least, most = (-(1 << 8 * size - 1), (1 << 8 * size - 1) - 1) if signed else (0, (1 << 8 * size) - 1)
    edges = st.sampled_from([least, least + 1, 0, most - 1, most])
    return Case(
        Integer(f"{'s' if signed else 'u'}{8 * size}", size, signed=signed),
        form,
        (edges | st.integers(least, most)).map(lambda number: struct.pack(form, number)),
    )


def real(name: str, size: int, form: str) -> Case:
    special = st.sampled_from([math.nan, math.inf, -math.inf, -0.0])
    numbers = special | st.floats(width=8 * size)  # type: ignore[arg-type]
    return Case(Float(name, size), form, numbers.map(lambda number: struct.pack(form, number)))


ADDRESSES = st.sampled_from([0, 0xFFFFFFFF81000001, 2**64 - 1, 2**53 + 1]) | st.integers(0, 2**64 - 1)
CASES = st.sampled_from(
    [
        *(whole(size, signed=signed) for size in (1, 2, 4, 8) for signed in (False, True)),
        real("double", 8, "<d"),
        real("float", 4, "<f"),
        Case(Integer("bool", 1, False, Encoding.BOOL), "<B", st.sampled_from([b"\0", b"\1"])),
        Case(
            Enum("enum state", 4, True, (("IDLE", 0), ("BUSY", -1))),
            "<i",
            st.integers(-2, 2).map(lambda number: struct.pack("<i", number)),
        ),
        Case(
            Pointer("void *", 8, lambda: WORD), "<Q", ADDRESSES.map(lambda number: struct.pack("<Q", number))
        ),
        Case(Array("char[8]", 8, CHAR, 8), None, st.binary(min_size=8, max_size=8)),
        Case(
            Struct("struct pair", 8, False, lambda: (Field("x", WORD, 0), Field("y", WORD, 4))),
            None,
            st.binary(min_size=8, max_size=8),
        ),
    ]
)


@st.composite
def mixes(draw: st.DrawFn) -> tuple[Accesses, list[list[Any]]]:
    """Accesses to variables of several types, and of each its old and its new number, None where it has none."""
    cases = draw(st.lists(CASES, min_size=1, max_size=4))
    watches = [make_watch(f"./prog:v{index}", case.kind, index=index) for index, case in enumerate(cases)]
    sites = [make_site(ip=2**64 - 9), make_site(None, 3, text=None, owner=None, ip=0xFFFFFFFF81000FFF)]
    rows, numbers = [], []
    for time in range(draw(st.integers(1, 12))):
        index = draw(st.integers(0, len(cases) - 1))
        case = cases[index]
        old, new = (draw(st.none() | case.contents) for _ in "on")
        rows.append(
            Row(
                time=time, watch=index, old=old, new=new, site=draw(st.integers(0, 1)),
                uid=draw(st.integers(-1, 2**31 - 1)),
            )
        )  # fmt: skip
        form = case.form
        numbers.append(
            [None if form is None or data is None else struct.unpack(form, data)[0] for data in (old, new)]
        )
    return make_accesses(rows, watches=watches, sites=sites), numbers


def same(found: Any, number: Any) -> bool:
    """True if they are the same number of the same type, or both are missing; NaN is a number."""
    if number is None or found is None or found is pd.NA:
        return number is None and (found is None or found is pd.NA)
    if isinstance(number, float):
        return isinstance(found, float) and struct.pack("<d", found) == struct.pack("<d", number)
    return isinstance(found, int) and found == number


def texts(accesses: Accesses, which: str) -> list[str | None]:
    """The values as the table shows them."""
    decoders = accesses.decoders()
    return [
        decoders[int(accesses.watch[at])].of(getattr(accesses, which)[at].tobytes()).text
        if getattr(accesses, f"{which}_known")[at]
        else None
        for at in range(len(accesses))
    ]


@given(mixes())
@settings(max_examples=150)
def test_a_data_frame_has_every_value(mix: tuple[Accesses, list[list[Any]]]) -> None:
    accesses, numbers = mix
    made = frame(pd, table(accesses), accesses)
    for place, which in enumerate(("old", "new")):
        found = made[which].tolist()
        for value, row in zip(found, numbers, strict=True):
            assert same(value, row[place]), (which, made[which].dtype)
        shown = zip(found, made[f"{which}_text"].tolist(), texts(accesses, which), strict=True)
        for value, text, expected in shown:
            if expected is None:
                assert not isinstance(text, str)
            else:  # what has no text says all with its number
                assert (text if isinstance(text, str) else str(value)) == expected
    columns = Columns(accesses)
    for name in ("time_ns", "address", "ip", "instruction_address", "offset", "uid", "pid", "hits"):
        for value, expected in zip(made[name].tolist(), columns[name].tolist(), strict=True):
            assert same(value, expected), name
    assert len(made.columns) == len(set(made.columns))


@given(mixes())
@settings(max_examples=100)
def test_an_arrow_table_and_a_parquet_file_have_every_value(mix: tuple[Accesses, list[list[Any]]]) -> None:
    accesses, numbers = mix
    stored = pq.read_table(io.BytesIO(written(parquet.write, accesses)))
    for made in (table(accesses), stored):
        rows = made.to_pylist()
        for place, which in enumerate(("old", "new")):
            for row, wanted in zip(rows, numbers, strict=True):
                found = row.get(f"{which}_real")
                found = row[which] if found is None else found
                if isinstance(wanted[place], int) and found is not None:
                    assert found == int(found)
                    found = int(found)  # a decimal holds every digit
                assert same(found, wanted[place]), made.schema.field(which)


def test_types_of_columns() -> None:
    """Those that a program may rely on."""

    def kinds(*types: str | Type) -> list[str]:
        watches = [make_watch(f"./prog:v{index}", kind, index=index) for index, kind in enumerate(types)]
        rows = [Row(watch=index, new=1) for index in range(len(types))]
        accesses = make_accesses(rows, watches=watches)
        made = frame(pd, table(accesses), accesses)
        assert str(made["ip"].dtype) == str(made["address"].dtype) == "UInt64"
        assert str(made["pid"].dtype) == "Int32"
        assert str(made["time"].dtype) == "datetime64[ns, UTC]"
        return [str(made[name].dtype) for name in ("old", "new")]

    assert kinds("int") == ["Int64"] * 2
    assert kinds("unsigned long") == ["UInt64"] * 2
    assert kinds("int", "unsigned") == ["Int64"] * 2
    assert kinds(Float("double", 8)) == ["double[pyarrow]"] * 2
    assert kinds("long", "unsigned long") == ["object"] * 2
    assert kinds("int", Float("double", 8)) == ["object"] * 2
