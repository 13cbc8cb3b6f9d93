# SPDX-License-Identifier: BSD-2-Clause
"""Which ``struct mm_struct`` a process has: what tells its memory from that of all others."""

from __future__ import annotations

import contextlib
import os

from ksym.errors import KsymError
from ksym.linux.memory import MemoryFault
from ksym.symbols.kernel import Kernel
from ksym.symbols.task_layout import TaskLayout
from ksym.symbols.tasks import TaskList


class AddressSpaces:
    """Finds processes' address spaces, and keeps the kernel from using one again while this is open.

    Args:
        kernel: Its memory.
        layout: How its tasks are laid out.
    """

    def __init__(self, kernel: Kernel, layout: TaskLayout) -> None:
        self._kernel, self._layout = kernel, layout
        self._held: dict[int, tuple[int, int]] = {}

    def of(self, pid: int) -> int | None:
        """Address of the ``mm_struct`` of a process; None where it has none, or it may not be read.

        A process that has run another program since has another one: `forget` it first.
        """
        if pid not in self._held:
            try:
                # While it is open, the kernel keeps the structure (mem_open, fs/proc/base.c), not what is in it.
                fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return None
            try:
                memory = self._behind(fd, pid)
            except (MemoryFault, KsymError):
                memory = None
            if not memory:
                os.close(fd)
                return None
            self._held[pid] = memory, fd
        return self._held[pid][0]

    def _behind(self, fd: int, pid: int) -> int:
        task, layout = self._kernel.current_task(), self._layout
        if task is None:
            # Where no program tells of ksym's own task, the list of tasks does.
            return self._word(TaskList(self._kernel).task(pid) + layout.mm)
        at = task
        for offset in layout.files:
            at = self._word(at + offset)
        return self._word(self._word(at + 8 * fd) + layout.private_data)

    def _word(self, address: int) -> int:
        return int.from_bytes(self._kernel.memory.read(address, 8), "little")

    def forget(self, pid: int) -> None:
        """Let the kernel have it back."""
        held = self._held.pop(pid, None)
        if held is not None:
            with contextlib.suppress(OSError):
                os.close(held[1])

    def close(self) -> None:
        """Forget all."""
        for pid in list(self._held):
            self.forget(pid)
