# SPDX-License-Identifier: BSD-2-Clause
"""A Perfetto trace, for https://ui.perfetto.dev and trace_processor.

Each access is an instant on the track of its thread, with values and code as its arguments, and one on the track of its
CPU; each variable that holds a number is a counter. Field numbers: perfetto's protos/perfetto/trace.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ksym.exports.columns import NONE, Number, coded, number_of, numbers, says_more, value_texts
from ksym.exports.protobuf import Message, message, number, real, rows, single, text
from ksym.recording.accesses import KINDS, Accesses
from ksym.reports.comparable import last_places
from ksym.reports.comparable import number as numbered
from ksym.symbols.types import Pointer, resolve
from ksym.symbols.variable import Space
from ksym.watch.plan import Watch

_ROWS = 1 << 16
_SEQUENCE = 1
_CLEARED, _CONTINUED = 1, 2
"""TracePacket.SequenceFlags: what is interned begins here, or is needed from before."""
_INSTANT, _COUNTER = 3, 4
_REALTIME, _BOOTTIME = 1, 6
_CATEGORY = 1
_ARGUMENTS = ("old", "new", "function", "instruction", "hits", "cpu", "task")


def write(accesses: Accesses, out: BinaryIO, step: Callable[[int], None] = lambda done: None) -> None:
    """Write a trace.

    Args:
        accesses: The accesses.
        out: The file, open for writing.
        step: Told how many have been taken.

    Raises:
        OSError: it cannot be written.
    """
    trace = _Trace(accesses)
    out.write(trace.head())
    for at in range(0, len(accesses), _ROWS):
        for data in trace.events(slice(at, at + _ROWS)):
            out.write(data)
        step(min(at + _ROWS, len(accesses)))


class _Strings:
    """Texts that arguments refer to by number; told of in the trace before they are used."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._new: list[Message] = []

    def table(self, words: Iterable[str]) -> NDArray[np.int32]:
        """The numbers of some texts."""
        return np.array([self._number(word) for word in words] or [0], np.int32)

    def _number(self, word: str) -> int:
        found = self._known.get(word)
        if found is None:
            found = self._known[word] = len(self._known) + 1
            self._new.append(_interned(29, found, word))
        return found

    def news(self) -> Message:
        """What was not told of yet, for InternedData."""
        news, self._new = [part for each in self._new for part in each], []
        return news


class _Trace:
    def __init__(self, accesses: Accesses) -> None:
        self._all = accesses
        self._uuids = itertools.count(1)
        self._strings = _Strings()
        sites = accesses.sites
        self._functions = self._strings.table([str(site.named) for site in sites])
        self._instructions = np.where(
            [site.instruction is None for site in sites] or [True],
            NONE,
            self._strings.table([site.instruction.text if site.instruction else "" for site in sites]),
        )
        self._kinds = [number_of(watch.variable) for watch in accesses.watches]

    # -- what stands in front ----------------------------------------------------------------------

    def head(self) -> bytes:
        """Clocks, tracks, and what events refer to by number."""
        accesses = self._all
        # Times are nanoseconds since the epoch; the trace's own clock is said to be the same.
        start = int(accesses.time_ns[0]) if len(accesses) else 0
        clocks = (message(1, number(1, clock), number(2, start)) for clock in (_BOOTTIME, _REALTIME))
        parts = [_packet([message(6, *clocks)]), *self._cpu_tracks(), *self._task_tracks(), *self._counters()]
        known = [
            _interned(1, _CATEGORY, "ksym"),
            *(_interned(2, iid, name) for iid, name in enumerate(self._names(), 1)),
            *(_interned(3, iid, name) for iid, name in enumerate(_ARGUMENTS, 1)),
            *_call_stacks(accesses),
            self._strings.news(),
        ]
        parts.append(_packet([number(13, _CLEARED), message(12, *known)]))
        return b"".join(map(single, parts))

    def _names(self) -> list[str]:
        """Names of events: ``W pid_max``; number watch * len(KINDS) + kind + 1."""
        return [f"{kind} {watch.name}" for watch in self._all.watches for kind in KINDS]

    def _cpu_tracks(self) -> Iterator[Message]:
        cpus = numbered(self._all.cpu)
        root = next(self._uuids)
        yield _track(root, text(2, "CPUs"))
        uuids = [next(self._uuids) for _ in cpus.different]
        for cpu, uuid in zip(cpus.different.tolist(), uuids, strict=True):
            yield _track(uuid, number(5, root) + text(2, f"CPU {cpu}") + number(12, cpu))
        self._cpu_track = np.array(uuids or [0])[cpus.codes]

    def _task_tracks(self) -> Iterator[Message]:
        accesses = self._all
        threads = numbered((accesses.pid.astype(np.int64) << 32) | accesses.tid)
        uuids, self._processes = [], dict[int, int]()
        for key, last in zip(
            threads.different.tolist(), last_places(threads.codes, len(threads)).tolist(), strict=True
        ):
            pid, tid, comm = key >> 32, key & 0xFFFFFFFF, accesses.comms[int(accesses.comm[last])]
            if pid not in self._processes:
                self._processes[pid] = next(self._uuids)
                yield _track(self._processes[pid], message(3, number(1, pid), text(6, comm)))
            uuids.append(next(self._uuids))
            yield _track(
                uuids[-1],
                number(5, self._processes[pid]) + message(4, number(1, pid), number(2, tid), text(5, comm)),
            )
        self._task_track = np.array(uuids or [0])[threads.codes]

    def _counters(self) -> Iterator[Message]:
        """A variable of a program is another one in each process, and one of each CPU on each CPU."""
        accesses = self._all
        owner = np.zeros(len(accesses), np.int64)
        for index, watch in enumerate(accesses.watches):
            if watch.variable.space is Space.USER or watch.variable.per_cpu:
                here = accesses.watch == index
                own = accesses.pid if watch.variable.space is Space.USER else accesses.cpu
                owner[here] = own[here] + 1
        keys = numbered((accesses.watch.astype(np.int64) << 33) | owner)
        uuids = []
        for key in keys.different.tolist():
            index, one = key >> 33, (key & (1 << 33) - 1) - 1
            watch = accesses.watches[index]
            uuids.append(next(self._uuids))
            if not _counts(watch):
                continue
            user = watch.variable.space is Space.USER
            name = watch.name if user or one < 0 else f"{watch.name} of CPU {one}"
            parent = number(5, self._processes[one]) if user else []
            yield _track(uuids[-1], parent + text(2, name) + message(8))
        self._counter_track = np.array(uuids or [0])[keys.codes]
        self._changed = _changes(accesses, keys.codes)

    # -- the events ----------------------------------------------------------------------------------

    def events(self, where: slice) -> Iterator[bytes]:
        """The packets of some accesses."""
        part = self._all.select(where)
        words = {which: self._value_words(part, which) for which in ("old", "new")}
        tasks = self._task_words(part)
        if news := self._strings.news():
            yield single(_packet([number(13, _CONTINUED), message(12, news)]))
        has_instruction = self._instructions[part.site] != NONE
        flags = (part.old_known, part.new_known, part.stack >= 0, part.hits > 1, has_instruction)
        like = part.watch.astype(np.int64)
        for flag in flags:
            like = like * 2 + flag
        for group in np.unique(like).tolist():
            here = np.flatnonzero(like == group)
            some = part.select(here)
            own = {which: codes[here] for which, codes in words.items()}
            arguments = self._arguments(some, own, has_instruction=bool(has_instruction[here[0]]))
            yield self._instants(some, self._task_track[where][here], arguments)
        yield self._instants(part, self._cpu_track[where], [_argument("task", number(17, tasks))])
        yield from self._counts(part, where)

    def _task_words(self, part: Accesses) -> NDArray[np.int32]:
        found = numbered((part.comm.astype(np.int64) << 32) | part.tid)
        names = [f"{part.comms[key >> 32]}-{key & 0xFFFFFFFF}" for key in found.different.tolist()]
        return self._strings.table(names)[found.codes]

    def _value_words(self, part: Accesses, which: str) -> NDArray[np.int32]:
        found = value_texts(part, which)
        return self._strings.table(found.words)[np.maximum(found.codes, 0)]

    def _instants(self, part: Accesses, tracks: NDArray[Any], arguments: list[Message]) -> bytes:
        names = part.watch.astype(np.int64) * len(KINDS) + part.kind + 1
        event = [number(9, _INSTANT), number(11, tracks), number(3, _CATEGORY), number(10, names), *arguments]
        return rows(_event(part.time_ns, *event), len(part))

    def _arguments(
        self, part: Accesses, words: dict[str, NDArray[np.int32]], *, has_instruction: bool
    ) -> list[Message]:
        """What all of these accesses have; they are of one watch."""
        found = [_argument("function", number(17, self._functions[part.site]))]
        if has_instruction:
            found.append(_argument("instruction", number(17, self._instructions[part.site])))
        for which in ("old", "new"):
            if getattr(part, f"{which}_known")[0]:
                found.append(_argument(which, self._value(part, which, words[which])))
        if part.hits[0] > 1:
            found.append(_argument("hits", number(3, part.hits)))
        found.append(_argument("cpu", number(3, part.cpu)))
        if part.stack[0] >= 0:
            found.append(number(56, part.stack + 1))
        return found

    def _value(self, part: Accesses, which: str, words: NDArray[np.int32]) -> Message:
        index = int(part.watch[0])
        kind, watch = self._kinds[index], part.watches[index]
        if kind is None or (says_more(watch.variable) and kind is not Number.REAL):
            return number(17, words)
        column = _of(part, which, index, kind)
        if kind is Number.REAL:
            return real(5, column)
        return number(3 if kind is Number.UNSIGNED else 4, column)

    def _counts(self, part: Accesses, where: slice) -> Iterator[bytes]:
        for index, watch in enumerate(part.watches):
            here = np.flatnonzero((part.watch == index) & self._changed[where])
            kind = self._kinds[index]
            if not _counts(watch) or not len(here) or kind is None:
                continue
            some = part.select(here)
            column = _of(some, "new", index, kind)
            if kind is Number.UNSIGNED and int(column.max()) >> 63:
                column = column.astype(np.float64)
            value = real(44, column) if column.dtype.kind == "f" else number(30, column)
            event = [number(9, _COUNTER), number(11, self._counter_track[where][here]), value]
            yield rows(_event(some.time_ns, *event), len(some))


def _counts(watch: Watch) -> bool:
    """Whether its values make a curve."""
    kind = watch.variable.type and resolve(watch.variable.type)
    return number_of(watch.variable) is not None and not isinstance(kind, Pointer)


def _of(part: Accesses, which: str, index: int, kind: Number) -> NDArray[Any]:
    """The numbers of accesses to one watch."""
    return numbers(part, which, kind).numbers


def _changes(accesses: Accesses, codes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Where a variable's value is another one than it was when it was last known."""
    known = np.flatnonzero(accesses.new_known)
    order = known[np.argsort(codes[known], kind="stable")]
    values, of = accesses.new[order], codes[order]
    changed = np.zeros(len(accesses), np.bool_)
    if len(order):
        other = (values[1:] != values[:-1]).any(axis=1) | (of[1:] != of[:-1])
        changed[order] = np.concatenate(([True], other))
    return changed


def _call_stacks(accesses: Accesses) -> Iterator[Message]:
    """Function names, their files, frames and call stacks; Perfetto has the outermost frame first."""
    frames = list(dict.fromkeys(frame for stack in accesses.stacks for frame in stack))
    functions = coded([str(frame) for frame in frames], np.arange(len(frames)))
    files = coded([frame.owner or "[kernel]" for frame in frames], np.arange(len(frames)))
    for iid, name in enumerate(functions.words, 1):
        yield _interned(5, iid, name)
    for iid, name in enumerate(files.words, 1):
        yield _interned(17, iid, name)
        yield message(19, number(1, iid), number(7, iid))
    for iid, (function, file) in enumerate(
        zip(functions.codes.tolist(), files.codes.tolist(), strict=True), 1
    ):
        yield message(6, number(1, iid), number(2, function + 1), number(3, file + 1))
    place = {frame: iid for iid, frame in enumerate(frames, 1)}
    for iid, stack in enumerate(accesses.stacks, 1):
        yield message(7, number(1, iid), *(number(2, place[frame]) for frame in reversed(stack)))


def _interned(field: int, iid: int, name: str) -> Message:
    return message(field, number(1, iid), text(2, name))


def _argument(name: str, value: Message) -> Message:
    return message(4, number(1, _ARGUMENTS.index(name) + 1), value)


def _track(uuid: int, what: Message) -> Message:
    return _packet([message(60, number(1, uuid), what)])


def _event(times: NDArray[np.int64], *parts: Message) -> Message:
    return _packet([number(8, times), number(13, _CONTINUED), message(11, *parts)])


def _packet(parts: list[Message]) -> Message:
    return message(1, number(10, _SEQUENCE), *parts)
