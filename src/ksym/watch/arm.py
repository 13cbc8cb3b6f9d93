# SPDX-License-Identifier: BSD-2-Clause
"""Planting a plan: all of it or none of it, and giving every register back.

An :class:`ArmedWatch` owns every descriptor and every ring of a run. Whatever ends the run (its end, an
error, a signal, an exception), leaving its ``with`` block closes them all; if ksym dies, the kernel does.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ksym.errors import KsymError, NotTakenOver
from ksym.language.request import Mode
from ksym.linux import perf_event
from ksym.linux.limits import LEAST_FILES, allow_files, room_for
from ksym.linux.perf_event import Attr, Flag, PerfEvent, Sample, understands
from ksym.linux.processes import threads_of
from ksym.linux.regular_file import MOST_OPEN
from ksym.linux.ring import Drained
from ksym.symbols.variable import Space
from ksym.watch.early import MOST_EARLY, Early
from ksym.watch.lives import Lives
from ksym.watch.plan import Place, Plan, PlannedEvent, Role, Scope
from ksym.watch.rings import SAMPLE_TYPE, Rings

if TYPE_CHECKING:
    from ksym.program.engine import Engine

_ENABLE_PASSES, _ADD_PASSES = 3, 8
_STARTING_SECONDS = 0.001
"""Longer than a thread is being started."""


@dataclass(frozen=True)
class Options:
    """How to plant.

    Args:
        counting: Counters only: no rings, no samples, the hardware's own cost.
        stacks: Samples carry call chains.
        kernel_accesses: A user variable's accesses by the kernel are wanted too.
        ring_bytes: Ring size a CPU, a power of two; 0 lets the number of CPUs decide.
        stops_on_demand: A program that returns 1 stops its event (`guard.HitCost`).
        both_fire: A write fires both registers of a twin (`registers.both_fire`).
        gives_way: Its events may be taken over by the watch that follows it.
    """

    counting: bool = False
    stacks: bool = False
    kernel_accesses: bool = False
    ring_bytes: int = 0
    stops_on_demand: bool = False
    both_fire: bool = True
    gives_way: bool = False


@dataclass
class ArmedEvent:
    """An open event and what it was opened for.

    Args:
        planned: That.
        event: The event.
        attr: Its attributes; DISABLED is in its flags.
        before: What it was in the watch from which it was taken over, until that is settled.
        hits: Its count when it was taken over; it goes on from there.
        lost: Its lost records at that time.
    """

    planned: PlannedEvent
    event: PerfEvent
    attr: Attr
    before: ArmedEvent | None = None
    hits: int = 0
    lost: int = 0


class ArmedWatch:
    """A plan in the machine's registers.

    Args:
        plan: What to plant.
        scope: Where; asked again when threads appear while arming.
        options: How.
        engine: Programs that run at each hit; None: plain perf events.
        instead: A watch whose registers this one takes over, as many as it needs, so that nobody else can get them
            in between. It sees nothing any more then. Closed before it is `settle`d, this one gives them back, and the
            other goes on.

    Raises:
        KsymError: it cannot be planted; nothing is left behind, and ``instead`` goes on.
        NotTakenOver: the events of ``instead`` are of another kind, or the kernel can change none (before 5.15).
    """

    def __init__(
        self,
        plan: Plan,
        scope: Callable[[], Scope],
        options: Options,
        engine: Engine | None = None,
        *,
        instead: ArmedWatch | None = None,
    ) -> None:
        self.plan, self.options, self.engine = plan, options, engine
        self._instead = instead
        self._on = False
        self._off: set[int] = set()
        self._scope = scope
        self.events: list[ArmedEvent] = []
        self._rings: Rings | None = None
        self.early: Early | None = None
        """Wakes for each mapping of code in the watched processes; None where that matters to nobody."""
        self._samples = not options.counting and engine is None
        self._retired: list[dict[str, int]] = [{} for _ in plan.watches]
        """For each watch, the hits of events that are gone, by what they were of."""
        self._retired_lost = 0
        self.before_enabling: Callable[[], None] = lambda: None
        """Called before anything is seen."""
        self.lives = Lives()
        self.pids: set[int] = set()
        """The processes that have had a place."""
        self.after_enabling: Callable[[], None] = lambda: None
        """Called when every access is seen, before COMMAND is let go."""
        self.before_disabling: Callable[[], None] = lambda: None
        """Called when the run ends, while every access is still seen."""
        self.unstable_threads = False
        """Whether new threads were still seen after the last try to open an event in each."""
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        """Open everything: the watches disabled, the sideband at work.

        A thread that starts while others are opened may have been started by one that was not yet covered;
        then all is closed and tried again, so that no thread is left out and none counted twice.
        """
        for _ in range(8):
            self.scope = scope = self._scope()
            self.pids = {place.pid for place in scope.places}
            self._allow_files(self._descriptors(scope))
            self._open_scope(scope)
            if set(self._scope().threads) <= set(scope.threads):
                return
            self.close()
        self.scope = self._scope()
        self._open_scope(self.scope)
        self.unstable_threads = True

    def _allow_files(self, events: int) -> None:
        what = f"cannot watch {', '.join(watch.name for watch in self.plan.watches)}"
        allow_files(room_for(events), wanted=events + MOST_OPEN + LEAST_FILES, what=what)

    def _descriptors(self, scope: Scope) -> int:
        events = len(self.plan.events(scope, sampling=self._samples)) * (2 if self.options.gives_way else 1)
        if self.options.counting:
            return events
        events += len(self._early_places(scope))
        return events + len(self._sideband(scope)) + len(scope.cpus) * len(self.plan.watches)

    def _open_scope(self, scope: Scope) -> None:
        if not self.options.counting:
            try:
                self._open_rings(scope)
            except OSError as error:
                self.close()  # telling why may need descriptors
                raise self._explain(error, None) from error
        reached, missed = set(), []
        for planned in self.plan.events(scope, sampling=self._samples):
            try:
                self._open_event(planned)
            except OSError as error:
                if error.errno == errno.ESRCH and planned.pid > 0 and len(scope.threads) > 1:
                    missed.append(planned)  # a thread that has just ended
                    continue
                self.close()  # so that what is free can be counted
                raise self._explain(error, planned) from error
            reached.add(_where(planned))
        for planned in missed:
            if _where(planned) not in reached:
                self.close()
                raise self._explain(OSError(errno.ESRCH, "no thread left"), planned)

    def _attr(self, planned: PlannedEvent) -> Attr:
        options, watch = self.options, planned.watch
        user = watch.variable.space is Space.USER
        flags = Flag.DISABLED | Flag.EXCLUDE_HV
        if planned.pid > 0:
            flags |= Flag.INHERIT
        if user and not options.kernel_accesses and not (self.engine and self.engine.sees_kernel(watch)):
            flags |= Flag.EXCLUDE_KERNEL
        if user and understands(flags=Flag.REMOVE_ON_EXEC):
            # Behind an exec the address means something else.
            flags |= Flag.REMOVE_ON_EXEC
        read_format = perf_event.FORMAT_ID
        if understands(read_format=perf_event.FORMAT_LOST):
            read_format |= perf_event.FORMAT_LOST
        period = sample_type = wakeup = clock = 0
        if self.engine:
            # Its program runs where a sample would be taken, and returns 0 so that none is. The kernel prepares a
            # sample before it asks ("perf/core: Call perf_prepare_sample() before running BPF", 6.3), so the less
            # there is in it the better.
            period, sample_type = 1, Sample.IDENTIFIER
        elif self._rings:
            flags |= Flag.SAMPLE_ID_ALL | Flag.USE_CLOCKID | Flag.WATERMARK
            period, sample_type = 1, self._rings.sample_type
            wakeup, clock = self._rings.size // 4, perf_event.CLOCK_MONOTONIC
        return Attr(
            perf_event.TYPE_BREAKPOINT,
            sample_period=period,
            sample_type=sample_type,
            read_format=read_format,
            flags=flags,
            wakeup=wakeup,
            bp_type=planned.mode.value,
            bp_address=planned.address,
            bp_length=planned.piece.length,
            clockid=clock,
        )

    def _open_event(self, planned: PlannedEvent) -> None:
        attr = self._attr(planned)
        armed = self._take_over(planned, attr)
        if armed is None:
            armed = ArmedEvent(planned, PerfEvent(attr, pid=planned.pid, cpu=planned.cpu), attr)
        self.events.append(armed)
        self._connect(armed)
        if planned.place and self._tells_of_life(planned):
            self.lives.follow(planned.place.number, armed.event, has_ring=self._samples)

    def _tells_of_life(self, planned: PlannedEvent) -> bool:
        """Return True for one event of each thread of a place."""
        watch = planned.watch
        return (
            planned.piece is watch.pieces[0]
            and planned.role is watch.roles[0]
            and planned.cpu in (-1, *self.scope.cpus[:1])
        )

    def _connect(self, armed: ArmedEvent) -> None:
        """Say where its hits go."""
        planned = armed.planned
        if self.engine:
            piece = planned.watch.pieces.index(planned.piece)
            program = self.engine.program(planned.watch.index, piece, planned.role, planned.place)
            armed.event.attach(program, for_good=not self.options.gives_way)
        elif self._rings:
            self._rings.take(planned, armed.event)

    def _take_over(self, planned: PlannedEvent, attr: Attr) -> ArmedEvent | None:
        """The next event of the watch that gives way, in the order of their registers; None where none is left."""
        if self._instead is None:
            return None
        taken = [armed.event for armed in self.events]
        for before in self._instead.events:
            event = before.event
            if (event.pid, event.cpu) == (planned.pid, planned.cpu) and event not in taken:
                break
        else:
            return None
        place = {"bp_type": attr.bp_type, "bp_address": attr.bp_address, "bp_length": attr.bp_length}
        same_else = replace(before.attr, **place) == attr
        if not same_else or (self.engine and not event.linked) or self._instead.was_stopped:
            raise NotTakenOver(f"cannot watch {planned.watch.name}", "no register can be taken over")
        event.disable()
        event.detach()
        try:
            event.modify(attr)
        except OSError:
            self._instead.go_on(before)
            raise
        hits, _, lost = event.read()
        return ArmedEvent(planned, event, attr, before, hits, lost)

    def go_on(self, armed: ArmedEvent) -> None:
        """Watch again with an event that was to be taken over."""
        armed.event.disable()
        armed.event.detach()
        armed.event.modify(armed.attr)
        self._connect(armed)
        if self._on:
            self._enable(armed)

    def settle(self) -> None:
        """Keep for good what was taken over."""
        for armed in self.events:
            if armed.before and self._instead:
                self._instead.forget(armed.before)
                armed.before = None
        self._instead = None

    def forget(self, armed: ArmedEvent) -> None:
        """An event is not this watch's any more; its count stays in the totals."""
        gone = self._retired[armed.planned.watch.index]
        what = (
            "CPUs that went offline" if armed.planned.pid < 0 else "processes that are not watched any more"
        )
        gone[what] = gone.get(what, 0) + self._share(armed)
        self._retired_lost += armed.event.read()[2] - armed.lost
        self.events.remove(armed)

    @property
    def was_stopped(self) -> bool:
        """Whether a program has stopped an event by the kernel's own limit.

        Since 18dbcbfabfff (6.17) it would see nothing any more, whatever it is changed to.
        """
        if self.engine is None:
            return False
        from ksym.program.shared import Slot

        return any(self.engine.shared.slot(watch.index, Slot.TRIPPED) for watch in self.plan.watches)

    def _open_rings(self, scope: Scope) -> None:
        if self._rings is None:
            self._rings = Rings(
                self.plan, len(scope.cpus), stacks=self.options.stacks, names_user_code=self._names_user_code,
                size=self.options.ring_bytes, engine=self.engine,
            )  # fmt: skip
        self._rings.open(self._sideband(scope), scope.places, may_vanish=len(scope.threads) > 1)
        if self.early is None and (early := self._early_places(scope)):
            self.early = Early(early, SAMPLE_TYPE)

    def _early_places(self, scope: Scope) -> list[tuple[int, int]]:
        places = self._sideband(scope)
        wanted = self._names_user_code and not self.any_system_wide and len(places) <= MOST_EARLY
        return places if wanted else []

    def _sideband(self, scope: Scope) -> list[tuple[int, int]]:
        if self.any_system_wide:
            return [(-1, cpu) for cpu in scope.cpus]
        return [(tid, cpu) for tid in scope.threads for cpu in scope.cpus]

    def enable(self) -> None:
        """Arm: from here on every access is seen.

        A thread takes over the state of its starter's event before it is on the list by which the
        original reaches it (kernel/events/core.c, inherit_event). One that starts right now can so stay off, with
        all that it starts, until it is reached again. A stopped COMMAND starts none.
        """
        self.before_enabling()
        self._switch(on=True)
        self._on = True
        for again in range(_ENABLE_PASSES if self.scope.only_threads else 1):
            if again:
                time.sleep(_STARTING_SECONDS)
            for armed in self.events:
                self._enable(armed)
        self.after_enabling()

    def _enable(self, armed: ArmedEvent) -> None:
        # The kernel takes no such limit for an event that is inherited by new threads.
        if self.options.stops_on_demand and self.engine and armed.planned.pid < 0:
            armed.event.refresh(1)
        else:
            armed.event.enable()

    def disable(self, index: int | None = None) -> None:
        """Disarm; counters and rings can still be read.

        Args:
            index: This watch alone.
        """
        if index is None:
            if self._on:
                self.before_disabling()
            self._on = False
        else:
            self._off.add(index)
        self._switch(index, on=False)
        for armed in self.events:
            if index in (None, armed.planned.watch.index):
                with contextlib.suppress(OSError):  # its CPU may have gone
                    armed.event.disable()

    def _switch(self, index: int | None = None, *, on: bool) -> None:
        """Let the programs know that a watch, or all, are on or off."""
        if self.engine is not None:
            for watch in self.plan.watches:
                if index in (None, watch.index) and not (on and watch.index in self._off):
                    self.engine.shared.switch(watch.index, on=on)

    def is_on(self, index: int) -> bool:
        """True if all accesses to a watch's variable are seen: it was not taken off, nor stopped by its program."""
        if not self._on or index in self._off:
            return False
        if self.engine is None:
            return True
        from ksym.program.shared import Slot

        limit = self.engine.wants.limit
        return not self.engine.shared.slot(index, Slot.TRIPPED) and not (
            limit and self.engine.shared.taken() >= limit
        )

    def counts(self) -> list[int]:
        """Exact hits of each watch so far, from the counters."""
        totals = [sum(gone.values()) for gone in self._retired]
        for armed in self.events:
            totals[armed.planned.watch.index] += self._share(armed)
        return [total - self._own(index) for index, total in enumerate(totals)]

    def _own(self, index: int) -> int:
        """Hits to leave out: ksym's own reads, the kernel's accesses, and hits after the variable was unloaded."""
        if self.engine is None:
            return 0
        from ksym.program.shared import Cell

        return sum(self.engine.shared.total(index, cell) for cell in (Cell.OWN, Cell.KERNEL, Cell.FOREIGN))

    def foreign(self) -> int:
        """Hits of processes that have unloaded the variable; see `runs.following`."""
        if self.engine is None:
            return 0
        from ksym.program.shared import Cell

        return sum(self.engine.shared.total(watch.index, Cell.FOREIGN) for watch in self.plan.watches)

    def _share(self, armed: ArmedEvent) -> int:
        """What an event adds to the hits of its watch: a write fires both registers of a twin, a read one.

        An emulator may let it fire the W register alone (`registers.both_fire`).
        """
        count = armed.event.read()[0] - armed.hits
        planned = armed.planned
        if planned.role is not Role.WRITES:
            return count
        wanted = planned.watch.mode is not Mode.READ
        return count * (wanted - self.options.both_fire)

    def counts_by_cpu(self) -> dict[tuple[int, int], int]:
        """Hits of each (watch, CPU) so far; CPU -1 for those of threads, which may be anywhere."""
        counts: dict[tuple[int, int], int] = {}
        for armed in self.events:
            place = armed.planned.watch.index, armed.planned.cpu
            counts[place] = counts.get(place, 0) + self._share(armed)
        return counts

    def lost(self) -> int:
        """Records for which a ring had no room, where the kernel counts them (PERF_FORMAT_LOST)."""
        return self._retired_lost + sum(armed.event.read()[2] - armed.lost for armed in self.events)

    @property
    def _names_user_code(self) -> bool:
        """Whether samples may tell of user-space code: mappings are followed then, to name it."""
        return self.options.stacks or any(watch.variable.space is Space.USER for watch in self.plan.watches)

    def counts_by_place(self, index: int) -> dict[str, int]:
        """Hits of one watch so far, by CPU or thread.

        What a thread starts inherits its event, whose count the kernel adds to that of the thread's.
        """
        places: dict[str, int] = {}
        for armed in self.events:
            planned = armed.planned
            if planned.watch.index == index:
                place = (
                    f"CPU {planned.cpu}" if planned.pid < 0 else f"thread {planned.pid} and what it started"
                )
                places[place] = places.get(place, 0) + self._share(armed)
        return places | {what: hits for what, hits in self._retired[index].items() if hits}

    def ring_fds(self) -> set[int]:
        """Descriptors that poll(2) reports readable when a ring is a quarter full."""
        return self._rings.fds() if self._rings else set()

    @property
    def rings(self) -> Sequence[Drained]:
        """What is to be drained; CPUs may come while running."""
        return self._rings.rings if self._rings else []

    @property
    def sample_type(self) -> int:
        """Sample type of the records of hits."""
        return self._rings.sample_type if self._rings else 0

    @property
    def sideband_ids(self) -> tuple[int, ...]:
        """Identifiers of what reports names, forks, exits and mappings."""
        return self._rings.sideband_ids if self._rings else ()

    @property
    def planned(self) -> dict[tuple[int, int], PlannedEvent]:
        """See Rings.planned."""
        return self._rings.planned if self._rings else {}

    @property
    def any_system_wide(self) -> bool:
        """Whether something is planted on CPUs rather than in threads."""
        return any(self.scope.system_wide(watch) for watch in self.plan.watches)

    def drop_cpu(self, cpu: int) -> None:
        """Forget the events of a CPU that went offline; their counts stay in the totals.

        The kernel takes a CPU's events off it for good when it goes down (perf_event_exit_cpu).
        The ring stays: records may still lie in it.
        """
        for armed in [armed for armed in self.events if armed.planned.cpu == cpu]:
            self.lives.drop(armed.event)
            self.forget(armed)
            armed.event.close()

    def add_cpu(self, cpu: int) -> list[PlannedEvent]:
        """Cover a CPU that came online while armed; returns what was planted.

        Raises:
            KsymError: it cannot be covered.
        """
        scope = replace(self.scope, cpus=(cpu,))
        planned = [each for each in self.plan.events(scope, sampling=self._samples) if each.cpu == cpu]
        if self._rings:
            self._rings.retire(cpu)
        added = self._add(planned, self._sideband(scope), scope.places)
        if self._on:
            for armed in added:
                self._enable(armed)
        return [armed.planned for armed in added]

    def add_place(self, place: Place, *, told_of: bool) -> Place:
        """Watch user variables in a further process, or where they lie now, while armed.

        The process must be held meanwhile, or its first accesses are missed.

        Args:
            place: The process and the addresses there; its number is a new one.
            told_of: The rings tell of the process's forks, names and mappings already.

        Returns:
            The place with the threads that it has events in.

        Raises:
            KsymError: the variables cannot be watched there; none of them is.
        """
        for again in range(_ADD_PASSES):
            place = replace(place, threads=threads_of(place.pid))
            scope = replace(self.scope, places=(place,))
            planned = [
                each for each in self.plan.events(scope, sampling=self._samples) if each.place is place
            ]
            if not planned:
                raise self._explain(OSError(errno.ESRCH, "it ended"), None)
            sideband = [] if told_of or self.any_system_wide else self._sideband(scope)
            self._allow_files(2 * len(self.events) + len(planned) + len(sideband))
            added = self._add(planned, sideband, (place,))
            if set(threads_of(place.pid)) <= set(place.threads) or again == _ADD_PASSES - 1:
                break
            self._drop(added)
            told_of = True
        if sideband and self._rings:
            self._rings.describe(place.pid)
            if self.early:
                self.early.follow(sideband)
        if self._on:
            for armed in added:
                self._enable(armed)
        self.scope = replace(self.scope, places=(*self.scope.places, place))
        self.pids.add(place.pid)
        return place

    def _add(
        self, events: list[PlannedEvent], sideband: list[tuple[int, int]], places: tuple[Place, ...]
    ) -> list[ArmedEvent]:
        """Open further events: all of them or none."""
        before, planned = len(self.events), None
        try:
            if self._rings:
                self._rings.open(sideband, places, may_vanish=False)
            for planned in events:
                self._open_event(planned)
        except OSError as error:
            self._drop(self.events[before:])
            raise self._explain(error, planned) from error
        return self.events[before:]

    def _drop(self, events: list[ArmedEvent]) -> None:
        """Close events that were never enabled."""
        for armed in events:
            self.lives.drop(armed.event)
            armed.event.close()
            self.events.remove(armed)

    def end_place(self, place: Place) -> None:
        """Stop watching in a place; its counts stay in the totals."""
        for armed in [armed for armed in self.events if armed.planned.place == place]:
            with contextlib.suppress(OSError):
                armed.event.disable()
            self.lives.drop(armed.event)
            self.forget(armed)
            armed.event.close()
        self.scope = replace(self.scope, places=tuple(each for each in self.scope.places if each != place))

    def _explain(self, error: OSError, planned: PlannedEvent | None) -> KsymError:
        from ksym.watch.refusals import explain  # needed by none of the runs that succeed

        return explain(error, planned, self.plan, kernel_accesses=self.options.kernel_accesses)

    def release(self) -> None:
        """Give the registers back for good; counts stay, and the rings can still be drained."""
        self.disable()
        self.lives.close()
        for armed in list(self.events):
            self.forget(armed)
            armed.event.close()

    def close(self) -> None:
        """Give every register, descriptor and ring back; closing twice does nothing."""
        self.lives.close()
        for armed in self.events:
            if armed.before and self._instead:
                self._instead.go_on(armed.before)
            else:
                armed.event.close()
        self.events.clear()
        if self._rings:
            self._rings.close()
            self._rings = None
        if self.early:
            self.early.close()
            self.early = None

    def drop(self) -> None:
        """In a forked child: close the copies of descriptors and rings; what they lead to stays as it is."""
        self._instead = None
        self.close()


def _where(planned: PlannedEvent) -> tuple[int, Place | None]:
    return planned.watch.index, planned.place
