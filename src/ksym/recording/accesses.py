# SPDX-License-Identifier: BSD-2-Clause
"""The accesses of a recording as columns: what every report, script and export is made from.

A column is a numpy array with an element for each access, in order of time. What repeats itself (threads' names, code,
call chains, watches) stands in a table, and the column has its number there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ksym.capture.sites import Named, Site
    from ksym.capture.values import Values
    from ksym.watch.plan import Watch

KINDS = ("?", "R", "W", "RW", "X")
"""What ``kind`` numbers."""


@dataclass(frozen=True)
class Accesses:
    """Columns, n accesses long.

    Args:
        watches: What was watched.
        sites: Code that made accesses.
        comms: Names of threads.
        stacks: Call chains, innermost first.
        time_ns: int64, nanoseconds since the epoch.
        cpu: int32.
        pid: int32.
        tid: int32.
        comm: int32, number in ``comms``.
        watch: int32, number in ``watches``.
        site: int32, number in ``sites``.
        kind: uint8, number in KINDS.
        address: uint64, of the piece whose register trapped first.
        hits: int32, traps that the access took.
        uid: int64, -1 where it is not known.
        old: uint8, (n, width): the value before; ``width`` is that of the widest watch, padded to 8.
        new: uint8, (n, width): the value after.
        old_known: bool.
        new_known: bool.
        stack: int32, number in ``stacks``; -1 for none.
        pointers: What the pointers among the values pointed to, as far as it had a name.
    """

    watches: tuple[Watch, ...]
    sites: tuple[Site, ...]
    comms: tuple[str, ...]
    stacks: tuple[tuple[Named, ...], ...]
    time_ns: NDArray[np.int64]
    cpu: NDArray[np.int32]
    pid: NDArray[np.int32]
    tid: NDArray[np.int32]
    comm: NDArray[np.int32]
    watch: NDArray[np.int32]
    site: NDArray[np.int32]
    kind: NDArray[np.uint8]
    address: NDArray[np.uint64]
    hits: NDArray[np.int32]
    uid: NDArray[np.int64]
    old: NDArray[np.uint8]
    new: NDArray[np.uint8]
    old_known: NDArray[np.bool_]
    new_known: NDArray[np.bool_]
    stack: NDArray[np.int32]
    pointers: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.time_ns)

    def decoders(self) -> list[Values]:
        """Of each watch, what makes values of the bytes in ``old`` and ``new``."""
        from ksym.capture.values import Values

        return [Values(watch.variable, self.pointers.get) for watch in self.watches]

    def select(self, which: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Accesses:
        """Some of them: by a mask, numbers or a slice; the tables stay whole."""
        return replace(self, **{name: getattr(self, name)[which] for name in COLUMNS})


COLUMNS = (
    "time_ns", "cpu", "pid", "tid", "comm", "watch", "site", "kind", "address", "hits", "uid", "old", "new",
    "old_known", "new_known", "stack",
)  # fmt: skip
