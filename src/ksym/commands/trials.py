# SPDX-License-Identifier: BSD-2-Clause
"""What selftest does: plant a watch, touch the variable, and hold what was seen against what must be."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import NamedTuple

from ksym.capture.access import Access
from ksym.capture.judge import judges
from ksym.capture.merge import Merge
from ksym.capture.pipeline import Pipeline
from ksym.capture.sites import Sites
from ksym.capture.tasks import Tasks
from ksym.capture.values import Values
from ksym.commands.findings import LIMITED, programs_refused
from ksym.errors import KsymError, NoRegisters
from ksym.language.request import Request
from ksym.linux.cpus import online_cpus
from ksym.program.wants import Sink, Wants
from ksym.runs.engines import prepare
from ksym.runs.planting import Planting, plant
from ksym.runs.resources import Resources
from ksym.symbols.resolver import Resolver
from ksym.symbols.variable import Space, Variable
from ksym.watch.arm import Options
from ksym.watch.plan import KERNEL_IN_TASKS, Place, Scope

OK, FAILED, SKIPPED = "ok", "FAILED", "skipped"


class Way(NamedTuple):
    """How a trial is planted.

    Args:
        name: In words; empty for the plainest one.
        twin: Two registers, which tell reads from writes; else accesses are counted only.
        programs: They take values.
    """

    name: str = ""
    twin: bool = False
    programs: bool = False


COUNTED = Way()
TOLD_APART = Way("two registers", twin=True)
VALUES = Way("values", programs=True)
TOLD_APART_VALUES = Way("two registers, values", twin=True, programs=True)


class Trial(NamedTuple):
    """A watch, what is done to it, and the accesses that it must see.

    Args:
        what: What is done, in words.
        request: What is watched.
        variable: What that means here.
        touch: Does it.
        rows: The accesses, each as ``W 0 -> 7`` or ``R 7``.
        way: How to plant.
        prepare: Brings the variable into the state that ``rows`` begin with.
    """

    what: str
    request: Request
    variable: Variable
    touch: Callable[[], None]
    rows: tuple[str, ...]
    way: Way = COUNTED
    prepare: Callable[[], None] = lambda: None


class Outcome(NamedTuple):
    """How a trial went: OK, FAILED or SKIPPED, and the line that says so."""

    state: str
    text: str


def try_it(trial: Trial, resolver: Resolver) -> Outcome:
    """Plant, touch, compare."""
    name = ", ".join(filter(None, (trial.variable.name, str(trial.request.mode), trial.way.name, trial.what)))
    try:
        with Resources() as stack:
            return _tried(name, trial, resolver, stack)
    except NoRegisters as error:
        return Outcome(SKIPPED if trial.way.twin else FAILED, f"{name}: {error}")
    except KsymError as error:
        return Outcome(FAILED, f"{name}: {error}")


def _tried(name: str, trial: Trial, resolver: Resolver, stack: Resources) -> Outcome:
    only_here = KERNEL_IN_TASKS or trial.variable.space is Space.USER
    scope = Scope(
        tuple(online_cpus()), (Place(os.getpid(), (threading.get_native_id(),)),), only_threads=only_here
    )
    planting = Planting(
        Options(ring_bytes=1 << 16),
        Wants(Sink.RECORD),
        twin="on" if trial.way.twin else "off",
        bpf=trial.way.programs,
        guard=0,
    )
    found = [(trial.request, trial.variable)]
    armed, _, lacking = plant(found, (None,), lambda: scope, planting, stack, resolver.kernel)
    if lacking:
        expected = programs_refused(kernel=trial.variable.space is Space.KERNEL) == LIMITED
        return Outcome(SKIPPED if expected else FAILED, f"{name}: {lacking[0]}")
    trial.prepare()
    prepare(armed, resolver)
    merge = Merge(armed.rings, chains=False, raw=armed.engine is not None)
    # No names and no decoding: what is asked here is what the registers and the programs tell.
    sites = Sites(lambda: None, lambda: None, None)
    values = [Values(trial.variable)] if armed.engine else ()
    pipeline = Pipeline(armed.planned, sites, Tasks(), values=values, judges=judges(armed))
    armed.enable()
    trial.touch()
    armed.disable()
    accesses = pipeline.take(merge.ready(last=True), until=None)
    return _compared(name, trial, accesses, armed.counts()[0])


def _compared(name: str, trial: Trial, accesses: list[Access], counted: int) -> Outcome:
    rows, expected = [_row(access) for access in accesses], list(trial.rows)
    hits = sum(access.hits for access in accesses)
    good = hits == counted == len(expected)
    if not trial.way.twin and not trial.way.programs:
        text = f"{len(expected)} expected, {hits} seen, {counted} counted"
    else:
        good = good and rows == expected
        text = ", ".join(rows) or "nothing"
        if not good:
            text = f"{', '.join(expected)} expected, {text} seen, {counted} counted"
    return Outcome(OK if good else FAILED, f"{name}: {text}")


def _row(access: Access) -> str:
    old, new = access.old, access.new
    if new is None:
        return access.access
    if access.access == "R" and old == new:
        return f"R {new.text}"
    return f"{access.access} {old.text if old else '?'} -> {new.text}"
