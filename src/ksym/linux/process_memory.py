# SPDX-License-Identifier: BSD-2-Clause
"""Reading another process's memory, by /proc/PID/mem (man 5 proc)."""

from __future__ import annotations

from ksym.linux.memory import MemoryFault


class ProcessMemory:
    """A process's memory, for following its pointers."""

    def __init__(self, pid: int) -> None:
        self._path = f"/proc/{pid}/mem"

    def read(self, address: int, length: int) -> bytes:
        """See Memory.read."""
        try:
            with open(self._path, "rb", buffering=0) as file:
                file.seek(address)
                data = file.read(length)
        except (OSError, ValueError, OverflowError):
            raise MemoryFault(address) from None
        if len(data) != length:
            raise MemoryFault(address)
        return data
