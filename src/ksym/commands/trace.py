# SPDX-License-Identifier: BSD-2-Clause
"""Show every access to variables as it happens, a row an access.

With COMMAND, the watch lasts as long as it runs and is planted before its first instruction; a kernel
variable is watched whoever touches it (-p PID narrows that to one process). TYPE is the access that was
made: R, W, RW (one instruction that did both), X, or ? where it cannot be known.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from ksym.capture.access import Access
from ksym.capture.instructions import available
from ksym.capture.judge import judges
from ksym.capture.merge import Merge
from ksym.capture.pipeline import Pipeline
from ksym.capture.pointers import pointer_names
from ksym.capture.sites import Sites
from ksym.capture.tasks import Tasks
from ksym.capture.users import Users
from ksym.capture.values import Values
from ksym.commands.actions import STOP, Action, Stopped, action_for, on_hit
from ksym.commands.parser import positive
from ksym.commands.planting import Planting
from ksym.commands.session import Session, add_run_options, open_session
from ksym.linux.libc import MACHINE
from ksym.program.engine import Engine
from ksym.program.shared import Cell
from ksym.program.wants import Sink, Wants
from ksym.symbols.kallsyms import Kallsyms
from ksym.views.output import Output, ReaderGone
from ksym.views.rows import FORMATS, Rows, rows_for
from ksym.views.summary import Tally
from ksym.watch.arm import Options

TAKES_COMMAND = True


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_options(parser, verbose="show the accessing instructions, too, and CPUs that come and go at once")
    parser.add_argument("-g", "--stacks", action="store_true", help="call chains, kernel and user")
    parser.add_argument("--limit", type=positive, metavar="N", help="end after exactly N accesses")
    parser.add_argument(
        "--on-hit", type=on_hit, metavar="stop|'exec CMD'",
        help="stop the task before it returns to user space (SIGSTOP), or run CMD with the row as JSON on its stdin",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=FORMATS, default="table", help="how rows are written (default: table)"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="rows into FILE (made with mode 0600), not to stdout"
    )


def run(args: argparse.Namespace) -> int:
    """Trace until COMMAND, the duration, the limit or Ctrl-C ends it."""
    options = Options(stacks=args.stacks, kernel_accesses=args.kernel_accesses)
    stop = args.on_hit == STOP
    # A row may take several hits, so its number is counted here; a stop is a hit's, and counted in the kernel.
    wants = Wants(Sink.RECORD, stop=stop, limit=(args.limit or 0) if stop else 0)
    planting = Planting(
        options, wants, twin=args.twin, bpf=not args.no_bpf, guard=args.guard, verbose=args.verbose
    )
    # The output first: a FIFO waits for its reader, and must not hold registers meanwhile.
    with closing(Output(args.output)) as output, open_session(args, planting) as session:
        rows = rows_for(args.format, session.plan.watches, verbose=args.verbose)
        if args.verbose:
            session.run.on_note = lambda note: print(f"ksym: {note}", file=sys.stderr, flush=True)
        action = action_for(args.on_hit, rows_for("json", session.plan.watches).row)
        trace = Trace(session, output, rows, limit=args.limit, action=action)
        try:
            if not args.quiet or args.format == "csv":
                output.write(rows.header())
            trace.follow()
        except ReaderGone:
            session.armed.disable()
            return session.status()
        finally:
            trace.close()
        status = session.status()
        done = action.finish() if action else []
        notes = [] if args.quiet else [*session.notes(verbose=args.verbose), *trace.remarks(), *done]
        print("\n".join(trace.tally(notes).lines()), file=sys.stderr)
        return status


class Trace:
    """A session's accesses, written as they come.

    Args:
        session: The armed run.
        output: Where rows go.
        rows: Their format.
        limit: End after so many accesses.
        action: What else happens at each.
    """

    def __init__(
        self,
        session: Session,
        output: Output,
        rows: Rows,
        *,
        limit: int | None = None,
        action: Action | None = None,
    ) -> None:
        self._action = action
        self._session, self._output, self._rows, self._limit = session, output, rows, limit
        output.ending = session.run.held_up
        armed, kernel = session.armed, session.resolver.kernel
        self._users = Users(session.pid)
        self._sites = Sites(Kallsyms.shown, lambda: kernel.memory_or_none, self._users)
        # The rings report changes of names already, the watches are not enabled yet: nothing is missed, and
        # ksym's own reading of names is no access.
        self._tasks = Tasks()
        self._tasks.snapshot()
        raw = armed.engine is not None
        names = pointer_names(Kallsyms.shown)
        values = [Values(watch.variable, names) for watch in session.plan.watches] if raw else ()
        self._pipeline = Pipeline(
            armed.planned,
            self._sites,
            self._tasks,
            self._users,
            values=values,
            judges=judges(armed),
            ended=armed.engine.forget if armed.engine else lambda pid: None,
        )
        self._merge = Merge(armed.rings, chains=armed.options.stacks, raw=raw)
        self._shown = [0] * len(session.plan.watches)
        self._hits_shown = 0
        self._unknown_types = 0

    def follow(self) -> None:
        """Write rows until the run is over.

        Raises:
            ReaderGone, KsymError: the rows cannot be written; the watch is disarmed.
        """
        for _ in self._session.run.rounds():
            until = self._merge.horizon
            self._show(self._pipeline.take(self._merge.ready(), until=until))
            if self._action:
                self._action.turn()
        self._show(self._pipeline.take(self._merge.ready(last=True), until=None))

    def _show(self, accesses: list[Access]) -> None:
        if self._limit is not None:
            accesses = accesses[: self._limit - sum(self._shown)]
        if not accesses:
            return
        row = self._rows.row
        lines = []
        for access in accesses:
            lines.append(row(access))
            self._shown[access.watch.index] += 1
            self._hits_shown += access.hits
            self._unknown_types += access.access == "?"
            if self._action:
                self._action.take(access)
        self._output.write("".join(lines))
        if self._limit is not None and sum(self._shown) >= self._limit:
            if isinstance(self._action, Stopped) and self._session.command:
                self._session.armed.disable()  # COMMAND is left as it was stopped, for whoever looks into it
            else:
                self._session.run.stop("limit reached")

    def tally(self, notes: list[str]) -> Tally:
        """What was seen, held against the counters."""
        session, pipeline = self._session, self._pipeline
        watches = range(len(session.plan.watches))
        seen = sum(pipeline.hits.values())
        rejected = sum(pipeline.rejected.values())
        hidden = seen - rejected - self._hits_shown
        no_room, suppressed = pipeline.lost_records, 0
        engine = session.armed.engine
        if engine:
            rejected += (in_kernel := sum(engine.shared.total(watch, Cell.REJECTED) for watch in watches))
            suppressed = sum(engine.shared.total(watch, Cell.DISARMED) for watch in watches)
            no_room = sum(engine.shared.total(watch, Cell.DROPPED) for watch in watches)
            hidden += (behind := sum(engine.shared.total(watch, Cell.LIMITED) for watch in watches))
            seen += in_kernel + suppressed + behind
        return Tally(
            [watch.name for watch in session.plan.watches], (), self._shown, shown=self._hits_shown,
            lost=max(0, sum(session.armed.counts()) - seen), no_room=max(no_room, session.armed.lost()),
            hidden=hidden, rejected=rejected, suppressed=suppressed, disarmed=session.run.disarmed, notes=notes,
        )  # fmt: skip

    def remarks(self) -> list[str]:
        """What a reader of the rows should know."""
        engine = self._session.armed.engine
        remarks = _doubts(engine, both_fire=self._session.armed.options.both_fire) if engine else []
        if not self._unknown_types:
            return remarks
        if MACHINE != "x86_64":
            return [
                *remarks,
                f"TYPE ?: on {MACHINE} ksym does not decode instructions; ask for -w- to see writes alone",
            ]
        if not available():
            return [
                *remarks,
                "TYPE ?: x86 instructions are decoded by iced-x86, which is not installed: pip install iced-x86",
            ]
        return remarks

    def close(self) -> None:
        """Close what names were read from."""
        self._users.close()


def _doubts(engine: Engine, *, both_fire: bool) -> list[str]:
    """Where values or types may be wrong, which the programs have noticed."""
    watches = range(len(engine.plan.watches))
    unordered = sum(engine.shared.total(watch, Cell.UNORDERED) for watch in watches)
    misordered = sum(engine.shared.total(watch, Cell.MISORDERED) for watch in watches)
    doubts = []
    if unordered:
        doubts.append(f"OLD -> NEW may have gaps: {unordered} values were taken while another CPU took one")
    if misordered and both_fire:
        doubts.append(f"TYPE R may be W: {misordered} times a twin's registers fired in the wrong order")
    return doubts
