# SPDX-License-Identifier: BSD-2-Clause
"""One run, from armed to over: what it waits for, what ends it, which CPUs come and go.

The run is a loop of rounds. Each round waits for the first of: a ring that fills up, a signal, the end of
COMMAND or of the watched process, a CPU that comes or goes, the next deadline. What a round does with the
rings or counters is the caller's business.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Protocol

from ksym.errors import KsymError
from ksym.linux.cpus import CpuEvents
from ksym.symbols.variable import Space
from ksym.watch.arm import ArmedWatch
from ksym.watch.guard import LOOK_SECONDS, Guard
from ksym.watch.launch import Command
from ksym.watch.presence import Presence
from ksym.watch.whereabouts import Whereabouts

ROUND_SECONDS = 0.1
"""How long a row may wait to be shown, and records to be merged."""
_EXEC_MILLISECONDS = 100.0
"""How long to wait for the end of an exec, once COMMAND has ended."""
_LONGEST_WAIT_SECONDS = 3600.0
"""poll(2) takes an int of milliseconds."""

_IMPATIENCE_SECONDS = 1.0
"""A second Ctrl-C within this may be the first one's: sent to the group and to ksym, by a terminal and a parent."""


class Signals:
    """SIGINT, SIGTERM, SIGHUP as an orderly end; all of them wake a poll. A later SIGINT interrupts for real."""

    _ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._wake = self._write = -1
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
        self._open()
        for number in self._ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
                self._before[number] = signal.signal(number, self._handle)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._since = signal.Signals(number), now
        elif number == signal.SIGINT and now - self._since > _IMPATIENCE_SECONDS:
            raise KeyboardInterrupt

    def fileno(self) -> int:
        """Readable after a signal."""
        return self._wake

    def clear(self) -> None:
        """Consume the wake-ups."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake, 4096):
                pass

    def wait(self) -> bool:
        """Wait for any signal, SIGCHLD included; False once one came that ends the run."""
        if self.received is None:
            _readable(self._wake, None)
            self.clear()
        return self.received is None

    def __exit__(self, *exception: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._close()

    def _open(self) -> None:
        """Open the pipe by which a signal wakes a poll; not before it is certain that somebody closes it."""
        self._wake, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def _close(self) -> None:
        os.close(self._wake)
        os.close(self._write)
        self._wake = self._write = -1


class Undisturbed(Signals):
    """Signals stay the caller's; what they would wake up is looked at every moment."""

    def __enter__(self) -> Undisturbed:
        self._open()
        return self

    def wait(self) -> bool:
        """See Signals."""
        time.sleep(0.001)
        return True

    def __exit__(self, *exception: object) -> None:
        self._close()


class Follower(Protocol):
    """Keeps watching user variables as processes start, run other programs, map and unmap files."""

    def begin(self) -> None:
        """Begin, once everything is armed."""
        ...

    def fileno(self) -> int:
        """Return a descriptor that is readable when there is something to `follow`; -1: there is none."""
        ...

    def follow(self) -> list[str]:
        """Do what has come up; return what to tell of it."""
        ...

    def look(self) -> list[str]:
        """To be called every LOOK_SECONDS; return what to tell."""
        ...

    def notes(self) -> list[str]:
        """Return what the summary tells of the whole run."""
        ...

    def unwatched(self) -> set[int]:
        """Return the numbers of the user variables that are watched nowhere, and will not be any more."""
        ...

    def survivors(self) -> list[tuple[int, str]]:
        """Return the PID and name of each process that has a watched variable and was not named by the user."""
        ...

    def close(self) -> None:
        """Hold nobody any more."""
        ...


class Run:
    """The life of an armed watch.

    Args:
        armed: What is planted; enabled by ``rounds``.
        signals: Installed handlers.
        command: COMMAND, let go once armed.
        pids: Processes whose end ends the run, once nothing that they started has a watched variable any more.
        duration: Seconds after which the run ends.
        every: Seconds between rounds that the caller wants, whatever happens.
        fixed_cpus: The user chose the CPUs (-C): others that come are not covered.
        guard: Disarms what costs too much; None: nobody does.
        presence: Tells what is not there any more.
        whereabouts: Tells what leads elsewhere meanwhile.
        follower: Follows the processes of user variables.
    """

    def __init__(
        self,
        armed: ArmedWatch,
        signals: Signals,
        *,
        command: Command | None = None,
        pids: Sequence[int] = (),
        duration: float | None = None,
        every: float = ROUND_SECONDS,
        fixed_cpus: bool = False,
        guard: Guard | None = None,
        presence: Presence | None = None,
        whereabouts: Whereabouts | None = None,
        follower: Follower | None = None,
    ) -> None:
        self._armed, self._signals, self._command = armed, signals, command
        self._follower = follower
        self._duration, self._every = duration, every
        self._guard, self._presence = guard, presence or Presence(())
        self._whereabouts = whereabouts or Whereabouts(())
        self._cpu_events: CpuEvents | None = None
        self._pids = {} if command else {pid: _pidfd(pid) for pid in pids}
        """The processes that still run, each with its pidfd; -1 where there is none."""
        self._named_pids = bool(self._pids)
        self._whose = "COMMAND" if command else _named("process", "processes", map(str, pids))
        self._waits = False
        self._poll: select.poll | None = None
        self._cpus = set(armed.scope.cpus)
        self._chosen_cpus = frozenset(armed.scope.cpus) if fixed_cpus else None
        self._deadline: float | None = None
        self._look = 0.0
        """When to look next whether a watch costs too much."""
        self._stopped = False
        self._gone: set[int] = set()
        self.notes = [watch.variable.remark for watch in armed.plan.watches if watch.variable.remark]
        """What was missed and why, for the summary."""
        self.on_note: Callable[[str], None] = lambda note: None
        """Told of each note at once."""
        self.on_mapped: Callable[[bytes], None] = lambda records: None
        """Called with new mapping records as soon as they arrive, before the rounds; also, maybe with none, before ksym
        looks at a process whose code may have changed."""
        self.on_wait: Callable[[str], None] = lambda text: None
        """Told once why the run goes on though COMMAND, or the process that was named, has ended."""
        self.armed_at = 0.0
        self.ended_by = ""
        self.behind = False
        """Set by who has not done all that came with the last rounds: the next one does not wait."""

    def signalled(self) -> bool:
        """Whether a signal has come that ends the run."""
        return self._signals.received is not None

    def held_up(self) -> bool:
        """Look after the run while a reader takes nothing; return True if a signal asks to give up waiting.

        The guard must not wait for a reader, nor the registers when the run is over.
        """
        now = time.monotonic()
        if now >= self._look:
            self.look()
            self._look = now + LOOK_SECONDS
        if self._over():
            self._armed.release()
        return self.signalled()

    def stop(self, why: str) -> None:
        """End the run after this round."""
        self._stopped = True
        self.ended_by = self.ended_by or why

    def arm(self) -> None:
        """Arm and start COMMAND, for who wants that before the first round; a second time it does nothing.

        Raises:
            CommandError: COMMAND could not be executed.
        """
        if not self.armed_at:
            self._hear_of_cpus()  # before COMMAND, which may take one away at once
            self._armed.enable()
            self.armed_at = time.monotonic()
            if self._duration is not None:
                self._deadline = self.armed_at + self._duration
            if self._follower:
                self._follower.begin()
            if self._command:
                self._command.go()
            if self._follower:
                self._tell(self._follower.follow())

    def rounds(self) -> Iterator[None]:
        """Arm, start COMMAND, and yield once a round until the run is over; then disarm.

        Raises:
            CommandError: COMMAND could not be executed.
        """
        try:
            self.arm()
            yield from self._loop()
        finally:
            self._armed.disable()
            self.close()
        self.look(over=True)
        if self._follower:
            self.notes += self._follower.notes()
        if self._waits and (left := self._survivors()):
            verb = "runs" if left.startswith("process ") else "run"
            self._note(f"{left} still {verb} with {self._names()}, not watched any more")

    def close(self) -> None:
        """Close what it waited for; after the rounds there is nothing left to close."""
        for pidfd in self._pids.values():
            if pidfd >= 0:
                os.close(pidfd)
        self._pids = {}
        if self._follower:
            self._follower.close()
        if self._cpu_events:
            self._cpu_events.close()
            self._cpu_events = None

    def _loop(self) -> Iterator[None]:
        cpu_events = self._cpu_events
        poll = self._poll = select.poll()
        poll.register(self._signals.fileno(), select.POLLIN)
        for pidfd in self._pids.values():
            if pidfd >= 0:
                poll.register(pidfd, select.POLLIN)
        follower = self._follower
        holds = follower.fileno() if follower else -1
        if holds >= 0:
            poll.register(holds, select.POLLIN)
        lives: set[int] = set()
        if cpu_events:
            poll.register(cpu_events.fileno(), select.POLLIN)
        rings = self._register_rings(poll, set())
        early = self._armed.early.fds() if self._armed.early else set()
        for fd in early:
            poll.register(fd, select.POLLIN)
        deadline = self._deadline
        due = self.armed_at + self._every
        self._look = self.armed_at + LOOK_SECONDS
        while not self._over():
            if self._waits:
                lives = _watch_ends(poll, lives, self._armed.lives.fds())
            now = time.monotonic()
            until = due if deadline is None else min(due, deadline)
            if self._guard or self._presence or self._whereabouts or follower:
                until = min(until, self._look)
            wait = 0.0 if self.behind else min(max(0.0, until - now), _LONGEST_WAIT_SECONDS)
            events = poll.poll(wait * 1000)
            woken = {fd for fd, _ in events}
            if woken & early:
                self._hear_of_mappings()
            for fd, event in events:
                # The thread that a ring's owner follows has ended: others still write into the ring, but its
                # descriptor would report that end for ever. The ring is read at the regular rounds.
                if event & select.POLLHUP and fd in rings | early:
                    poll.unregister(fd)
                    rings.discard(fd)
                if event & select.POLLHUP and fd in lives:
                    poll.unregister(fd)
                    lives.discard(fd)
            self._signals.clear()
            if holds in woken and follower:
                self._follow(follower)
                if follower.fileno() < 0:
                    poll.unregister(holds)
            if time.monotonic() >= self._look:
                self.look()
                self._look = time.monotonic() + LOOK_SECONDS
            if cpu_events and cpu_events.fileno() in woken:
                self.follow_cpus(cpu_events.take())
                rings = self._register_rings(poll, rings)
                self.look()  # what came may tell of a module that goes: its memory is soon somebody else's
            now = time.monotonic()
            if now >= due or woken & rings or self.behind:
                due = max(due + self._every, now) if now >= due else due
                yield

    def _follow(self, follower: Follower) -> None:
        self._hear_of_mappings()
        self._tell(follower.follow())

    def _hear_of_mappings(self) -> None:
        if self._armed.early:
            self.on_mapped(self._armed.early.take())

    def _over(self) -> bool:
        if self._signals.received:
            self.stop(self._signals.received.name)
        elif self._ended() and not self._lives_on():
            self.stop(f"{self._whose} ended")
        elif self._deadline is not None and time.monotonic() >= self._deadline:
            self.stop("duration over")
        return self._stopped

    def _ended(self) -> bool:
        """Return True if COMMAND has ended, or all processes that were named."""
        if self._command:
            return self._command.poll() is not None
        for pid, pidfd in list(self._pids.items()):
            if _readable(pidfd, 0) if pidfd >= 0 else not os.path.exists(f"/proc/{pid}"):
                del self._pids[pid]
                if pidfd >= 0:
                    if self._poll:
                        self._poll.unregister(pidfd)
                    os.close(pidfd)
        return self._named_pids and not self._pids

    def _lives_on(self) -> bool:
        """Return True while something that was started there still has a watched variable."""
        if self._follower is None or not (self._armed.lives.living() or self._runs_again(self._follower)):
            return False
        if not self._waits:
            self._waits = True
            who = self._survivors() or "a process that it started"
            self.on_wait(f"{self._whose} ended; {who} still has {self._names()}; Ctrl-C ends")
        return True

    def _runs_again(self, follower: Follower) -> bool:
        """Return True if what seemed to be the last process's end is an exec of the program.

        The kernel takes the events of a process off in the midst of exec, before the process can be held at its end.
        """
        holds = follower.fileno()
        if not self._waits or holds < 0 or not _readable(holds, _EXEC_MILLISECONDS):
            return False
        self._follow(follower)
        return bool(self._armed.lives.living())

    def _survivors(self) -> str:
        found = self._follower.survivors() if self._follower else []
        return _named("process", "processes", (f"{pid} ({name})" for pid, name in found))

    def _names(self) -> str:
        watches = self._armed.plan.watches
        return ", ".join(watch.name for watch in watches if watch.variable.space is Space.USER)

    def _register_rings(self, poll: select.poll, before: set[int]) -> set[int]:
        now = self._armed.ring_fds()
        for fd in before - now:
            poll.unregister(fd)
        for fd in now - before:
            poll.register(fd, select.POLLIN)
        return now

    def _hear_of_cpus(self) -> None:
        if not self._armed.options.counting or self._armed.any_system_wide:
            # Without the socket (a network namespace that has none), CPUs are not followed.
            with contextlib.suppress(OSError):
                self._cpu_events = CpuEvents()

    def follow_cpus(self, changes: list[tuple[str, int]]) -> None:
        """Cover CPUs that come; an offline CPU's events are dead even if it is back by now."""
        for action, cpu in changes:
            if cpu in self._cpus and action == "offline":
                self._armed.drop_cpu(cpu)
                self._cpus.discard(cpu)
                self._note(f"CPU {cpu} went offline")
            elif action == "online" and cpu not in self._cpus and self._wanted(cpu):
                self._cover(cpu)

    def look(self, *, over: bool = False) -> None:
        """To be called every LOOK_SECONDS: whether a watch costs too much, or its variable has gone.

        Args:
            over: It is the last time.
        """
        told = self._guard.look(over=over) if self._guard else []
        for index, message in self._presence.look():
            self._armed.disable(index)
            self._gone.add(index)
            told.append(message)
        if self._follower and not over:
            self._hear_of_mappings()
            told += self._follower.look()
        self._tell([*told, *self._whereabouts.look(over=over)])

    def _tell(self, told: list[str]) -> None:
        for message in told:
            self._note(message)
        off = self._gone | (self._guard.disarmed if self._guard else set())
        if self._follower:
            off |= self._follower.unwatched()
        if told and len(off) == len(self._armed.plan.watches) and self._command is None:
            self.stop("nothing is watched any more")

    @property
    def disarmed(self) -> int:
        """How many watches the guard took off."""
        return len(self._guard.disarmed) if self._guard else 0

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self.on_note(text)

    def _wanted(self, cpu: int) -> bool:
        return self._chosen_cpus is None or cpu in self._chosen_cpus

    def _cover(self, cpu: int) -> None:
        try:
            self._armed.add_cpu(cpu)
        except KsymError as error:
            self._note(f"CPU {cpu} came online and is NOT watched: {error.why}")
        else:
            self._cpus.add(cpu)
            self._note(f"CPU {cpu} came online; its first moments were not watched")


def _readable(fd: int, milliseconds: float | None) -> bool:
    """Wait for ``fd``; select(2) would take none above 1023, and many threads need many descriptors."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(milliseconds))


def _pidfd(pid: int) -> int:
    """Return a descriptor that is readable once the process has ended; -1 before Linux 5.3, which has none."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1


def _watch_ends(poll: select.poll, before: set[int], now: set[int]) -> set[int]:
    """Let ``poll`` report the ends of those that have not been reported yet."""
    over = select.poll()
    for fd in now:
        over.register(fd, 0)
    left = now - {fd for fd, _ in over.poll(0)}
    for fd in before - left:
        with contextlib.suppress(KeyError):
            poll.unregister(fd)
    for fd in left - before:
        poll.register(fd, 0)
    return left


def _named(one: str, many: str, names: Iterable[str]) -> str:
    """``process 7``, ``processes 7, 8``; empty where there are none."""
    words = list(names)
    return f"{one if len(words) == 1 else many} {', '.join(words)}" if words else ""
