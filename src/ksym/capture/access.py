# SPDX-License-Identifier: BSD-2-Clause
"""One access: what a row of every output says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksym.capture.sites import Named, Site
from ksym.watch.plan import Watch

if TYPE_CHECKING:
    from ksym.capture.values import Value


@dataclass(slots=True)
class Access:
    """One access to a watched variable.

    Args:
        time_ns: CLOCK_MONOTONIC nanoseconds.
        access: ``R``, ``W``, ``RW``, ``X``, or ``?`` where it cannot be known.
        address: Of the bytes whose register trapped first.
        stack: Innermost first; empty if stacks were not asked for.
        hits: Traps that this access took.
        old: The variable before the access, or as it was last seen; None where that is not known.
        new: The variable after it; None where that is not known.
        uid: The task's user; None where no program asked for it.
    """

    time_ns: int
    cpu: int
    pid: int
    tid: int
    comm: str
    watch: Watch
    address: int
    access: str
    site: Site
    stack: tuple[Named, ...] = ()
    hits: int = 1
    old: Value | None = None
    new: Value | None = None
    uid: int | None = None
