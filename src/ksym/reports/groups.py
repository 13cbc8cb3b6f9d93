# SPDX-License-Identifier: BSD-2-Clause
"""Accesses to one variable, grouped: by function, instruction, task, CPU, value or stack, or by several of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ksym.capture.sites import Named, Site
from ksym.capture.values import Value
from ksym.recording.accesses import KINDS, Accesses
from ksym.recording.numbering import numbered
from ksym.reports.comparable import AnyColumn, Codes, Numbers, Seen, comparable, last_places, number, tally
from ksym.reports.findings import Marks
from ksym.watch.plan import Watch

_TOP = 3
"""How many tasks, CPUs and functions of a group are named."""


class Shares(NamedTuple):
    """Who made how many: the names of those with most accesses, and how many there are."""

    different: int
    top: tuple[tuple[str, int], ...]


class Range(NamedTuple):
    """The values of a group; ``low`` and ``high`` where they have an order."""

    different: int
    first: Value
    last: Value
    low: Value | None
    high: Value | None


class Write(NamedTuple):
    """Who wrote a value last."""

    value: Value
    time_ns: int
    comm: str
    pid: int
    tid: int
    cpu: int
    site: Site


@dataclass(frozen=True)
class Group:
    """Accesses that have something in common.

    Args:
        label: What, in words, key by key.
        fields: The same as data.
        accesses: How many.
        hits: Traps that they took.
        kinds: How many of each of KINDS.
        silent: Writes of the value that was there.
        first_ns: The first one.
        last_ns: The last one.
        tasks: Who made them.
        cpus: Where; all CPUs are named, in their order.
        functions: From where.
        values: What they left or found; None where no value is known.
        writer: Who wrote the value last; of groups by value.
        site: Where the last of them came from.
        frames: The call chain, of groups by stack.
    """

    label: tuple[str, ...]
    fields: dict[str, Any]
    accesses: int
    hits: int
    kinds: tuple[int, ...]
    silent: int
    first_ns: int
    last_ns: int
    tasks: Shares
    cpus: tuple[int, ...]
    functions: Shares
    values: Range | None
    writer: Write | None
    site: Site
    frames: tuple[str, ...]


class Rows(NamedTuple):
    """Accesses that have much in common, put together to rows; r rows.

    Args:
        of: Number of each access's row.
        counts: Accesses of each row.
        first: The first of them.
        last: The last one.
    """

    of: Numbers
    counts: Numbers
    first: Numbers
    last: Numbers


class Subject:
    """The accesses to one variable, with what is found out about them when it is asked for.

    Args:
        watch: What was watched.
        accesses: The accesses to it.
        marks: Theirs.
    """

    def __init__(self, watch: Watch, accesses: Accesses, marks: Marks) -> None:
        self.watch, self.accesses, self.marks = watch, accesses, marks

    def __len__(self) -> int:
        return len(self.accesses)

    @cached_property
    def seen(self) -> Seen:
        """The values."""
        accesses = self.accesses
        before_only = accesses.old_known & ~accesses.new_known
        data = accesses.new
        if before_only.any():
            data = np.where(before_only[:, None], accesses.old, data)
        known = accesses.new_known | accesses.old_known
        return Seen(self.watch.variable, data, known, accesses.pointers.get)

    @cached_property
    def rows(self) -> Rows:
        """The accesses by their traits: a million of them make some rows."""
        return _rows(self.accesses.trait)

    def rows_by(self, keys: Sequence[str]) -> Rows:
        """The accesses so that in each row all have the same of ``keys``, and the same traits."""
        rows = self.rows
        if "stack" in keys:
            rows = _rows(number(rows.of * (len(self.accesses.stacks) + 1) + self.accesses.stack + 1).codes)
        if "value" in keys:
            rows = _rows(number(rows.of * (self.seen.count + 1) + self.seen.codes + 1).codes)
        return rows

    def codes(self, key: str, rows: Rows) -> Codes:
        """A number for each of these rows, by one of KEYS; of those that have the same of it the same."""
        accesses, places = self.accesses, rows.first
        traits, trait = accesses.traits, accesses.trait[places]
        if key in ("function", "instruction"):
            name = _function if key == "function" else _instruction
            table: dict[Any, int] = {}
            same = [table.setdefault(name(site), len(table)) for site in accesses.sites]
            return number(np.array(same, np.intp)[traits.site[trait]])
        if key == "task":
            thread = number(traits.tid[trait])
            return number(thread.codes * len(accesses.comms) + traits.comm[trait])
        if key == "value":
            return number(self.seen.codes[places])
        if key == "cpu":
            return number(traits.cpu[trait])
        found = number(accesses.stack[places])
        chains: dict[tuple[Named, ...], int] = {}
        same = [
            chains.setdefault(accesses.stacks[each] if each >= 0 else (), len(chains))
            for each in found.different.tolist()
        ]
        return number(np.array(same, np.intp)[found.codes])

    # -- names ---------------------------------------------------------------------------------------

    def describe(self, key: str, place: int) -> tuple[str, dict[str, Any]]:
        """What the access at ``place`` has in common with those of the same code: in words, and as data."""
        return _DESCRIBE[key](self, place)

    def site(self, place: int) -> Site:
        """Where the access at ``place`` came from."""
        return self.accesses.sites[int(self.accesses.site[place])]

    def task(self, place: int) -> str:
        """Whose access that at ``place`` is."""
        return f"{self.accesses.comms[self.accesses.comm[place]]}-{self.accesses.tid[place]}"

    def value(self, place: int) -> Value | None:
        """What the access at ``place`` left or found."""
        known = self.accesses.new_known[place] or self.accesses.old_known[place]
        return self.seen.at(place) if known else None

    def decode(self, data: bytes) -> Value:
        """The value of these bytes, of which those behind the variable do not count."""
        return self.seen.decode(data)

    def frames(self, place: int) -> tuple[str, ...]:
        """The call chain of the access at ``place``, innermost first."""
        stack = int(self.accesses.stack[place])
        return () if stack < 0 else tuple(str(frame) for frame in self.accesses.stacks[stack])

    def write(self, place: int) -> Write:
        """The write at ``place``, whose value is known."""
        accesses = self.accesses
        value = self.value(place)
        assert value is not None
        return Write(
            value, int(accesses.time_ns[place]), accesses.comms[accesses.comm[place]], int(accesses.pid[place]),
            int(accesses.tid[place]), int(accesses.cpu[place]), self.site(place),
        )  # fmt: skip

    # -- what is asked -------------------------------------------------------------------------------

    @cached_property
    def kinds(self) -> tuple[int, ...]:
        """How many accesses of each of KINDS."""
        return tuple(_sums(self._kind(self.rows), self.rows.counts, len(KINDS)).tolist())

    def _kind(self, rows: Rows) -> Numbers:
        return self.accesses.traits.kind[self.accesses.trait[rows.first]].astype(np.intp)

    @cached_property
    def hits(self) -> int:
        """All traps."""
        return int(self.accesses.hits.sum(dtype=np.int64))

    @cached_property
    def values(self) -> Range | None:
        """All values."""
        seen = self.seen
        if not seen.count:
            return None
        low, high = (seen.at(place) if seen.ordered else None for place in (seen.lowest, seen.highest))
        return Range(seen.count, seen.at(seen.first), seen.at(seen.last), low, high)

    def last_writes(self, most: int) -> list[Write]:
        """The last writer of each of the values that were written last, the latest first."""
        places = np.flatnonzero(self.marks.write & self.accesses.new_known)
        back, found = 0, np.zeros(0, np.intp)
        while len(found) < most and back < len(places):
            back = 64 * (back or most)
            late = places[-back:]
            values = number(comparable(self.watch.variable, self.accesses.new[late]))
            found = last_places(values.codes, len(values), late)
        return [self.write(place) for place in sorted(found.tolist(), reverse=True)[:most]]

    def groups(self, keys: Sequence[str], most: int = 0) -> tuple[list[Group], int]:
        """The groups with most accesses, and how many groups there are.

        Args:
            keys: Of KEYS.
            most: How many groups; 0: all.
        """
        if not len(self):
            return [], 0
        rows = self.rows_by(keys)
        codes = self.codes(keys[0], rows)
        for key in keys[1:]:
            more = self.codes(key, rows)
            codes = number(codes.codes * len(more) + more.codes)
        group, count = codes.codes, len(codes)
        accesses = _sums(group, rows.counts, count)
        chosen = np.argsort(-accesses, kind="stable")[: most or None]
        each_once = self.hits == len(self)
        hits = accesses if each_once else np.bincount(group[rows.of], self.accesses.hits, count)
        kinds = _sums(group * len(KINDS) + self._kind(rows), rows.counts, count * len(KINDS))
        silent = np.bincount(group[rows.of[self.marks.silent]], minlength=count)
        first, last = np.full(count, len(self)), np.full(count, -1)
        np.minimum.at(first, group, rows.first)
        np.maximum.at(last, group, rows.last)
        writers = self._writers(group[rows.of], count) if "value" in keys else last
        numbers = chosen.tolist()
        details = zip(
            numbers,
            self._shares("task", rows, group, numbers, self.task),
            self._shares("cpu", rows, group, numbers, lambda place: str(self.accesses.cpu[place]), most=0),
            self._shares("function", rows, group, numbers, lambda place: self.describe("function", place)[0]),
            [self.values] if count == 1 else self._ranges(group[rows.of], numbers, count),
            strict=True,
        )
        time = self.accesses.time_ns
        found = []
        for each, tasks, cpus, functions, values in details:
            place, writer = int(last[each]), int(writers[each])
            described = [self.describe(key, place) for key in keys]
            found.append(
                Group(
                    tuple(label for label, _ in described),
                    {name: value for _, data in described for name, value in data.items()},
                    int(accesses[each]), int(hits[each]),
                    tuple(kinds[each * len(KINDS) : (each + 1) * len(KINDS)].tolist()), int(silent[each]),
                    int(time[first[each]]), int(time[place]),
                    tasks, tuple(sorted(int(cpu) for cpu, _ in cpus.top)), functions, values,
                    self.write(writer) if "value" in keys and writer >= 0 else None,
                    self.site(place), self.frames(place) if "stack" in keys else (),
                )
            )  # fmt: skip
        return found, count

    def _writers(self, group: Numbers, count: int) -> Numbers:
        writes = np.flatnonzero(self.marks.write & self.accesses.new_known)
        return last_places(group[writes], count, writes)

    def _shares(
        self,
        key: str,
        rows: Rows,
        group: Numbers,
        chosen: Iterable[int],
        name: Callable[[int], str],
        most: int = _TOP,
    ) -> list[Shares]:
        """For each chosen group of rows, who of ``key`` made its accesses; those with most first."""
        codes = self.codes(key, rows)
        pairs = number(group * len(codes) + codes.codes)
        counts = _sums(pairs.codes, rows.counts, len(pairs))
        owner, member = np.divmod(pairs.different, len(codes))
        examples = last_places(codes.codes, len(codes), rows.last)
        names: dict[int, str] = {}
        found = []
        for low, high in _slices(owner, chosen):
            order = np.argsort(-counts[low:high], kind="stable")[: most or None] + low
            top = []
            for code, made in zip(member[order].tolist(), counts[order].tolist(), strict=True):
                if code not in names:
                    names[code] = name(int(examples[code]))
                top.append((names[code], made))
            found.append(Shares(high - low, tuple(top)))
        return found

    def _ranges(self, group: Numbers, chosen: Sequence[int], count: int) -> list[Range | None]:
        """For each chosen group of accesses, its values."""
        seen = self.seen
        values, known = seen.codes, seen.codes >= 0
        if not known.all():
            values, group = values[known], group[known]
        if not len(values):
            return [None] * len(chosen)
        owner, value = np.divmod(tally(group * seen.count + values)[0], seen.count)
        last = last_places(group, count, values)
        first = last_places(group[::-1], count, values[::-1])
        found: list[Range | None] = []
        for each, (low, high) in zip(chosen, _slices(owner, chosen), strict=True):
            if low == high:
                found.append(None)
                continue
            edges = (int(value[low]), int(value[high - 1]))
            least, most = (seen.value(code) if seen.ordered else None for code in edges)
            ends = seen.value(int(first[each])), seen.value(int(last[each]))
            found.append(Range(high - low, *ends, least, most))
        return found


def _rows(column: NDArray[np.intp]) -> Rows:
    """Rows of equal numbers."""
    of, first = numbered(column)
    last = len(column) - 1 - numbered(of[::-1])[1]
    return Rows(of, np.bincount(of, minlength=len(first)), first, last)


def _sums(group: Numbers, counts: Numbers, count: int) -> Numbers:
    """The sum of the counts of each of so many groups; a double holds them exactly."""
    return np.bincount(group, counts, count).astype(np.intp)


def _slices(owner: AnyColumn, chosen: Iterable[int]) -> list[tuple[int, int]]:
    """Where in an ascending column each of the chosen numbers stands."""
    wanted = np.array(list(chosen), np.intp)
    lows, highs = np.searchsorted(owner, wanted), np.searchsorted(owner, wanted, "right")
    return list(zip(lows.tolist(), highs.tolist(), strict=True))


# -- keys: the same for all sites of one, in words, and as data -----------------------------------------


def _function(site: Site) -> Any:
    named = site.named
    if named.function is None:
        return None, site.ip
    return named.function, named.owner, named.offset if named.in_file else None


def _instruction(site: Site) -> Any:
    # A program that runs several times lies elsewhere each time, and is the same code.
    text = site.instruction.text if site.instruction else None
    return site.named.function, site.named.offset, site.named.owner, text


def _describe_function(subject: Subject, place: int) -> tuple[str, dict[str, Any]]:
    site = subject.site(place)
    named = site.named
    if named.function is None:
        return f"{site.ip:#x}", {"function": None, "module": named.owner, "ip": hex(site.ip)}
    fields = {"function": named.function, "module": named.owner}
    return named.code, fields | ({"offset": named.offset} if named.in_file else {})


def _describe_instruction(subject: Subject, place: int) -> tuple[str, dict[str, Any]]:
    site = subject.site(place)
    named, instruction = site.named, site.instruction
    return str(named), {
        "function": named.function,
        "module": named.owner,
        "offset": named.offset if named.function is not None else None,
        "ip": hex(site.ip),
        "instruction": instruction.text if instruction else None,
        "instruction_address": hex(instruction.address) if instruction else None,
    }


def _describe_task(subject: Subject, place: int) -> tuple[str, dict[str, Any]]:
    accesses = subject.accesses
    comm = accesses.comms[accesses.comm[place]]
    fields = {"comm": comm, "pid": int(accesses.pid[place]), "tid": int(accesses.tid[place])}
    return subject.task(place), fields


def _describe_cpu(subject: Subject, place: int) -> tuple[str, dict[str, Any]]:
    cpu = int(subject.accesses.cpu[place])
    return f"{cpu:03d}", {"cpu": cpu}


def _describe_value(subject: Subject, place: int) -> tuple[str, dict[str, Any]]:
    value = subject.value(place)
    return ("not known", {"value": None}) if value is None else (value.text, {"value": value.plain})


def _describe_stack(subject: Subject, place: int) -> tuple[str, dict[str, Any]]:
    frames = subject.frames(place)
    return (frames[0] if frames else "no stack"), {"stack": list(frames) or None}


_DESCRIBE: dict[str, Callable[[Subject, int], tuple[str, dict[str, Any]]]] = {
    "function": _describe_function,
    "instruction": _describe_instruction,
    "task": _describe_task,
    "cpu": _describe_cpu,
    "value": _describe_value,
    "stack": _describe_stack,
}
KEYS = tuple(_DESCRIBE)
