# SPDX-License-Identifier: BSD-2-Clause
"""From variables to an armed watch: conditions bound, twins where registers are free, programs where BPF is allowed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ksym.errors import KsymError, NoRegisters
from ksym.language.condition import Condition
from ksym.language.request import Mode, Request
from ksym.linux.memory import Memory, MemoryFault
from ksym.linux.process_memory import ProcessMemory
from ksym.program.engine import Engine, EngineRefused, Wants, trips_itself
from ksym.program.watch_program import Sink
from ksym.symbols.functions import Functions
from ksym.symbols.kernel import Kernel
from ksym.symbols.resolver import Resolver
from ksym.symbols.variable import Space, Variable
from ksym.views.text import printable
from ksym.watch.arm import ArmedWatch, Options
from ksym.watch.guard import DEFAULT_PERCENT, Guard, Limit, measure
from ksym.watch.plan import Plan, Scope, Watch, make_plan
from ksym.watch.registers import both_fire

_LOG_LINES = 12
"""Of the verifier's log, from its end."""

TWINS = ("auto", "on", "off")


@dataclass(frozen=True)
class Planting:
    """How to plant.

    Args:
        options: See ArmedWatch.
        wants: What programs are to do; None: none is needed.
        twin: One of TWINS.
        bpf: Whether programs may be used.
        guard: Percent of a CPU's time that hits may take; 0: any. None: the usual, for watches planted on CPUs:
            what one process does to a variable of its own costs that process alone.
        verbose: Show what the verifier says of a program that it refuses.
    """

    options: Options
    wants: Wants | None
    twin: str = "auto"
    bpf: bool = True
    guard: float | None = None
    verbose: bool = False


@dataclass(frozen=True)
class Planted:
    """What was planted.

    Args:
        armed: The watch.
        guard: Over it; None where it needs none.
        lacking: What this machine does not allow, in words.
    """

    armed: ArmedWatch
    guard: Guard | None
    lacking: list[str]


def bind_conditions(
    found: Sequence[tuple[Request, Variable]], functions: Functions
) -> list[Condition | None]:
    """The condition of each request, with its names resolved.

    Raises:
        RequestError: one does not fit its variable.
    """
    conditions: list[Condition | None] = []
    for request, variable in found:
        if request.condition is None:
            conditions.append(None)
            continue
        from ksym.program.bind import bind

        space = variable.space
        conditions.append(
            bind(
                request.condition,
                variable,
                lambda name, space=space: functions.ranges(name, space),  # type: ignore[misc]
                request.place,
            )
        )
    return conditions


def plant(
    found: Sequence[tuple[Request, Variable]],
    conditions: Sequence[Condition | None],
    scope: Callable[[], Scope],
    planting: Planting,
    stack: ExitStack,
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
    limit = None
    for plan in plans:
        engine, lacking = _engine(plan, planting, guarded, kernel)
        if engine is not None:
            stack.callback(engine.close)
        options = planting.options
        if any(watch.twin for watch in plan.watches):
            system_wide = any(scope().system_wide(watch) for watch in plan.watches)
            options = replace(options, both_fire=both_fire(system_wide=system_wide))
        if any(guarded):
            limit = limit or Limit(
                planting.guard or DEFAULT_PERCENT, measure(with_program=engine is not None)
            )
            options = replace(options, stops_on_demand=limit.cost.stops_on_demand)
        try:
            armed = stack.enter_context(ArmedWatch(plan, scope, options, engine))
        except NoRegisters:
            if plan is plans[-1]:
                raise
            if engine is not None:
                engine.close()
            continue
        return Planted(armed, Guard(armed, limit, guarded) if limit else None, lacking)
    raise AssertionError("there is always a plan")


def _guarded(watch: Watch, scope: Scope, percent: float | None) -> bool:
    return scope.system_wide(watch) if percent is None else percent > 0


def _twins(found: Sequence[tuple[Request, Variable]], planting: Planting) -> list[bool]:
    """Whether to plan with twins, in the order in which to try."""
    if planting.twin == "on":
        return [True]
    both = any(request.mode is Mode.READ_WRITE for request, _ in found)
    if planting.twin == "off" or not both:
        return [False]
    return [True, False]


def _engine(
    plan: Plan, planting: Planting, guarded: tuple[bool, ...], kernel: Kernel
) -> tuple[Engine | None, list[str]]:
    """The programs of a plan; where there can be none, what is missing without them.

    Raises:
        KsymError: the run makes no sense without them.
    """
    if planting.wants is None:
        return None, []
    wants, why = planting.wants, ""
    if planting.bpf:
        try:
            engine = Engine(plan, wants_for(plan, replace(wants, guarded=guarded), kernel))
        except EngineRefused as refused:
            why = refused.why
            if planting.verbose and refused.log:
                lines = refused.log.splitlines()[-_LOG_LINES:]
                print("\n".join(f"ksym: verifier: {printable(line)}" for line in lines), file=sys.stderr)
        else:
            late = wants.limit > 0 and wants.sink is not Sink.RECORD and not engine.holds_limit
            return engine, [_late("this kernel's BPF lacks BPF_FETCH (5.12)")] if late else []
    lacks = _lacks(plan, wants)
    if lacks:
        what, todo = lacks
        if not planting.bpf:
            why, todo = "--no-bpf keeps them out", "leave --no-bpf out"
        raise KsymError(f"cannot {what}", f"it needs a program in the kernel: {why}", todo)
    if wants.sink is not Sink.RECORD:
        return None, [_late(why or "--no-bpf keeps programs out")]
    return None, [f"no values (OLD -> NEW), and a plain perf event for each hit: {why}"] if why else []


def _late(why: str) -> str:
    return f"--limit is looked at ten times a second, so there may be more hits: {why}"


def wants_for(plan: Plan, wants: Wants, kernel: Kernel) -> Wants:
    """What the plan's programs want besides: the way to user memory, where reading it directly would hit a register."""
    if any(trips_itself(watch) for watch in plan.watches):
        return replace(wants, walk=kernel.direct_map)
    return wants


def _lacks(plan: Plan, wants: Wants) -> tuple[str, str] | None:
    """What cannot be done without programs, and what to do about it."""
    if wants.stop:
        return "stop tasks (--on-hit stop)", "run it as root with BPF"
    if wants.sink is Sink.COUNT:
        return "count by function, task or cpu (--by)", "leave --by out, or run it as root with BPF"
    for watch in plan.watches:
        if watch.condition is not None:
            from ksym.program.bind import needs_program

            what = f"judge the condition '{watch.request.condition}'"
            if wants.sink is Sink.NOTHING:
                return what, "use ksym trace, or run it as root with BPF"
            if needs_program(watch.condition):
                return what, "compare pid, tid, cpu, comm, access or ip, or run it as root with BPF"
    return None


def seed(armed: ArmedWatch, resolver: Resolver, pid: int | None) -> None:
    """Tell the programs what the variables hold, so that the first access has an old value, too.

    Where that cannot be read it has none.
    """
    engine = armed.engine
    if engine is None:
        return
    for watch, takes in zip(armed.plan.watches, engine.takes_values, strict=True):
        if not takes:
            continue
        user = watch.variable.space is Space.USER
        memory = (ProcessMemory(pid) if pid else None) if user else resolver.kernel.memory_or_none
        if memory is not None:
            _seed(engine, watch, memory, known=pid if user and pid else 1)


def _seed(engine: Engine, watch: Watch, memory: Memory, *, known: int) -> None:
    copies = watch.variable.per_cpu or {0: watch.variable.address}
    for cpu, address in copies.items():
        try:
            value = memory.read(address, watch.variable.length)
        except MemoryFault:
            continue
        engine.shared.seed(watch.index, value, known=known, cpu=cpu if watch.variable.per_cpu else 0)
