# SPDX-License-Identifier: BSD-2-Clause
"""From requests to an armed run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ksym.errors import KsymError, RequestError, UsageError
from ksym.language.parser import parse_request
from ksym.language.request import Request, UserSymbol
from ksym.language.request_set import RequestSet
from ksym.linux.cpus import online_cpus
from ksym.linux.files import drop_ahead, read_text
from ksym.linux.mounted import check_mounted
from ksym.linux.process_status import check_process
from ksym.linux.processes import threads_of
from ksym.linux.regular_file import RegularFile
from ksym.runs.following import Following, user_variables
from ksym.runs.neighbours import remarks
from ksym.runs.places import Places
from ksym.runs.planting import Planting, plant
from ksym.runs.resources import Resources
from ksym.symbols.originals import Originals
from ksym.symbols.resolver import Resolver
from ksym.symbols.variable import Variable
from ksym.views.summary import number
from ksym.views.text import printable
from ksym.watch.arm import ArmedWatch
from ksym.watch.launch import Command
from ksym.watch.plan import Place, Plan, Scope
from ksym.watch.presence import Presence, presence_checks
from ksym.watch.run import ROUND_SECONDS, Run, Signals
from ksym.watch.whereabouts import Whereabouts

if TYPE_CHECKING:
    from ksym.capture.ownership import Held
    from ksym.capture.users import Users
    from ksym.language.condition import Condition
    from ksym.runs.unseen import Unseen
    from ksym.symbols.wanted import Wanted
    from ksym.watch.holding import Holder


@dataclass(frozen=True)
class Asked:
    """What a run is to watch.

    Args:
        requests: The requests.
        condition: For each of them, besides its own.
        pids: Processes whose threads alone are watched.
        cpus: The CPUs to watch on; None: all that are online.
        command: COMMAND; empty where there is none.
        kernel_accesses: Whether a user variable's accesses made by the kernel count.
        duration: Seconds after which the run ends.
        vmlinux: Where further names and types come from.
    """

    requests: Sequence[str]
    condition: str | None = None
    pids: tuple[int, ...] = ()
    cpus: tuple[int, ...] | None = None
    command: Sequence[str] = ()
    kernel_accesses: bool = False
    duration: float | None = None
    vmlinux: str | None = None


def parse_requests(
    texts: Sequence[str], condition: str | None = None, *, command: Sequence[str] | None = None
) -> list[Request]:
    """Parse the requests of a run.

    Args:
        texts: The requests.
        condition: One for each of them, besides its own.
        command: COMMAND; empty where one could have been given, None where none could.

    Raises:
        RequestError: one is malformed, or asked for twice.
    """
    requests = RequestSet()
    for text in texts:
        try:
            request = parse_request(text, is_file=os.path.isfile)
        except RequestError as error:
            from ksym.runs.slips import misplaced_words

            raise misplaced_words(texts, command) or error from None
        if condition is not None:
            request = _also(request, condition)
        requests.add_new(request)
    return list(requests)


def _also(request: Request, text: str) -> Request:
    """The request with a further condition; read anew as a whole, so that errors show where in it they lie."""
    from ksym.language.condition_parser import parse_condition

    parse_condition(text)
    bare = replace(request, condition=None)
    if request.condition is None:
        return parse_request(f"{bare} if {text.strip()}")
    return parse_request(f"{bare} if ({request.condition}) && ({text.strip()})")


@dataclass
class Session:
    """An armed run and what it is made of."""

    plan: Plan
    armed: ArmedWatch
    run: Run
    resolver: Resolver
    command: Command | None
    pids: tuple[int, ...]
    """The processes that were watched from the start on."""
    holds: Held
    """What holds the user variables of each place."""
    follower: Following | None
    """Follows the processes of user variables."""
    lacking: list[str]
    """What this machine does not allow, in words; nothing once it was told."""
    unseen: Unseen | None = None
    """Finds accesses that no row shows."""

    @property
    def code_pids(self) -> tuple[int, ...]:
        """The processes whose code is known from before its first instruction on: those watched, or COMMAND."""
        return (self.command.pid,) if not self.pids and self.command else self.pids

    @property
    def holds_processes(self) -> bool:
        """True if each process is held as soon as it has the variables, so that none is missed."""
        return self.follower is not None and self.follower.held_throughout

    @property
    def one_pid(self) -> int:
        """The process by whose memory pointers are named; 0 where several are watched, which differ in it."""
        watched = self.armed.pids
        return min(watched) if len(watched) == 1 else 0

    def tell_lacking(self) -> None:
        """Say on stderr what this machine does not allow, and later on why the run outlives COMMAND.

        The summary does not tell the former again then.
        """
        self.run.on_wait = lambda text: print(f"ksym: {printable(text)}", file=sys.stderr, flush=True)
        for line in self.lacking:
            print(f"ksym: {printable(line)}", file=sys.stderr, flush=True)
        self.lacking = []

    @property
    def _warnings(self) -> list[str]:
        return self.command.warnings if self.command else []

    def warn(self) -> None:
        """Say on stderr what being watched does to COMMAND, quiet or not; the summary does not tell it again then."""
        for line in self._warnings:
            print(f"ksym: {printable(line)}", file=sys.stderr, flush=True)
        self._warnings.clear()

    def notes(self, *, verbose: bool) -> list[str]:
        """What the summary tells of the run; ``verbose``: also what ended it."""
        missed = self.command.missed() if self.command else []
        unseen = self.unseen.notes() if self.unseen else []
        short = ["names of code may be missing: too many files were open"] if RegularFile.short else []
        ended = [f"ended by: {self.run.ended_by}"] if verbose else []
        return [*self.lacking, *self._warnings, *missed, *self.run.notes, *unseen, *short, *ended]

    def further_copies(self, users: Users) -> list[str]:
        """Say which copies of the watched variables came with the run and were not watched; ``users`` saw it."""
        if not any(watch.variable.instance for watch in self.plan.watches):
            return []
        from ksym.capture.further import further_copies  # needs what names code, which not all runs do

        watched = {planned.address for planned in self.armed.planned.values()}
        watched |= {each.planned.address for each in self.armed.events}
        loaded = [each for pid in self.pids for each in users.loaded(pid)]
        return further_copies(self.plan.watches, watched, loaded)

    def foreign(self, recorded: int = 0) -> list[str]:
        """Report how many hits were on other memory at a variable's address; ``recorded`` ones included."""
        count = recorded + self.armed.foreign()
        if not count:
            return []
        return [f"{number(count, 'hit')} of other memory at its address, after it was unmapped, not shown"]

    def status(self) -> int:
        """Give the registers back, then end COMMAND if it still runs; return its exit status, 0 without COMMAND."""
        self.armed.release()  # COMMAND may take its time
        if self.command is None:
            return 0
        return self.command.end(asked=self.run.signalled()) or 0


@contextmanager
def open_session(
    asked: Asked,
    planting: Planting,
    *,
    every: float = ROUND_SECONDS,
    signals: Signals | None = None,
) -> Iterator[Session]:
    """Resolve, plan, start COMMAND (waiting), and plant; everything is given back at the end.

    Args:
        asked: What to watch.
        planting: How to plant.
        every: See Run.
        signals: What signals do; left out: those that ask for an end end the run in order.

    Raises:
        KsymError: it cannot be done; nothing is left planted and COMMAND has not run.
    """
    check_mounted()
    requests = parse_requests(asked.requests, asked.condition, command=asked.command)
    with Resources() as stack:
        signals = stack.hold_context(signals or Signals())
        originals = Originals(_objects(requests))
        stack.callback(originals.close)
        command, pids = _start(
            asked, requests, originals, signals, stack, programs=planting.wants is not None
        )
        first = pids[0] if pids else None
        resolver = Resolver(
            vmlinux=asked.vmlinux, pid=first, self_pid=command.pid if command else None, originals=originals
        )
        stack.hold(resolver.close)
        found = resolve_all(requests, resolver, pid=first, command=asked.command, texts=asked.requests)
        drop_ahead()
        RegularFile.short = False  # of an earlier run of this process
        conditions = _conditions(found, resolver, kernel_accesses=asked.kernel_accesses)
        places = Places(found, conditions, resolver, pids, kernel_accesses=asked.kernel_accesses)
        planting = _asks_whose(planting, places)
        planted = plant(found, conditions, _scope(asked, places), planting, stack, resolver.kernel)
        armed, unseen = planted.armed, None
        if armed.engine:
            from ksym.runs.engines import prepare

            unseen = prepare(armed, resolver)
        follower = None
        if user_variables(armed):
            named = {*pids, *([command.pid] if command else ())}
            follower = Following(
                places, armed, named, resolver.kernel, lambda: _holder(command, requests, pids, originals)
            )
        run = Run(
            armed, signals, command=command, pids=asked.pids, duration=asked.duration, every=every,
            fixed_cpus=asked.cpus is not None, guard=planted.guard,
            presence=Presence(presence_checks(armed.plan)), whereabouts=Whereabouts(armed.plan.watches),
            follower=follower,
        )  # fmt: skip
        stack.hold(run.close)
        if armed.unstable_threads:
            run.notes.append(
                f"{_processes(pids)} started threads all the while they were being armed: some may not be watched"
            )
        run.notes += remarks(armed.plan, places, pids, children=bool(asked.pids), shared=unseen is None)
        yield Session(
            armed.plan, armed, run, resolver, command, pids, places.holds, follower, planted.lacking, unseen
        )


def _asks_whose(planting: Planting, places: Places) -> Planting:
    """Let programs ask of each hit whether its process still has the variable, where that may unload it.

    A counter cannot tell the hits of a process from those of one that it has forked.
    """
    if not any(hold.has_file and not hold.program for each in places.holds.values() for hold in each.values()):
        return planting
    from ksym.program.wants import Sink, Wants

    wants = planting.wants or Wants(Sink.NOTHING)
    return planting._replace(wants=wants._replace(unloads=True))


def resolve_all(
    requests: Sequence[Request],
    resolver: Resolver,
    *,
    pid: int | None,
    texts: Sequence[str],
    command: Sequence[str] | None = None,
) -> list[tuple[Request, Variable]]:
    """Resolve the requests of a run; an error tells what the rest of the command line shows of its cause.

    Args:
        requests: The requests.
        resolver: Resolves them.
        pid: The process, from -p.
        texts: The requests as they were typed.
        command: COMMAND; empty where one could have been given, None where none could.

    Raises:
        KsymError: One cannot be resolved.
    """
    found = []
    for request in requests:
        try:
            found.append((request, resolver.resolve(request)))
        except KsymError as error:
            from ksym.runs.slips import explain

            better = explain(error, request, pid=pid, command=command, texts=texts)
            if better is error:
                raise
            raise better from error
    return found


def _conditions(
    found: Sequence[tuple[Request, Variable]], resolver: Resolver, *, kernel_accesses: bool
) -> list[Condition | None]:
    if all(request.condition is None for request, _ in found):
        return []
    from ksym.runs.engines import bind_conditions
    from ksym.symbols.functions import Functions

    return bind_conditions(found, Functions(resolver.kernel, resolver.pid, kernel_accesses=kernel_accesses))


def _start(
    asked: Asked,
    requests: list[Request],
    originals: Originals,
    signals: Signals,
    stack: Resources,
    *,
    programs: bool,
) -> tuple[Command | None, tuple[int, ...]]:
    """Start COMMAND, as far as is needed to find its variables; returns it and the processes they are in."""
    objects = _objects(requests)
    if objects:
        from ksym.runs.slips import check_programs

        check_programs(requests, asked.command)
    for pid in asked.pids:
        check_process(pid, user=bool(objects))
    if not asked.command:
        return None, asked.pids
    if objects and asked.pids:
        raise UsageError(
            "cannot read the command line", "-p and -- COMMAND both say where", "give one of them"
        )
    command = Command(asked.command)
    stack.callback(command.close)
    if not objects:
        return command, asked.pids
    from ksym.symbols.wanted import Wanted

    return command, (_held(command, Wanted(objects, originals), signals, programs=programs),)


def _held(command: Command, wanted: Wanted, signals: Signals, *, programs: bool) -> int:
    """Run COMMAND until a process has the objects in memory; returns it, held."""
    program, objects = command.argv[0], wanted.names
    command.keeps_holder = True  # other processes, and further programs of this one, may have them, too
    found = command.run_until(wanted, signals, lambda: _load_what_follows(objects, programs=programs))
    if found is not None:
        return found
    what = f"cannot watch {', '.join(objects)}"
    if signals.received is not None:
        raise KsymError(what, f"{signals.received.name} came before {program} had it in memory")
    from ksym.runs.slips import never_mapped

    raise never_mapped(objects, command.argv, command.holder.tracers if command.holder else ())


def _holder(
    command: Command | None, requests: Sequence[Request], pids: Sequence[int], originals: Originals
) -> Holder | None:
    """Return what holds processes that map the files of user variables; None where there are none.

    Raises:
        CannotHold: nobody can be held.
    """
    if command:
        return command.holder
    objects = _objects(requests)
    if not objects or not pids:
        return None
    from ksym.symbols.wanted import Wanted
    from ksym.watch.holding import Holder

    return Holder(Wanted(objects, originals), pids, tree=False)


def _objects(requests: Iterable[Request]) -> list[str]:
    return [r.target.root.object for r in requests if isinstance(r.target.root, UserSymbol)]


def _load_what_follows(objects: Iterable[str], *, programs: bool) -> None:
    """Import what resolves user variables of some files, and what makes their programs."""
    import ksym.symbols.process_names
    from ksym.symbols.elf import ElfError, ElfFile

    for path in objects:
        with suppress(ElfError, KsymError), ElfFile(path) as elf:
            if elf.section(".debug_info"):
                elf.dwarf  # noqa: B018 - what reads it takes longer to load than to read
                break
    if programs:
        import ksym.runs.engines  # noqa: F401


class _ScopeNow:
    """The scope as it is when it is asked for: threads come and go."""

    def __init__(self, cpus: tuple[int, ...], places: Sequence[Place], only_threads: bool) -> None:
        self._cpus, self._places, self._only_threads = cpus, places, only_threads

    def __call__(self) -> Scope:
        places = tuple(replace(place, threads=threads_of(place.pid)) for place in self._places)
        for place in places:
            if not place.threads:
                raise KsymError(
                    f"cannot watch process {place.pid}", "it ended while the watch was being planted",
                    "start it with -- COMMAND",
                )  # fmt: skip
        return Scope(self._cpus, places, self._only_threads)


def _processes(pids: Sequence[int]) -> str:
    return f"process{'' if len(pids) == 1 else 'es'} {', '.join(map(str, pids))}"


def _scope(asked: Asked, places: Places) -> _ScopeNow:
    online = online_cpus()
    cpus = tuple(online)
    if asked.cpus is not None:
        missing = sorted(set(asked.cpus) - set(online))
        if missing:
            raise KsymError(
                f"cannot watch on CPU {', '.join(map(str, missing))}", "it is offline or does not exist",
                f"online are {read_text('/sys/devices/system/cpu/online').strip()}",
            )  # fmt: skip
        cpus = asked.cpus
    return _ScopeNow(cpus, places.first, bool(asked.pids))
