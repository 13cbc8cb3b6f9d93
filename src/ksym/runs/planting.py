# SPDX-License-Identifier: BSD-2-Clause
"""From variables to an armed watch: conditions bound, twins where registers are free, programs where BPF is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ksym.errors import NoRegisters
from ksym.language.request import Mode, Request
from ksym.symbols.variable import Variable
from ksym.watch.arm import ArmedWatch, Options
from ksym.watch.guard import DEFAULT_PERCENT, Guard, Limit, measure
from ksym.watch.plan import READ_REGISTERS, Plan, Scope, Watch, make_plan
from ksym.watch.registers import both_fire

if TYPE_CHECKING:
    from ksym.language.condition import Condition
    from ksym.program.engine import Engine
    from ksym.program.wants import Wants
    from ksym.runs.resources import Resources
    from ksym.symbols.kernel import Kernel

TWINS = ("auto", "on", "off")


class Planting(NamedTuple):
    """How to plant.

    Args:
        options: See ArmedWatch.
        wants: What programs are to do; None: none is needed.
        twin: One of TWINS.
        bpf: Whether programs may be used.
        guard: Percent of a CPU's time that hits may take; 0: any. None: the usual, for watches planted on CPUs:
            what one process does to a variable of its own costs that process alone.
        verbose: Show what the verifier says of a program that it refuses.
        instead: A watch that gives way to this one; see ArmedWatch.
    """

    options: Options
    wants: Wants | None
    twin: str = "auto"
    bpf: bool = True
    guard: float | None = None
    verbose: bool = False
    instead: ArmedWatch | None = None


class Planted(NamedTuple):
    """What was planted.

    Args:
        armed: The watch.
        guard: Over it; None where it needs none.
        lacking: What this machine does not allow, in words.
    """

    armed: ArmedWatch
    guard: Guard | None
    lacking: list[str]


def plant(
    found: Sequence[tuple[Request, Variable]],
    conditions: Sequence[Condition | None],
    scope: Callable[[], Scope],
    planting: Planting,
    stack: Resources,
    kernel: Kernel,
) -> Planted:
    """Plant a run.

    Args:
        found: The requests and what they mean.
        conditions: Of each, bound.
        scope: Where.
        planting: How.
        stack: Takes what is to be closed.
        kernel: For the way to user memory.

    Raises:
        KsymError: it cannot be planted, or not without something that this machine lacks.
    """
    plans = [make_plan(found, twin=twin, conditions=conditions) for twin in _twins(found, planting)]
    guarded = tuple(_guarded(watch, scope(), planting.guard) for watch in plans[0].watches)
    fire = True
    if any(watch.twin for watch in plans[0].watches):
        fire = both_fire(system_wide=any(scope().system_wide(watch) for watch in plans[0].watches))
    if not fire and len(plans) > 1:
        del plans[0]  # an instruction that reads and writes would pass for a read
    limit = None
    for plan in plans:
        engine, lacking = _engine(plan, planting, guarded, kernel)
        if engine is not None:
            stack.hold(engine.close)
        options = replace(planting.options, both_fire=fire)
        if any(guarded):
            limit = limit or Limit(
                planting.guard or DEFAULT_PERCENT, measure(with_program=engine is not None)
            )
            options = replace(options, stops_on_demand=limit.cost.stops_on_demand)
        try:
            armed = ArmedWatch(plan, scope, options, engine, instead=planting.instead)
        except NoRegisters:
            if plan is plans[-1]:
                raise
            if engine is not None:
                engine.close()
            continue
        stack.hold(armed.close, drop=armed.drop)
        return Planted(armed, Guard(armed, limit, guarded) if limit else None, lacking)
    raise AssertionError("there is always a plan")


def _engine(
    plan: Plan, planting: Planting, guarded: tuple[bool, ...], kernel: Kernel
) -> tuple[Engine | None, list[str]]:
    if planting.wants is None:
        return None, []
    from ksym.runs.engines import engine_for

    return engine_for(plan, planting, guarded, kernel)


def _guarded(watch: Watch, scope: Scope, percent: float | None) -> bool:
    return scope.system_wide(watch) if percent is None else percent > 0


def _twins(found: Sequence[tuple[Request, Variable]], planting: Planting) -> list[bool]:
    """Whether to plan with twins, in the order in which to try."""
    if planting.twin == "on":
        return [True]
    both = any(request.mode is Mode.READ_WRITE for request, _ in found)
    # Where the trap tells the instruction itself, as where reads have registers of their own, that tells enough.
    if planting.twin == "off" or not both or READ_REGISTERS:
        return [False]
    return [True, False]
