# SPDX-License-Identifier: BSD-2-Clause
"""Where requests lead meanwhile, whose addresses were read from memory: along pointers, by the dynamic linker.

A register watches the address that it was given. When a pointer on a request's path is set to another object, the
rows are still the old one's; the summary says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from ksym.symbols.readable import readable
from ksym.symbols.variable import Space
from ksym.watch.plan import Watch

_POINTER = 8


class Whereabouts:
    """Asks requests where they lead.

    Args:
        watches: All watches of a run.
    """

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._left = [
            (watch.variable.again, watch.variable.address)
            for watch in watches
            if watch.variable.again and not (watch.variable.space is Space.KERNEL and _fires(watch, watches))
        ]

    def __bool__(self) -> bool:
        return bool(self._left)

    def look(self, *, over: bool = False) -> list[str]:
        """What to say of each that leads elsewhere for the first time.

        Args:
            over: It is the last time.
        """
        told, left = [], []
        for again, address in self._left:
            now = again.now()
            if now is None and over and again.unseen:
                told.append(readable(again.unseen))
            elif now is None or now == address:
                left.append((again, address))
            else:
                told.append(readable(again.told.replace("{now}", f"{now:#x}" if now else "nothing (NULL)")))
        self._left = left
        return told


def _fires(watch: Watch, watches: Sequence[Watch]) -> bool:
    """True if asking where a watch leads is an access that another one would see: reading kernel memory is."""
    again = watch.variable.again
    ranges = [
        range(address - _POINTER + 1, address + part.length)
        for other in watches
        if other.variable.space is Space.KERNEL
        for part in other.pieces
        for address in (other.base(cpu) + part.offset for cpu in other.variable.per_cpu or (0,))
    ]
    return again is not None and any(address in each for address in again.reads for each in ranges)
