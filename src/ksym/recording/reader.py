# SPDX-License-Identifier: BSD-2-Clause
"""Reading a recording: one of ``ksym record``, or of ``perf record -e mem:ADDRESS -c 1``.

>>> recording = open_recording("ksym.data")         # doctest: +SKIP
>>> recording.accesses().time_ns[:2]                # doctest: +SKIP
array([1763887526379401212, 1763887526379423017])

A file that was cut, by a killed recorder, a full disk or a lost end, gives what was whole before that; the same holds
for one that is damaged. Only rounds of the recorder that are whole count then: a name or a note that explains a hit
stands in the same round.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ksym.language.request import Mode
from ksym.program.layout import padded
from ksym.recording.accesses import Accesses
from ksym.recording.decode import Code, Source, decode
from ksym.recording.header import FileHead, Machine, error, open_file, read_head
from ksym.recording.hits import Decoder, Layout
from ksym.recording.noted import NotedCode
from ksym.recording.sideband import Damaged, Sideband
from ksym.recording.start import BAD_NOTE, BREAKPOINT, Start, perf_start, start_from
from ksym.recording.stream import Other, Stream
from ksym.watch.plan import Watch

Progress = Callable[[int, int], None]


@dataclass
class Recording:
    """A recording, read.

    Args:
        path: The file.
        machine: Where it was made.
        start: What was planned.
        counts: What the counters said last: ``hits`` (of each watch), ``recorded``, ``lost``, ``no_room``,
            ``rejected``, ``suppressed``, ``disarmed``; at its end ``notes`` (the summary's) and ``ended_by``.
        cut: Why it is not whole, in a clause; None: it is.
    """

    path: str
    machine: Machine
    start: Start
    counts: dict[str, Any]
    cut: str | None
    _source: Source | None
    _accesses: Accesses | None = None

    @property
    def by_ksym(self) -> bool:
        """Whether ksym recorded it, not perf."""
        return bool(self.start.version)

    @property
    def watches(self) -> tuple[Watch, ...]:
        """What was watched."""
        return self.start.watches

    def accesses(self) -> Accesses:
        """All accesses, in order of time: the rows that ``ksym trace`` would have shown."""
        if self._accesses is None:
            assert self._source is not None
            self._accesses, self._source = decode(self._source), None
        return self._accesses


def open_recording(path: str, progress: Progress = lambda done, total: None) -> Recording:
    """Read a recording.

    Args:
        path: The file.
        progress: Told how much of it has been read: (bytes, of so many).

    Raises:
        KsymError: it is none, or nothing of it can be read.
    """
    with closing(open_file(path)) as file:
        head = read_head(file, path)
        return _Reading(head, Stream(file, head, progress)).recording()


class _Reading:
    """A recording as it is read."""

    def __init__(self, head: FileHead, stream: Stream) -> None:
        self._head, self._stream = head, stream
        events = [event for event in head.events if event.type == BREAKPOINT]
        if not events:
            todo = "record with ksym record, or perf record -e mem:ADDRESS"
            raise error(head.path, "it has no accesses to memory", todo)
        self._layout = Layout(events[0])
        if any(Layout(event) != self._layout for event in events):
            raise error(head.path, "its events have different fields", "record them one by one")
        self._sideband = Sideband()
        self._damage: str | None = None
        self._limit = 1 << 62
        """Hits from that one on are behind a damage."""

    def recording(self) -> Recording:
        """Read all of it."""
        decoder: Decoder | None = None
        start: Start | None = None
        for piece in self._stream.pieces():
            if decoder is None:
                # What ksym says of the hits stands in front of the first of them.
                for other in piece.others:
                    if not other.before:
                        self._take(other)
                piece.others = [other for other in piece.others if other.before]
                if self._damage is None and not len(piece.samples):
                    continue
                start = self._start()
                decoder = _decoder(self._layout, start)
            if self._damage is None:
                for other in decoder.take(piece):
                    self._take(other)
            if decoder.damaged:
                self._damage = self._damage or "a sample is damaged"
            if self._damage is not None:
                break
        start = start or self._start()
        return self._finish(start, decoder or _decoder(self._layout, start))

    def _take(self, other: Other) -> None:
        if self._damage is not None:
            return
        try:
            self._sideband.take(other, self._layout)
        except Damaged as damage:
            self._damage, self._limit = str(damage), other.before

    def _start(self) -> Start:
        for note in self._sideband.notes:
            if note.name == "start":
                try:
                    return start_from(note.content)
                except BAD_NOTE as bad:
                    raise error(self._head.path, "what it says of its watches is damaged") from bad
        return perf_start(self._head, self._layout)

    def _finish(self, start: Start, decoder: Decoder) -> Recording:
        sideband, columns = self._sideband, decoder.columns
        count = min(columns.count, self._limit)
        cut = self._cut(ended=any(note.name == "end" for note in sideband.notes))
        if cut and (sideband.rounds or start.version):
            count = min(count, sideband.round_hits)
            sideband.drop_unfinished()
        executes = [watch.mode is Mode.EXECUTE for watch in start.watches]
        code: Code
        try:
            code = NotedCode(sideband.notes, executes)
        except Damaged as damage:
            raise error(self._head.path, str(damage)) from damage
        counts: dict[str, Any] = {}
        for note in sideband.notes:
            if note.name in ("counts", "end") and isinstance(note.content, dict):
                counts = note.content
        source = Source(
            columns, count, start.watches, start.planned, list(decoder.places.known), list(decoder.chains.known),
            sideband.changes, code, start.offset,
        )  # fmt: skip
        return Recording(self._head.path, self._head.machine, start, counts, cut, source)

    def _cut(self, *, ended: bool) -> str | None:
        damage = self._damage or self._stream.damage
        if self._head.missing:
            return "the end of the file is missing"
        if damage:
            return f"it is damaged: {damage}"
        if not self._head.whole or (self._sideband.by_ksym and not ended):
            return "its recorder was killed, or found no room"
        return None


def _decoder(layout: Layout, start: Start) -> Decoder:
    executes = [each.watch.mode is Mode.EXECUTE for each in start.planned]
    sizes = [
        0 if execute else padded(each.watch.variable.length)
        for each, execute in zip(start.planned, executes, strict=True)
    ]
    return Decoder(layout, sizes, executes, start.numbers, by_program=start.values)
