# SPDX-License-Identifier: BSD-2-Clause
"""The programs of a run, and what goes into them: conditions, the way to user memory, first values.

Apart from planting, so that a run that wants no program does not load what makes them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ksym.errors import KsymError
from ksym.language.request import Request
from ksym.linux.maps import shared_memory
from ksym.linux.namespaces import own_pid_namespace
from ksym.program.engine import Engine, EngineRefused, frame_of
from ksym.program.wants import Sink, Wants
from ksym.symbols.functions import Functions
from ksym.symbols.kernel import Kernel
from ksym.symbols.resolver import Resolver
from ksym.symbols.variable import Space, Variable
from ksym.views.text import printable
from ksym.watch.arm import ArmedWatch
from ksym.watch.plan import Place, Plan, Watch

if TYPE_CHECKING:
    from ksym.language.condition import Condition
    from ksym.runs.held import Held, Spot
    from ksym.runs.planting import Planting
    from ksym.runs.unseen import Unseen
    from ksym.symbols.address_spaces import AddressSpaces

_LOG_LINES = 12
"""Of the verifier's log, from its end."""


def bind_conditions(
    found: Sequence[tuple[Request, Variable]], functions: Functions
) -> list[Condition | None]:
    """The condition of each request, with its names resolved.

    Raises:
        RequestError: one does not fit its variable.
    """
    from ksym.program.bind import bind  # late: few runs have a condition

    conditions: list[Condition | None] = []
    for request, variable in found:
        if request.condition is None:
            conditions.append(None)
            continue
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


def engine_for(
    plan: Plan, planting: Planting, guarded: tuple[bool, ...], kernel: Kernel
) -> tuple[Engine | None, list[str]]:
    """The programs of a plan; where there can be none, what is missing without them.

    Raises:
        KsymError: the run makes no sense without them.
    """
    wants, why = planting.wants, ""
    assert wants is not None
    if planting.bpf:
        try:
            made = wants._replace(guarded=guarded, kernel_accesses=planting.options.kernel_accesses)
            made = wants_for(plan, made, kernel)
            engine = Engine(plan, made, _spaces(made, kernel))
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
        return None, [_late(why or "--no-bpf keeps programs out")] if wants.limit else []
    return None, [f"no values (OLD -> NEW), and a plain perf event for each hit: {why}"] if why else []


def _spaces(wants: Wants, kernel: Kernel) -> AddressSpaces | None:
    if wants.tasks is None or kernel.memory_or_none is None:
        return None
    from ksym.symbols.address_spaces import AddressSpaces  # late: few runs watch user variables

    return AddressSpaces(kernel, wants.tasks)


def _late(why: str) -> str:
    return f"--limit is looked at ten times a second, so there may be more hits: {why}"


def wants_for(plan: Plan, wants: Wants, kernel: Kernel) -> Wants:
    """What the plan's programs want besides: the way to user memory and to tasks."""
    user = [watch for watch in plan.watches if watch.variable.space is Space.USER]
    if any(frame_of(watch, wants.sink).padded for watch in user):
        return wants._replace(walk=kernel.direct_map, tasks=kernel.tasks)
    return wants._replace(tasks=kernel.tasks) if own_pid_namespace() or (user and wants.unloads) else wants


def _lacks(plan: Plan, wants: Wants) -> tuple[str, str] | None:
    """What cannot be done without programs, and what to do about it."""
    if wants.stop:
        return "stop tasks (--on-hit stop)", "run it as root with BPF"
    if wants.sink is Sink.COUNT:
        return "count by function, task or cpu (--by)", "leave --by out, or run it as root with BPF"
    for watch in plan.watches:
        if watch.condition is not None:
            what = f"judge the condition '{watch.request.condition}'"
            if wants.sink is Sink.NOTHING:
                return what, "use ksym trace, or run it as root with BPF"
            from ksym.program.bind import needs_program

            if needs_program(watch.condition):
                return what, "compare pid, tid, cpu, comm, access or ip, or run it as root with BPF"
    return None


def prepare(armed: ArmedWatch, resolver: Resolver) -> Unseen | None:
    """Let the programs know whose variables they watch, and, once they do, what those hold.

    So the first access has an old value, too. Where the value cannot be read it has none.

    Returns:
        What finds accesses that were not seen; None where no values are known.
    """
    engine = armed.engine
    if engine is None:
        return None
    for place in armed.scope.places:
        begin(engine, place)
    if not any(engine.takes_values):
        return None
    from ksym.runs.held import Held
    from ksym.runs.unseen import Unseen

    held = Held(engine, resolver.kernel)
    unseen = Unseen(armed, engine, held)
    unseen.look_for_sharers()
    before: list[tuple[Spot, bytes | None]] = []

    def begin_anew() -> None:
        if before:  # it was on already, and what happened since it was off nobody knows
            for spot, _ in before:
                held.forget(spot)
        before[:] = [(spot, held.now(spot)) for spot in held.spots()]

    armed.before_enabling = begin_anew
    armed.after_enabling = lambda: _begin(held, before)
    armed.before_disabling = unseen.look
    return unseen


def _variables(engine: Engine, place: Place) -> Iterator[tuple[Watch, int]]:
    for watch in engine.plan.watches:
        if watch.variable.space is Space.USER and place.pid and place.has(watch):
            yield watch, place.base(watch)


def begin(engine: Engine, place: Place) -> None:
    """Begin the chains of values of a place, before it is armed."""
    for watch, base in _variables(engine, place):
        shared = shared_memory(place.pid, base)
        engine.chains.place(watch.index, place.pid, base, shared=shared, place=place.number)


def seed(engine: Engine, place: Place, kernel: Kernel) -> None:
    """Tell the programs what the variables of a place hold, once it is armed; its process is held."""
    from ksym.runs.held import Held, Spot

    held = Held(engine, kernel)
    with held.reading():
        for watch, base in _variables(engine, place):
            spot = Spot(watch, place.pid, base)
            if engine.takes_values[watch.index] and (value := held.now(spot)) is not None:
                held.begin(spot, value)


def end(engine: Engine, place: Place, *, process_left: bool) -> None:
    """End the chains of values of a place.

    Args:
        engine: The programs.
        place: The place; nothing is armed there any more.
        process_left: The process has ended, or runs another program, and the programs know; else it goes on.
    """
    if not process_left:
        for watch, base in _variables(engine, place):
            engine.chains.unplace(watch.index, place.pid, base)
    engine.chains.end_chains(place.number)
    engine.drop(place)


def inherited(engine: Engine, place: Place, pid: int) -> bool | None:
    """Return True if a process has a place's registers, its own or forked ones; None if that is not known."""
    for watch, base in _variables(engine, place):
        return engine.chains.inherited(place.number, watch.index, pid, base)
    return None


def unload(engine: Engine, place: Place, pid: int) -> None:
    """Ignore the hits of a process at the addresses of a place from now on."""
    for watch, base in _variables(engine, place):
        engine.chains.unload(watch.index, pid, base)


def reload(engine: Engine, place: Place, pid: int, kernel: Kernel) -> None:
    """Count the hits of a process again that has reloaded the file of a place; the process is held."""
    from ksym.runs.held import Held, Spot

    held = Held(engine, kernel)
    with held.reading():
        for watch, base in _variables(engine, place):
            takes = engine.takes_values[watch.index]
            engine.chains.reload(watch.index, pid, base, held.now(Spot(watch, pid, base)) if takes else None)


def unloaded(engine: Engine, place: Place, pid: int) -> bool:
    """Return True if the hits of a process at the addresses of a place are ignored."""
    return any(engine.chains.unloaded(watch.index, pid, base) for watch, base in _variables(engine, place))


def _begin(held: Held, before: Sequence[tuple[Spot, bytes | None]]) -> None:
    """Let the chains begin with what the variables held before they were watched, and hold now.

    One that has changed in between may have been changed by an access whose program has not run yet: what that found
    is not what is there now.
    """
    with held.reading():
        for spot, value in before:
            if value is not None and held.now(spot) == value:
                held.begin(spot, value)
