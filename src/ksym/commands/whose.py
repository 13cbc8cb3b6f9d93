# SPDX-License-Identifier: BSD-2-Clause
"""``stat --by``: the table in the kernel, read and printed with names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ksym.capture.counted import Counted, Who
from ksym.capture.merge import Merge
from ksym.capture.sites import Sites
from ksym.capture.users import Users
from ksym.linux.cpus import possible_cpus
from ksym.runs.session import Session
from ksym.symbols.kallsyms import Kallsyms
from ksym.views.counts import CountsTable, json_lines
from ksym.views.summary import number


class Whose:
    """Who made the hits of a session.

    Args:
        args: The command line.
        session: The armed run, whose programs count.
    """

    def __init__(self, args: argparse.Namespace, session: Session) -> None:
        assert session.armed.engine is not None
        self._by, self._json, self._watches = args.by, args.json, session.plan.watches
        self._session, kernel = session, session.resolver.kernel
        self._users = Users(*session.pids)
        session.run.on_mapped = self._mapped
        self._merge = Merge(session.armed.rings, chains=False)
        sites = Sites(Kallsyms.shown, lambda: kernel.memory_or_none, self._users)
        modes = [watch.mode for watch in self._watches]
        self._counted = Counted(modes, sites, args.by, possible_cpus(), self._users, session.armed.engine)
        self._table = CountsTable(self._watches, args.by, interval=bool(args.interval))
        self._before: dict[Who, int] = {}

    def follow(self, *, last: bool = False) -> None:
        """Take what the kernel tells of processes."""
        self._counted.follow(self._merge.ready(last=last))
        if last:
            self._session.run.notes += self._session.further_copies(self._users)

    def _mapped(self, data: bytes) -> None:
        """Name what was counted so far, as new code may replace the old."""
        self._users.hold(data)
        self._catch_up()

    def _catch_up(self) -> None:
        for _ in range(2):  # the second time, all that was told before the first one is in order
            self.follow()

    def remarks(self) -> list[str]:
        """What a reader of the rows should know."""
        if not self._counted.unnamed:
            return []
        hits = number(self._counted.unnamed, "hit")
        return [
            f"{hits} by address alone: other code came there meanwhile; ksym trace tells whose each one is"
        ]

    def header(self) -> str:
        """See CountsTable."""
        return self._table.header()

    def rows(self, hits: Sequence[int] = (), *, seconds: float | None = None) -> str:
        """What was counted since the last call.

        Args:
            hits: All hits of each request since then; left out: those in rows.
            seconds: Time since the start, for an interval.
        """
        self._catch_up()
        totals = self._counted.sum()
        counts = {who: max(0, count - self._before.get(who, 0)) for who, count in totals.items()}
        self._before = totals
        if self._json:
            return json_lines(self._watches, self._by, counts, seconds)
        return self._table.rows(counts, hits or [0] * len(self._watches), seconds or 0)

    def close(self) -> None:
        """Close what names were read from."""
        self._users.close()
