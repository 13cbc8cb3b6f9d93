# SPDX-License-Identifier: BSD-2-Clause
"""Processes that are held are looked at and let go, whenever they come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ksym.runs.following import Following


class FakeHolder:
    """Holds processes; each time that it is asked for notes, further ones may have come."""

    ended = traces = False

    def __init__(self, *coming: list[int]) -> None:
        self.coming, self.now = list(coming), [1]
        self.released: list[int] = []

    def fileno(self) -> int:
        return 0

    def held(self) -> list[int]:
        return list(self.now)

    def notes(self) -> list[str]:
        self.now += self.coming.pop(0) if self.coming else []
        return ["a note"] if len(self.coming) == 1 else []

    def release(self, pid: int) -> None:
        self.now.remove(pid)
        self.released.append(pid)


def following(holder: FakeHolder) -> Following:
    """Over a run that has no place, in which no process has the variable."""
    lives = SimpleNamespace(living=set, left=set)
    armed = SimpleNamespace(
        lives=lives, scope=SimpleNamespace(places=()), plan=SimpleNamespace(watches=()), pids=set()
    )
    places = SimpleNamespace(first=(), holds={}, appeared=lambda pid, there: [])
    found = Following(cast(Any, places), cast(Any, armed), (), cast(Any, None), lambda: cast(Any, holder))
    found.begin()
    return found


def test_a_process_that_is_held_while_others_are_looked_at_is_let_go_too() -> None:
    """Nothing tells of it a second time."""
    holder = FakeHolder([], [2, 3], [4])
    assert following(holder).follow() == ["a note"]
    assert sorted(holder.released) == [1, 2, 3, 4]
    assert holder.now == []


def test_a_process_is_let_go_even_if_it_cannot_be_looked_at() -> None:
    holder = FakeHolder()
    each = following(holder)
    each._places.appeared = lambda pid, there: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        each.follow()
    assert holder.released == [1]
