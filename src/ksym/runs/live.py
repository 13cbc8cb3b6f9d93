# SPDX-License-Identifier: BSD-2-Clause
"""A session's accesses as they come: what trace and the Python API are made from."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator

from ksym.capture.access import Access
from ksym.capture.instructions import available
from ksym.capture.judge import judges
from ksym.capture.merge import Merge
from ksym.capture.ownership import Ownership
from ksym.capture.pipeline import Pipeline
from ksym.capture.pointers import pointer_names, user_pointer_names
from ksym.capture.records import Record
from ksym.capture.sites import Sites
from ksym.capture.tasks import Tasks
from ksym.capture.users import Users
from ksym.capture.values import Values
from ksym.linux.libc import MACHINE
from ksym.linux.namespaces import own_pid_namespace
from ksym.program.engine import Engine
from ksym.program.shared import Cell
from ksym.runs.session import Session
from ksym.symbols.kallsyms import Kallsyms
from ksym.symbols.variable import Space
from ksym.views.summary import Tally, number
from ksym.watch.plan import Plan
from ksym.watch.run import ROUND_SECONDS

_PART = 4096
"""Records between two looks at the rings: some 30 ms of work, in which a ring of 4 MiB does not run full."""


class Live:
    """The accesses of an armed run, counted.

    Args:
        session: The run; not enabled yet.
        limit: End after so many accesses.
        at_limit: What ends it then; left out: the run is stopped.
    """

    def __init__(
        self, session: Session, *, limit: int | None = None, at_limit: Callable[[], None] | None = None
    ) -> None:
        self._session, self._limit = session, limit
        self._at_limit = at_limit or (lambda: session.run.stop("limit reached"))
        armed, kernel = session.armed, session.resolver.kernel
        self._users = Users(*session.code_pids)
        session.run.on_mapped = self._users.hold
        self._sites = Sites(Kallsyms.shown, lambda: kernel.memory_or_none, self._users)
        # The rings report changes of names already, the watches are not enabled yet: nothing is missed, and
        # ksym's own reading of names is no access.
        self._tasks = Tasks(all_numbered=not own_pid_namespace())
        self._tasks.snapshot()
        raw = armed.engine is not None
        names = pointer_names(Kallsyms.shown)
        in_user = user_pointer_names(lambda: self._users.loaded(session.one_pid), names)
        values = [
            Values(watch.variable, in_user if watch.variable.space is Space.USER else names)
            for watch in (session.plan.watches if raw else ())
        ]
        self._ownership = Ownership(lambda: session.holds)
        self._pipeline = Pipeline(
            armed.planned,
            self._sites,
            self._tasks,
            self._users,
            values=values,
            judges=judges(armed),
            ended=armed.engine.forget if armed.engine else lambda pid: None,
            ownership=self._ownership,
        )
        self._merge = Merge(armed.rings, chains=armed.options.stacks, raw=raw)
        self._parts: deque[tuple[list[Record], int | None]] = deque()
        self._shown = [0] * len(session.plan.watches)
        self._hits_shown = 0
        self._unknown_types = 0

    def batches(self) -> Generator[list[Access]]:
        """The accesses of each round, some at a time, until the run is over.

        Each round gives at least an empty list, so that whoever takes them has a turn. Between them the rings are
        drained, as what is made of the accesses takes longer than to make them.
        """
        run, merge = self._session.run, self._merge
        for _ in run.rounds():
            merge.collect()
            until = time.monotonic() + ROUND_SECONDS
            while merge.behind:
                yield from self._sweep()
                if time.monotonic() >= until:
                    break
            run.behind = merge.behind
            yield []
        merge.collect()
        while merge.behind:
            yield from self._sweep()
        yield from self._taken(merge.rest(), None)

    def now(self) -> list[Access]:
        """What was caught up to now, without waiting for a round; the run goes on."""
        # What a ring holds is certain to be in order once all have been read again.
        self._merge.collect()
        return [access for _ in range(2) for access in self._next()]

    def rest(self) -> list[Access]:
        """What waits still, and what the rings hold, once nothing is armed any more."""
        found = self._next()
        return found + [access for part in self._taken(self._merge.rest(), None) for access in part]

    def _next(self) -> list[Access]:
        found = [access for part in self._parts_left() for access in part]
        self._merge.collect()
        while self._merge.behind:
            for part in self._sweep():
                found += part
        return found

    def _sweep(self) -> Iterator[list[Access]]:
        until = self._merge.horizon
        return self._taken(self._merge.next_sweep(), until)

    def _taken(self, records: list[Record], until: int | None) -> Iterator[list[Access]]:
        """The accesses of records in order of time, up to which all will have been given then."""
        last = max(0, len(records) - 1) // _PART * _PART
        for at in range(0, last, _PART):
            part = records[at : at + _PART]
            self._parts.append((part, part[-1].time))
        self._parts.append((records[last:], until))
        return self._parts_left()

    def _parts_left(self) -> Iterator[list[Access]]:
        """The accesses of what was merged and not taken yet: whoever asks next goes on where another has left off."""
        while self._parts:
            part, until = self._parts.popleft()
            yield self._count(self._pipeline.take(part, until=until))
            if self._parts:
                self._merge.collect()

    def _count(self, accesses: list[Access]) -> list[Access]:
        if self._limit is not None:
            accesses = accesses[: self._limit - sum(self._shown)]
        for access in accesses:
            self._shown[access.watch.index] += 1
            self._hits_shown += access.hits
            self._unknown_types += access.access == "?"
        if accesses and self._limit is not None and sum(self._shown) >= self._limit:
            self._at_limit()
        return accesses

    def tally(self, notes: list[str], counted: list[int] | None = None) -> Tally:
        """What was seen, held against the counters.

        Args:
            notes: For the summary.
            counted: What the counters said before the last accesses were taken, where hits go on meanwhile; left out:
                they are read now.
        """
        session, pipeline = self._session, self._pipeline
        watches = range(len(session.plan.watches))
        seen = sum(pipeline.hits.values())
        rejected, foreign = sum(pipeline.rejected.values()), sum(pipeline.foreign.values())
        notes = [*notes, *session.foreign(foreign)]
        hidden = seen - foreign - rejected - self._hits_shown
        no_room, suppressed = pipeline.lost_records, 0
        engine = session.armed.engine
        if engine:
            rejected += (in_kernel := sum(engine.shared.total(watch, Cell.REJECTED) for watch in watches))
            suppressed = sum(engine.shared.total(watch, Cell.DISARMED) for watch in watches)
            no_room = sum(engine.shared.total(watch, Cell.DROPPED) for watch in watches)
            hidden += (behind := sum(engine.shared.total(watch, Cell.LIMITED) for watch in watches))
            seen += in_kernel + suppressed + behind
        return Tally(
            [watch.name for watch in session.plan.watches], (), self._shown, shown=self._hits_shown,
            lost=max(0, sum(counted or session.armed.counts()) - seen), no_room=max(no_room, session.armed.lost()),
            hidden=hidden, rejected=rejected, suppressed=suppressed, disarmed=session.run.disarmed, notes=notes,
        )  # fmt: skip

    def remarks(self) -> list[str]:
        """What a reader of the rows should know."""
        engine = self._session.armed.engine
        remarks = self._session.further_copies(self._users)
        remarks += _doubts(engine, both_fire=self._session.armed.options.both_fire) if engine else []
        if self._tasks.short:
            remarks.append("names of tasks are missing: too many files were open (ulimit -n)")
        if not self._session.holds_processes:
            remarks += _unwatched(self._ownership.returns, self._session.plan)
        if not self._unknown_types:
            return remarks
        if MACHINE == "x86_64" and not available():
            return [
                *remarks,
                "TYPE ?: x86 instructions are decoded by iced-x86, which is not installed: pip install iced-x86",
            ]
        return remarks

    def close(self) -> None:
        """Close what names were read from."""
        self._users.close()


def _unwatched(returns: list[tuple[int, int]], plan: Plan) -> list[str]:
    """Say which processes have run a program again, where nobody was held for that."""
    names = ", ".join(watch.name for watch in plan.watches if watch.variable.space is Space.USER)
    first: dict[int, int] = {}
    times = Counter(pid for _, pid in returns)
    for at, pid in returns:
        first.setdefault(pid, at)
    return [
        f"process {pid} ran the program of {names} again at {clock(at)}{_further(times[pid] - 1)}, "
        "and was not watched from its start on"
        for pid, at in first.items()
    ]


def _further(count: int) -> str:
    return f" and {number(count, 'time')} later" if count else ""


def clock(at: int) -> str:
    """The time of day of a record."""
    seconds = (at + time.time_ns() - time.monotonic_ns()) / 1e9
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _doubts(engine: Engine, *, both_fire: bool) -> list[str]:
    """Where values or types may be wrong, which the programs have noticed."""
    watches = range(len(engine.plan.watches))
    unordered = sum(engine.shared.total(watch, Cell.UNORDERED) for watch in watches)
    misordered = sum(engine.shared.total(watch, Cell.MISORDERED) for watch in watches)
    doubts = []
    if unordered:
        doubts.append(
            f"OLD -> NEW may have gaps: {number(unordered, 'time')} another CPU held the value too long"
        )
    if misordered and both_fire:
        doubts.append(
            f"TYPE R may be W: {number(misordered, 'time')} a twin's registers fired in the wrong order"
        )
    return doubts
