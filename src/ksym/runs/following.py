# SPDX-License-Identifier: BSD-2-Clause
"""Following the processes of user variables while a run is armed.

A place ends when its process unloads the library, runs another program or ends; one begins when a process of the
run has the file again, or for the first time. A process is held meanwhile (`watch.holding`), so that no access is
missed and no other memory is taken for the variable. Where nobody can be held, what has changed is found a moment
later, and told.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ksym.errors import KsymError
from ksym.linux.processes import all_pids, process_state, ticks_now
from ksym.runs.places import Places
from ksym.symbols.kernel import Kernel
from ksym.symbols.variable import Space
from ksym.watch.arm import ArmedWatch
from ksym.watch.plan import Place
from ksym.watch.presence import maps_of, place_is_there

if TYPE_CHECKING:
    from ksym.watch.holding import Holder


_ANCESTORS = 64
_PAST_SECONDS = 10.0
"""For so long what held a place's variables is remembered; records are read much earlier."""


class Following:
    """See watch.run.Follower.

    Args:
        places: Where user variables lie.
        armed: What is planted there.
        named: PIDs that the user knows of: COMMAND's, and those of -p.
        kernel: For programs that take values.
        hold: Makes what holds processes; None where no file is waited for. It raises CannotHold.
    """

    def __init__(
        self,
        places: Places,
        armed: ArmedWatch,
        named: Iterable[int],
        kernel: Kernel,
        hold: Callable[[], Holder | None],
    ) -> None:
        self._places, self._armed, self._named, self._hold = places, armed, set(named), hold
        self._kernel = kernel
        self._holder: Holder | None = None
        self.held_throughout = False
        """Processes are held from the first to the last."""
        self._began = {place.number: ticks_now() for place in places.first}
        self._first_tick = min(
            (state.started for place in places.first if (state := process_state(place.pid))), default=0
        )
        self._cause: tuple[str, str] | None = None
        """Why processes cannot be held, and what to do about it; None if they can."""
        self._past: deque[tuple[float, int]] = deque()
        """Places that have ended: when, and their numbers."""
        self._late: Counter[int] = Counter()
        """How often the variables of a process were found again only after they could have been accessed."""
        self._gone: set[int] = set()
        """Numbers of the places whose own process has ended or run another program; forked children may remain."""
        self._executed: set[int] = set()
        """Numbers of the places whose own process has run another program."""
        self._over: set[tuple[int, int]] = set()
        """(place number, PID): the place has ended for this process, but other processes still have it."""
        self._unsure: set[int] = set()
        """PIDs of processes whose hits may be foreign, because no BPF program filters them."""

    def begin(self) -> None:
        """See Follower."""
        from ksym.watch.holding import CannotHold

        try:
            self._holder = self._hold()
        except CannotHold as error:
            self._cause = error.why, error.todo
        if self._holder and self._holder.traces:
            self._cause = self._holder.cause
        self.held_throughout = self._holds_all

    @property
    def _holds_all(self) -> bool:
        """True while each process is held when it maps and unmaps a file."""
        return self.fileno() >= 0 and not (self._holder and self._holder.traces)

    def fileno(self) -> int:
        """See Follower."""
        return -1 if self._holder is None or self._holder.ended else self._holder.fileno()

    def follow(self) -> list[str]:
        """See Follower."""
        holder = self._holder
        if holder is None:
            return []
        told: list[str] = []
        while True:
            told += holder.notes()
            # Asked last: whatever came while others were looked at would not wake anybody any more.
            pids = holder.held()
            if not pids:
                return told + (holder.notes() if holder.ended else [])  # its end was found only now
            for pid in pids:
                try:
                    told += self._held(pid)
                finally:
                    holder.release(pid)

    def look(self) -> list[str]:
        """See Follower."""
        while self._past and time.monotonic() - self._past[0][0] > _PAST_SECONDS:
            self._places.holds.pop(self._past.popleft()[1], None)
        told = self.follow()
        self._left()
        told += self._unloaded()
        if self.fileno() < 0:
            for pid in sorted({place.pid for place in self._places.first}):
                if self._add_missing(pid, told):
                    self._late[pid] += 1
        return told

    def notes(self) -> list[str]:
        """See Follower."""
        told = self._not_held()
        told += [
            f"process {pid} unloaded {self._names()} while a process that was forked keeps it: without programs (BPF), "
            "hits of what it has at that address since may be counted as the variable's"
            for pid in sorted(self._unsure)
        ]
        told += [
            f"process {pid} had {self._names()} again {count} time{'' if count == 1 else 's'}; what it did with it "
            "before ksym found that is not shown"
            for pid, count in self._late.items()
        ]
        return told

    def _not_held(self) -> list[str]:
        """Report what may have been missed because processes cannot be held.

        A program that COMMAND has become itself, and that has not run another one, has had one life only.
        """
        self._executed |= self._armed.lives.executed()
        holds = [hold for each in self._places.holds.values() for hold in each.values()]
        others = self._named - {place.pid for place in self._places.first}
        loads = any(hold.has_file and not hold.program for hold in holds)
        if self._cause is None or not (self._executed or others or loads):
            return []
        why, todo = self._cause
        return [
            f"{self._names()}: later runs and loads of its file are not watched from their start on, as no process is "
            f"held for that: {why}" + (f"; {todo}" if todo else "")
        ]

    # -- ends and beginnings ---------------------------------------------------------------------------

    def _held(self, pid: int) -> list[str]:
        """A process that is held has mapped or unmapped a file, or runs another program."""
        told: list[str] = []
        unmapped = self._holder.unmapped(pid) if self._holder else set()
        self._left()
        for place in self._armed.scope.places:
            if self._has_registers(pid, place):
                self._unloaded_or_back(place, pid, came_back=self._places.file(place) in unmapped)
        self._add_missing(pid, told)
        return told

    def _left(self) -> None:
        """End the places whose processes have ended or run another program, unless forked children remain."""
        living, left = self._armed.lives.living(), self._armed.lives.left()
        self._executed |= self._armed.lives.executed()
        for place in self._armed.scope.places:
            if not place.addresses or place.number not in left:
                continue
            if place.number not in self._gone:
                self._gone.add(place.number)
                if self._armed.engine:  # once: its next life may lie at the same address
                    self._armed.engine.chains.left(place.pid)
            if place.number not in living:
                self._end(place, process_left=True)

    def _unloaded_or_back(self, place: Place, pid: int, *, came_back: bool = False) -> bool:
        """End a place for a process that has unloaded the file; restart it for one that has reloaded it there.

        Where other processes have it still, an event that one of them has inherited cannot be closed by itself. Then
        programs pass over what this one does.

        Args:
            place: The place.
            pid: The process.
            came_back: If the file is there, it was unloaded and loaded since the last look.

        Returns:
            True if it was ended.
        """
        there = place_is_there(Place(pid, ()), self._places.holds.get(place.number, {}))
        if there != self._is_over(place, pid) and not (there and came_back):
            return False
        engine = self._armed.engine
        if there:
            self._over.discard((place.number, pid))
            if engine:
                from ksym.runs.engines import reload

                reload(engine, place, pid, self._kernel)
            return False
        if not any(other != pid for other, _ in self._with(place)):
            self._end(place, process_left=False)
            return True
        self._over.add((place.number, pid))
        if engine:
            from ksym.runs.engines import unload

            unload(engine, place, pid)
        else:
            self._unsure.add(pid)
        return True

    def _is_over(self, place: Place, pid: int) -> bool:
        """Return True if a place has ended for a process, or for the one that it was forked from."""
        if self._armed.engine is None or not self._armed.engine.by_memory:
            return (place.number, pid) in self._over
        from ksym.runs.engines import unloaded

        return unloaded(self._armed.engine, place, pid)

    def _unloaded(self) -> list[str]:
        """End the places whose files were unloaded by processes that are not held; return what to report."""
        told = []
        left = self._armed.lives.left()
        for place in self._armed.scope.places:
            holds = self._places.holds.get(place.number, {})
            if not place.addresses or place.number in left:
                continue
            if self._holds_all and all(hold.has_file for hold in holds.values()):
                continue  # it may be unloaded and loaded right now, and is held for both
            if self._unloaded_or_back(place, place.pid):
                told += [
                    f"{watch.name} is not watched any more{self._in(place)}: its memory was unmapped"
                    for watch in self._armed.plan.watches
                    if watch.index in place.addresses
                ]
        return told

    def _end(self, place: Place, *, process_left: bool) -> None:
        self._armed.end_place(place)
        if self._armed.engine:
            from ksym.runs.engines import end

            end(self._armed.engine, place, process_left=process_left)
        self._gone.discard(place.number)
        self._over = {(number, pid) for number, pid in self._over if number != place.number}
        # Records of what was mapped there since may not have been read yet.
        self._past.append((time.monotonic(), place.number))

    def _add_missing(self, pid: int, told: list[str]) -> bool:
        """Watch the variables of a process that has them, and is not watched; return True if there were any."""
        there = {
            index
            for place in self._armed.scope.places
            if self._has_registers(pid, place) and not self._is_over(place, pid)
            for index in place.addresses or ()
        }
        try:
            fresh = self._places.appeared(pid, there)
        except KsymError as error:
            told.append(f"{self._names()} in process {pid} is NOT watched: {error.why}")
            return False
        for place in fresh:
            try:
                self._add(place)
            except KsymError as error:
                told.append(f"{self._names()} in process {pid} is NOT watched: {error.why}")
        return bool(fresh)

    def _add(self, place: Place) -> None:
        engine = self._armed.engine
        if engine:
            from ksym.runs.engines import begin, seed

            begin(engine, place)
        self._began[place.number] = ticks_now()
        place = self._armed.add_place(place, told_of=self._told_of(place.pid))
        if engine:
            seed(engine, place, self._kernel)

    def _has_registers(self, pid: int, place: Place) -> bool:
        """Return True if a process has the registers of a place, opened in it or inherited."""
        if not place.addresses:
            return False
        if place.pid == pid:
            return place.number not in self._armed.lives.left()
        state = process_state(pid)
        if state is None or not state.forked or state.started < self._began[place.number]:
            return False
        if self._armed.engine:
            from ksym.runs.engines import inherited

            if (known := inherited(self._armed.engine, place, pid)) is not None:
                return known
        # A daemon's parent has ended, and nothing tells who that was.
        return self._descends(pid, place.pid) is not False

    def _descends(self, pid: int, ancestor: int) -> bool | None:
        """Return True if a process is a descendant of another one; None if that is not known."""
        ours = self._named | self._armed.pids | {os.getpid()}
        for _ in range(_ANCESTORS):
            if pid == ancestor:
                return True
            if pid == os.getpid():
                return False
            state = process_state(pid)
            if state is None or state.parent <= 1:
                return False if pid in ours else None
            pid = state.parent
        return None

    def _told_of(self, pid: int) -> bool:
        return any(self._descends(pid, each) is True for each in self._armed.pids)

    # -- who there is ------------------------------------------------------------------------------------

    def _in(self, place: Place) -> str:
        return f" in process {place.pid}" if len(self._armed.pids) > 1 else ""

    def _names(self) -> str:
        watches = self._armed.plan.watches
        return ", ".join(watch.name for watch in watches if watch.variable.space is Space.USER)

    def unwatched(self) -> set[int]:
        """See Follower."""
        there = {index for place in self._armed.scope.places for index in place.addresses or ()}
        return {
            watch.index
            for watch in self._armed.plan.watches
            if watch.variable.space is Space.USER
            and watch.index not in there
            and not self._places.comes_back(watch.index)
        }

    def survivors(self) -> list[tuple[int, str]]:
        """See Follower."""
        living = self._armed.lives.living()
        found = {
            each for place in self._armed.scope.places if place.number in living for each in self._with(place)
        }
        return sorted((pid, name) for pid, name in found if pid not in self._named)

    def _with(self, place: Place) -> set[tuple[int, str]]:
        """Return the PIDs and names of the processes that have the variables of a place in their memory."""
        holds = self._places.holds.get(place.number, {}).values()
        found = set()
        for pid in set(all_pids()) - {os.getpid()}:
            state = process_state(pid)
            if state is None or state.ended or state.started < self._first_tick:
                continue
            mappings = maps_of(pid)
            if any(hold.there(mappings) for hold in holds):
                found.add((pid, state.name))
        return found

    def close(self) -> None:
        """See Follower."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None


def user_variables(armed: ArmedWatch) -> bool:
    """Return True if any user variable is watched."""
    return any(watch.variable.space is Space.USER for watch in armed.plan.watches)
