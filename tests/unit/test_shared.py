# SPDX-License-Identifier: BSD-2-Clause
"""The memory that programs and ksym share: nothing in it lies over anything else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ksym.program.layout import MOST_BYTES, Frame, padded
from ksym.program.shared import MARK_BYTES, Cell, Control, Shape, Shared, Slot, Window

_WATCHES = st.lists(st.tuples(st.booleans(), st.integers(1, 12)), min_size=1, max_size=6)
SHAPES = st.builds(
    lambda cpus, watches: Shape(cpus, [each for each, _ in watches], [pieces for _, pieces in watches]),
    st.integers(1, 9),
    _WATCHES,
)


def copies(shape: Shape, watch: int) -> int:
    return shape.cpus if shape.per_cpu[watch] else 1


def in_state(shape: Shape) -> Iterator[tuple[int, int]]:
    """(start, bytes) of everything in ``state``."""
    yield 0, Control.SIZE
    for watch in range(len(shape.per_cpu)):
        for copy in range(copies(shape, watch)):
            yield shape.slot(watch) + copy * Slot.SIZE, Slot.SIZE


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
    for fields, size in ((Control, Control.SIZE), (Window, Window.SIZE), (Cell, Cell.SIZE)):
        places = sorted(field for field in fields if field.name != "SIZE")
        assert all(a + 8 <= b for a, b in pairwise(places))
        assert places[-1] + 8 <= size
    assert Slot.VALUE + MOST_BYTES == Slot.SEED
    assert Slot.SEED + MOST_BYTES == Slot.SIZE


@given(SHAPES, st.data())
def test_ksym_reads_and_writes_where_programs_do(shape: Shape, data: st.DataObject) -> None:
    state, cells = bytearray(shape.state_bytes), bytearray(shape.cells_bytes)
    shared = Shared(shape, memoryview(state), memoryview(cells))
    watch = data.draw(st.integers(0, len(shape.per_cpu) - 1))
    copy = data.draw(st.integers(0, copies(shape, watch) - 1))
    value = data.draw(st.binary(min_size=1, max_size=MOST_BYTES))
    owner = data.draw(st.integers(1, 2**32))
    shared.seed(watch, value, cpu=copy)
    shared.own(watch, owner)
    slot = shape.slot(watch) + copy * Slot.SIZE
    expected = bytearray(shape.state_bytes)
    expected[slot + Slot.SEEDED : slot + Slot.SEEDED + 8] = (1).to_bytes(8, "little")
    expected[slot + Slot.SEED : slot + Slot.SEED + len(value)] = value
    first = shape.slot(watch)
    expected[first + Slot.OWNER : first + Slot.OWNER + 8] = owner.to_bytes(8, "little")
    assert state == expected
    assert shared.slot(watch, Slot.SEEDED) == (1 if copy == 0 else 0)

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
