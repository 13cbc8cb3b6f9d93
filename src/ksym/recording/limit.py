# SPDX-License-Identifier: BSD-2-Clause
"""Counting accesses while they are recorded, for ``--limit``: by what `ksym trace` counts them.

A recorder does not ask which hits belong together. Where it has to end after so many accesses, its records take the
same way as those of trace besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ksym.capture.judge import judges
from ksym.capture.merge import Merge
from ksym.capture.pipeline import Pipeline
from ksym.capture.records import Record, SampleRecord
from ksym.capture.sites import Sites
from ksym.capture.tasks import Tasks
from ksym.capture.users import Users
from ksym.watch.arm import ArmedWatch


class _Taken:
    """Stands for a ring whose content was taken."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def drain(self) -> bytes:
        data, self._data = self._data, b""
        return data


class _NoValues:
    """Nobody looks at them here."""

    def of(self, data: bytes) -> None:
        """None."""

    def forget(self) -> None:
        """Nothing was known."""


class Limit:
    """Counts accesses up to so many.

    Args:
        armed: What is planted.
        sites: Names of code, not those of the recorder: each forgets what has ended in its own time.
        users: Likewise.
        most: So many accesses are wanted.
    """

    def __init__(self, armed: ArmedWatch, sites: Sites, users: Users, most: int) -> None:
        self._most = most
        self._rings: list[_Taken] = []
        self._merge = Merge(cast(Any, self._rings), chains=armed.options.stacks, raw=armed.engine is not None)
        tasks = Tasks()
        tasks.snapshot()
        values = [_NoValues()] * len(armed.plan.watches)
        self._pipeline = Pipeline(
            armed.planned, sites, tasks, users, values=cast(Any, values), judges=judges(armed)
        )
        self.accesses = [0] * len(armed.plan.watches)
        """Of each watch, among the first so many."""
        self.hits = 0
        """That they took."""

    @property
    def reached(self) -> bool:
        """Whether there are enough."""
        return sum(self.accesses) >= self._most

    @property
    def rejected(self) -> int:
        """Hits that did not match a condition."""
        return sum(self._pipeline.rejected.values())

    def take(self, batch: Sequence[bytes]) -> None:
        """Take what the rings had."""
        self._rings[:] = map(_Taken, batch)
        until = self._merge.horizon
        self._count(self._merge.ready(), until)

    def finish(self) -> None:
        """Nothing more will come."""
        self._count(self._merge.ready(last=True), None)

    def _count(self, records: list[Record], until: int | None) -> None:
        bare = [each._replace(chain=()) if isinstance(each, SampleRecord) else each for each in records]
        accesses = self._pipeline.take(bare, until=until)
        for access in accesses[: self._most - sum(self.accesses)]:
            self.accesses[access.watch.index] += 1
            self.hits += access.hits
