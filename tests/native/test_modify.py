# SPDX-License-Identifier: BSD-2-Clause
"""PERF_EVENT_IOC_MODIFY_ATTRIBUTES: what of a watch can be changed while it keeps its register and its count."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ksym.linux import perf_event
from ksym.linux.libc import MACHINE
from ksym.linux.perf_event import Attr, Flag, PerfEvent, Sample
from ksym.linux.ring import Ring
from native.programs.touching import PLACES, WORD
from support.apart import apart
from support.records import addresses
from support.registers import RW, USER, Area, W, X, attr, count, opened, refusal

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="the lengths and the four registers are x86"),
]

REGISTERS = 4


@contextmanager
def on_one_cpu() -> Iterator[int]:
    before = os.sched_getaffinity(0)
    cpu = min(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


SCOPES: dict[str, Callable[[int], tuple[int, int]]] = {
    "a task": lambda cpu: (0, -1),
    "a task on a CPU": lambda cpu: (0, cpu),
    "a CPU": lambda cpu: (-1, cpu),
}
"""(pid, cpu) of an event that sees what this process does while it stays on a CPU."""


@pytest.mark.parametrize("scope", SCOPES)
def test_everything_that_says_what_is_watched(scope: str) -> None:
    """Address, length and kind; the count goes on."""

    def work() -> None:
        area = Area()
        kinds = [(kind, place) for place in PLACES for kind in (W, RW)]
        with on_one_cpu() as cpu:
            pid, where = SCOPES[scope](cpu)
            with opened(attr(W, area.start + 1024, 8), pid=pid, cpu=where) as (event,):
                expected = 0
                for number, (kind, place) in enumerate(kinds):
                    offset = 8 * (number % 16)
                    at = area.start + offset + place.offset
                    event.modify(attr(kind, at, place.length, flags=USER & ~Flag.DISABLED))
                    for other in range(0, 128, 8):
                        area.write(other)
                        area.read(other)
                    expected += 2 if kind == RW else 1
                    assert count(event) == expected, (kind, place)

    apart(work)


def test_from_data_to_code_and_back() -> None:
    def work() -> None:
        from ctypes import CFUNCTYPE

        area, code = Area(), Area(code=b"\x90\xc3")
        run = CFUNCTYPE(None)(code.start)
        on = USER & ~Flag.DISABLED
        with opened(attr(W, area.start, 8)) as (event,):
            for turn in range(1, 4):
                run()
                area.write(0, 2)
                assert count(event) == 5 * turn - 3
                event.modify(attr(X, code.start, 8, flags=on))
                area.write(0)
                for _ in range(3):
                    run()
                assert count(event) == 5 * turn
                event.modify(attr(W, area.start, 8, flags=on))

    apart(work)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_disabled_bit_turns_it_off_and_on(scope: str) -> None:
    def work() -> list[int]:
        area, seen = Area(), []
        with on_one_cpu() as cpu:
            pid, where = SCOPES[scope](cpu)
            with opened(attr(W, area.start, 8), pid=pid, cpu=where) as (event,):

                def write() -> None:
                    area.write(0)
                    area.write(8)
                    seen.append(count(event))

                write()
                event.modify(attr(W, area.start, 8))
                write()
                event.modify(attr(W, area.start + 8, 8, flags=USER & ~Flag.DISABLED))
                write()
                event.disable()
                write()
                event.modify(attr(RW, area.start, 8))  # stays off
                write()
                event.enable()
                write()
        return seen

    assert apart(work) == [1, 1, 2, 2, 2, 3]


REFUSED: dict[str, tuple[Callable[[int], Attr], int]] = {
    "a misaligned address": (lambda at: attr(W, at + 4, 8), errno.EINVAL),
    "a length of three": (lambda at: attr(W, at, 3), errno.EINVAL),
    "no length": (lambda at: attr(W, at, 0), errno.EINVAL),
    "reads alone": (lambda at: attr(1, at, 8), errno.EINVAL),
    "execution and writes": (lambda at: attr(X | W, at, 8), errno.EINVAL),
    "execution of four bytes": (lambda at: attr(X, at, 4), errno.EINVAL),
    "the kernel, without its accesses": (lambda at: attr(W, (1 << 64) - 4096, 8), errno.EINVAL),
    "another period": (lambda at: attr(W, at, 8, sample_period=1), errno.EINVAL),
    "accesses of the kernel": (lambda at: attr(W, at, 8, flags=USER & ~Flag.EXCLUDE_KERNEL), errno.EINVAL),
    "inheriting": (lambda at: attr(W, at, 8, flags=USER | Flag.INHERIT), errno.EINVAL),
    "another read format": (lambda at: attr(W, at, 8, read_format=perf_event.FORMAT_ID), errno.EINVAL),
    "another type of event": (lambda at: Attr(1, perf_event.COUNT_SW_DUMMY, flags=USER), errno.EINVAL),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_changes_nothing_but_may_turn_it_off(what: str) -> None:
    """It stays on if it was opened so, or if the kernel had not come to its address (perf_event_modify_breakpoint)."""

    def work() -> list[int]:
        area, seen = Area(), []
        make, number = REFUSED[what]
        for flags in (USER, USER & ~Flag.DISABLED):
            with opened(attr(W, area.start, 8, flags=flags)) as (event,):
                area.write(0, 2)
                made = make(area.start)
                made = dataclasses.replace(made, flags=made.flags & ~Flag.DISABLED | flags & Flag.DISABLED)
                with pytest.raises(OSError) as error:
                    event.modify(made)
                assert error.value.errno == number
                area.write(0, 3)
                seen.append(count(event))
                event.enable()
                area.write(0, 5)
                area.read(0)
                seen.append(count(event))
        return seen

    assert apart(work) == [*((5, 10) if what == "another type of event" else (2, 7)), 5, 10]


def test_an_event_that_is_no_watch_has_nothing_to_change() -> None:
    event = PerfEvent(Attr(1, perf_event.COUNT_SW_DUMMY, flags=USER), pid=0, cpu=-1)
    try:
        with pytest.raises(OSError) as error:
            event.modify(Attr(1, perf_event.COUNT_SW_DUMMY, flags=USER))
        assert error.value.errno == errno.EOPNOTSUPP
    finally:
        event.close()


@pytest.mark.parametrize("scope", SCOPES)
def test_it_keeps_its_register_when_there_is_no_other(scope: str) -> None:
    """With all of them taken each can be changed, and nobody else gets one meanwhile."""

    def work() -> None:
        area = Area()
        on = USER & ~Flag.DISABLED
        with on_one_cpu() as cpu:
            pid, where = SCOPES[scope](cpu)
            places = [attr(W, area.start + 8 * number, 8) for number in range(REGISTERS)]
            with opened(*places, pid=pid, cpu=where) as events:
                for turn in range(1, 5):
                    for number, event in enumerate(events):
                        event.modify(attr(W, area.start + 8 * (number + 4 * turn), 8, flags=on))
                        assert refusal(attr(W, area.start, 8)) == "ENOSPC"
                    for at in range(8 * REGISTERS * (turn + 1)):
                        if not at % WORD:
                            area.write(at)
                    assert [count(each) for each in events] == [turn] * REGISTERS

    apart(work)


def test_two_watches_change_places() -> None:
    """Between the two steps both watch the same place."""

    def work() -> list[int]:
        area = Area()
        on = USER & ~Flag.DISABLED
        first, second = attr(W, area.start, 8, flags=on), attr(W, area.start + 8, 8, flags=on)
        with opened(first, second) as events:
            area.write(0)
            events[0].modify(second)
            area.write(8)
            events[1].modify(first)
            area.write(0, 3)
            area.write(8, 5)
            return [count(each) for each in events]

    assert apart(work) == [7, 4]


def test_threads_that_have_inherited_it_follow() -> None:
    def work() -> tuple[int, int]:
        area = Area()
        flags = USER | Flag.INHERIT
        orders, done = threading.Semaphore(0), threading.Semaphore(0)

        def run() -> None:
            for _ in range(2):
                orders.acquire()
                area.write(0)
                area.write(8, 2)
                done.release()

        with opened(attr(W, area.start, 8, flags=flags)) as (event,):
            thread = threading.Thread(target=run)
            thread.start()
            orders.release()
            done.acquire()
            before = count(event)
            event.modify(attr(W, area.start + 8, 8, flags=flags & ~Flag.DISABLED))
            orders.release()
            done.acquire()
            thread.join()
            return before, count(event)

    assert apart(work) == (1, 3)


def test_it_can_be_moved_while_it_is_hit() -> None:
    """Another thread writes all the while; whatever falls between two places is not seen, all else is counted once."""

    def work() -> None:
        area = Area()
        flags = USER | Flag.INHERIT
        over = threading.Event()
        made = 0

        def run() -> None:
            nonlocal made
            while not over.is_set():
                area.write(0)
                area.write(8)
                made += 1

        with opened(attr(W, area.start, 8, flags=flags)) as (event,):
            thread = threading.Thread(target=run)
            thread.start()
            for turn in range(500):
                event.modify(attr(W, area.start + 8 * (turn % 2), 8, flags=flags & ~Flag.DISABLED))
            over.set()
            thread.join()
            seen = count(event)
            assert 0 < seen <= 2 * made
            area.write(8, 7)
            area.write(0, 5)
            assert count(event) == seen + 7

    apart(work)


def test_records_tell_the_address_that_was_watched() -> None:
    def work() -> list[int]:
        area = Area()
        on = USER & ~Flag.DISABLED
        more = {"sample_period": 1, "sample_type": Sample.IP | Sample.ADDR}
        with on_one_cpu() as cpu, opened(attr(W, area.start, 8, **more), cpu=cpu) as (event,):
            ring = Ring(event, 4096)
            area.write(0)
            event.modify(attr(RW, area.start + 8, 4, flags=on, **more))
            area.write(8)
            area.read(8)
            event.modify(attr(W, area.start + 2, 1, flags=on, **more))
            area.write(0)
            found = [address - area.start for address in addresses(ring.drain())]
            ring.close()
        return found

    assert apart(work) == [0, 8, 8, 2]
