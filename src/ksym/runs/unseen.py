# SPDX-License-Identifier: BSD-2-Clause
"""Writes and reads that no row shows: found by what the memory holds, and told in the summary."""

from __future__ import annotations

import os
import time

from ksym.capture.values import Values
from ksym.language.request import Mode
from ksym.linux.maps import processes_sharing, shared_memory
from ksym.program.engine import Engine
from ksym.program.shared import Cell, Slot
from ksym.runs.held import Held, Spot
from ksym.symbols.variable import Space
from ksym.views.summary import number
from ksym.watch.arm import ArmedWatch
from ksym.watch.plan import Watch

_LOOKS, _BETWEEN_SECONDS = 3, 0.002
"""An access that is being made now has changed the memory, and its program has not run yet: look again."""
_MOST_NAMED = 4
"""Processes that one line names."""
_KERNELS = {
    Mode.WRITE: ("writes to", "read(2)"),
    Mode.READ: ("reads of", "write(2)"),
    Mode.READ_WRITE: ("accesses to", "read(2) or write(2)"),
}
"""What the kernel does to a user variable, and for which system call."""


class Unseen:
    """Holds what was seen of a run's variables against what they hold.

    Args:
        armed: What is planted, with programs that take values.
        engine: Its programs.
        held: Reads its variables.
    """

    def __init__(self, armed: ArmedWatch, engine: Engine, held: Held) -> None:
        self._armed, self._engine, self._held = armed, engine, held
        self._found: list[str] = []
        self._sharing: dict[int, list[int]] = {}
        self._looked = False

    def look_for_sharers(self) -> None:
        """Find who else has the memory of the variables that are placed, before anything is watched.

        What is forked from now on is watched with its parent.
        """
        for watch, pid, base in self._engine.chains.places():
            shared = shared_memory(pid, base)
            if shared is not None:
                watched = {other for _, other, _ in self._engine.chains.places()} | {os.getpid()}
                others = [each for each in processes_sharing(shared) if each not in watched]
                if others:
                    self._sharing[watch] = others

    def look(self) -> None:
        """Look at the memory once more, while all accesses are still seen."""
        if self._looked:
            return
        self._looked = True
        spots = [spot for spot in self._held.spots() if self._armed.is_on(spot.watch.index)]
        with self._held.reading():
            suspects = [(spot, pair) for spot in spots if (pair := self._differing(spot)) is not None]
            for _ in range(_LOOKS if suspects else 0):
                time.sleep(_BETWEEN_SECONDS)
                # Where accesses go on, the next one hides what one would tell of.
                suspects = [(spot, pair) for spot, pair in suspects if self._differing(spot) == pair]
        for spot, (last, now) in suspects:
            self._found.append(self._differs(spot.watch, last, now, "holds {now}"))

    def _differing(self, spot: Spot) -> tuple[bytes, bytes] | None:
        """What the last access has left, and what is there now; None where they are equal or one is not known."""
        last, now = self._held.last(spot), self._held.now(spot)
        return None if last is None or now is None or last == now else (last, now)

    def _differs(self, watch: Watch, last: bytes, now: bytes, holds: str) -> str:
        values = Values(watch.variable)
        text = holds.format(now=values.of(now).text)
        return f"{watch.name} {text}, where {values.of(last).text} was last seen: {self._who(watch)}"

    def _who(self, watch: Watch) -> str:
        """Who may have written, and what to do about it."""
        if watch.variable.space is Space.KERNEL:
            return "it was written unseen, by a task or CPU that is not watched (-p, -C) or a device"
        if watch.index in self._sharing:
            return "it was written unseen, by a process that has the same memory"
        if self._engine.sees_kernel(watch):
            return "it was written unseen, by another process (ptrace, /proc/PID/mem) or a device"
        return "it was written unseen, perhaps by the kernel for the program: try --kernel-accesses"

    def notes(self) -> list[str]:
        """Lines for the summary, where there is anything to tell."""
        notes = list(self._found)
        shared = self._engine.shared
        for watch in self._armed.plan.watches:
            index = watch.index
            limit = self._engine.wants.limit
            if (left := shared.slot(index, Slot.LEFT)) and not (limit and shared.taken() >= limit):
                last, now = shared.left(index, watch.variable.length)
                holds = "held {now} when its process ended"
                if left > 1:
                    holds += f" (the last of {left})"
                notes.append(self._differs(watch, last, now, holds))
            if reads := shared.total(index, Cell.STALE):
                notes.append(
                    f"{number(reads, 'read')} of {watch.name} found another value than was last seen: "
                    f"{self._who(watch)}"
                )
            if hits := shared.total(index, Cell.KERNEL):
                what, call = _KERNELS[watch.mode]
                notes.append(
                    f"the kernel's own {what} {watch.name}, as by {call} ({number(hits, 'hit')}), are not shown; "
                    "--kernel-accesses shows them"
                )
            if kept := shared.total(index, Cell.UNJUDGED):
                notes.append(
                    f"{number(kept, 'hit')} of {watch.name} kept though a value of the condition is not known "
                    "(OLD or NEW is ?)"
                )
            if others := self._sharing.get(index):
                names = ", ".join(map(str, others[:_MOST_NAMED])) + (
                    ", ..." if len(others) > _MOST_NAMED else ""
                )
                notes.append(
                    f"{watch.name} lies in memory that {'processes' if len(others) > 1 else 'process'} {names} "
                    f"{'have' if len(others) > 1 else 'has'}, too, and what is done there is not seen; "
                    "-p takes several"
                )
        return notes
