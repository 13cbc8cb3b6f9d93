# SPDX-License-Identifier: BSD-2-Clause
"""From rings to a file: their bytes as they are, and notes of what a reader elsewhere could not find out.

Each round drains all rings and appends their bytes; perf's mark that a round is over lets it sort records of
several CPUs with little memory. Code that made hits for the first time is named while its process lives.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ksym import __version__
from ksym.capture.records import CommRecord, ExitRecord, ForkRecord, LostRecord, MmapRecord, Record
from ksym.capture.sites import Sites
from ksym.capture.users import Users
from ksym.language.request import Mode
from ksym.linux.perf_event import Attr, Flag
from ksym.recording import machine
from ksym.recording.knowledge import site_data, watch_data
from ksym.recording.perf_file import Kind, record
from ksym.recording.scan import scan
from ksym.recording.writer import Compressor, Event, PerfWriter
from ksym.symbols.kallsyms import Kallsyms
from ksym.watch.arm import ArmedWatch
from ksym.watch.plan import PlannedEvent, Role
from ksym.watch.rings import SAMPLE_TYPE

FLUSH_SECONDS = 1.0


class Recorder:
    """Writes one recording, or several one after the other.

    Args:
        armed: What is planted.
        sites: Names of code.
        users: Processes' code; told of what the records tell.
        pid: The process whose threads and mappings are described at the start; None: all processes.
        open_file: Opens the next file; its descriptor.
        compressor: Makes a compressor for each file; None: files are not compressed.
        flush_seconds: How long records may wait to be written.
        most_bytes: A file of this size is finished and the next one begun; 0: never.
    """

    def __init__(
        self,
        armed: ArmedWatch,
        sites: Sites,
        users: Users,
        *,
        pid: int | None,
        open_file: Callable[[], int],
        compressor: Callable[[], Compressor] | None = None,
        flush_seconds: float = FLUSH_SECONDS,
        most_bytes: int = 0,
    ) -> None:
        self._armed, self._sites, self._users, self._pid = armed, sites, users, pid
        self._open_file, self._make_compressor = open_file, compressor
        self._flush_seconds, self._most_bytes = flush_seconds, most_bytes
        self._known: set[tuple[int, int, int]] = set()
        self._flushed = time.monotonic()
        self.hits = 0
        """Records of hits taken."""
        self.lost_records = 0
        self.files = 0
        self._writer = self._begin()

    @property
    def bytes_written(self) -> int:
        """Size of the present file."""
        return self._writer.bytes_written + self._writer.waiting

    def round(self, counts: Callable[[], dict[str, Any]]) -> None:
        """Take what the rings hold.

        Args:
            counts: What the counters say, for a note at each flush.

        Raises:
            OSError: it cannot be written.
        """
        drained = False
        for ring in self._armed.rings:
            data = ring.drain()
            if data:
                drained = True
                self._writer.append(data)
                self._look(data)
        if drained:
            self._writer.append(record(Kind.FINISHED_ROUND, b""))
        now = time.monotonic()
        if now - self._flushed >= self._flush_seconds or self._writer.waiting > 16 << 20:
            self._flushed = now
            self._note("counts", counts())
            self._writer.flush()
            if self._most_bytes and self._writer.bytes_written >= self._most_bytes:
                self._rotate(counts())

    def finish(self, counts: dict[str, Any]) -> None:
        """Write what is left, and what a reader needs to know that this is all.

        Raises:
            OSError: it cannot be written.
        """
        self.round(lambda: counts)
        self._end(counts)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _rotate(self, counts: dict[str, Any]) -> None:
        self._end(counts | {"continues": True})
        self._writer.close()
        self._known.clear()
        self._writer = self._begin()

    def _end(self, counts: dict[str, Any]) -> None:
        dropped = int(counts.get("no_room", 0)) - self.lost_records
        if dropped > 0:
            # Programs count what found no room; perf learns it as the kernel would have told.
            body = struct.pack("<QQ", self._events[0].ids[0], dropped)
            self._writer.append(record(Kind.LOST, body + self._writer.trailer(time.monotonic_ns())))
        self._note("end", counts)
        self._writer.finish(machine.features(self._users.build_ids()))

    # -- the start ---------------------------------------------------------------------------------

    def _begin(self) -> PerfWriter:
        self._events = _events(self._armed)
        writer = PerfWriter(
            self._open_file(), self._events, self._make_compressor() if self._make_compressor else None
        )
        self.files += 1
        self._writer = writer
        self._note("start", self._start())

        def trailer(at: int, pid: int, tid: int) -> bytes:
            return writer.trailer(at, pid, tid)

        kallsyms = Kallsyms.shown()
        parts: Iterable[bytes] = machine.kernel_records(kallsyms, trailer) if kallsyms else ()
        for part in parts:
            writer.append(part)
        options = self._armed.options
        pids = None if self._armed.any_system_wide or self._pid is None else [self._pid]
        user_code = options.stacks or pids is not None
        for part in machine.task_records(pids, trailer, mappings=user_code):
            writer.append(part)
        writer.flush()
        return writer

    def _start(self) -> dict[str, Any]:
        armed = self._armed
        rings = armed.planned
        return {
            "version": __version__,
            "clock": {"monotonic_ns": time.monotonic_ns(), "realtime_ns": time.time_ns()},
            "values": armed.engine is not None,
            "stacks": armed.options.stacks,
            "both_fire": armed.options.both_fire,
            "watches": [watch_data(watch) for watch in armed.plan.watches],
            "events": [
                [event, piece, planned.watch.index, planned.watch.pieces.index(planned.piece), planned.role.name]
                for (event, piece), planned in rings.items()
            ],
        }  # fmt: skip

    # -- what passes through -------------------------------------------------------------------------

    def _look(self, data: bytes) -> None:
        found = scan(data)
        self.hits += found.samples
        new = found.places - self._known
        if new:
            self._known |= new
            self._note("sites", [site for place in sorted(new) if (site := self._site(*place))])
        for other in found.others:
            self._follow(other)

    def _site(self, event: int, pid: int, ip: int) -> dict[str, Any] | None:
        planned = self._armed.planned.get((event, 0))
        if planned is None:
            return None
        site = self._sites.site(pid, ip, execute=planned.watch.mode is Mode.EXECUTE)
        return site_data(pid, site) | {"watch": planned.watch.index}

    def _follow(self, other: Record) -> None:
        if isinstance(other, LostRecord):
            self.lost_records += other.count
        elif isinstance(other, MmapRecord):
            self._users.mapped(other)
        elif isinstance(other, (CommRecord, ForkRecord, ExitRecord)):
            if _new_memory(other) and self._sites.forget(other.pid):
                self._known = {place for place in self._known if place[1] != other.pid}
            self._users.changed(other)

    def _note(self, name: str, content: Any) -> None:
        self._writer.note(name, json.dumps(content).encode())


def _new_memory(record: CommRecord | ForkRecord | ExitRecord) -> bool:
    if isinstance(record, CommRecord):
        return record.exec
    return record.pid == record.tid


def _events(armed: ArmedWatch) -> Sequence[Event]:
    """The file's events: one for each watch, named as it was asked for, and the sideband."""
    ids: dict[tuple[int, Role], dict[int, PlannedEvent]] = {}
    for (event, _), planned in armed.planned.items():
        ids.setdefault((planned.watch.index, planned.role), {})[event] = planned
    events = []
    for (index, role), members in sorted(ids.items(), key=lambda item: (item[0][0], item[0][1].value)):
        watch = armed.plan.watches[index]
        planned = next(iter(members.values()))
        attr = Attr(
            5, sample_period=1, sample_type=armed.sample_type, read_format=4,
            flags=Flag.SAMPLE_ID_ALL | Flag.USE_CLOCKID, bp_type=planned.mode.value, bp_address=watch.variable.address,
            bp_length=planned.piece.length, clockid=1,
        )  # fmt: skip
        suffix = {Role.ONLY: "", Role.WRITES: " (W register)", Role.READS: " (RW register)"}[role]
        events.append(Event(attr, tuple(members), str(watch.request) + suffix))
    attr = Attr(
        1, 9, sample_type=SAMPLE_TYPE, read_format=4, clockid=1,
        flags=Flag.SAMPLE_ID_ALL | Flag.USE_CLOCKID | Flag.COMM | Flag.MMAP | Flag.MMAP2 | Flag.TASK,
    )  # fmt: skip
    return [*events, Event(attr, armed.sideband_ids, "sideband")]
