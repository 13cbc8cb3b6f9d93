# SPDX-License-Identifier: BSD-2-Clause
"""The loop of a run: what wakes it, and what must not."""

from __future__ import annotations

import os
import resource
from typing import cast

import pytest

from ksym.watch.arm import ArmedWatch, Options
from ksym.watch.plan import Plan, Scope
from ksym.watch.run import Run, Signals


class FakeArmed:
    """An armed watch without registers, whose one ring is the reading end of a pipe."""

    def __init__(self, ring: int) -> None:
        self.plan, self.scope, self.options = Plan(()), Scope((0,)), Options(counting=True)
        self.any_system_wide = False
        self.early = None
        self.ring = ring
        self.enabled: list[bool] = []

    def ring_fds(self) -> set[int]:
        return {self.ring}

    def enable(self) -> None:
        self.enabled.append(True)

    def disable(self) -> None:
        self.enabled.append(False)


def rounds(armed: FakeArmed, *, duration: float, every: float, most: int = 1000) -> int:
    """How many rounds a run of ``duration`` makes, at the most ``most``."""
    count = 0
    with Signals() as signals:
        run = Run(cast(ArmedWatch, armed), signals, duration=duration, every=every)
        for _ in run.rounds():
            count += 1
            if count >= most:
                run.stop("enough")
    return count


def test_a_ring_whose_thread_ended_does_not_keep_the_loop_busy() -> None:
    reading, writing = os.pipe()
    os.close(writing)  # from here on poll(2) reports POLLHUP, as for an event whose thread is gone
    armed = FakeArmed(reading)
    try:
        assert rounds(armed, duration=0.3, every=0.1) < 10
    finally:
        os.close(reading)
    assert armed.enabled == [True, False]


def test_a_ring_that_fills_up_wakes_the_loop_at_once() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"x")  # stays readable, as nobody reads it here
    try:
        assert rounds(FakeArmed(reading), duration=60, every=60, most=3) == 3
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("ends", ["in rounds", "before them"])
def test_cpus_are_listened_for_before_anything_is_armed(ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """COMMAND may take one away at once, and nothing tells of that a second time."""
    told: list[str] = []
    reading, writing = os.pipe()

    class FakeEvents:
        def __init__(self) -> None:
            told.append(f"listens, enabled {armed.enabled}")

        def fileno(self) -> int:
            return reading

        def close(self) -> None:
            told.append("closed")

    monkeypatch.setattr("ksym.watch.run.CpuEvents", FakeEvents)
    armed = FakeArmed(reading)
    armed.any_system_wide = True
    try:
        with Signals() as signals:
            run = Run(cast(ArmedWatch, armed), signals, duration=0.01)
            run.arm()
            if ends == "in rounds":
                list(run.rounds())
            run.close()
    finally:
        os.close(reading)
        os.close(writing)
    assert told == ["listens, enabled []", "closed"]


def test_the_end_of_a_process_is_seen_with_many_files_open() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1100 if hard == resource.RLIM_INFINITY else min(1100, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    reading, writing = os.pipe()
    open_files = [os.dup(reading) for _ in range(1050)]
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        with Signals() as signals:
            run = Run(cast(ArmedWatch, FakeArmed(writing)), signals, pids=[child], duration=60, every=60)
            assert list(run.rounds()) == []
            assert run.ended_by == f"process {child} ended"
    finally:
        os.waitpid(child, 0)
        for fd in (reading, writing, *open_files):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
