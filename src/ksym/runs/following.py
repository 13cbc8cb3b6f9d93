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
        hold: Makes what holds processes; None where nobody can be held.
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
        self._past: deque[tuple[float, int]] = deque()
        """Places that have ended: when, and their numbers."""
        self._gone: list[tuple[int, str]] = []
        """Processes whose memory was found unmapped at the last look, and what to tell if that lasts."""
        self._late: Counter[int] = Counter()
        """How often the variables of a process were found again only after they could have been accessed."""

    def begin(self) -> None:
        """See Follower."""
        self._holder = self._hold()
        self.held_throughout = self.fileno() >= 0 and not (self._holder and self._holder.traces)

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
        told, gone = self.follow(), self._ended()
        if self.fileno() >= 0:
            # A process that has just unmapped it is held, or will be: it may map it again at once. So it is told later.
            gone, self._gone = self._gone, gone
        told += [message for _, message in gone]
        if self.fileno() < 0:
            for pid in sorted({place.pid for place in self._places.first}):
                if self._add_missing(pid, told):
                    self._late[pid] += 1
        return told

    def notes(self) -> list[str]:
        """See Follower."""
        return [message for _, message in self._gone] + [
            f"process {pid} had {self._names()} again {count} time{'' if count == 1 else 's'}; what it did with it "
            "before ksym found that is not shown"
            for pid, count in self._late.items()
        ]

    # -- ends and beginnings ---------------------------------------------------------------------------

    def _held(self, pid: int) -> list[str]:
        """A process that is held has mapped or unmapped a file, or runs another program."""
        told: list[str] = []
        self._ended(pid)
        self._add_missing(pid, told)
        return told

    def _ended(self, pid: int | None = None) -> list[tuple[int, str]]:
        """End the places whose variables are not there any more, of one process or of all; return what to tell."""
        told = []
        living, left = self._armed.lives.living(), self._armed.lives.left()
        for place in self._armed.scope.places:
            if not place.addresses or pid not in (None, place.pid):
                continue
            gone = place.number in left
            if not gone and place_is_there(place, self._places.holds.get(place.number, {})):
                continue
            if place.number in living and (gone or self._having([place])):
                continue  # those that the process has forked have it still
            self._end(place, process_left=gone)
            if not gone:
                told += [
                    (place.pid, f"{watch.name} is not watched any more{self._in(place)}: its memory was unmapped")
                    for watch in self._armed.plan.watches
                    if watch.index in place.addresses
                ]
        return told

    def _end(self, place: Place, *, process_left: bool) -> None:
        self._armed.end_place(place)
        if self._armed.engine:
            from ksym.runs.engines import end

            end(self._armed.engine, place, process_left=process_left)
        # Records of what was mapped there since may not have been read yet.
        self._past.append((time.monotonic(), place.number))

    def _add_missing(self, pid: int, told: list[str]) -> bool:
        """Watch the variables of a process that has them, and is not watched; return True if there were any."""
        left = self._armed.lives.left()
        there = {
            index
            for place in self._armed.scope.places
            if (place.pid == pid and place.number not in left) or self._inherits(pid, place)
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
        if fresh:
            self._gone = [(each, message) for each, message in self._gone if each != pid]
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

    def _inherits(self, pid: int, place: Place) -> bool:
        """Return True if a process has inherited the events of a place, forked since and not executed anything."""
        state = process_state(pid)
        if state is None or not state.forked or state.started < self._began[place.number]:
            return False
        return self._descends(pid, place.pid) and place_is_there(
            Place(pid, ()), self._places.holds.get(place.number, {})
        )

    def _descends(self, pid: int, ancestor: int) -> bool:
        for _ in range(_ANCESTORS):
            if pid == ancestor:
                return True
            state = process_state(pid)
            if state is None or state.parent <= 1:
                return False
            pid = state.parent
        return False

    def _told_of(self, pid: int) -> bool:
        return any(self._descends(pid, each) for each in self._armed.pids)

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
        return self._having(place for place in self._armed.scope.places if place.number in living)

    def _having(self, places: Iterable[Place]) -> list[tuple[int, str]]:
        """The processes that have the variables of a place in their memory, besides those that are named."""
        holds = [hold for place in places for hold in self._places.holds.get(place.number, {}).values()]
        found = []
        for pid in sorted(set(all_pids()) - self._named - {os.getpid()}):
            state = process_state(pid)
            if state is None or state.ended or state.started < self._first_tick:
                continue
            mappings = maps_of(pid)
            if any(hold.there(mappings) for hold in holds):
                found.append((pid, state.name))
        return found

    def close(self) -> None:
        """See Follower."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None


def user_variables(armed: ArmedWatch) -> bool:
    """Return True if any user variable is watched."""
    return any(watch.variable.space is Space.USER for watch in armed.plan.watches)
