# SPDX-License-Identifier: BSD-2-Clause
"""Memory that can be read: what the symbol stage needs of it. ``kernel_memory`` has the kernel's."""

from __future__ import annotations

from typing import Protocol


class MemoryFault(Exception):
    """The address cannot be read."""

    def __init__(self, address: int) -> None:
        self.address = address
        super().__init__(f"{address:#x} cannot be read")


class Memory(Protocol):
    """A readable address space."""

    def read(self, address: int, length: int) -> bytes:
        """Return exactly ``length`` bytes.

        Raises:
            MemoryFault: any of the bytes cannot be read.
        """
        ...
