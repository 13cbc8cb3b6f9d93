# SPDX-License-Identifier: BSD-2-Clause
"""`ksym.trace`: accesses as they are made, as the command of that name shows them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksym.api import arguments
from ksym.api.turns import Turns
from ksym.capture.access import Access as Caught
from ksym.errors import KsymError
from ksym.linux.clock import wall_offset
from ksym.program.wants import Sink, Wants
from ksym.runs.live import Live
from ksym.runs.planting import TWINS, Planting
from ksym.runs.session import Asked, Session, open_session
from ksym.watch.arm import Options
from ksym.watch.run import Undisturbed

if TYPE_CHECKING:
    from ksym.capture.decoders import Plain
    from ksym.views.summary import Tally


@dataclass(frozen=True, slots=True)
class Access:
    """One access; the names are those of ``ksym trace --format json``, and None stands for what is not known.

    Args:
        time_ns: Nanoseconds since the epoch.
        address: Of the bytes that were accessed, as a number; so are ``ip`` and ``instruction_address``.
        length: Bytes of the variable.
        access: ``R``, ``W``, ``RW``, ``X``, or ``?`` where it cannot be known.
        old: The variable before the access: a number, bool, string, list or dict, by its type.
        new: The variable after it.
        offset: Of ``ip`` in ``function``.
        hits: Traps that the access took.
        stack: The call chain, innermost first.
        module: The kernel module, program or library of ``function``.
    """

    time_ns: int
    cpu: int
    pid: int
    tid: int
    comm: str
    symbol: str
    address: int
    length: int
    access: str
    old: Plain | None
    new: Plain | None
    ip: int
    function: str | None
    offset: int | None
    instruction: str | None
    hits: int
    stack: tuple[str, ...] | None
    module: str | None
    instruction_address: int | None
    uid: int | None


def _access(caught: Caught, clock_offset: int) -> Access:
    site, named = caught.site, caught.site.named
    instruction = site.instruction
    return Access(
        caught.time_ns + clock_offset, caught.cpu, caught.pid, caught.tid, caught.comm, caught.watch.name,
        caught.address, caught.watch.variable.length, caught.access,
        caught.old.plain if caught.old else None, caught.new.plain if caught.new else None,
        site.ip, named.function, None if named.function is None else named.offset,
        instruction.text if instruction else None, caught.hits,
        tuple(map(str, caught.stack)) if caught.stack else None, named.owner,
        instruction.address if instruction else None, caught.uid,
    )  # fmt: skip


class Accesses:
    """The accesses of a run, in order of time: iterate over it. Made by `trace`.

    Several threads may take accesses at once: each access goes to one of them. A forked child may not, as the watch is
    its parent's: there every method raises KsymError, and the end of the block does nothing.
    """

    def __init__(self, session: Session, limit: int | None) -> None:
        self._session, self._live = session, Live(session, limit=limit)
        self._clock_offset = wall_offset()
        self._waiting: deque[Caught] = deque()
        self._tally: Tally | None = None
        self._status: int | None = None
        self._batches = self._live.batches()
        self._turns = Turns()
        """Lets one thread at a time wait for accesses and decode them."""
        self._owner = os.getpid()
        self._ended = False

    def __iter__(self) -> Iterator[Access]:
        return self

    def __next__(self) -> Access:
        """The next access; waits for it while the run goes on.

        Raises:
            StopIteration: the run is over (its limit, its duration, the end of the command, the process, the block).
            KsymError: this process is a fork of the one that watches, or a signal handler asks in the midst of it.
        """
        self._check_owner()
        while True:
            found = self._take_one()
            if found:
                return _access(found, self._clock_offset)
            with self._turns:
                if not self._waiting:
                    self._waiting.extend(next(self._batches))

    def ready(self) -> list[Access]:
        """Return the accesses that were caught up to now and not taken yet.

        Does not wait for accesses; while another thread does, it waits for the turn of this one (0.1 s at most).

        Raises:
            KsymError: see `__next__`.
        """
        self._check_owner()
        with self._turns:
            if not self._ended:
                self._waiting.extend(self._live.now())
        return [_access(caught, self._clock_offset) for caught in iter(self._take_one, None)]

    def _take_one(self) -> Caught | None:
        """The next access that waits; one call of C code takes it, so that no two threads get the same."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def stop(self) -> None:
        """End the run; what was caught can still be taken.

        Raises:
            KsymError: this process is a fork of the one that watches.
        """
        self._check_owner()
        self._session.run.stop("asked to")

    @property
    def tally(self) -> Tally:
        """The counts of the run, checked against the hardware's counters: accesses, hits, lost and so on.

        Raises:
            KsymError: see `__next__`.
        """
        self._check_owner()
        with self._turns:
            if self._tally:
                return self._tally
            # In this order: what is still in a ring has been counted, and is not lost.
            counted = self._session.armed.counts()
            self._waiting.extend(self._live.now())
            return self._count(counted)

    def _check_owner(self) -> None:
        here = os.getpid()
        if here != self._owner and not self._ended:
            raise KsymError(
                "cannot take accesses",
                f"this trace belongs to process {self._owner}, of which process {here} is a fork",
                "take them there, or call ksym.trace here",
            )  # fmt: skip

    @property
    def status(self) -> int | None:
        """The command's exit status, as shells have it; None before the end of the block, and without a command."""
        return self._status

    def _count(self, counted: list[int] | None = None) -> Tally:
        return self._live.tally([*self._session.notes(verbose=False), *self._live.remarks()], counted)

    def _end(self) -> None:
        if os.getpid() != self._owner:
            return
        self._session.run.stop("the block was left")  # so that a thread that waits for accesses ends its turn
        with self._turns:
            try:
                self._batches.close()  # which disarms, if it has begun
                self._session.armed.disable()
                self._waiting.extend(self._live.rest())
                status = self._session.status()
                self._status = status if self._session.command else None
                self._tally = self._count()
            finally:
                self._ended = True
                self._live.close()


@contextmanager
def trace(
    *requests: str,
    command: Sequence[str] | None = None,
    pid: int | Iterable[int] | None = None,
    cpus: Iterable[int] | None = None,
    condition: str | None = None,
    stacks: bool = False,
    kernel_accesses: bool = False,
    limit: int | None = None,
    duration: float | None = None,
    twin: str = "auto",
    bpf: bool = True,
    guard: float | None = None,
    vmlinux: str | os.PathLike[str] | None = None,
) -> Iterator[Accesses]:
    """Watch variables for as long as the ``with`` block runs.

    Everything is planted when the block begins and given back when it ends. What was caught until then can be taken
    in the block or behind it. The arguments are the options of ``ksym trace``.

    Args:
        requests: What to watch, e.g. ``"pid_max:-w-"``.
        command: A program and its arguments, watched from before its first instruction; ended with the block.
        pid: This process, or these: all their threads, and those to come.
        cpus: These CPUs only.
        condition: A condition for every request.
        stacks: Call chains.
        kernel_accesses: A user variable's accesses made by the kernel, too.
        limit: End after exactly so many accesses.
        duration: End after so many seconds.
        twin: ``auto``, ``on`` or ``off``.
        bpf: Whether programs may be used; without them there are no values.
        guard: Percent of a CPU's time that hits may take before a watch is disarmed; 0: any. Left out: 25 for kernel
            variables without ``pid``.
        vmlinux: A vmlinux or System.map of this kernel.

    Raises:
        KsymError: it cannot be done; nothing is left planted, and the command has not run.
    """
    asked = Asked(
        arguments.requests(requests), arguments.text("condition", condition), arguments.pids(pid),
        arguments.cpus(cpus), arguments.command(command), kernel_accesses,
        arguments.number("duration", duration, 0, 1e9, above=True),
        None if vmlinux is None else arguments.path("cannot watch", "vmlinux", vmlinux),
    )  # fmt: skip
    arguments.whole("limit", limit, 1)
    arguments.number("guard", guard, 0, 100)
    if twin not in TWINS:
        raise arguments.wrong(f"twin is {twin!r}", f"it is one of {', '.join(TWINS)}")
    options = Options(stacks=stacks, kernel_accesses=kernel_accesses)
    planting = Planting(options, Wants(Sink.RECORD), twin, bpf, guard)
    with open_session(asked, planting, signals=Undisturbed()) as session:
        accesses = Accesses(session, limit)
        try:
            session.run.arm()
            yield accesses
        finally:
            accesses._end()
