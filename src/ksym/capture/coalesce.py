# SPDX-License-Identifier: BSD-2-Clause
"""From hits to accesses. An access is one execution of one instruction; it may take several hits.

Two kinds of instruction do that, on machines that trap after the access (x86):

- A string instruction with ``rep`` traps after each of its steps. ``rep movsb`` over 8 watched bytes takes 8 hits.
- An instruction that touches several pieces of a split object hits all of them in one trap.

A loop that touches one element after the other is many executions, so many accesses.

Programs in the kernel compare the registers of each hit with those of the one before, which tells for certain
(`program.execution_code`). Records of plain perf events carry no registers. What the decoded instruction says decides
there: how often its steps can hit a piece, or how many bytes it touches, if these lie where a compiler puts them.
Without a decoded instruction each hit is an access.

`Executions` is the rule, for hits that come live and for those of a recording.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from ksym.capture.access import Access
from ksym.capture.instructions import READ_WRITE, UNKNOWN
from ksym.capture.records import SampleRecord
from ksym.capture.sites import Site
from ksym.language.request import Mode
from ksym.program.layout import TOLD, Hit
from ksym.watch.plan import PlannedEvent

TRAP_GAP_NS = 10_000_000
"""Hits of one trap are recorded within microseconds; a hypervisor may hold up the CPU in between."""
REPEAT_GAP_NS = 100_000_000
"""Steps of a string instruction that are further apart are two accesses: a row cannot wait for ever."""

_What = TypeVar("_What")
APART = int(Hit.LATER | Hit.ANEW)
"""A hit with one of these flags was not made in one trap with the hit before."""
_SAME, _ANEW, _TOLD = int(Hit.SAME), int(Hit.ANEW), int(TOLD)


class Reach(NamedTuple):
    """What the rule needs to know of the place that a hit came from, and of the piece that was hit.

    Args:
        address: Of the instruction.
        start: First byte of the piece in the variable.
        end: The byte after the piece.
        size: Bytes that the instruction touches, or one step of it; 0 if not known.
        repeats: It is a string instruction with ``rep``.
        ended: It has ended with this hit, as the reported address is the one after it.
        most: How often its steps can hit the piece, if they are aligned.
        one_way: Each of its steps touches one place, and the next step the next place.
    """

    address: int
    start: int
    end: int
    size: int
    repeats: bool = False
    ended: bool = False
    most: int = 1
    one_way: bool = False


def reach_of(site: Site, planned: PlannedEvent, *, told: bool, traps_after: bool) -> Reach | None:
    """Return what the rule needs to know; None if each hit from there is an access.

    Args:
        site: Where the hit came from.
        planned: What was hit.
        told: A program tells which hits were made by one execution; else the instruction has to.
        traps_after: The machine traps after the access. One that traps before it (arm64) reports one watchpoint for
            each execution, and lets the access pass with all of them off.
    """
    watch = planned.watch
    if not traps_after or watch.mode is Mode.EXECUTE or not (site.repeats or len(watch.pieces) > 1):
        return None
    start, length = planned.piece.offset, planned.piece.length
    if not (told or site.repeats or site.size > length):
        return None
    most = -(-length // site.size) if site.repeats and 0 < site.size < length else 1
    one_way = site.instruction is not None and len(site.instruction.accesses) == 1
    ended = site.repeats and site.ip != site.address
    return Reach(site.address, start, start + length, site.size, site.repeats, ended, most, one_way)


@dataclass(slots=True)
class _Execution(Generic[_What]):
    """An execution that further hits may belong to.

    Args:
        what: What its hits become.
        reach: Of its last hit.
        cpu: Of its last hit.
        time: Of its last hit, in nanoseconds.
        covered: Bytes of the pieces that it has hit.
        trap: Starts of the pieces that its last trap has hit.
        steps: How often it has hit each piece, by the piece's start.
        way: 1 if it goes up through the pieces, -1 if down, 0 if that is not known.
    """

    what: _What
    reach: Reach
    cpu: int
    time: int
    covered: int = 0
    trap: set[int] = field(default_factory=set)
    steps: dict[int, int] = field(default_factory=dict)
    way: int = 0

    def __post_init__(self) -> None:
        start = self.reach.start
        self.covered = self.reach.end - start
        self.trap.add(start)
        self.steps[start] = 1

    def made(self, cpu: int, time: int, flags: int, reach: Reach) -> bool:
        """Return True if this execution made a further hit, too, and take note of it."""
        start = reach.start
        if flags & _SAME:
            if start in self.trap or cpu != self.cpu:
                return False
            self.trap.add(start)
        elif flags & _ANEW:
            return False
        elif reach.repeats:
            if not self._steps_on(time, flags, reach):
                return False
            self.trap = {start}
        else:
            before = self.reach
            if (
                flags & _TOLD
                or cpu != self.cpu
                or time - self.time > TRAP_GAP_NS
                or start != before.end
                or self.covered >= reach.size
            ):
                return False
            self.covered += reach.end - start
        self.steps[start] = self.steps.get(start, 0) + 1
        self.reach, self.cpu, self.time = reach, cpu, time
        return True

    def _steps_on(self, time: int, flags: int, reach: Reach) -> bool:
        """Return True if the hit may be a further step of the same string instruction."""
        before, start, told = self.reach, reach.start, flags & _TOLD
        if before.ended or time - self.time > REPEAT_GAP_NS:
            return False
        # Steps that are not aligned touch a piece once more, and those from piece to piece twice as often. Only the
        # registers tell these from the next execution's.
        if self.steps.get(start, 0) >= (2 * (reach.most + 1) if told else reach.most):
            return False
        if reach.one_way and start != before.start:
            way = 1 if start > before.start else -1
            if self.way == -way:
                return False
            self.way = way
        return True


_Begun = tuple[_What, Reach, int, int]
"""An execution after its first hit, as arguments of `_Execution`: most have no other one, and tuples cost less."""


class Executions(Generic[_What]):
    """Tells which hits were made by one execution; to be given hits in order of time.

    A hit from a place without a `Reach` is an access of its own: ``leave`` takes note of it. For any other one
    ``find`` the execution that made it, or ``begin`` another.
    """

    def __init__(self) -> None:
        self.threads: dict[int, tuple[int, dict[int, _Begun[_What] | _Execution[_What]]]] = {}
        """For each thread with executions that may go on: the instruction's address, and the execution, by watch."""

    def leave(self, thread: int, address: int) -> None:
        """Take note of an access from another place: a thread makes hits by one instruction after the other."""
        known = self.threads.get(thread)
        if known is not None and known[0] != address:
            del self.threads[thread]

    def find(self, thread: int, watch: int, cpu: int, time: int, flags: int, reach: Reach) -> _What | None:
        """Return what the execution that made this hit, too, was begun with; None if another execution made it.

        Args:
            thread: The thread (`thread_of`).
            watch: Number of the watch.
            cpu: Where.
            time: When, in nanoseconds.
            flags: Of `Hit`.
            reach: Where the hit came from.
        """
        known = self.threads.get(thread)
        if known is None:
            return None
        if known[0] != reach.address:
            del self.threads[thread]
            return None
        execution = known[1].get(watch)
        if execution is None:
            return None
        if not isinstance(execution, _Execution):
            execution = known[1][watch] = _Execution(*execution)
        return execution.what if execution.made(cpu, time, flags, reach) else None

    def begin(self, thread: int, watch: int, cpu: int, time: int, reach: Reach, what: _What) -> None:
        """Take note of an execution's first hit.

        Args:
            thread: See ``find``.
            watch: See ``find``.
            cpu: See ``find``.
            time: See ``find``.
            reach: See ``find``.
            what: What the hits of this execution become.
        """
        first = what, reach, cpu, time
        known = self.threads.get(thread)
        if known is None or known[0] != reach.address:
            self.threads[thread] = reach.address, {watch: first}
        else:
            known[1][watch] = first

    def may_go_on(self, until: int) -> list[_What]:
        """Return what may take hits later than a time, up to which all have been given; forget the others."""
        open_ = []
        for thread, (_, by_watch) in list(self.threads.items()):
            for watch, execution in list(by_watch.items()):
                if not isinstance(execution, _Execution):
                    execution = _Execution(*execution)
                gap = REPEAT_GAP_NS if execution.reach.repeats else TRAP_GAP_NS
                if until - execution.time > gap:
                    del by_watch[watch]
                else:
                    open_.append(execution.what)
            if not by_watch:
                del self.threads[thread]
        return open_


def thread_of(tid: int, cpu: int) -> int:
    """Return a number for the thread; the idle task is one on each CPU, and all of them are thread 0."""
    return tid or -1 - cpu


def both(first: str, second: str) -> str:
    """Return the access that one execution made whose hits were these accesses."""
    if first == second or second == UNKNOWN:
        return first
    return second if first == UNKNOWN else READ_WRITE


class Coalesce:
    """Groups a stream of hits into accesses, keeping their order.

    For each hit in order of time: it ``extends`` an access, or ``start`` another with it, which, if it may take more
    hits, ``executions`` is told of. Then take the complete accesses with ``done``.
    """

    def __init__(self) -> None:
        self._order: deque[Access] = deque()
        self.start = self._order.append
        """Take a new access."""
        self.executions: Executions[Access] = Executions()

    def extends(self, record: SampleRecord, planned: PlannedEvent, reach: Reach, kind: str) -> Access | None:
        """Return the access that the hit belongs to, extended by it; None if it begins another one.

        Args:
            record: The hit.
            planned: What was hit.
            reach: Where the hit came from.
            kind: The access that it was.
        """
        time, cpu, tid = record.time, record.cpu, record.tid
        access = self.executions.find(tid or -1 - cpu, planned.watch.index, cpu, time, record.flags, reach)
        if access is not None:
            access.hits += 1
            access.access = both(access.access, kind)
        return access

    def done(self, *, until: int | None = None) -> list[Access]:
        """Take the accesses that are complete, in order of their first hits.

        Args:
            until: Time up to which all hits have been added; None: no more will come.
        """
        order, executions = self._order, self.executions
        if executions.threads and until is not None:
            still = {id(access) for access in executions.may_go_on(until)}
            finished = []
            while order and id(order[0]) not in still:
                finished.append(order.popleft())
            return finished
        executions.threads.clear()
        finished = list(order)
        order.clear()
        return finished
