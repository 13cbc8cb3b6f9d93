# SPDX-License-Identifier: BSD-2-Clause
"""What a person would look for in a recording, found for each access.

Accesses are compared with those before them to the same memory: the same variable, of one process where it is in user
space, of one CPU where each CPU has its own. That is done once, on all accesses, so that what is then selected
(`--only`, `--since`) is judged by what truly went before it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ksym.recording.accesses import KINDS, Accesses
from ksym.reports.comparable import AnyColumn, Flags, Numbers, number, same, tally
from ksym.symbols.variable import Space
from ksym.watch.plan import Watch

NEAR_NS = 2_000
"""Two CPUs' accesses this close may have met: the time of an access is taken in its trap, up to a microsecond late."""
LATE_NS = 1_000_000
"""A write that another CPU has seen already is told of this much later at most: its trap takes some 10
microseconds, and a virtual CPU may be held up (170 at most in 3,000 such pairs)."""

_READ = KINDS.index("R")
_WRITES = (KINDS.index("W"), KINDS.index("RW"))


@dataclass(frozen=True)
class Marks:
    """Columns, one element an access.

    Args:
        write: It writes.
        silent: A write of the value that was there.
        judged: A write of which that can be told: both values are known, and no other CPU may have shown its value
            before it did.
        writer_before: CPU of the write before it, of a write; -1 where there is none.
        near_ns: How long before it another CPU accessed the same memory, where that is at most NEAR_NS and one of
            the two writes; else -1.
        near_site: What that was done by; -1 for nothing.
        unseen: The value was changed since the access before, and no access tells of it.
    """

    write: Flags
    silent: Flags
    judged: Flags
    writer_before: NDArray[np.int32]
    near_ns: NDArray[np.int32]
    near_site: NDArray[np.int32]
    unseen: Flags

    def select(self, which: Flags | Numbers | slice) -> Marks:
        """Those of some accesses."""
        return replace(self, **{field.name: getattr(self, field.name)[which] for field in fields(self)})


def find(accesses: Accesses) -> Marks:
    """Mark each access."""
    count = len(accesses)
    write = (accesses.kind == _WRITES[0]) | (accesses.kind == _WRITES[1])
    judged = write & accesses.old_known & accesses.new_known
    marks = Marks(
        write, np.zeros(count, np.bool_), judged, np.full(count, -1, np.int32), np.full(count, -1, np.int32),
        np.full(count, -1, np.int32), np.zeros(count, np.bool_),
    )  # fmt: skip
    alone = len(accesses.watches) == 1
    for index, watch in enumerate(accesses.watches):
        places = None if alone else np.flatnonzero(accesses.watch == index)
        if count and (places is None or len(places)):
            _mark(watch, accesses if places is None else accesses.select(places), marks, places)
    return marks


def _mark(watch: Watch, accesses: Accesses, marks: Marks, places: Numbers | None) -> None:
    """Mark the accesses to one variable; ``places`` is where they stand among all, None for all of them."""
    where = slice(None) if places is None else places
    write = marks.write[where]
    unchanged = same(watch.variable, accesses.old, accesses.new)
    marks.silent[where] = marks.judged[where] & unchanged
    marks.unseen[where] = _unseen(watch, accesses, write, unchanged)
    if len(accesses) < 2 or bool((accesses.cpu == accesses.cpu[0]).all()):
        return  # one CPU: nobody to meet
    memory = _memory(watch, accesses)
    order = None if memory is None else np.argsort(memory, kind="stable")
    before = _writer_before(*_ordered(order, accesses.cpu, write, memory))
    marks.writer_before[where] = before if order is None else _back(order, before)
    silent = np.flatnonzero(marks.silent[where])
    if len(silent):
        changed = accesses.old_known & accesses.new_known & ~unchanged
        at = silent if order is None else np.sort(_back(order, np.arange(len(order)))[silent])
        doubt = at[_overtaken(at, *_ordered(order, accesses.cpu, accesses.time_ns, changed, memory))]
        doubt = doubt if order is None else order[doubt]
        doubt = doubt if places is None else places[doubt]
        marks.silent[doubt] = marks.judged[doubt] = False
    near, near_ns, near_site = _near(accesses, write, memory, order)
    there = near if places is None else places[near]
    marks.near_ns[there], marks.near_site[there] = near_ns, near_site


def _near(
    accesses: Accesses, write: Flags, memory: AnyColumn | None, order: Numbers | None
) -> tuple[Numbers, AnyColumn, AnyColumn]:
    """Which accesses come close behind another CPU's, how close, and by what that one was made."""
    (time,) = _ordered(order, accesses.time_ns)
    close = np.diff(time) <= NEAR_NS
    # Those that are near to none can be left out: what lies before them is further away still.
    around = np.flatnonzero(np.concatenate((close, [False])) | np.concatenate(([False], close)))
    numbers = around if order is None else order[around]
    cpu, time, site = accesses.cpu[numbers], accesses.time_ns[numbers], accesses.site[numbers]
    partner = _partner(cpu, write[numbers], None if memory is None else memory[numbers])
    gap = time - time[partner]
    near = (partner >= 0) & (gap >= 0) & (gap <= NEAR_NS)
    return numbers[near], gap[near], site[partner[near]]


def _ordered(order: Numbers | None, *columns: Any) -> tuple[Any, ...]:
    if order is None:
        return columns
    return tuple(None if column is None else column[order] for column in columns)


def _back(order: Numbers, ordered: AnyColumn) -> AnyColumn:
    """What was in an order, in its own again."""
    back = np.empty_like(ordered)
    back[order] = ordered
    return back


def _memory(watch: Watch, accesses: Accesses) -> NDArray[np.int32] | None:
    """What tells apart memory that has one name; None where it is all the same."""
    apart = None
    if watch.variable.per_cpu:
        apart = accesses.cpu
    elif watch.variable.space is Space.USER:
        apart = accesses.pid
    return None if apart is None or bool((apart == apart[0]).all()) else apart


def _unseen(watch: Watch, accesses: Accesses, write: Flags, unchanged: Flags) -> Flags:
    """Where the value was changed since the access before, without an access that tells of it."""
    memory = _memory(watch, accesses)
    order = np.argsort(memory, kind="stable") if memory is not None and watch.variable.per_cpu else None
    if order is not None and memory is not None:
        accesses, unchanged, memory, write = (
            accesses.select(order),
            unchanged[order],
            memory[order],
            write[order],
        )
    found: Flags = accesses.old_known & accesses.new_known & ~unchanged & (accesses.kind == _READ)
    if memory is None or order is not None:
        _explain(found, accesses, write, memory)
    else:
        apart = np.argsort(memory, kind="stable")
        ordered = found[apart]
        _explain(ordered, accesses.select(apart), write[apart], memory[apart])
        found = _back(apart, ordered)
    differ = accesses.old_known[1:] & accesses.new_known[:-1]
    differ &= ~same(watch.variable, accesses.old[1:], accesses.new[:-1])
    if memory is not None:
        together = memory[1:] == memory[:-1]
        differ &= together
        if not watch.variable.per_cpu:
            # The value before is the one last seen in any process: right behind another's access it tells nothing.
            found[1:] &= together
    found[1:] |= differ
    return found if order is None else _back(order, found)


def _explain(found: Flags, accesses: Accesses, write: Flags, memory: AnyColumn | None) -> None:
    """Leave out reads of a value that another CPU had just written: the write's own row follows."""
    places = np.flatnonzero(found | write) if found.any() else np.zeros(0, np.intp)
    if not len(places):
        return
    backwards = places[::-1]
    writes = write[backwards]
    later = _partner(accesses.cpu[backwards], writes, None if memory is None else memory[backwards])
    time = accesses.time_ns[backwards]
    gap = time[later] - time
    found[backwards[~writes & (later >= 0) & (gap >= 0) & (gap <= LATE_NS)]] = False


def _overtaken(
    at: Numbers, cpu: NDArray[np.int32], time: NDArray[np.int64], changed: Flags, memory: AnyColumn | None
) -> Flags:
    """Before which of these another CPU has shown a new value since this CPU's own last access.

    It may have been the write of this access, which was told of later: it looks as if it had changed nothing.

    Args:
        at: The accesses.
        cpu: Of all accesses, who made them; and so on.
        time: When.
        changed: Which show a new value.
        memory: What tells apart memory that has one name.
    """
    found = np.zeros(len(at), np.bool_)
    # One step back at a time, for those that are in question still; LATE_NS soon ends it.
    which, before = np.arange(len(at)), at - 1
    while len(which):
        own = at[which]
        on = (before >= 0) & (cpu[before] != cpu[own]) & (time[own] - time[before] <= LATE_NS)
        if memory is not None:
            on &= memory[before] == memory[own]
        found[which[on & changed[before]]] = True
        on &= ~changed[before]
        which, before = which[on], before[on] - 1
    return found


def _changes(*columns: AnyColumn | None) -> Flags:
    """Where an element differs from the one before; the first one does."""
    first = np.zeros(len(next(column for column in columns if column is not None)), np.bool_)
    first[:1] = True
    for column in columns:
        if column is not None:
            first[1:] |= column[1:] != column[:-1]
    return first


def _before_run(starts: Flags) -> NDArray[np.int32]:
    """For each element, where the run before its own ends; -1 for the first run."""
    places = np.arange(len(starts), dtype=np.int32)
    return np.maximum.accumulate(np.where(starts, places, np.int32(0))) - np.int32(1)


def _writer_before(cpu: NDArray[np.int32], write: Flags, memory: AnyColumn | None) -> NDArray[np.int32]:
    """CPU of the write before each write to the same memory."""
    before = np.full(len(cpu), -1, np.int32)
    if memory is None and write.all():
        before[1:] = cpu[:-1]
        return before
    writes = np.flatnonzero(write)
    same_memory = True if memory is None else memory[writes[1:]] == memory[writes[:-1]]
    before[writes[1:]] = np.where(same_memory, cpu[writes[:-1]], np.int32(-1))
    return before


def _partner(cpu: NDArray[np.int32], write: Flags, memory: AnyColumn | None) -> NDArray[np.int32]:
    """The last access before each one that was made by another CPU, if one of the two writes; -1 for none.

    Of a write that is the last access of another CPU, of others the last write of one.
    """
    # A write: runs of one CPU's accesses. What lies before the run was made by another.
    if not len(cpu):
        return np.zeros(0, np.int32)
    partner = _before_run(_changes(cpu, memory))
    writes = np.flatnonzero(write).astype(np.int32)
    if len(writes) < len(cpu):
        if not len(writes):
            return np.full(len(cpu), -1, np.int32)
        # Others: the last write, or where this CPU made it, what lies before its run of writes.
        last = np.cumsum(write, dtype=np.int32) - np.int32(1)
        run = _before_run(_changes(cpu[writes], None if memory is None else memory[writes]))
        other = np.where(cpu[writes[last]] != cpu, last, run[last])
        other_place = np.where((last >= 0) & (other >= 0), writes[other], np.int32(-1))
        partner = np.where(write, partner, other_place)
    if memory is not None:
        partner[(partner >= 0) & (memory[partner] != memory)] = -1
    return partner


def pairs(left: AnyColumn, right: AnyColumn) -> list[tuple[int, int, int]]:
    """Different pairs of two columns, with how often each occurs, most often first."""
    if not len(left):
        return []
    one, two = number(left), number(right)
    both, counts = tally(one.codes * len(two) + two.codes)
    order = np.argsort(-counts, kind="stable")
    first, second = np.divmod(both[order], len(two))
    return list(
        zip(
            one.different[first].tolist(), two.different[second].tolist(), counts[order].tolist(), strict=True
        )
    )
