# SPDX-License-Identifier: BSD-2-Clause
"""The accesses of a recording as columns: what every report, script and export is made from.

A column is a numpy array with an element for each access, in order of time. What repeats itself (threads' names, code,
call chains, watches) stands in a table, and the column has its number there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

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
class Traits:
    """What many accesses have in common: columns, one element for each combination that there is.

    Args:
        cpu: int32.
        pid: int32.
        tid: int32.
        comm: int32, number in ``comms``.
        watch: int32, number in ``watches``.
        site: int32, number in ``sites``.
        kind: uint8, number in KINDS.
        address: uint64, of the piece whose register trapped first.
        uid: int64, -1 where it is not known.
        old_known: bool.
        new_known: bool.
    """

    cpu: NDArray[np.int32]
    pid: NDArray[np.int32]
    tid: NDArray[np.int32]
    comm: NDArray[np.int32]
    watch: NDArray[np.int32]
    site: NDArray[np.int32]
    kind: NDArray[np.uint8]
    address: NDArray[np.uint64]
    uid: NDArray[np.int64]
    old_known: NDArray[np.bool_]
    new_known: NDArray[np.bool_]

    def take(self, which: NDArray[np.intp]) -> Traits:
        """Some of them."""
        return Traits(*(column[which] for column in vars(self).values()))


@dataclass(frozen=True)
class Accesses:
    """Columns, n accesses long. Those of `Traits` are made when they are asked for.

    Args:
        watches: What was watched.
        sites: Code that made accesses.
        comms: Names of threads.
        stacks: Call chains, innermost first.
        traits: What accesses have in common.
        trait: intp, number in ``traits``.
        time_ns: int64, nanoseconds since the epoch.
        old: uint8, (n, width): the value before; ``width`` is that of the widest watch, padded to 8.
        new: uint8, (n, width): the value after.
        hits: int32, traps that the access took.
        stack: int32, number in ``stacks``; -1 for none.
        pointers: What the pointers among the values pointed to, as far as it had a name.
    """

    watches: tuple[Watch, ...]
    sites: tuple[Site, ...]
    comms: tuple[str, ...]
    stacks: tuple[tuple[Named, ...], ...]
    traits: Traits
    trait: NDArray[np.intp]
    time_ns: NDArray[np.int64]
    old: NDArray[np.uint8]
    new: NDArray[np.uint8]
    hits: NDArray[np.int32]
    stack: NDArray[np.int32]
    pointers: Mapping[int, str] = field(default_factory=dict)

    def spread(self, table: NDArray[Any]) -> NDArray[Any]:
        """Of each access its element of a column like those of ``traits``; takes no memory where all are one."""
        from numpy import broadcast_to  # late: this module is imported for its names, too

        if len(table) and bool((table == table[0]).all()):
            return broadcast_to(table[0], len(self.trait))
        return table.take(self.trait)

    @cached_property
    def cpu(self) -> NDArray[np.int32]:
        """See Traits."""
        return self.spread(self.traits.cpu)

    @cached_property
    def pid(self) -> NDArray[np.int32]:
        """See Traits."""
        return self.spread(self.traits.pid)

    @cached_property
    def tid(self) -> NDArray[np.int32]:
        """See Traits."""
        return self.spread(self.traits.tid)

    @cached_property
    def comm(self) -> NDArray[np.int32]:
        """See Traits."""
        return self.spread(self.traits.comm)

    @cached_property
    def watch(self) -> NDArray[np.int32]:
        """See Traits."""
        return self.spread(self.traits.watch)

    @cached_property
    def site(self) -> NDArray[np.int32]:
        """See Traits."""
        return self.spread(self.traits.site)

    @cached_property
    def kind(self) -> NDArray[np.uint8]:
        """See Traits."""
        return self.spread(self.traits.kind)

    @cached_property
    def address(self) -> NDArray[np.uint64]:
        """See Traits."""
        return self.spread(self.traits.address)

    @cached_property
    def uid(self) -> NDArray[np.int64]:
        """See Traits."""
        return self.spread(self.traits.uid)

    @cached_property
    def old_known(self) -> NDArray[np.bool_]:
        """See Traits."""
        return self.spread(self.traits.old_known)

    @cached_property
    def new_known(self) -> NDArray[np.bool_]:
        """See Traits."""
        return self.spread(self.traits.new_known)

    def __len__(self) -> int:
        return len(self.time_ns)

    def decoders(self) -> list[Values]:
        """Of each watch, what makes values of the bytes in ``old`` and ``new``."""
        from ksym.capture.values import Values

        return [Values(watch.variable, self.pointers.get) for watch in self.watches]

    def select(self, which: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Accesses:
        """Some of them: by a mask, numbers or a slice; the tables stay whole."""
        return replace(self, **{name: getattr(self, name)[which] for name in COLUMNS})


COLUMNS = ("trait", "time_ns", "old", "new", "hits", "stack")
