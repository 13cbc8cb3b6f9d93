# SPDX-License-Identifier: BSD-2-Clause
"""The guard: what a watch may cost a CPU before it is disarmed.

Each hit is a trap, and a variable that is touched all the time (``jiffies_64``, a lock, a statistic) can make a
machine spend all its time in traps. So the hits of each CPU are counted in windows of a second; more than a
share of the second can hold disarm the watch that makes them. Where programs run at each hit they count, and
the kernel stops the event by itself where it can; else ksym looks at the counters.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksym.linux import perf_event
from ksym.linux.perf_event import Attr, Flag, PerfEvent
from ksym.watch.arm import ArmedWatch
from ksym.watch.registers import own_place

if TYPE_CHECKING:
    from ksym.program.engine import Engine

DEFAULT_PERCENT = 25.0
"""As kernel.perf_cpu_time_max_percent, what perf allows itself."""
WINDOW_SECONDS = 1.0
LOOK_SECONDS = 0.2
"""How often counters are looked at."""

_BATCHES, _HITS = 6, 8
"""The quickest batch counts: others may have been interrupted, which a hit is not to blame for."""
_GUESSED_NS = 2000
"""A trap on common hardware, where none could be timed."""


@dataclass(frozen=True)
class HitCost:
    """What a hit costs on this machine.

    Args:
        ns: Nanoseconds.
        stops_on_demand: An event that may overflow once goes on while its program returns 0, and stops when it
            returns 1 (6.10, "perf/bpf: Allow a BPF program to suppress all sample side effects"; before, the first
            overflow stopped it).
    """

    ns: int
    stops_on_demand: bool


_measured: dict[bool, HitCost] = {}


def measure(*, with_program: bool) -> HitCost:
    """Time some hits on a variable of our own; where no register is free, what was found before, or a guess."""
    target = ctypes.c_uint64()
    attr = Attr(
        perf_event.TYPE_BREAKPOINT,
        sample_period=1 if with_program else 0,
        sample_type=perf_event.Sample.IDENTIFIER if with_program else 0,
        flags=Flag.DISABLED | Flag.EXCLUDE_KERNEL | Flag.EXCLUDE_HV,
        bp_type=2,
        bp_address=ctypes.addressof(target),
        bp_length=8,
    )
    with contextlib.ExitStack() as stack:
        try:
            pid, cpu = stack.enter_context(own_place(system_wide=True))
            event = PerfEvent(attr, pid=pid, cpu=cpu)
            stack.callback(event.close)
            if with_program:
                event.attach(_load_nothing(stack))
        except OSError:
            return _measured.get(with_program, HitCost(_GUESSED_NS, stops_on_demand=False))
        stops = False
        if with_program:
            event.refresh(1)
            target.value = 1
            target.value = 2
            stops = event.read()[0] > 1
        event.enable()
        spent = min(_time_of(target) for _ in range(_BATCHES))
        event.disable()
    _measured[with_program] = HitCost(max(spent // _HITS, 100), stops)
    return _measured[with_program]


def _time_of(target: ctypes.c_uint64) -> int:
    started = time.perf_counter_ns()
    for number in range(_HITS):
        target.value = number
    return time.perf_counter_ns() - started


def _load_nothing(stack: contextlib.ExitStack) -> int:
    from ksym.linux import bpf
    from ksym.linux.bpf_asm import R0, Assembler

    asm = Assembler()
    asm.mov(R0, 0)
    asm.exit()
    program = bpf.load(bpf.PROG_TYPE_PERF_EVENT, asm.finish("ksym_nothing").encode({}))
    stack.callback(os.close, program)
    return program


@dataclass(frozen=True)
class Limit:
    """How many hits a CPU may take.

    Args:
        percent: Of its time.
        cost: What each takes.
    """

    percent: float
    cost: HitCost

    @property
    def window_hits(self) -> int:
        """More than these in a window disarm."""
        return max(1, int(self.percent / 100 * WINDOW_SECONDS * 1e9 / self.cost.ns))

    def describe(self, name: str, hits: int, seconds: float, cpu: int) -> str:
        """What is told of a watch that was disarmed."""
        rate = hits / max(seconds, 1e-6)
        share = min(100.0, rate * self.cost.ns / 1e7)
        where = f"on CPU {cpu}" if cpu >= 0 else "in the watched threads"
        return (
            f"guard: {name} disarmed: {rate:,.0f} hits/s {where} took {share:.0f} % of a CPU "
            f"(limit {self.percent:g} %); watch less (-C CPUS, -p PID, a member), or give --guard off"
        )


class Guard:
    """Watches over an armed watch.

    Args:
        armed: What is planted.
        limit: How much it may cost.
        guarded: For each watch, whether it may be disarmed.
    """

    def __init__(self, armed: ArmedWatch, limit: Limit, guarded: tuple[bool, ...]) -> None:
        self._armed, self._limit, self._guarded = armed, limit, guarded
        self.disarmed: set[int] = set()
        """Numbers of the watches that were taken off."""
        self._started = time.monotonic()
        self._before: dict[tuple[int, int], int] = {}
        if armed.engine:
            from ksym.program.shared import Control

            armed.engine.shared.control(Control.WINDOW_HITS, limit.window_hits)

    def look(self, *, over: bool = False) -> list[str]:
        """Disarm what costs too much; returns what to tell of it.

        Args:
            over: Nothing is armed any more: only what programs have disarmed before is told.
        """
        engine = self._armed.engine
        if engine:
            return self._tripped(engine)
        return [] if over else self._counted()

    def _tripped(self, engine: Engine) -> list[str]:
        """The programs have counted."""
        from ksym.program.shared import Slot

        told = []
        for watch in self._armed.plan.watches:
            hits = engine.shared.slot(watch.index, Slot.TRIPPED)
            if hits and watch.index not in self.disarmed:
                seconds = engine.shared.slot(watch.index, Slot.TRIPPED_NS) / 1e9
                told.append(
                    self._disarm(
                        watch.index, hits, seconds, engine.shared.slot(watch.index, Slot.TRIPPED_CPU)
                    )
                )
        if told:  # the program did so on its own CPU alone
            engine.shared.begin_windows()
        return told

    def _counted(self) -> list[str]:
        """Compare the counters with those at the window's start; one watch at a time: all CPUs may suffer from it."""
        now = time.monotonic()
        counts = self._armed.counts_by_cpu()
        hits = {place: count - self._before.get(place, 0) for place, count in counts.items()}
        told: list[str] = []
        totals: dict[int, int] = {}
        for (_, cpu), count in hits.items():
            totals[cpu] = totals.get(cpu, 0) + count
        for cpu, total in sorted(totals.items(), key=lambda item: -item[1]):
            if told or total <= self._limit.window_hits:
                break
            own = {
                index: count for (index, where), count in hits.items() if where == cpu and self._may(index)
            }
            if own:
                worst = max(own, key=lambda index: own[index])
                told.append(self._disarm(worst, total, now - self._started, cpu))
        if told or now - self._started >= WINDOW_SECONDS:
            self._started, self._before = now, counts
        return told

    def _may(self, index: int) -> bool:
        return self._guarded[index] and index not in self.disarmed

    def _disarm(self, index: int, hits: int, seconds: float, cpu: int) -> str:
        self._armed.disable(index)
        self.disarmed.add(index)
        return self._limit.describe(self._armed.plan.watches[index].name, hits, seconds, cpu)
