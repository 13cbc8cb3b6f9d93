# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from ksym.recording.ahead import DEPTH, ahead


def test_all_things_come_in_their_order() -> None:
    assert list(ahead(range(100))) == list(range(100))
    assert list(ahead([])) == []


def test_few_need_no_thread() -> None:
    def make() -> Iterator[int]:
        assert threading.current_thread() is threading.main_thread()
        yield 1

    assert list(ahead(make())) == [1]


def test_they_are_made_in_another_thread_and_not_too_many_ahead() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            assert (threading.current_thread() is threading.main_thread()) == (number < 2)
            yield number

    taken = 0
    for taken, number in enumerate(ahead(make())):
        assert number == taken
        assert len(made) <= taken + 1 + DEPTH + 1  # that one, those that wait, and the one in the making
    assert taken == 99


def test_what_making_raises_comes_behind_what_was_made() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    things = ahead(make())
    assert next(things) == 1
    with pytest.raises(ValueError, match="no more"):
        next(things)


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    with closing(ahead(iter(int, 1))) as things:  # without an end
        assert [next(things) for _ in range(3)] == [0, 0, 0]
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
