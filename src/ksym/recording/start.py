# SPDX-License-Identifier: BSD-2-Clause
"""What was planned, as a recording tells at its start: by a note of ksym's, or by perf's own events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ksym.errors import KsymError
from ksym.language.parser import parse_request
from ksym.language.request import Mode
from ksym.program.layout import PIECE_SHIFT
from ksym.recording.header import FileEvent, FileHead, Machine, error
from ksym.recording.hits import Layout
from ksym.recording.knowledge import watch_from
from ksym.symbols.variable import KERNEL_HALF, Space, Variable
from ksym.watch.plan import Piece, Place, PlannedEvent, Role, Watch

if TYPE_CHECKING:
    from ksym.language.condition import Condition

BREAKPOINT = 5
"""Type of an event that watches memory."""
BAD_NOTE = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError, KsymError,
)  # fmt: skip
"""What reading a note raises that is not as ksym writes it."""
_MOST_LENGTH = 1 << 32
_MOST_PIECES = 256
_ADDRESSES = range(1 << 64)
_OLD_EVENT, _OLD_ORIGIN_SHIFT = 5, 24
"""Those of recordings from before hits told the place; their events have no addresses of places."""
_TIMES = range(-(1 << 62), 1 << 62)


@dataclass
class Start:
    """What was planned.

    Args:
        watches: What was watched.
        planned: What hits stand for.
        numbers: (identifier, `program.layout.origin`) of a record -> its number in ``planned``; identifier -1: of all.
        offset: Added to times of records, makes nanoseconds since the epoch.
        time_ns: When it began, nanoseconds since the epoch; 0 where the file does not tell.
        values: A program took values.
        stacks: Hits have call chains.
        version: Of the ksym that recorded; "" for perf.
        arch: The machine's, as uname(2) calls it.
        conditions: Of each watch, what is left of its condition to be judged.
        both_fire: See watch.arm.Options.
        machine: Where it was made; None where the file does not tell here.
        limit: So many accesses count; 0: all.
        sampled: Why it has not every access, in a clause: perf was asked for some of them; None: it was not.
    """

    watches: tuple[Watch, ...]
    planned: list[PlannedEvent]
    numbers: dict[tuple[int, int], int]
    offset: int
    time_ns: int
    values: bool
    stacks: bool
    version: str = ""
    arch: str = ""
    conditions: tuple[Condition | None, ...] = ()
    both_fire: bool = True
    machine: Machine | None = None
    limit: int = 0
    sampled: str | None = None
    origin_shift: int = PIECE_SHIFT
    """Where the origin begins in a hit's flags."""

    def add(self, events: Any) -> dict[tuple[int, int], int]:
        """Take what further identifiers stand for, as notes have it.

        Returns:
            What came to ``numbers``.

        Raises:
            BAD_NOTE: it is no such list.
        """
        added = {}
        for event, origin, watch, index, role, *base in events:
            of = self.watches[watch]
            identifier = int(event)
            if identifier not in _ADDRESSES or min(origin, watch, index) < 0:
                raise ValueError(event)
            place = None
            if base and of.variable.space is Space.USER:
                address = int(base[0])  # a number of another kind would be looked for in all of the range
                if address not in _ADDRESSES:
                    raise ValueError(base)
                place = Place(0, (), {of.index: address})
            added[identifier, int(origin)] = len(self.planned)
            self.planned.append(PlannedEvent(of, of.pieces[index], -1, -1, Role[role], place))
        self.numbers.update(added)
        return added


def start_from(data: Any) -> Start:
    """What a note tells.

    Raises:
        BAD_NOTE: it is not as ksym writes it.
    """
    watches = tuple(_checked(watch_from(index, each)) for index, each in enumerate(data["watches"]))
    clock = data["clock"]
    offset = int(clock["realtime_ns"]) - int(clock["monotonic_ns"])
    if not watches or offset not in _TIMES:
        raise ValueError("watches")
    start = Start(
        watches, [], {}, offset, int(clock["realtime_ns"]), bool(data["values"]), bool(data["stacks"]),
        str(data["version"]), str(data["arch"]),
        tuple(map(_condition, data["conditions"])), bool(data["both_fire"]), _machine(data["machine"], data["arch"]),
        int(data["limit"]),
    )  # fmt: skip
    if len(start.conditions) != len(watches) or start.limit < 0:
        raise ValueError("conditions")
    start.add(data["events"])
    if any(len(event) == _OLD_EVENT for event in data["events"]):
        start.origin_shift = _OLD_ORIGIN_SHIFT
    return start


def _machine(data: Any, arch: Any) -> Machine:
    return Machine(str(data["hostname"]), str(data["release"]), str(arch), int(data["cpus"]), version="ksym")


def _condition(data: Any) -> Condition | None:
    if not data:
        return None
    from ksym.recording.conditions import condition_from  # few recordings have one

    return condition_from(data)


def _checked(watch: Watch) -> Watch:
    variable = watch.variable
    places = [variable.address, *(variable.per_cpu or {}).values()]
    if not (
        0 < variable.length < _MOST_LENGTH
        and 0 < len(watch.pieces) <= _MOST_PIECES
        and all(place in _ADDRESSES for place in places)
        and all(
            0 <= piece.offset < _MOST_LENGTH and 0 < piece.length < _MOST_LENGTH for piece in watch.pieces
        )
    ):
        raise ValueError(variable)
    return watch


def perf_start(head: FileHead, layout: Layout) -> Start:
    """What perf's own events tell.

    Raises:
        KsymError: they lack what accesses are made of.
    """
    if min(layout.ip, layout.tid, layout.time) < 0:
        raise error(
            head.path, "its samples have no time, thread or address", "record with perf record -e mem:..."
        )
    watches, planned, numbers = [], [], {}
    events = [event for event in head.events if event.type == BREAKPOINT]
    for index, event in enumerate(events):
        mode = Mode(event.bp_type & 7) or Mode.READ_WRITE
        if Mode.EXECUTE in mode:
            mode = Mode.EXECUTE
        length = event.bp_length if 0 < event.bp_length <= 4096 else 1
        name = f"{event.bp_address:#x}/{length}"
        space = Space.KERNEL if event.bp_address >= KERNEL_HALF else Space.USER
        variable = Variable(name, event.bp_address, length, space, executable=mode is Mode.EXECUTE)
        request = parse_request(f"{event.bp_address:#x}:{mode}" if mode is Mode.EXECUTE else f"{name}:{mode}")
        watch = Watch(index, request, variable, (Piece(0, length),))
        watches.append(watch)
        planned.append(PlannedEvent(watch, watch.pieces[0], -1, -1))
        for identifier in event.ids if layout.identifier >= 0 else (-1,):
            numbers[identifier, 0] = index
    if layout.identifier < 0 and len(head.events) > 1:
        raise error(
            head.path, "its samples do not tell which of several events they are of", "record one event"
        )
    offset = head.machine.clock[0] - head.machine.clock[1] if head.machine.clock else 0
    if offset not in _TIMES:
        offset = 0
    return Start(
        tuple(watches), planned, numbers, offset, 0, values=False, stacks=layout.chain, arch=head.machine.arch,
        conditions=(None,) * len(watches), sampled=_sampled(events),
    )  # fmt: skip


def _sampled(events: list[FileEvent]) -> str | None:
    """How perf chose among the hits; None: it took them all (``-c 1``)."""
    ways = {
        f"samples were taken at a rate of {event.period:,} a second"
        if event.by_rate
        else f"one hit in {event.period:,} was sampled"
        for event in events
        if event.by_rate or event.period > 1
    }
    return f"{' and '.join(sorted(ways))}; perf record -c 1 takes all" if ways else None
