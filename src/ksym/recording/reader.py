# SPDX-License-Identifier: BSD-2-Clause
"""Reading a recording: one of ``ksym record``, or of ``perf record -e mem:ADDRESS -c 1``.

>>> recording = open_recording("ksym.data")         # doctest: +SKIP
>>> recording.accesses().time_ns[:2]                # doctest: +SKIP
array([1763887526379401212, 1763887526379423017])

A file that was cut, by a killed recorder, a full disk or a lost end, gives what was whole before that; the same holds
for one that is damaged. ksym seals what it records with check sums, several times a second, and what is not sealed
does not count, nor is such a file ever taken for perf's. perf has no such thing: of its files, what lies in front of
the damage counts up to the recorder's last round, as a name that belongs to a hit may come in the ring of another CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ksym.errors import KsymError
from ksym.language.request import Mode
from ksym.linux.libc import MACHINE
from ksym.program.layout import padded
from ksym.recording.accesses import Accesses
from ksym.recording.ahead import ahead
from ksym.recording.decode import Code, Source, decode
from ksym.recording.header import FileHead, Machine, error, open_file, read_head
from ksym.recording.hits import Decoder, Layout
from ksym.recording.noted import NotedCode
from ksym.recording.perf_file import is_note
from ksym.recording.sideband import Damaged, Sideband
from ksym.recording.start import BAD_NOTE, BREAKPOINT, Start, perf_start, start_from
from ksym.recording.stream import Other, Piece, Stream
from ksym.watch.plan import PlannedEvent, Watch

if TYPE_CHECKING:
    from ksym.capture.judge import Judge
    from ksym.language.condition import Condition

Progress = Callable[[int, int], None]
_NO_END = 1 << 62


@dataclass
class Recording:
    """A recording, read.

    Args:
        path: The file.
        machine: Where it was made.
        start: What was planned.
        counts: What the counters said last: ``hits`` (of each watch), ``recorded``, ``lost``, ``no_room``,
            ``rejected``, ``suppressed``, ``disarmed``; at its end ``notes`` (the summary's) and ``ended_by``.
            With ``--max-size``, of this file alone; ``file``: which one of the run it is, ``continued``: there is
            another behind it, ``removed``: hits in those that are not kept. ``stopped``: why it could not be written
            on, ``unwritten``: hits that are not in it for that. perf tells of lost ones alone.
        cut: Why it is not whole, in a clause; None: it is.
        following: What follows its end in the file and is not read, in a clause; None: nothing does.
        own: It belongs to who reads it, or to root; else no file that it names is opened.
    """

    path: str
    machine: Machine
    start: Start
    counts: dict[str, Any]
    cut: str | None
    following: str | None
    own: bool
    _source: Source | None = field(repr=False)
    _accesses: Accesses | None = field(default=None, repr=False)

    @property
    def by_ksym(self) -> bool:
        """Whether ksym recorded it, not perf."""
        return bool(self.start.version)

    @property
    def sampled(self) -> str | None:
        """Why it has not every access, in a clause, where perf was asked for some of them; None: it has."""
        return self.start.sampled

    @property
    def unopened(self) -> str | None:
        """Why programs' code has no source lines (perf's: no names either), in a clause; None: it may have."""
        if self.own:
            return None
        lacking = "source lines" if self.by_ksym else "names and source lines"
        why = f"it belongs to another user, so no program that it names was opened for {lacking}"
        return f"{why} (read it as that user, or chown it)"

    @property
    def watches(self) -> tuple[Watch, ...]:
        """What was watched."""
        return self.start.watches

    def accesses(self) -> Accesses:
        """All accesses, in order of time: the rows that ``ksym trace`` would have shown.

        Raises:
            KsymError: what the file says of them is damaged.
        """
        if self._accesses is None:
            source, self._source = self._source, None
            assert source is not None
            try:
                self._accesses = decode(source)
                if self.start.limit:
                    self._accesses = self._accesses.select(slice(self.start.limit))
                if source.rejected:
                    self.counts["rejected"] = self.counts.get("rejected", 0) + source.rejected
            except (*BAD_NOTE, AssertionError) as bad:
                if isinstance(bad, KsymError):
                    raise
                raise error(self.path, "what it says of its hits is damaged") from bad
            finally:
                source.code.close()
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
        self._sideband = Sideband(by_ksym=head.by_ksym or head.machine.version.startswith("ksym"))
        self._damage: str | None = None
        self._stream_damage: str | None = None
        """Why the stream ends after the piece that was taken last: it is read ahead."""
        self._learned = 0
        """Notes that were looked through for further identifiers."""
        self._at = head.data_at
        self._limit = _NO_END
        """Hits from that one on are behind a damage."""

    def recording(self) -> Recording:
        """Read all of it."""
        found: tuple[Start, Decoder] | None = None
        with closing(ahead(self._stream.pieces())) as pieces:
            for piece in pieces:
                self._at, self._stream_damage = piece.at, piece.damage
                if found is None:
                    # What ksym says of the hits stands in front of the first of them.
                    for other in piece.others:
                        if not other.before:
                            self._take(other)
                    piece.others = [other for other in piece.others if other.before]
                    if self._damage is None and not len(piece.samples):
                        continue
                    found = self._start()
                for part in _parts(piece):
                    if self._damage is None:
                        self._samples(part, *found)
                if self._damage is not None:
                    break
            else:
                self._stream_damage = self._stream.damage
        return self._finish(*(found or self._start()))

    def _samples(self, part: Piece, start: Start, decoder: Decoder) -> None:
        self._learn(start, decoder)
        if self._damage is not None:
            return
        for other in decoder.take(part):
            self._take(other)
        if decoder.damaged:
            self._damage = self._damage or "a sample is damaged"

    def _learn(self, start: Start, decoder: Decoder) -> None:
        """Take in the notes on further identifiers that have come since."""
        notes = self._sideband.notes
        for note in notes[self._learned :]:
            if note.name != "events":
                continue
            planned = len(start.planned)
            try:
                added = start.add(note.content)
                _plan(decoder, start.planned[planned:], added)
            except BAD_NOTE:
                self._damage, self._limit = "a note of ksym's is damaged", note.before
                break
        self._learned = len(notes)

    def _take(self, other: Other) -> None:
        if self._damage is not None:
            return
        try:
            self._sideband.take(other, self._layout)
        except Damaged as damage:
            self._damage, self._limit = str(damage), other.before

    def _start(self) -> tuple[Start, Decoder]:
        start = self._noted_start()
        if start is None:
            if self._sideband.by_ksym:
                raise self._unreadable()
            start = perf_start(self._head, self._layout)
        sizes = [padded(watch.variable.length) for watch in start.watches]
        room = self._head.data_end - self._head.data_at
        decoder = Decoder(
            self._layout, max(8, *sizes), by_program=start.values, room=room, origin_shift=start.origin_shift
        )
        try:
            _plan(decoder, start.planned, start.numbers)
        except ValueError as bad:
            raise self._unreadable() from bad
        return start, decoder

    def _noted_start(self) -> Start | None:
        for note in self._sideband.notes:
            if note.name == "start":
                try:
                    return start_from(note.content)
                except BAD_NOTE as bad:
                    raise self._unreadable() from bad
        return None

    def _unreadable(self) -> KsymError:
        """What is said where it is not certain what was watched."""
        damaged = self._damage or self._stream_damage or self._head.missing
        why = self._cut() if damaged else None
        if not (damaged or self._head.begun or any(note.name == "start" for note in self._sideband.notes)):
            why = "its recorder was killed before anything was recorded"
        return error(self._head.path, why or "what it says of its watches is damaged")

    def _finish(self, start: Start, decoder: Decoder) -> Recording:
        sideband, columns = self._sideband, decoder.columns
        count = min(columns.count, self._limit)
        if sideband.by_ksym or (self._cut() and sideband.rounds):
            count = min(count, sideband.round_hits)
            sideband.drop_unfinished()
        if sideband.by_ksym and all(note.name != "start" for note in sideband.notes):
            raise self._unreadable()
        cut = self._cut()
        if not start.version and not start.offset:
            times = [change.record.time for change in sideband.changes]
            start.offset = self._head.modified_ns - min(max(columns.latest, *times, 0), _NO_END)
        traps_after = (start.arch or MACHINE) == "x86_64"
        judges = [
            _judge(watch, condition, traps_after=traps_after)
            for watch, condition in zip(start.watches, start.conditions, strict=True)
        ]
        counts: dict[str, Any] = {"lost": sideband.lost, "no_room": sideband.lost}
        pointers: dict[int, str] = {}
        try:
            code = self._code(start)
            for note in sideband.notes:
                if note.name == "end":
                    counts = dict(note.content)
                elif note.name == "counts":
                    # what the counters saw and no record told of may have been on its way
                    counts = note.content | {"lost": note.content.get("no_room", 0)}
                elif note.name == "pointers":
                    pointers.update((int(address), str(name)) for address, name in note.content)
        except (*BAD_NOTE, Damaged) as bad:
            raise error(self._head.path, "a note of ksym's is damaged") from bad
        source = Source(
            columns, count, start.watches, start.planned, list(decoder.commons.known), list(decoder.commons.places),
            list(decoder.chains.known), sideband.changes, code, start.offset, pointers, judges, traps_after,
            sampled=start.sampled is not None,
        )  # fmt: skip
        machine = self._head.machine if self._head.whole else start.machine or self._head.machine
        return Recording(
            self._head.path, machine, start, counts, cut, self._head.following, self._head.own, source
        )

    def _code(self, start: Start) -> Code:
        if start.version:
            executes = [watch.mode is Mode.EXECUTE for watch in start.watches]
            return NotedCode(self._sideband.notes, executes, traps_after=start.arch == "x86_64")
        from ksym.recording.foreign import ForeignCode

        return ForeignCode(self._head.machine, self._sideband.kernel, files=self._head.own)

    def _cut(self) -> str | None:
        """Why the file is not whole."""
        damage, at = self._damage, self._at
        if self._stream_damage:
            damage, at = self._stream_damage, self._stream.at
        if self._head.missing:
            return "its end is missing"
        if damage:
            return f"it is damaged near byte {at}: {damage}"
        ends = [note.content for note in self._sideband.notes if note.name == "end"]
        ended = bool(ends)
        stopped = ends[-1].get("stopped") if ended and isinstance(ends[-1], dict) else None
        if self._sideband.by_ksym and self._head.whole and not ended:
            return "its last part is not sealed"
        if not self._head.whole or (self._sideband.by_ksym and not ended):
            return "its recorder was killed" + ("" if self._sideband.by_ksym else ", or found no room")
        if stopped:
            return f"its recorder could not write on: {str(stopped)[:100]}"
        return None


def _judge(watch: Watch, condition: Condition | None, *, traps_after: bool) -> Judge | None:
    if condition is None:
        return None
    from ksym.capture.judge import judge_of  # few recordings have a condition that is judged here

    return judge_of(watch, condition, traps_after=traps_after)


def _plan(decoder: Decoder, planned: Sequence[PlannedEvent], numbers: Mapping[tuple[int, int], int]) -> None:
    executes = [each.watch.mode is Mode.EXECUTE for each in planned]
    sizes = [
        0 if execute else padded(each.watch.variable.length)
        for each, execute in zip(planned, executes, strict=True)
    ]
    decoder.plan(sizes, executes, numbers)


def _parts(piece: Piece) -> Iterator[Piece]:
    """A piece in parts, each of which ends with a note on further identifiers, as these come up behind it."""
    samples, first, done = piece.samples, piece.first, 0
    for at, other in enumerate(piece.others):
        if is_note(other.data, "events"):
            count, first = other.before - first, other.before
            yield Piece(piece.words, samples[:count], piece.others[done : at + 1], piece.first, piece.at)
            samples, done = samples[count:], at + 1
    yield Piece(piece.words, samples, piece.others[done:], first, piece.at)
