# SPDX-License-Identifier: BSD-2-Clause
"""The memory that programs and ksym share: nothing in it lies over anything else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from ksym.program.layout import MOST_BYTES, Frame, padded
from ksym.program.shared import MARK_BYTES, Cell, Chain, Control, Shape, Shared, Slot, Window
from ksym.watch.arm import ArmedWatch
from ksym.watch.guard import Guard, HitCost, Limit

_WATCHES = st.lists(
    st.tuples(st.sampled_from([(False, False), (True, False), (False, True)]), st.integers(1, 12)),
    min_size=1,
    max_size=6,
)
SHAPES = st.builds(
    lambda cpus, watches, words: Shape(
        cpus, [one for (one, _), _ in watches], [pieces for _, pieces in watches], [user for (_, user), _ in watches],
        8 * words,
    ),
    st.integers(1, 9),
    _WATCHES,
    st.integers(0, MOST_BYTES // 8),
)  # fmt: skip


def copies(shape: Shape, watch: int) -> int:
    return shape.cpus if shape.per_cpu[watch] else 1


def in_state(shape: Shape) -> Iterator[tuple[int, int]]:
    """(start, bytes) of everything in ``state``."""
    yield 0, Control.SIZE
    for watch in range(len(shape.per_cpu)):
        yield shape.slot(watch), Slot.SIZE
        for copy in range(copies(shape, watch)):
            yield shape.chain(watch) + copy * shape.chain_bytes, shape.chain_bytes
    for number in range(shape.seeds):
        yield shape.seed(number), shape.seed_bytes


def in_cells(shape: Shape) -> Iterator[tuple[int, int]]:
    """(start, bytes) of everything in ``cells``."""
    for cpu in range(shape.cpus):
        start = cpu * shape.cpu_bytes
        yield start, Window.SIZE
        for watch, pieces in enumerate(shape.pieces):
            yield start + shape.cell(watch), Cell.SIZE
            for piece in range(pieces):
                yield start + shape.mark(watch, piece), MARK_BYTES


@given(SHAPES)
def test_nothing_overlaps(shape: Shape) -> None:
    for parts, size in (
        (sorted(in_state(shape)), shape.state_bytes),
        (sorted(in_cells(shape)), shape.cells_bytes),
    ):
        assert parts[0][0] == 0
        assert all(start % 8 == 0 for start, _ in parts)
        assert all(start + length <= following for (start, length), (following, _) in pairwise(parts))
        assert sum(parts[-1]) <= size
    assert shape.cpu_bytes % 64 == 0


def test_fields_lie_within_their_part() -> None:
    for fields, size in (
        (Control, Control.SIZE), (Window, Window.SIZE), (Cell, Cell.SIZE), (Slot, Slot.SIZE), (Chain, Chain.VALUE + 8),
    ):  # fmt: skip
        places = sorted(field for field in fields if field.name != "SIZE")
        assert all(a + 8 <= b for a, b in pairwise(places))
        assert places[-1] + 8 <= size
    assert Slot.LEFT_OLD + 2 * MOST_BYTES == Slot.SIZE


@given(SHAPES, st.data())
def test_ksym_reads_and_writes_where_programs_do(shape: Shape, data: st.DataObject) -> None:
    state, cells = bytearray(shape.state_bytes), bytearray(shape.cells_bytes)
    shared = Shared(shape, memoryview(state), memoryview(cells))
    begun = bytes(state)
    numbers = [
        int.from_bytes(state[at + Chain.SEED : at + Chain.SEED + 8], "little")
        for watch, user in enumerate(shape.user)
        for copy in range(copies(shape, watch))
        for at in [shape.chain(watch) + copy * shape.chain_bytes]
        if not user
    ]
    # Each chain of a kernel variable has a seed of its own, and none of them is for user variables.
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= set(range(1, shape.first_placed_seed))
    number = data.draw(st.integers(1, shape.seeds - 1))
    value = data.draw(st.binary(min_size=shape.value_bytes, max_size=shape.value_bytes))
    shared.seed(number, value)
    seed = shape.seed(number)
    expected = bytearray(begun)
    expected[seed : seed + shape.seed_bytes] = (1).to_bytes(8, "little") + value
    assert state == expected
    blank = (0).to_bytes(16, "little") + number.to_bytes(8, "little")
    blank = blank.ljust(Chain.VALUE + shape.value_bytes, b"\0")
    assert shared.end_of(blank, len(value)) == value
    known = (0).to_bytes(8, "little") + (1).to_bytes(8, "little") + blank[16 : Chain.VALUE] + value[::-1]
    assert shared.end_of(known, len(value)) == value[::-1]
    shared.unseed(number)
    assert shared.end_of(blank, len(value)) is None
    watch = data.draw(st.integers(0, len(shape.per_cpu) - 1))

    field = data.draw(st.sampled_from([field for field in Cell if field.name != "SIZE"]))
    counts = data.draw(st.lists(st.integers(0, 2**60), min_size=shape.cpus, max_size=shape.cpus))
    for cpu, count in enumerate(counts):
        at = cpu * shape.cpu_bytes + shape.cell(watch) + field
        cells[at : at + 8] = count.to_bytes(8, "little")
    assert shared.by_cpu(watch, field) == counts
    assert shared.total(watch, field) == sum(counts)

    shared.control(Control.LIMIT, 5)
    state[Control.TAKEN : Control.TAKEN + 8] = (7).to_bytes(8, "little")
    assert state[Control.LIMIT : Control.LIMIT + 8] == (5).to_bytes(8, "little")
    assert shared.taken() == 7
    shared.close()


@given(st.integers(1, MOST_BYTES))
def test_a_hit_on_the_stack(length: int) -> None:
    frame = Frame(padded(length))
    assert length <= frame.padded < length + 8
    parts = [
        (frame.flags, 4), (frame.time, 8), (frame.user, 8), (frame.old, frame.padded), (frame.new, frame.padded),
    ]  # fmt: skip
    # A record is one piece of the stack, in this order, up to its end.
    assert all(start + size == following for (start, size), (following, _) in pairwise(parts))
    assert sum(parts[-1]) == 0
    assert frame.flags + frame.size == 0
    assert frame.free % 8 == 0
    assert frame.free <= frame.flags


@given(SHAPES)
def test_windows_of_all_cpus_begin_anew_when_a_watch_is_taken_off(shape: Shape) -> None:
    """Its hits are in those of other CPUs, too: one hit of another watch there would take that off as well."""
    state, cells = bytearray(shape.state_bytes), bytearray(b"\1" * shape.cells_bytes)
    slot = shape.slot(0) + Slot.TRIPPED
    state[slot : slot + 8] = (7).to_bytes(8, "little")
    shared = Shared(shape, memoryview(state), memoryview(cells))
    plan = SimpleNamespace(watches=[SimpleNamespace(index=0, name="busy")])
    off: list[int] = []
    armed = SimpleNamespace(engine=SimpleNamespace(shared=shared), plan=plan, disable=off.append)
    guard = Guard(cast(ArmedWatch, armed), Limit(0.1, HitCost(1000, stops_on_demand=False)), (True,))
    assert len(guard.look()) == 1
    assert off == [0]
    for cpu in range(shape.cpus):
        part = cells[cpu * shape.cpu_bytes :][: shape.cpu_bytes]
        hits, rest = part[Window.HITS : Window.HITS + 8], part[: Window.HITS] + part[Window.HITS + 8 :]
        assert not any(hits)
        assert set(rest) <= {1}
    cells[Window.HITS] = 5
    assert guard.look() == []  # it was told before
    assert cells[Window.HITS] == 5
