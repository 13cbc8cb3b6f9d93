# SPDX-License-Identifier: BSD-2-Clause
"""Which accesses of a recording are reported on."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import pytest

from ksym.errors import KsymError
from ksym.reports.about import time_of_day
from ksym.reports.select import Selection, When, kinds, when
from support.accesses import START, Row
from support.reports import (
    both,
)


@pytest.mark.parametrize(
    ("text", "ns", "of_day"),
    [
        ("0", 0, False), ("1.5", 1_500_000_000, False), ("0.000000001", 1, False), ("90", 90 * 10**9, False),
        ("10:22", (10 * 3600 + 22 * 60) * 10**9, True), ("1:02:03.25", 3_723_250_000_000, True),
    ],
)  # fmt: skip
def test_times(text: str, ns: int, of_day: bool) -> None:
    assert when(text) == When(text, ns, of_day)


@pytest.mark.parametrize(
    "text", ["", "-1", "1e3", "nan", "24:00", "10:60", "10:22:61", "10:22:31.", "\u0661", "1:2:3:4"]
)
def test_no_times(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        when(text)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def local(text: str) -> int:
    return int(time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))) * 10**9


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("asked", "expected"),
    [("23:30", "2026-11-23 23:30:00"), ("00:10", "2026-11-24 00:10:00"), ("22:00", "2026-11-23 22:00:00")],
)
def test_a_time_of_day_in_a_recording_over_midnight(asked: str, expected: str) -> None:
    start, end = local("2026-11-23 23:00:00") + 5, local("2026-11-24 01:00:00")
    assert when(asked).on(start, end) == local(expected)


def test_the_selected_accesses() -> None:
    accesses = both(
        [Row(0, "R"), Row(10**9, "W"), Row(2 * 10**9, "RW", watch=1), Row(3 * 10**9, "W", watch=1)]
    )

    def times(selection: Selection) -> list[int]:
        return [int(each - START) // 10**9 for each in accesses.time_ns[selection.mask(accesses)]]

    assert times(Selection()) == [0, 1, 2, 3]
    assert times(Selection(only=kinds("w"))) == [1, 3]
    assert times(Selection(only=kinds("RW,R"))) == [0, 2]
    assert times(Selection(since=when("1"), until=when("3"))) == [1, 2]
    assert times(Selection(symbols=("./prog:other",))) == [2, 3]
    assert times(Selection(kinds("W"), when("1.5"), None, ("./prog:other",))) == [3]
    moment = time_of_day(START + 2 * 10**9)
    assert times(Selection(since=when(moment))) == [2, 3]
    with pytest.raises(KsymError, match=r"no variable ./prog:othr: .*./prog:other"):
        Selection(symbols=("./prog:othr",)).mask(accesses)
    with pytest.raises(argparse.ArgumentTypeError):
        kinds("W,Q")
