# SPDX-License-Identifier: BSD-2-Clause
"""The trace buffer: the newest entries of each CPU, and how many there were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.tracing.buffer import ENTRY_BYTES, TIME, Buffer, Entry, Marker

PER_KB = 1024 // ENTRY_BYTES


def mark(time_ns: int, cpu: int = 0) -> Marker:
    return Marker(time_ns, cpu, 1, "task", str(time_ns))


def times(buffer: Buffer, cpu: int | None = None) -> list[int]:
    return [entry.time_ns for entry in buffer.entries(cpu)]


def taken(buffer: Buffer) -> list[int]:
    """All that is left, consumed."""
    found = []
    while (one := buffer.take()) is not None:
        found.append(one[1].time_ns)
    return found


def test_in_order_of_time_over_all_cpus() -> None:
    buffer = Buffer()
    buffer.add([mark(1, 1), mark(2, 0), mark(3, 1)])
    buffer.add([mark(4, 0), mark(5, 2)])
    assert times(buffer) == [1, 2, 3, 4, 5]
    assert [times(buffer, cpu) for cpu in range(4)] == [[2, 4], [1, 3], [5], []]
    assert taken(buffer) == [1, 2, 3, 4, 5]
    assert (buffer.count(), buffer.written()) == (0, 0)


def test_overrun_is_exact() -> None:
    buffer = Buffer(1)
    buffer.add(mark(time) for time in range(PER_KB))
    assert (buffer.count(), buffer.written()) == (PER_KB, PER_KB)
    buffer.add(mark(time) for time in range(PER_KB, PER_KB + 5))
    assert times(buffer) == list(range(5, PER_KB + 5))
    assert (buffer.count(), buffer.written()) == (PER_KB, PER_KB + 5)
    # More at once than there is room for.
    buffer.add(mark(time) for time in range(1000, 1000 + 3 * PER_KB))
    assert times(buffer) == list(range(1000 + 2 * PER_KB, 1000 + 3 * PER_KB))
    assert (buffer.count(), buffer.written()) == (PER_KB, PER_KB + 5 + 3 * PER_KB)


def test_each_cpu_has_room_of_its_own() -> None:
    buffer = Buffer(1)
    buffer.add([mark(1, 0)])
    buffer.add(mark(time, 1) for time in range(2, 100))
    assert times(buffer, 0) == [1]
    assert (buffer.count(0), buffer.written(0)) == (1, 1)
    assert (buffer.count(1), buffer.written(1)) == (PER_KB, 98)
    assert (buffer.count(), buffer.written()) == (PER_KB + 1, 99)


def test_another_size_keeps_the_newest() -> None:
    buffer = Buffer(4)
    buffer.add(mark(time) for time in range(4 * PER_KB))
    buffer.kilobytes = 2
    assert times(buffer) == list(range(2 * PER_KB, 4 * PER_KB))
    assert (buffer.count(), buffer.written()) == (2 * PER_KB, 4 * PER_KB)
    buffer.kilobytes = 3
    buffer.add(mark(time) for time in range(1000, 1000 + 2 * PER_KB))
    assert (buffer.count(), buffer.written()) == (3 * PER_KB, 6 * PER_KB)
    assert buffer.kilobytes == 3


def test_emptied_the_counts_begin_anew() -> None:
    buffer = Buffer(1)
    buffer.add(mark(time, cpu) for time in range(100) for cpu in (0, 1))
    buffer.clear(0)
    assert (buffer.count(0), buffer.written(0)) == (0, 0)
    assert (buffer.count(), buffer.written()) == (PER_KB, 100)
    buffer.clear()
    assert (buffer.count(), buffer.written()) == (0, 0)
    assert buffer.take() is None
    buffer.add([mark(1)])
    assert buffer.take() == (0, mark(1))


def test_who_consumes_is_told_once_of_what_he_missed() -> None:
    buffer = Buffer(1)
    buffer.add(mark(time, 0) for time in range(PER_KB + 7))
    buffer.add(mark(time, 1) for time in range(1000, 1000 + PER_KB + 1))
    assert buffer.take() == (7, mark(7))
    assert buffer.take() == (0, mark(8))
    buffer.add(mark(time, 0) for time in range(PER_KB + 7, PER_KB + 10))
    assert buffer.take() == (1, mark(10))
    while (found := buffer.take()) is not None and found[1].cpu == 0:
        assert found[0] == 0
    assert found == (1, mark(1001, 1))
    # What was consumed makes room, and what was dropped stays counted.
    assert (buffer.count(), buffer.written()) == (PER_KB - 1, PER_KB - 1 + 7 + 1 + 1)


Add = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(st.just("add"), st.integers(0, 2), st.integers(1, 40))
    | st.tuples(st.just("size"), st.integers(1, 3), st.just(0))
    | st.tuples(st.just("take"), st.integers(1, 20), st.just(0))
    | st.tuples(st.just("clear"), st.integers(-1, 2), st.just(0)),
    max_size=30,
)


@given(STEPS)
def test_against_a_model(steps: list[Add]) -> None:
    buffer, now = Buffer(1), 0
    model: dict[int, list[Entry]] = {cpu: [] for cpu in range(3)}
    dropped = dict.fromkeys(range(3), 0)
    untold = dict.fromkeys(range(3), 0)

    def crop(cpu: int) -> None:
        excess = max(0, len(model[cpu]) - buffer.kilobytes * PER_KB)
        del model[cpu][:excess]
        dropped[cpu] += excess
        untold[cpu] += excess

    def add(cpu: int, count: int) -> None:
        nonlocal now
        new = [mark(now + place, cpu) for place in range(count)]
        now += count
        buffer.add(new)
        model[cpu] += new
        crop(cpu)

    def size(kilobytes: int, _: int) -> None:
        buffer.kilobytes = kilobytes
        for cpu in model:
            crop(cpu)

    def take(count: int, _: int) -> None:
        for _ in range(count):
            found = buffer.take()
            oldest = min((entries[0] for entries in model.values() if entries), key=TIME, default=None)
            if oldest is None:
                assert found is None
                return
            cpu = oldest.cpu
            assert found == (untold[cpu], oldest)
            model[cpu].pop(0)
            untold[cpu] = 0

    def clear(cpu: int, _: int) -> None:
        buffer.clear(None if cpu < 0 else cpu)
        for each in model if cpu < 0 else [cpu]:
            model[each], dropped[each], untold[each] = [], 0, 0

    actions: dict[str, Callable[[int, int], None]] = {"add": add, "size": size, "take": take, "clear": clear}
    for name, first, second in steps:
        actions[name](first, second)
        for cpu in model:
            assert buffer.entries(cpu) == model[cpu]
            assert buffer.written(cpu) == len(model[cpu]) + dropped[cpu]
        assert times(buffer) == sorted(entry.time_ns for entries in model.values() for entry in entries)


@pytest.mark.parametrize("kilobytes", [1, 1408, 1 << 20])
def test_a_large_one_takes_no_memory_before_it_is_full(kilobytes: int) -> None:
    buffer = Buffer(kilobytes)
    buffer.add([mark(1)])
    assert times(buffer) == [1]
