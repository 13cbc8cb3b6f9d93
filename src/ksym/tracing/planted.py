# SPDX-License-Identifier: BSD-2-Clause
"""One request of a tracing directory in the machine's registers: the engine of ``ksym trace``, without its loop."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from ksym.capture.access import Access
from ksym.language.request import Request
from ksym.program.wants import Sink, Wants
from ksym.runs.live import Live
from ksym.runs.planting import Planting
from ksym.runs.session import Asked, Session, open_session
from ksym.watch.arm import Options
from ksym.watch.plan import Watch
from ksym.watch.run import Undisturbed


class How(NamedTuple):
    """How requests are planted.

    Args:
        stacks: With call chains.
        twin: A second register tells reads from writes where one is free.
        bpf: Whether programs may be used.
        guard: Percent of a CPU's time that hits may take; 0: any; None: the usual.
        vmlinux: Where further names and types come from.
    """

    stacks: bool = False
    twin: bool = True
    bpf: bool = True
    guard: float | None = None
    vmlinux: str | None = None


class Planted:
    """A request that is planted; disabled at first.

    Args:
        request: What to watch.
        how: How.
        instead: One that gives way to it: its registers are taken over, as many as are needed. Closed before it is
            asked to `follow`, this one gives them back.

    Raises:
        KsymError: it cannot be planted; nothing is left behind, and ``instead`` goes on.
    """

    def __init__(self, request: Request, how: How, instead: Planted | None = None) -> None:
        self.request, self.how = request, how
        self._told: Callable[[str], None] = lambda note: None
        self._earlier = 0
        self._told_of_loss = False
        options = Options(stacks=how.stacks, gives_way=True)
        planting = Planting(
            options, Wants(Sink.RECORD), "auto" if how.twin else "off", bpf=how.bpf, guard=how.guard,
            instead=instead._session.armed if instead else None,
        )  # fmt: skip
        with ExitStack() as stack:
            asked = Asked([request.text], vmlinux=how.vmlinux)
            self._session: Session = stack.enter_context(open_session(asked, planting, signals=Undisturbed()))
            self._live = Live(self._session)
            stack.callback(self._live.close)
            self._stack = stack.pop_all()

    @property
    def watch(self) -> Watch:
        """What is watched."""
        return self._session.plan.watches[0]

    def follow(self, earlier: int, told: Callable[[str], None]) -> None:
        """Go on from a count, and tell of what is found to be wrong with it (the guard, a module that is gone)."""
        self._session.armed.settle()
        self._earlier, self._told = earlier, told
        self._session.run.on_note = told
        for note in (*self._session.lacking, *self._session.run.notes):
            told(note)

    def enable(self) -> None:
        """From here on every access is seen."""
        self._session.armed.enable()

    def disable(self) -> None:
        """No access is seen any more; the registers stay taken."""
        self._session.armed.disable()

    def take(self) -> list[Access]:
        """What was caught up to now, in order."""
        return self._live.now()

    def look(self) -> None:
        """See Run.look; tells once that hits have come faster than their records were taken."""
        self._session.run.look()
        if not self._told_of_loss and self._live.tally([]).no_room:
            self._told_of_loss = True
            self._told(
                f"hits of {self.watch.name} came too fast: not all are in the trace (ksym_profile has them)"
            )

    def follow_cpus(self, changes: list[tuple[str, int]]) -> None:
        """See Run.follow_cpus."""
        self._session.run.follow_cpus(changes)

    @property
    def ring_fds(self) -> set[int]:
        """Readable when a ring fills up."""
        return self._session.armed.ring_fds()

    @property
    def hits(self) -> int:
        """All hits since the request came, whatever has become of their records."""
        return self._earlier + sum(self._session.armed.counts())

    def close(self) -> None:
        """Give the registers back; it is of no use any more."""
        self._stack.close()
        # Its tables of symbols are large and refer to each other. What short runs leave to their end would pile up.
        del self._session, self._live
        gc.collect()
