# SPDX-License-Identifier: BSD-2-Clause
"""What a hit sets off: every Nth a sample, an end after so many, a signal for each."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
from collections import Counter
from collections.abc import Callable

import pytest

from ksym.linux.libc import MACHINE
from ksym.linux.perf_event import Flag, PerfEvent, Sample
from ksym.linux.ring import Ring
from support.apart import apart
from support.records import LOST, SAMPLE, THROTTLE, UNTHROTTLE, identifiers, records
from support.registers import RW, USER, Area, W, attr, count, opened, set_period, signals

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="on arm64 the trap comes before the access"),
]

POLL_IN, POLL_HUP = 1, 6
"""si_code of what an event sends, asm-generic/siginfo.h."""
NUMBER = signal.SIGRTMIN


def on_this_cpu() -> int:
    """Stay on one CPU, as a ring belongs to one; the process ends with its work."""
    cpu = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    return cpu


# -- samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [1, 2, 3, 7, 64])
def test_every_nth_hit_is_a_sample(period: int) -> None:
    """The counter has them all."""

    def work() -> list[tuple[int, int]]:
        area, cpu = Area(), on_this_cpu()
        watched = attr(W, area.start, 8, sample_period=period, sample_type=Sample.IDENTIFIER)
        seen = []
        with opened(watched, cpu=cpu) as (event,):
            ring = Ring(event, 4096)
            samples = 0
            for _ in range(150):
                area.write(0)
                samples += len(identifiers(ring.drain()))
                seen.append((count(event), samples))
            ring.close()
        return seen

    assert apart(work) == [(hits, hits // period) for hits in range(1, 151)]


def test_off_and_on_again_it_goes_on_where_it_was() -> None:
    """Neither turning it off nor looking at it begins a period anew."""

    def work() -> list[int]:
        area, cpu, seen = Area(), on_this_cpu(), []
        with opened(attr(W, area.start, 8, sample_period=5, sample_type=Sample.IDENTIFIER), cpu=cpu) as (
            event,
        ):
            ring = Ring(event, 4096)
            for _ in range(20):
                area.write(0)
                event.disable()
                area.write(0, 3)
                event.enable()
                seen.append(len(identifiers(ring.drain())))
            ring.close()
        return seen

    assert apart(work) == [0, 0, 0, 0, 1] * 4


def test_another_period() -> None:
    """PERF_EVENT_IOC_PERIOD: the first hit behind it is a sample; the next one still comes by the old count.

    The count down to a sample is set anew at the sample before it, and by the period before (kernel/events/core.c,
    perf_swevent_set_period): also whenever the event comes back to its CPU behind another task. So no other
    task may come between.
    """

    def work() -> list[list[int]]:
        area, cpu, seen = Area(), on_this_cpu(), []
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        with opened(attr(W, area.start, 8, sample_period=10, sample_type=Sample.IDENTIFIER), cpu=cpu) as (
            event,
        ):
            ring = Ring(event, 4096)
            for period in (10, 4, 1, 3):
                if period != 10:
                    set_period(event, period)
                found = []
                for hit in range(1, 31):
                    area.write(0)
                    found += [hit] * len(identifiers(ring.drain()))
                seen.append(found)
            assert count(event) == 120
            ring.close()
        return seen

    assert apart(work) == [
        [10, 20, 30], [1, *range(10, 31, 4)], list(range(1, 31)), [1, *range(4, 31, 3)],
    ]  # fmt: skip


def test_none_is_held_back_and_none_is_lost_unseen() -> None:
    """Many in a row are not throttled; what finds no room is counted by the next record that does."""

    def work() -> tuple[int, Counter[int], int]:
        area, cpu = Area(), on_this_cpu()
        hits, kinds, lost = 3000, Counter[int](), 0
        with opened(attr(RW, area.start, 8, sample_period=1, sample_type=Sample.IDENTIFIER), cpu=cpu) as (
            event,
        ):
            ring = Ring(event, 4096)
            area.write(0, hits)
            for turn in range(2):
                for kind, body in records(ring.drain()):
                    kinds[kind] += 1
                    if kind == LOST:
                        lost += struct.unpack_from("=QQ", body)[1]
                if not turn:
                    area.read(0)
            ring.close()
            return count(event), kinds, lost

    hits, kinds, lost = apart(work)
    assert hits == 3001
    assert kinds[SAMPLE] + lost == hits
    assert (kinds[LOST], lost > 0) == (1, True)
    assert not kinds.keys() & {THROTTLE, UNTHROTTLE}


# -- an end after so many ----------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("limit", [1, 2, 10])
def test_refresh_stops_it_after_exactly_so_many(limit: int, period: int) -> None:
    def work() -> int:
        area = Area()
        event = PerfEvent(attr(W, area.start, 8, sample_period=period), pid=0, cpu=-1)
        event.refresh(limit)
        area.write(0, limit * period + 5)
        hits = count(event)
        event.close()
        return hits

    assert apart(work) == limit * period


def test_refresh_again_goes_on_or_never_does() -> None:
    """Since 18dbcbfabfff (6.17) a limit stops a watch also below what enabling it sets right, for good.

    Setting the period starts it again, up to the second limit. ksym leaves a watch that was stopped so alone
    (`ArmedWatch.was_stopped`).
    """

    def work() -> list[int]:
        area, seen = Area(), []
        event = PerfEvent(attr(W, area.start, 8, sample_period=1), pid=0, cpu=-1)
        on = attr(W, area.start, 8, sample_period=1, flags=USER & ~Flag.DISABLED)
        event.refresh(2)
        area.write(0, 10)
        ways: list[Callable[[], None]] = [
            lambda: event.refresh(2),
            event.enable,
            lambda: event.modify(on),
            lambda: set_period(event, 1),
        ]
        for again in ways:
            again()
            area.write(0, 10)
            seen.append(count(event))
        event.close()
        return seen

    assert apart(work) in ([2, 2, 2, 4], [4, 14, 24, 34])


def test_refreshes_add_up_and_poll_tells_of_each() -> None:
    def work() -> tuple[int, list[list[int]]]:
        area, cpu, told = Area(), on_this_cpu(), []
        made = attr(W, area.start, 8, sample_period=1, sample_type=Sample.IDENTIFIER, wakeup=1)
        event = PerfEvent(made, pid=0, cpu=cpu)
        ring = Ring(event, 4096)
        poll = select.poll()
        poll.register(event.fd, select.POLLIN)
        event.refresh(2)
        event.refresh(3)
        for _ in range(7):
            area.write(0)
            told.append([events for _, events in poll.poll(0)])
        hits = count(event)
        ring.close()
        event.close()
        return hits, told

    assert apart(work) == (5, [[select.POLLIN]] * 5 + [[]] * 2)


def test_refresh_is_not_for_what_is_inherited_or_only_counted() -> None:
    area = Area()
    for made in (attr(W, area.start, 8, sample_period=1, flags=USER | Flag.INHERIT), attr(W, area.start, 8)):
        event = PerfEvent(made, pid=0, cpu=-1)
        with pytest.raises(OSError, match="Invalid argument"):
            event.refresh(1)
        event.close()


# -- a signal for each -------------------------------------------------------------------------------------


def pending(number: int) -> list[int]:
    """The si_code of each signal that waits, in order."""
    codes = []
    while (info := signal.sigtimedwait({number}, 0)) is not None:
        codes.append(info.si_code)
    return codes


@pytest.mark.parametrize("period", [1, 4])
def test_each_sample_sends_a_signal(period: int) -> None:
    def work() -> tuple[int, list[int]]:
        area = Area()
        signal.pthread_sigmask(signal.SIG_BLOCK, {NUMBER})
        with opened(attr(RW, area.start, 8, sample_period=period)) as (event,):
            signals(event, NUMBER)
            area.write(0, 60)
            area.read(0, 40)
            return count(event), pending(NUMBER)

    assert apart(work) == (100, [POLL_IN] * (100 // period))


def test_the_last_of_a_limit_says_so() -> None:
    def work() -> list[int]:
        area = Area()
        signal.pthread_sigmask(signal.SIG_BLOCK, {NUMBER})
        event = PerfEvent(attr(W, area.start, 8, sample_period=1), pid=0, cpu=-1)
        signals(event, NUMBER)
        event.refresh(5)
        area.write(0, 20)
        event.close()
        return pending(NUMBER)

    assert apart(work) == [POLL_IN] * 4 + [POLL_HUP]


def test_each_event_has_its_own_signal() -> None:
    """Two watches on one address both send theirs; a third, beside it, has nothing to tell."""

    def work() -> list[int]:
        area = Area()
        numbers = [NUMBER + each for each in range(3)]
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        places = [(W, 0), (RW, 0), (W, 8)]
        with opened(*(attr(kind, area.start + at, 8, sample_period=1) for kind, at in places)) as events:
            for event, number in zip(events, numbers, strict=True):
                signals(event, number)
            area.write(0, 3)
            area.read(0, 4)
            return [len(pending(number)) for number in numbers]

    assert apart(work) == [3, 7, 0]


def test_another_process_is_told() -> None:
    """Whoever owns the descriptor gets the signal, not the task that made the access."""

    def work() -> tuple[int, int]:
        signal.pthread_sigmask(signal.SIG_BLOCK, {NUMBER})
        area = Area()
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.read(reading, 1)
                area.write(0, 25)
                os._exit(len(pending(NUMBER)))
            finally:
                os._exit(255)
        with opened(attr(W, area.start, 8, sample_period=1), pid=pid) as (event,):
            signals(event, NUMBER)
            os.write(writing, b"x")
            status = os.waitpid(pid, 0)[1]
            return os.waitstatus_to_exitcode(status), len(pending(NUMBER))

    assert apart(work) == (0, 25)


def test_without_async_there_is_none() -> None:
    def work() -> tuple[list[int], int]:
        area = Area()
        signal.pthread_sigmask(signal.SIG_BLOCK, {NUMBER})
        with opened(attr(W, area.start, 8, sample_period=1)) as (event,):
            signals(event, NUMBER)
            fcntl.fcntl(event.fd, fcntl.F_SETFL, os.O_RDWR)
            area.write(0, 3)
            return pending(NUMBER), count(event)

    assert apart(work) == ([], 3)
