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
from ksym.capture.access import Access as Caught
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
    """What is caught, in order of time: iterate over it. Made by `trace`."""

    def __init__(self, session: Session, limit: int | None) -> None:
        self._session, self._live = session, Live(session, limit=limit)
        self._clock_offset = wall_offset()
        self._waiting: deque[Caught] = deque()
        self._tally: Tally | None = None
        self._status: int | None = None
        self._batches = self._live.batches()

    def __iter__(self) -> Iterator[Access]:
        return self

    def __next__(self) -> Access:
        """The next access; waits for it while the run goes on.

        Raises:
            StopIteration: the run is over (its limit, its duration, the end of the command, the process, the block).
        """
        while not self._waiting:
            self._waiting.extend(next(self._batches))
        return _access(self._waiting.popleft(), self._clock_offset)

    def ready(self) -> list[Access]:
        """What was caught up to now and not taken yet; does not wait."""
        if self._tally is None:
            self._waiting.extend(self._live.now())
        found = [_access(caught, self._clock_offset) for caught in self._waiting]
        self._waiting.clear()
        return found

    def stop(self) -> None:
        """End the run; what was caught can still be taken."""
        self._session.run.stop("asked to")

    @property
    def tally(self) -> Tally:
        """What was seen, held against the counters: accesses, hits, lost and so on."""
        return self._tally or self._count()

    @property
    def status(self) -> int | None:
        """The command's exit status, as shells have it; None before the end of the block, and without a command."""
        return self._status

    def _count(self) -> Tally:
        return self._live.tally([*self._session.notes(verbose=False), *self._live.remarks()])

    def _end(self) -> None:
        try:
            self._batches.close()  # which disarms, if it has begun
            self._session.armed.disable()
            self._waiting.extend(self._live.rest())
            status = self._session.status()
            self._status = status if self._session.command else None
            self._tally = self._count()
        finally:
            self._live.close()


@contextmanager
def trace(
    *requests: str,
    command: Sequence[str] | None = None,
    pid: int | None = None,
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
        pid: This process: all its threads, and those to come.
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
        arguments.requests(requests), arguments.text("condition", condition), arguments.whole("pid", pid, 1),
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
