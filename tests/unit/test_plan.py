# SPDX-License-Identifier: BSD-2-Clause
"""Pieces, places and events of a plan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.language.parser import parse_request
from ksym.symbols.variable import Space, Variable
from ksym.watch import plan as plan_module
from ksym.watch.plan import EXECUTE_LENGTH, Piece, Place, Scope, make_plan, split


@given(st.integers(0, 2**40), st.integers(1, 100))
def test_pieces_cover_exactly_and_are_aligned(address: int, length: int) -> None:
    pieces = split(address, length)
    covered = [piece.offset + byte for piece in pieces for byte in range(piece.length)]
    assert covered == list(range(length))
    assert all(
        piece.length in (1, 2, 4, 8) and (address + piece.offset) % piece.length == 0 for piece in pieces
    )


@given(st.integers(0, 64), st.integers(1, 24))
def test_no_cut_has_fewer_pieces(address: int, length: int) -> None:
    end = address + length
    fewest = {end: 0}
    for at in range(end - 1, address - 1, -1):
        sizes = [size for size in (1, 2, 4, 8) if at % size == 0 and at + size <= end]
        fewest[at] = 1 + min(fewest[at + size] for size in sizes)
    assert len(split(address, length)) == fewest[address]


@pytest.mark.parametrize(
    ("address", "length", "pieces"),
    [
        (0x1000, 8, [(0, 8)]),
        (0x1000, 16, [(0, 8), (8, 8)]),
        (0x1001, 8, [(0, 1), (1, 2), (3, 4), (7, 1)]),
        (0x1004, 3, [(0, 2), (2, 1)]),
        (0, 8, [(0, 8)]),
    ],
)
def test_known_cuts(address: int, length: int, pieces: list[tuple[int, int]]) -> None:
    assert split(address, length) == tuple(Piece(*piece) for piece in pieces)


@given(st.integers(0, 2**40), st.integers(1, 100))
def test_where_a_register_covers_any_bytes_of_a_word(address: int, length: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "ANY_BYTES", True)
        pieces = split(address, length)
    covered = [piece.offset + byte for piece in pieces for byte in range(piece.length)]
    assert covered == list(range(length))
    words = {(address + byte) // 8 for byte in range(length)}
    assert [(address + piece.offset) // 8 for piece in pieces] == sorted(words)


KERNEL = Variable("v", 0x1000, 16, Space.KERNEL)
USER = Variable("u", 0x1000, 4, Space.USER)


def test_where_kernel_and_user_variables_are_planted() -> None:
    plan = make_plan([(parse_request("v"), KERNEL), (parse_request("u"), USER)])
    scope = Scope((0, 1), (place := Place(7, (7, 8)),))
    kernel, user = plan.watches
    assert plan.registers == 3
    assert scope.targets(kernel, sampling=False) == [(None, -1, 0), (None, -1, 1)]
    assert scope.targets(user, sampling=False) == [(place, 7, -1), (place, 8, -1)]
    assert scope.targets(user, sampling=True) == [
        (place, 7, 0), (place, 7, 1), (place, 8, 0), (place, 8, 1)
    ]  # fmt: skip
    only = Scope((0, 1), (Place(7, (7,)),), only_threads=True)
    assert only.targets(kernel, sampling=False) == [(None, 7, -1)]
    events = plan.events(scope, sampling=True)
    assert [event.watch.index for event in events] == [0] * 4 + [1] * 4
    assert [event.address for event in events[:4]] == [0x1000, 0x1000, 0x1008, 0x1008]


def test_each_cpu_watches_its_own_copy() -> None:
    variable = Variable("c", 0x1000, 4, Space.KERNEL, per_cpu={0: 0x1000, 1: 0x9000})
    plan = make_plan([(parse_request("c"), variable)])
    events = plan.events(Scope((0, 1)), sampling=False)
    assert [(event.cpu, event.address) for event in events] == [(0, 0x1000), (1, 0x9000)]


def test_execution_takes_one_register() -> None:
    variable = Variable("f", 0x1001, 1, Space.KERNEL, executable=True)
    (watch,) = make_plan([(parse_request("f:--x"), variable)]).watches
    assert watch.pieces == (Piece(0, EXECUTE_LENGTH),)


def test_a_variable_lies_elsewhere_in_each_place() -> None:
    plan = make_plan([(parse_request("u"), USER), (parse_request("w"), USER)])
    places = Place(7, (7, 8)), Place(9, (9,), {0: 0x5000}, number=1)
    events = plan.events(Scope((0,), places, only_threads=True), sampling=False)
    assert [(event.watch.index, event.pid, event.address) for event in events] == [
        (0, 7, 0x1000), (0, 8, 0x1000), (0, 9, 0x5000), (1, 7, 0x1000), (1, 8, 0x1000),
    ]  # fmt: skip


def test_a_kernel_variable_takes_one_event_in_a_thread_of_several_places() -> None:
    plan = make_plan([(parse_request("v"), KERNEL)])
    places = Place(7, (7,)), Place(7, (7,), {}, number=1), Place(9, (9,), {}, number=2)
    events = plan.events(Scope((0,), places, only_threads=True), sampling=False)
    assert [(event.pid, event.place) for event in events] == [(7, None), (9, None)] * 2
