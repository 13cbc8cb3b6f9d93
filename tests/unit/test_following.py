# SPDX-License-Identifier: BSD-2-Clause
"""Processes that are held are looked at and let go, whenever they come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from ksym.runs import following as module
from ksym.runs.following import Following
from ksym.watch.plan import Place
from ksym.watch.presence import Hold


class FakeHolder:
    """Holds processes; each time that it is asked for notes, further ones may have come."""

    ended = traces = False
    cause = ("", "")

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

    def unmapped(self, pid: int) -> set[str]:
        return set()

    def release(self, pid: int) -> None:
        self.now.remove(pid)
        self.released.append(pid)


def following(holder: FakeHolder) -> Following:
    """Over a run that has no place, in which no process has the variable."""
    lives = SimpleNamespace(living=set, left=set, executed=set)
    armed = SimpleNamespace(
        lives=lives, scope=SimpleNamespace(places=()), plan=SimpleNamespace(watches=()), pids=set()
    )
    places = SimpleNamespace(first=(), holds={}, appeared=lambda pid, there: [])
    found = Following(cast(Any, places), cast(Any, armed), (), cast(Any, None), lambda: cast(Any, holder))
    found.begin()
    return found


def unloaded(
    holder: FakeHolder, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], list[Place]]:
    """Look at a place whose memory is not there, while nobody is held; return what is told, and what was ended."""
    holder.now.clear()
    monkeypatch.setattr(module, "place_is_there", lambda place, holds: False)
    found = following(holder)
    ended: list[Place] = []
    place = Place(1, (1,), {0: 0x1000}, 0)
    found._places.holds[0] = {0: hold}
    armed = cast(Any, found._armed)
    armed.scope = SimpleNamespace(places=(place,))
    armed.plan = SimpleNamespace(watches=[SimpleNamespace(index=0, name="./lib.so:level")])
    armed.engine, armed.end_place = None, ended.append
    found._began[0] = 0
    monkeypatch.setattr(found, "_with", lambda place: set())
    return found.look(), ended


LIBRARY = Hold(0x1010, 0x1000, (1, 42, "/lib/lib.so"), shared=False)
GONE = ["./lib.so:level is not watched any more: its memory was unmapped"]


def test_a_file_that_may_come_back_is_judged_by_who_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be unloaded and loaded just now, and its process is held for both."""
    assert unloaded(FakeHolder(), LIBRARY, monkeypatch) == ([], [])


@pytest.mark.parametrize(("held", "key"), [(False, LIBRARY.key), (True, (0, 0, ""))])
def test_what_nobody_is_held_for_is_looked_at(
    held: bool, key: tuple[int, int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = FakeHolder()
    holder.traces = not held
    told, ended = unloaded(holder, LIBRARY._replace(key=key), monkeypatch)
    assert told == GONE
    assert len(ended) == 1


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
