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
from collections.abc import Callable, Iterator
from types import FrameType

from ksym.errors import KsymError
from ksym.linux.cpus import CpuEvents
from ksym.watch.arm import ArmedWatch
from ksym.watch.guard import LOOK_SECONDS, Guard
from ksym.watch.launch import Command
from ksym.watch.presence import Presence

ROUND_SECONDS = 0.1
"""How long a row may wait to be shown, and records to be merged."""
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
        self._wake, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: dict[int, object] = {}

    def __enter__(self) -> Signals:
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

    def _close(self) -> None:
        os.close(self._wake)
        os.close(self._write)


class Undisturbed(Signals):
    """Signals stay the caller's; what they would wake up is looked at every moment."""

    def __enter__(self) -> Undisturbed:
        return self

    def wait(self) -> bool:
        """See Signals."""
        time.sleep(0.001)
        return True

    def __exit__(self, *exception: object) -> None:
        self._close()


class Run:
    """The life of an armed watch.

    Args:
        armed: What is planted; enabled by ``rounds``.
        signals: Installed handlers.
        command: COMMAND, let go once armed.
        pid: A process whose end ends the run.
        duration: Seconds after which the run ends.
        every: Seconds between rounds that the caller wants, whatever happens.
        fixed_cpus: The user chose the CPUs (-C): others that come are not covered.
        guard: Disarms what costs too much; None: nobody does.
        presence: Tells what is not there any more.
    """

    def __init__(
        self,
        armed: ArmedWatch,
        signals: Signals,
        *,
        command: Command | None = None,
        pid: int | None = None,
        duration: float | None = None,
        every: float = ROUND_SECONDS,
        fixed_cpus: bool = False,
        guard: Guard | None = None,
        presence: Presence | None = None,
    ) -> None:
        self._armed, self._signals, self._command = armed, signals, command
        self._duration, self._every = duration, every
        self._guard, self._presence = guard, presence or Presence(())
        self._cpu_events: CpuEvents | None = None
        self._pidfd = -1
        if pid is not None and command is None:
            # pidfd_open(2) came in 5.3; before it the end of the process is seen at the next round.
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(pid)
        self._pid = pid if command is None else None
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
            if self._command:
                self._command.go()

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

    def close(self) -> None:
        """Close what it waited for; after the rounds there is nothing left to close."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._cpu_events:
            self._cpu_events.close()
            self._cpu_events = None

    def _loop(self) -> Iterator[None]:
        cpu_events = self._cpu_events
        poll = select.poll()
        poll.register(self._signals.fileno(), select.POLLIN)
        if self._pidfd >= 0:
            poll.register(self._pidfd, select.POLLIN)
        if cpu_events:
            poll.register(cpu_events.fileno(), select.POLLIN)
        rings = self._register_rings(poll, set())
        deadline = self._deadline
        due = self.armed_at + self._every
        self._look = self.armed_at + LOOK_SECONDS
        while not self._over():
            now = time.monotonic()
            until = due if deadline is None else min(due, deadline)
            if self._guard or self._presence:
                until = min(until, self._look)
            wait = 0.0 if self.behind else min(max(0.0, until - now), _LONGEST_WAIT_SECONDS)
            events = poll.poll(wait * 1000)
            woken = {fd for fd, _ in events}
            for fd, event in events:
                # The thread that a ring's owner follows has ended: others still write into the ring, but its
                # descriptor would report that end for ever. The ring is read at the regular rounds.
                if event & select.POLLHUP and fd in rings:
                    poll.unregister(fd)
                    rings.discard(fd)
            self._signals.clear()
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

    def _over(self) -> bool:
        if self._signals.received:
            self.stop(self._signals.received.name)
        elif self._command and self._command.poll() is not None:
            self.stop("COMMAND ended")
        elif self._pid is not None and self._process_gone(self._pid):
            self.stop(f"process {self._pid} ended")
        elif self._deadline is not None and time.monotonic() >= self._deadline:
            self.stop("duration over")
        return self._stopped

    def _process_gone(self, pid: int) -> bool:
        if self._pidfd >= 0:
            return _readable(self._pidfd, 0)
        return not os.path.exists(f"/proc/{pid}")

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
        for message in told:
            self._note(message)
        off = self._gone | (self._guard.disarmed if self._guard else set())
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
