# SPDX-License-Identifier: BSD-2-Clause
"""Count the accesses to variables, at the hardware's own cost: no samples, no rings.

What is counted are hits: traps of the processor. One access can take several (see `ksym trace`).
With COMMAND, counting lasts as long as it runs; a kernel variable is counted whoever touches it.
--by, --limit and conditions take a small program in the kernel at each hit, which counts and keeps no record; so do
variables of libraries, which one process may unload while another one keeps them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ksym.commands.parser import positive
from ksym.commands.run_options import add_run_options, asked
from ksym.errors import KsymError
from ksym.language.request import UserSymbol
from ksym.program.shared import Cell
from ksym.program.wants import Sink, Wants
from ksym.runs.planting import Planting
from ksym.runs.session import Session, open_session, parse_requests
from ksym.views.output import Output, ReaderGone
from ksym.views.summary import Tally, number
from ksym.views.text import as_json, printable
from ksym.watch.arm import ArmedWatch, Options
from ksym.watch.plan import Plan
from ksym.watch.run import ROUND_SECONDS

if TYPE_CHECKING:
    from ksym.commands.whose import Whose
    from ksym.language.condition import Condition

TAKES_COMMAND = True
_FOREVER = 3600.0
_KEYS = ("function", "task", "cpu")


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_options(
        parser,
        verbose="show the hits of each CPU or thread, too, and CPUs that come and go at once",
        lacks="no --by and no conditions",
    )
    parser.add_argument(
        "--by", type=_keys, metavar="KEY[,KEY]", default=(),
        help="tell hits apart by who made them: function, task, cpu, or several of them",
    )  # fmt: skip
    parser.add_argument(
        "-I", "--interval", type=positive, metavar="MS", help="print the hits of each interval"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="end after exactly N hits")
    parser.add_argument("--json", action="store_true", help="an object a line")


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(text.split(","))
    for key in keys:
        if key not in _KEYS or keys.count(key) > 1:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not one of {', '.join(_KEYS)}, nor some of them in a list"
            )
    return keys


def run(args: argparse.Namespace) -> int:
    """Count until COMMAND, the duration, the limit or Ctrl-C ends it."""
    every = args.interval / 1000 if args.interval else _FOREVER
    if args.limit:
        every = min(every, ROUND_SECONDS)
    with open_session(asked(args), _planting(args), every=every) as session, closing(Output(None)) as output:
        _check_conditions(session.plan, args.twin)
        session.warn()
        if not args.quiet:
            session.tell_lacking()
        if args.verbose:
            session.run.on_note = lambda note: print(f"ksym: {printable(note)}", file=sys.stderr, flush=True)
        output.ending = session.run.held_up
        stat = Stat(args, session, output)
        with closing(stat):
            stat.follow()
        session.armed.release()
        notes = [] if args.quiet else [*session.notes(verbose=args.verbose), *session.foreign()]
        # Before COMMAND is ended, which may take its time.
        print("\n".join(stat.tally(notes).lines()), file=sys.stderr, flush=True)
        status = session.status()
        if stat.failure:
            raise stat.failure
        return status


def _planting(args: argparse.Namespace) -> Planting:
    """Bare counters where they can tell all that is asked for; else programs that count."""
    requests = parse_requests(args.requests, args.condition, command=args.command)
    conditions = [request.condition for request in requests if request.condition is not None]
    wants = None
    if args.by or args.limit or conditions:
        wants = Wants(Sink.COUNT if args.by else Sink.NOTHING, limit=args.limit or 0)
    twin = args.twin
    if twin == "auto" and not args.by:
        # Nothing else that is counted says whether it was read or written.
        twin = "auto" if any(map(_accesses, conditions)) else "off"
    # Hits of user-space code are named when its process may be gone: what it maps is recorded for that.
    user_code = bool(args.pids) or any(isinstance(each.target.root, UserSymbol) for each in requests)
    options = Options(counting=not (args.by and user_code), kernel_accesses=args.kernel_accesses)
    return Planting(options, wants, twin=twin, bpf=not args.no_bpf, guard=args.guard)


def _accesses(condition: Condition) -> set[str]:
    """The accesses that a condition asks for."""
    from ksym.language.condition import AccessName
    from ksym.program.bind import leaves

    return {leaf.name for leaf in leaves(condition) if isinstance(leaf, AccessName)}


def _check_conditions(plan: Plan, twin: str) -> None:
    """Refuse what only ksym could judge: here no hit comes to it.

    Raises:
        KsymError: the kernel cannot decide a condition alone.
    """
    for watch in plan.watches:
        if watch.condition is None:
            continue
        from ksym.program.conditions import decided_in_kernel
        from ksym.program.engine import sees

        if decided_in_kernel(watch.condition, sees(watch)):
            continue
        what = f"cannot count by '{watch.request.condition}'"
        if _accesses(watch.condition) & {"W", "RW"}:
            why = "in the kernel a write is not told from a read and write by one instruction (W from RW)"
            raise KsymError(what, why, "write access != R, or use ksym trace")
        why, todo = "this run has none", "free some (see ksym doctor)"
        if twin == "off":
            why, todo = "--twin off keeps it out", "leave --twin off out"
        why = f"it takes a second register for each piece to tell reads from writes, and {why}"
        raise KsymError(what, why, f"{todo}, or use ksym trace")


class Stat:
    """A session's counts, printed as asked for.

    Args:
        args: The command line.
        session: The armed run.
        output: Where tables go.
    """

    def __init__(self, args: argparse.Namespace, session: Session, output: Output) -> None:
        self._args, self._session, self._output = args, session, output
        self._hits = [0] * len(session.plan.watches)
        self.failure: KsymError | None = None
        """Why a table could not be written; the run was ended then."""
        self._whose: Whose | None = None
        if args.by:
            from ksym.commands.whose import Whose

            self._whose = Whose(args, session)

    def follow(self) -> None:
        """Print until the run is over; it is once nobody reads, or tables cannot be written."""
        args, session = self._args, self._session
        before = list(self._hits)
        started = time.monotonic()
        step = args.interval / 1000 if args.interval else _FOREVER
        due = started + step
        header = "" if args.json or args.quiet else self._header()
        if args.interval and not self._written(header):
            return
        reader = True
        for _ in session.run.rounds():
            now = time.monotonic()
            if self._whose:
                self._whose.follow()
            self._hits = [max(pair) for pair in zip(self._hits, kept(session.armed), strict=True)]
            if args.interval and now >= due:
                due = max(due + step, now)
                reader = reader and self._written(self._interval(now - started, before))
                before = self._hits
            if args.limit and self._reached():
                session.run.stop("limit reached")
        if self._whose:
            self._whose.follow(last=True)
        self._hits = kept(session.armed)
        last = ""
        if not args.interval:
            last = header + self._totals()
        elif self._hits != before and reader:
            last = self._interval(time.monotonic() - started, before)
        session.armed.release()  # not after the table: its reader may keep ksym waiting
        self._written(last)

    def _written(self, text: str) -> bool:
        try:
            self._output.write(text)
        except ReaderGone:
            self._session.run.stop("the reader of the table went away")
            return False
        except KsymError as error:
            self._session.run.stop("the table cannot be written")
            self.failure = error
            return False
        return True

    def _reached(self) -> bool:
        engine, limit = self._session.armed.engine, int(self._args.limit)
        if engine and engine.holds_limit:
            return engine.shared.taken() >= limit
        return sum(self._hits) >= limit

    def _header(self) -> str:
        if self._whose:
            return self._whose.header()
        return f"{'SECONDS':>12} {'HITS':>14}  SYMBOL\n" if self._args.interval else f"{'HITS':>14}  SYMBOL\n"

    def _interval(self, seconds: float, before: Sequence[int]) -> str:
        if self._whose:
            return self._whose.rows(seconds=seconds)
        hits = [now - then for now, then in zip(self._hits, before, strict=True)]
        lines = []
        for watch, count in zip(self._session.plan.watches, hits, strict=True):
            if self._args.json:
                row = {
                    "seconds": round(seconds, 6),
                    "symbol": watch.name,
                    "access": str(watch.mode),
                    "hits": count,
                }
                lines.append(_json(row))
            else:
                lines.append(f"{seconds:12.6f} {count:14,}  {printable(str(watch.request))}\n")
        return "".join(lines)

    def _totals(self) -> str:
        if self._whose:
            return self._whose.rows(self._hits)
        lines = []
        for watch, count in zip(self._session.plan.watches, self._hits, strict=True):
            if self._args.json:
                row = {
                    "symbol": watch.name,
                    "access": str(watch.mode),
                    "address": hex(watch.variable.address),
                    "length": watch.variable.length,
                    "hits": count,
                }
                lines.append(_json(row))
                continue
            lines.append(f"{count:14,}  {printable(str(watch.request))}\n")
            if self._args.verbose:
                places = _kept_by_place(self._session.armed, watch.index)
                lines += [f"{part:14,}    {place}\n" for place, part in places.items()]
        return "".join(lines)

    def tally(self, notes: list[str]) -> Tally:
        """What was counted, held against the counters."""
        session = self._session
        names = [watch.name for watch in session.plan.watches]
        tally = Tally(names, self._hits, None, disarmed=session.run.disarmed, notes=notes)
        engine = session.armed.engine
        if engine is None:
            return tally

        def total(field: Cell) -> int:
            return sum(engine.shared.total(watch.index, field) for watch in session.plan.watches)

        tally.rejected, tally.hidden, tally.suppressed = (
            total(Cell.REJECTED),
            total(Cell.LIMITED),
            total(Cell.DISARMED),
        )
        notes += self._whose.remarks() if self._whose else []
        tally.lost = max(0, sum(session.armed.counts()) - total(Cell.SEEN) - tally.suppressed)
        if total(Cell.MISORDERED) and session.armed.options.both_fire:
            notes.append(
                f"R may be W: {number(total(Cell.MISORDERED), 'time')} the registers of a twin fired in the wrong order"
            )
        dropped = total(Cell.DROPPED)
        if dropped and self._whose:
            notes.append(
                f"{number(dropped, 'hit')} in no row: the table had no room for more places or threads"
            )
        elif dropped:
            notes.append(f"{number(dropped, 'hit')} not counted: there was no room for more forked processes")
        return tally

    def close(self) -> None:
        """Close what names were read from."""
        if self._whose:
            self._whose.close()


def kept(armed: ArmedWatch) -> list[int]:
    """Hits of each watch so far that conditions and limit let through; while it is armed, never more than there are."""
    engine = armed.engine
    if engine is None:
        return armed.counts()
    return [sum(_kept_on_cpus(armed, watch.index)) for watch in armed.plan.watches]


def _kept_on_cpus(armed: ArmedWatch, index: int) -> list[int]:
    assert armed.engine is not None
    # The sum first: what is counted meanwhile may only be missing.
    fields = [armed.engine.shared.by_cpu(index, field) for field in (Cell.SEEN, Cell.REJECTED, Cell.LIMITED)]
    return [max(0, seen - rejected - limited) for seen, rejected, limited in zip(*fields, strict=True)]


def _kept_by_place(armed: ArmedWatch, index: int) -> dict[str, int]:
    if armed.engine is None:
        return armed.counts_by_place(index)
    cpus = range(max(armed.scope.cpus) + 1)
    hits = _kept_on_cpus(armed, index)
    return {f"CPU {cpu}": hits[cpu] for cpu in cpus if cpu in armed.scope.cpus or hits[cpu]}


def _json(row: dict[str, Any]) -> str:
    return as_json(row) + "\n"
