# SPDX-License-Identifier: BSD-2-Clause
"""From requests to an armed run: what trace, stat and demo have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ksym.commands.parser import add_vmlinux, cpu_list, percent, positive, seconds
from ksym.commands.planting import TWINS, Planting, plant
from ksym.errors import KsymError, UsageError
from ksym.language.parser import parse_request
from ksym.language.request import Request, UserSymbol
from ksym.language.request_set import RequestSet
from ksym.linux.cpus import online_cpus
from ksym.linux.files import read_text
from ksym.symbols.resolver import Resolver
from ksym.symbols.variable import Variable
from ksym.watch.arm import ArmedWatch
from ksym.watch.launch import Command
from ksym.watch.plan import Plan, Scope
from ksym.watch.presence import Presence, presence_checks
from ksym.watch.run import ROUND_SECONDS, Run, Signals

if TYPE_CHECKING:
    from ksym.language.condition import Condition


class Asked(Protocol):
    """What a run is to watch, as the command line's options or the Python API's arguments have it."""

    @property
    def requests(self) -> Sequence[str]:
        """The requests."""

    @property
    def condition(self) -> str | None:
        """For each of them, besides its own."""

    @property
    def pid(self) -> int | None:
        """A process whose threads alone are watched."""

    @property
    def cpus(self) -> tuple[int, ...] | None:
        """The CPUs to watch on; None: all that are online."""

    @property
    def command(self) -> Sequence[str]:
        """COMMAND; empty where there is none."""

    @property
    def kernel_accesses(self) -> bool:
        """Whether a user variable's accesses made by the kernel count."""

    @property
    def duration(self) -> float | None:
        """Seconds after which the run ends."""

    @property
    def vmlinux(self) -> str | None:
        """Where further names and types come from."""


def add_run_options(parser: argparse.ArgumentParser, *, verbose: str) -> None:
    """The options that trace and stat share; ``verbose`` is what -v does."""
    parser.add_argument("requests", nargs="+", metavar="REQUEST", help="TARGET[:ACCESS], e.g. pid_max:rw-")
    parser.add_argument("-p", "--pid", type=positive, help="this process: all its threads, and those to come")
    parser.add_argument("-C", "--cpus", type=cpu_list, metavar="CPUS", help="these CPUs only, e.g. 0-3,8")
    parser.add_argument(
        "--if",
        dest="condition",
        metavar="CONDITION",
        help="keep accesses for which this holds, e.g. 'new > 100 && comm == \"sshd\"'; for every request",
    )
    parser.add_argument(
        "--kernel-accesses", action="store_true",
        help="count a user variable's accesses made by the kernel, too (read(2) into it)",
    )  # fmt: skip
    parser.add_argument("--duration", type=seconds, metavar="SECONDS", help="end after so long")
    parser.add_argument(
        "--twin", choices=TWINS, default="auto",
        help="a second register for each piece of rw- tells reads from writes (default: where they are free)",
    )  # fmt: skip
    parser.add_argument(
        "--no-bpf", action="store_true", help="plain perf events only: no values, no conditions on them"
    )
    parser.add_argument(
        "--guard", type=percent, metavar="PERCENT|off",
        help="disarm a watch whose hits take more of a CPU's time (default: 25, for kernel variables without -p)",
    )  # fmt: skip
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="no header, and no remarks but the summary"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help=verbose)
    add_vmlinux(parser)


def parse_requests(texts: Sequence[str], condition: str | None = None) -> list[Request]:
    """Parse the requests of a run.

    Args:
        texts: The requests.
        condition: One for each of them, besides its own.

    Raises:
        RequestError: one is malformed, or asked for twice.
    """
    requests = RequestSet()
    for text in texts:
        request = parse_request(text)
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
    pid: int | None
    lacking: list[str]
    """What this machine does not allow, in words; nothing once it was told."""

    def tell_lacking(self) -> None:
        """Say on stderr what this machine does not allow; the summary does not tell it again then."""
        for line in self.lacking:
            print(f"ksym: {line}", file=sys.stderr, flush=True)
        self.lacking = []

    def notes(self, *, verbose: bool) -> list[str]:
        """What the summary tells of the run; ``verbose``: also what ended it."""
        return [*self.lacking, *self.run.notes, *([f"ended by: {self.run.ended_by}"] if verbose else [])]

    def status(self) -> int:
        """The exit status: that of COMMAND, which is ended if it still runs; else 0."""
        if self.command is None:
            return 0
        return self.command.end(asked=self.run.signalled()) or 0


@contextmanager
def open_session(
    args: Asked | argparse.Namespace,
    planting: Planting,
    *,
    every: float = ROUND_SECONDS,
    signals: Signals | None = None,
) -> Iterator[Session]:
    """Resolve, plan, start COMMAND (waiting), and plant; everything is given back at the end.

    Args:
        args: The command line, or what is in its place.
        planting: How to plant.
        every: See Run.
        signals: What signals do; left out: those that ask for an end end the run in order.

    Raises:
        KsymError: it cannot be done; nothing is left planted and COMMAND has not run.
    """
    requests = parse_requests(args.requests, args.condition)
    with ExitStack() as stack:
        signals = stack.enter_context(signals or Signals())
        command, pid = _start(args, requests, signals, stack)
        resolver = Resolver(vmlinux=args.vmlinux, pid=pid, self_pid=command.pid if command else None)
        stack.callback(resolver.close)
        found = [(request, resolver.resolve(request)) for request in requests]
        conditions = _conditions(found, resolver, kernel_accesses=args.kernel_accesses)
        planted = plant(found, conditions, _scope(args, pid), planting, stack, resolver.kernel)
        armed = planted.armed
        if armed.engine:
            from ksym.commands.engines import prepare

            prepare(armed, resolver, pid)
        run = Run(
            armed, signals, command=command, pid=args.pid, duration=args.duration, every=every,
            fixed_cpus=args.cpus is not None, guard=planted.guard,
            presence=Presence(presence_checks(armed.plan, pid)),
        )  # fmt: skip
        if armed.unstable_threads:
            run.notes.append(
                f"process {pid} started threads all the while it was being armed: some may not be watched"
            )
        if command and pid not in (None, command.pid, args.pid):
            run.notes.append(f"of the programs that COMMAND ran, process {pid} alone was watched")
        yield Session(armed.plan, armed, run, resolver, command, pid, planted.lacking)


def _conditions(
    found: Sequence[tuple[Request, Variable]], resolver: Resolver, *, kernel_accesses: bool
) -> list[Condition | None]:
    if all(request.condition is None for request, _ in found):
        return []
    from ksym.commands.engines import bind_conditions
    from ksym.symbols.functions import Functions

    return bind_conditions(found, Functions(resolver.kernel, resolver.pid, kernel_accesses=kernel_accesses))


def _start(
    args: Asked | argparse.Namespace, requests: list[Request], signals: Signals, stack: ExitStack
) -> tuple[Command | None, int | None]:
    """Start COMMAND, as far as is needed to find its variables; returns it and the process they are in."""
    if args.pid is not None and not os.path.exists(f"/proc/{args.pid}"):
        raise KsymError(f"cannot watch process {args.pid}", "there is no such process", "see ps -e")
    if not args.command:
        return None, args.pid
    objects = [r.target.root.object for r in requests if isinstance(r.target.root, UserSymbol)]
    if objects and args.pid is not None:
        raise UsageError(
            "cannot read the command line", "-p and -- COMMAND both say where", "give one of them"
        )
    command = Command(args.command, traced=bool(objects))
    stack.callback(command.close)
    if not objects:
        return command, args.pid
    found = command.run_until(lambda pid: _all_mapped(pid, objects), signals.wait)
    if found is None and signals.received is not None:
        raise KsymError(
            f"cannot watch {', '.join(objects)}",
            f"{signals.received.name} came before {args.command[0]} had it in memory",
        )
    if found is None:
        raise KsymError(
            f"cannot watch {', '.join(objects)}", f"{args.command[0]} ended without having it in memory",
            "name the program that has the variable, as COMMAND runs it",
        )  # fmt: skip
    return command, found


def _all_mapped(pid: int, objects: list[str]) -> bool:
    from ksym.symbols.user import is_mapped

    return all(is_mapped(pid, spec) for spec in objects)


class _ScopeNow:
    """The scope as it is when it is asked for: threads come and go."""

    def __init__(self, cpus: tuple[int, ...], pid: int | None, only_threads: bool) -> None:
        self._cpus, self._pid, self._only_threads = cpus, pid, only_threads

    def __call__(self) -> Scope:
        threads: tuple[int, ...] = ()
        if self._pid is not None:
            with suppress(OSError):
                threads = tuple(sorted(int(name) for name in os.listdir(f"/proc/{self._pid}/task")))
            if not threads:
                raise KsymError(
                    f"cannot watch process {self._pid}", "it ended while the watch was being planted",
                    "start it with -- COMMAND",
                )  # fmt: skip
        return Scope(self._cpus, threads, self._only_threads)


def _scope(args: Asked | argparse.Namespace, pid: int | None) -> _ScopeNow:
    online = online_cpus()
    cpus = tuple(online)
    if args.cpus is not None:
        missing = sorted(set(args.cpus) - set(online))
        if missing:
            raise KsymError(
                f"cannot watch on CPU {', '.join(map(str, missing))}", "it is offline or does not exist",
                f"online are {read_text('/sys/devices/system/cpu/online').strip()}",
            )  # fmt: skip
        cpus = args.cpus
    return _ScopeNow(cpus, pid, args.pid is not None)
