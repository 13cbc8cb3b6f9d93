# SPDX-License-Identifier: BSD-2-Clause
"""What leads elsewhere than when it was armed."""

from __future__ import annotations

from ksym.language.parser import parse_request
from ksym.symbols.variable import Again, Space, Variable
from ksym.watch.plan import make_plan
from ksym.watch.whereabouts import Whereabouts

KERNEL, POINTER = 0xFFFF888012345678, 0xFFFFFFFF82000010


def whereabouts(leads: list[int | None], also: int | None = None) -> Whereabouts:
    """Of a request that leads to these one after the other; perhaps beside another watch."""
    again = Again(lambda: leads.pop(0), "some->where has led to {now}", frozenset({POINTER}), "not known")
    found = [(parse_request("some"), Variable("some->where", KERNEL, 4, Space.KERNEL, again=again))]
    if also is not None:
        found.append((parse_request("some"), Variable("some", also, 1, Space.KERNEL)))
    return Whereabouts(make_plan(found).watches)


def test_a_change_is_told_once() -> None:
    look = whereabouts([KERNEL, None, KERNEL + 8])
    assert [look.look() for _ in range(4)] == [[], [], ["some->where has led to 0xffff888012345680"], []]
    assert not look


def test_what_could_not_be_seen_at_the_end_is_told() -> None:
    look = whereabouts([None, None, KERNEL])
    assert look.look() == []
    assert look.look(over=True) == ["not known"]
    assert whereabouts([KERNEL]).look(over=True) == []


def test_null_is_a_change() -> None:
    assert whereabouts([0]).look() == ["some->where has led to nothing (NULL)"]


def test_pointers_that_are_watched_themselves_are_not_read() -> None:
    """To read them would be an access, and its row one that the machine under study never made."""
    for inside in (POINTER, POINTER + 7):
        assert not whereabouts([KERNEL + 8], also=inside)
    for outside in (POINTER - 1, POINTER + 8):
        assert whereabouts([KERNEL + 8], also=outside).look()
