# SPDX-License-Identifier: BSD-2-Clause
"""How long a place lives: whether any task still has an event that was opened there, and whether its process has left.

An event is inherited by what its task starts. Its descriptor reports POLLHUP as soon as its task has ended, or runs
another program (``remove_on_exec``), and no task is left that inherited it (kernel/events/core.c, is_event_hup;
179033b3e064, 3.18). That tells of a daemon's children without a record of any fork. But an event without a ring
reports POLLHUP always (perf_poll), and an inherited one may have a ring only if it is bound to a CPU. So it is sent
into the ring of a dummy event of its task. The dummy is not inherited, so its own POLLHUP tells that the task itself
has ended or runs another program. Its ring has nothing but records of the task's forks and of its end, which come
before that POLLHUP (perf_event_exit_task_context): where there is none of the end, the task runs another program.
"""

from __future__ import annotations

import contextlib
import mmap
import select
from collections.abc import Iterable

from ksym.linux import perf_event, perf_record
from ksym.linux.perf_event import Attr, Flag, PerfEvent, understands
from ksym.linux.ring import Ring

_RESERVE = 128
"""Bytes in which a record finds room for certain."""


class Lives:
    """The events by which places are known to live."""

    def __init__(self) -> None:
        self._followed: dict[int, tuple[int, PerfEvent, tuple[PerfEvent, Ring]]] = {}
        """By descriptor: number of the place, the event, and the dummy event of its task."""

        self._ended: set[int] = set()
        """Descriptors of events whose tasks have ended, or may have ended."""

    def follow(self, place: int, event: PerfEvent, *, has_ring: bool) -> None:
        """Follow an event that was opened in a place; one for each of its threads is enough.

        Where the kernel has no memory for its ring (``perf_event_mlock_kb``), the place passes for over as soon as
        its process has ended.

        Args:
            place: Number of the place.
            event: The event.
            has_ring: It is sent into a ring already.
        """
        dummy = _dummy(event, sends=not has_ring)
        if dummy is not None:
            self._followed[event.fd] = place, event, dummy

    def drop(self, event: PerfEvent) -> None:
        """Follow an event no more; before it is closed."""
        followed = self._followed.pop(event.fd, None)
        self._ended.discard(event.fd)
        if followed:
            _close(followed[2])

    def living(self) -> set[int]:
        """Return the numbers of the places that some task still has an event of."""
        over = _over(self._followed)
        return {place for fd, (place, _, _) in self._followed.items() if fd not in over}

    def left(self) -> set[int]:
        """Return the numbers of the places whose own process has ended, or runs another program.

        Before 5.13 the kernel does not tell of other programs.
        """
        dummies = {dummy.fd: place for place, _, (dummy, _) in self._followed.values()}
        over = _over(dummies)
        return set(dummies.values()) - {place for fd, place in dummies.items() if fd not in over}

    def executed(self) -> set[int]:
        """Return the numbers of the places whose own process runs another program, or has done so before its end.

        To be asked now and then: where records of forks have filled a ring meanwhile, an exec passes for an end.
        """
        over = _over(dummy.fd for _, _, (dummy, _) in self._followed.values())
        for fd, (_, _, (_, ring)) in self._followed.items():
            records = ring.drain()
            if len(records) > ring.size - _RESERVE or perf_record.EXIT in _kinds(records):
                self._ended.add(fd)
        return {
            place
            for fd, (place, _, (dummy, _)) in self._followed.items()
            if dummy.fd in over and fd not in self._ended
        }

    def fds(self) -> set[int]:
        """Return the descriptors that report POLLHUP when their part of a place is over."""
        return set(self._followed)

    def close(self) -> None:
        """Follow nothing any more."""
        for _, _, dummy in self._followed.values():
            _close(dummy)
        self._followed.clear()
        self._ended.clear()


def _kinds(records: bytes) -> set[int]:
    """Return the types of whole records."""
    kinds, at = set(), 0
    while at < len(records):
        kind, _, size = perf_record.RECORD.unpack_from(records, at)
        kinds.add(kind)
        at += size
    return kinds


def _dummy(event: PerfEvent, *, sends: bool) -> tuple[PerfEvent, Ring] | None:
    """Open the dummy event of a task, and its ring; with ``sends``, send ``event`` into that."""
    flags = Flag.TASK | Flag.EXCLUDE_KERNEL | Flag.EXCLUDE_HV
    if understands(flags=Flag.REMOVE_ON_EXEC):
        flags |= Flag.REMOVE_ON_EXEC
    attr = Attr(perf_event.TYPE_SOFTWARE, perf_event.COUNT_SW_DUMMY, flags=flags)
    with contextlib.ExitStack() as stack:
        try:
            dummy = PerfEvent(attr, pid=event.pid, cpu=-1)
            stack.callback(dummy.close)
            ring = Ring(dummy, mmap.PAGESIZE)
            stack.callback(ring.close)
            if sends:
                event.output_to(dummy)
        except OSError:
            return None
        stack.pop_all()
    return dummy, ring


def _over(fds: Iterable[int]) -> set[int]:
    """Return the events that no task has any more."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, 0)
    return {fd for fd, event in poll.poll(0) if event & (select.POLLHUP | select.POLLERR)}


def _close(dummy: tuple[PerfEvent, Ring]) -> None:
    dummy[1].close()
    dummy[0].close()
