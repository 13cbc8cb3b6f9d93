# SPDX-License-Identifier: BSD-2-Clause
"""Columns of recordings as numbers, and values in their order."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.reports.analysis import Analysis
from ksym.reports.comparable import comparable, last_places, number, same, tally
from ksym.reports.select import Selection
from ksym.symbols.ctext import parse_type
from ksym.symbols.types import Array
from ksym.symbols.variable import Space, Variable
from support.accesses import Row, make_accesses, make_watch
from support.reports import (
    subject,
    text_of,
)


@given(
    st.sampled_from((np.int8, np.uint8, np.int32, np.int64, np.uint64)),
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 300), max_size=60),
    st.booleans(),
)
def test_numbers_are_those_of_numpy(kind: type[Any], words: list[int], ordered: bool) -> None:
    column = np.array(words, np.uint64).astype(kind)
    if ordered:
        column.sort()
    found = number(column)
    different, codes = np.unique(column, return_inverse=True)
    assert (found.different.tolist(), found.codes.tolist()) == (different.tolist(), codes.tolist())
    assert found.different.dtype == column.dtype
    last = {code: place for place, code in enumerate(codes.tolist())}
    assert last_places(found.codes, len(different)).tolist() == [last[code] for code in range(len(different))]
    some = np.abs(column.astype(np.int64) >> 1)
    assert dict(zip(*(part.tolist() for part in tally(some)), strict=True)) == Counter(some.tolist())


def variable(kind: str, bits: tuple[int, int] | None = None) -> Variable:
    made = parse_type(kind)
    return Variable("v", 0x4000, made.size, Space.USER, made, bits)


def bytes_of(values: list[bytes], width: int = 8) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array([list(value.ljust(width, b"\0")) for value in values], np.uint8).reshape(-1, width)


@pytest.mark.parametrize(
    ("kind", "layout"), [("signed char", "b"), ("u8", "B"), ("short", "h"), ("int", "i"), ("unsigned long", "Q"),
                         ("long", "q"), ("float", "f"), ("double", "d")],
)  # fmt: skip
@given(st.data())
def test_values_compare_as_they_do_in_c(kind: str, layout: str, data: st.DataObject) -> None:
    bits = 8 * struct.calcsize(layout)
    if layout in "fd":
        numbers: st.SearchStrategy[Any] = st.floats(width=32, allow_nan=False).filter(
            lambda x: str(x) != "-0.0"
        )
    else:
        numbers = st.integers(
            *((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if layout.islower() else (0, 2**bits - 1))
        )
    values = data.draw(st.lists(numbers, min_size=2, max_size=20))
    found = comparable(variable(kind), bytes_of([struct.pack(f"<{layout}", value) for value in values]))
    assert [bool(a < b) for a, b in pairwise(found)] == [a < b for a, b in pairwise(values)]
    assert number(found).codes.tolist() == [sorted(set(values)).index(value) for value in values]


def test_values_of_bit_fields() -> None:
    field = variable("int", bits=(4, 3))
    data = bytes_of([struct.pack("<I", word) for word in (0b0_011_0000, 0b1_011_1111, 0b0_111_0000)])
    assert comparable(field, data).tolist() == [3, 3, -1]
    assert same(field, data[:2], data[1:]).tolist() == [True, False]


def test_values_that_are_no_numbers_have_no_order_but_are_told_apart() -> None:
    words = Array("long[3]", 24, parse_type("long"), 3)
    watch = make_watch("./prog:words", words)
    values = [bytes([1]) * 24, bytes([1]) * 16 + bytes([2]) * 8, bytes([1]) * 24]
    found = subject([Row(new=value) for value in values], watches=[watch]).values
    assert found is not None
    assert (found.different, found.low, found.high) == (2, None, None)
    assert found.first == found.last
    text = Array("char[16]", 16, parse_type("char"), 16)
    names = subject([Row(new=b"swapper/0"), Row(new=b"sshd")], watches=[make_watch("./p:comm", text)]).values
    assert names is not None
    assert (names.first.plain, names.last.plain) == ("swapper/0", "sshd")


def test_pointers_have_names() -> None:
    watch = make_watch("./prog:where", "void *")
    accesses = replace(make_accesses([Row(new=0x1000)], watches=[watch]), pointers={0x1000: "jiffies"})
    assert "jiffies" in text_of(Analysis(accesses, Selection()))


def test_values_of_some_accesses_are_not_known() -> None:
    found = subject([Row(), Row(new=7), Row(kind="R"), Row(old=3)])
    assert found.values is not None
    assert (found.values.different, found.values.first.plain, found.values.last.plain) == (2, 7, 3)
    groups, _ = found.groups(["value"])
    assert {group.label: group.accesses for group in groups} == {("not known",): 2, ("7",): 1, ("3",): 1}
    assert subject([Row(), Row()]).values is None
