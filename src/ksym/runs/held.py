# SPDX-License-Identifier: BSD-2-Clause
"""What the variables of a run hold, and what its programs last saw of them."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

from ksym.linux.maps import shared_memory
from ksym.linux.memory import Memory, MemoryFault
from ksym.linux.process_memory import ProcessMemory
from ksym.program.engine import Engine
from ksym.program.shared import Control
from ksym.symbols.kernel import Kernel
from ksym.symbols.variable import Space
from ksym.watch.plan import Watch


class Spot(NamedTuple):
    """Where a variable lies.

    Args:
        watch: The watch on it.
        pid: The process; 0: the kernel.
        address: The address there.
        cpu: The CPU, of a variable that each has.
    """

    watch: Watch
    pid: int
    address: int
    cpu: int = 0


class Held:
    """Reads variables of an armed run, without a row of it.

    Args:
        engine: The programs, which take values.
        kernel: For the kernel's variables.
    """

    def __init__(self, engine: Engine, kernel: Kernel) -> None:
        self._engine, self._kernel = engine, kernel

    def spots(self) -> Iterator[Spot]:
        """Where the variables lie whose values are taken."""
        watches, takes = self._engine.plan.watches, self._engine.takes_values
        for watch in watches:
            if takes[watch.index] and watch.variable.space is Space.KERNEL:
                copies = watch.variable.per_cpu or {0: watch.variable.address}
                for cpu, address in copies.items():
                    yield Spot(watch, 0, address, cpu if watch.variable.per_cpu else 0)
        for index, pid, base in self._engine.chains.places():
            if takes[index]:
                yield Spot(watches[index], pid, base)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Let programs pass over what this thread reads meanwhile."""
        self._engine.shared.control(Control.READER, os.getpid() << 32 | threading.get_native_id())
        try:
            yield
        finally:
            self._engine.shared.control(Control.READER, 0)

    def now(self, spot: Spot) -> bytes | None:
        """The variable's bytes; None where they cannot be read."""
        memory: Memory | None = ProcessMemory(spot.pid) if spot.pid else self._kernel.memory_or_none
        if memory is None:
            return None
        try:
            return memory.read(spot.address, spot.watch.variable.length)
        except MemoryFault:
            return None

    def last(self, spot: Spot) -> bytes | None:
        """What the last access has left there; None where that is not known."""
        engine, index = self._engine, spot.watch.index
        if spot.pid:
            return engine.chains.last(index, spot.pid, spot.address)
        return engine.shared.value(index, spot.watch.variable.length, cpu=spot.cpu)

    def forget(self, spot: Spot) -> None:
        """Forget what is known of it, while nothing is watched."""
        engine, index = self._engine, spot.watch.index
        if spot.pid:
            engine.chains.unplace(index, spot.pid, spot.address)
            engine.chains.place(index, spot.pid, spot.address, shared=shared_memory(spot.pid, spot.address))
        else:
            engine.shared.begin_anew(index, spot.cpu)

    def begin(self, spot: Spot, value: bytes) -> None:
        """Tell the programs what the first access finds."""
        engine, index = self._engine, spot.watch.index
        if spot.pid:
            engine.chains.seed(index, spot.pid, spot.address, value)
        else:
            engine.shared.seed(engine.shape.seed_number(index, spot.cpu), value)
