# SPDX-License-Identifier: BSD-2-Clause
"""Recordings without a kernel: made-up rings, recorded as `ksym record` does it, and traced as `ksym trace` does it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ksym.__main__ import main
from ksym.capture.access import Access
from ksym.capture.instructions import Instruction
from ksym.capture.judge import judges
from ksym.capture.merge import Merge
from ksym.capture.pipeline import Pipeline
from ksym.capture.replaced import USER_SPACE
from ksym.capture.sites import Named, Site, Sites
from ksym.capture.tasks import Tasks
from ksym.capture.values import Values
from ksym.language.parser import parse_request
from ksym.recording.recorder import Recorder
from ksym.symbols.ctext import parse_type
from ksym.symbols.variable import Space, Variable
from ksym.views.rows import rows_for
from ksym.watch.arm import Options
from ksym.watch.plan import Plan, PlannedEvent, Role, Watch, make_plan
from ksym.watch.rings import SAMPLE_TYPE
from synthetic import perf

COUNTS: dict[str, Any] = {"hits": [0], "recorded": 0, "lost": 0, "no_room": 0, "rejected": 0, "suppressed": 0}
Code = dict[int, tuple[str, int, bool]]
"""What is at an address: accesses (``R``, ``W``, ``RW``, ``?`` for not known), size of each, whether it repeats."""


class FakeSites(Sites):
    """Sites of made-up code; a process that has run another program since has other functions."""

    def __init__(self, code: Code) -> None:
        super().__init__(lambda: None, lambda: None, None)
        self._code = code
        self._programs: dict[int, int] = {}

    def forget(self, pid: int, addresses: range = USER_SPACE) -> bool:
        if addresses == USER_SPACE:
            self._programs[pid] = self._programs.get(pid, 0) + 1
        return super().forget(pid, addresses)

    def _make(self, pid: int, ip: int, execute: bool, bits: int | None) -> Site:
        named = self.name(pid, ip, behind=not execute)
        accesses, size, repeats = self._code.get(ip, ("?", 0, False))
        bits = bits or 64
        if execute or accesses == "?":
            return Site(ip, ip, named, None, 0, bits=bits)
        text = f"{accesses.lower()} [{'rdx' if bits == 64 else 'edx'}]"
        start = ip if repeats else ip - 3  # what repeats itself has not ended yet
        instruction = Instruction(start, text, frozenset({accesses}), size, repeats)
        return Site(ip, start, named, instruction, size, repeats, bits)

    def _kernel_name(self, ip: int) -> Named:
        return Named(f"k{ip & 0xFF:x}", ip & 0xF, 64, "a module" if ip & 0x10 else None)

    def _user_name(self, pid: int, ip: int) -> Named:
        self._user_pids.add(pid)
        return Named(f"u{pid}_{self._programs.get(pid, 0)}", ip & 0xFFF, 0, "prog")


class FakeArmed:
    """What is planted, without planting: a ring for each CPU.

    Args:
        watches: What is watched.
        values: Programs write the records; else twins have two events.
        stacks: Records have call chains.
        cpus: How many rings.
    """

    def __init__(
        self, watches: Sequence[Watch], *, values: bool = True, stacks: bool = False, cpus: int = 2
    ) -> None:
        self.plan, self.options, self.engine = (
            Plan(tuple(watches)),
            Options(stacks=stacks),
            object() if values else None,
        )
        self.rings = [perf.FakeRing() for _ in range(cpus)]
        self.any_system_wide, self.sideband_ids = False, (1,)
        self.sample_type = SAMPLE_TYPE | (1 << 5 if stacks else 0) | (1 << 10 if values else 0)
        self.planned: dict[tuple[int, int], PlannedEvent] = {}
        for cpu in range(cpus):
            self.add(cpu)

    def add(self, cpu: int) -> None:
        """A CPU's events."""
        for watch in self.plan.watches:
            for number, piece in enumerate(watch.pieces):
                if self.engine:
                    self.planned[self.event(watch, cpu), number] = PlannedEvent(watch, piece, -1, cpu)
                    continue
                for role in watch.roles:
                    event = self.event(watch, cpu, number, role)
                    self.planned[event, 0] = PlannedEvent(watch, piece, 7, cpu, role)

    def event(self, watch: Watch, cpu: int, piece: int = 0, role: Role = Role.ONLY) -> int:
        """The identifier of an event."""
        if self.engine:
            return 100 + 10 * watch.index + cpu
        return 1000 + 100 * watch.index + 10 * piece + cpu + 1000 * list(Role).index(role)


class Recorded:
    """A recorder that is fed by hand.

    Args:
        path: The file.
        armed: What is planted.
        code: Made-up code.
        compressor: See Recorder.
    """

    def __init__(self, path: Path, armed: FakeArmed, code: Code | None = None, **options: Any) -> None:
        def open_file() -> int:
            if path.exists():
                path.replace(f"{path}.1")
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

        self._armed = armed
        users: Any = SimpleNamespace(
            mapped=lambda record: None, changed=lambda record: None, build_ids=dict[str, str],
            loaded=lambda pid: (),
        )  # fmt: skip
        # How often it is flushed, which leaves marks in the file, is not for a slow machine to decide.
        options.setdefault("flush_seconds", float("inf"))
        self.recorder = Recorder(
            cast(Any, armed), FakeSites(code or {}), users, pids=[os.getpid()], open_file=open_file, **options
        )

    def round(self) -> None:
        """Take what the rings have."""
        self.recorder.round(lambda: COUNTS)

    def finish(self) -> None:
        """End the file."""
        self.recorder.finish(COUNTS)
        self.recorder.close()


TOTAL = make_plan(
    [(parse_request("./prog:total"), Variable("./prog:total", 0x404000, 4, Space.USER, parse_type("int")))]
).watches[0]


def small_recording(path: Path, hits: int) -> None:
    """Record some hits of `TOTAL`."""
    armed = FakeArmed([TOTAL], values=False)
    recorded = Recorded(path, armed)
    event = armed.event(TOTAL, 0, 0, TOTAL.roles[0])
    armed.rings[0].put(*(perf.sample(1000 + at, cpu=0, event=event, ip=0x401000) for at in range(hits)))
    recorded.round()
    recorded.finish()


class Traced:
    """The same rings, traced.

    Args:
        armed: What is planted.
        code: Made-up code.
    """

    def __init__(self, armed: FakeArmed, code: Code | None = None) -> None:
        watches = armed.plan.watches
        values = [Values(watch.variable) for watch in watches] if armed.engine else ()
        self._pipeline = Pipeline(
            armed.planned, FakeSites(code or {}), Tasks(), values=values, judges=judges(cast(Any, armed))
        )
        self._merge = Merge(
            cast(Any, armed.rings), chains=armed.options.stacks, raw=bool(armed.engine), clock=lambda: 1 << 62
        )
        self.accesses: list[Access] = []

    def round(self, *, last: bool = False) -> None:
        """Take what the rings have."""
        self.accesses += self._pipeline.take(self._merge.ready(last=last), until=None if last else 0)


def rows_of(
    name: str, watches: Sequence[Watch], accesses: Sequence[Access], offset: int, *, verbose: bool = False
) -> str:
    """What trace prints, had its clock had that offset."""
    rows: Any = rows_for(name, watches, verbose=verbose)
    for clock in (rows, getattr(rows, "_clock", None)):
        if clock is not None and hasattr(clock, "_offset"):
            clock._offset = offset
    return str(rows.header()) + "".join(map(rows.row, accesses))


def ksym(*arguments: str) -> tuple[int, str, str]:
    """Run a command of ksym's in this process: its status, stdout and stderr."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        status = main(list(arguments))
    return status, out.getvalue(), error.getvalue()


def subsequence(part: Sequence[str], whole: Sequence[str]) -> bool:
    """Whether ``whole`` has all of ``part``, in its order."""
    left: Iterator[str] = iter(whole)
    return all(each in left for each in part)
