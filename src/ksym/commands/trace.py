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
from ksym.commands.parser import positive
from ksym.commands.planting import Planting
from ksym.commands.session import Session, add_run_options, open_session
from ksym.linux.libc import MACHINE
from ksym.program.engine import Wants
from ksym.program.watch_program import Sink
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
        "--format", choices=FORMATS, default="table", help="how rows are written (default: table)"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="rows into FILE (made with mode 0600), not to stdout"
    )


def run(args: argparse.Namespace) -> int:
    """Trace until COMMAND, the duration, the limit or Ctrl-C ends it."""
    options = Options(stacks=args.stacks, kernel_accesses=args.kernel_accesses)
    planting = Planting(options, Wants(Sink.RECORD), twin=args.twin, bpf=not args.no_bpf, guard=args.guard)
    # The output first: a FIFO waits for its reader, and must not hold registers meanwhile.
    with closing(Output(args.output)) as output, open_session(args, planting) as session:
        rows = rows_for(args.format, session.plan.watches, verbose=args.verbose)
        if args.verbose:
            session.run.on_note = lambda note: print(f"ksym: {note}", file=sys.stderr, flush=True)
        trace = Trace(session, output, rows, limit=args.limit)
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
        notes = [] if args.quiet else [*session.notes(verbose=args.verbose), *trace.remarks()]
        print("\n".join(trace.tally(notes).lines()), file=sys.stderr)
        return status


class Trace:
    """A session's accesses, written as they come.

    Args:
        session: The armed run.
        output: Where rows go.
        rows: Their format.
        limit: End after so many accesses.
    """

    def __init__(self, session: Session, output: Output, rows: Rows, *, limit: int | None = None) -> None:
        self._session, self._output, self._rows, self._limit = session, output, rows, limit
        output.ending = session.run.signalled
        armed, kernel = session.armed, session.resolver.kernel
        self._users = Users(session.pid)
        self._sites = Sites(_kallsyms, lambda: kernel.memory_or_none, self._users)
        # The rings report changes of names already, the watches are not enabled yet: nothing is missed, and
        # ksym's own reading of names is no access.
        self._tasks = Tasks()
        self._tasks.snapshot()
        raw = armed.engine is not None
        names = pointer_names(_kallsyms)
        values = [Values(watch.variable, names) for watch in session.plan.watches] if raw else ()
        self._pipeline = Pipeline(
            armed.planned, self._sites, self._tasks, self._users, values=values, judges=judges(armed)
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
        self._output.write("".join(lines))
        if self._limit is not None and sum(self._shown) >= self._limit:
            self._session.run.stop("limit reached")

    def tally(self, notes: list[str]) -> Tally:
        """What was seen, held against the counters."""
        counts = self._session.armed.counts()
        seen = self._pipeline.hits
        lost = sum(max(0, count - seen.get(index, 0)) for index, count in enumerate(counts))
        names = [watch.name for watch in self._session.plan.watches]
        hidden = sum(seen.values()) - self._hits_shown
        no_room = max(self._pipeline.lost_records, self._session.armed.lost())
        return Tally(names, counts, self._shown, lost=lost, no_room=no_room, hidden=hidden, notes=notes)

    def remarks(self) -> list[str]:
        """What a reader of the rows should know."""
        if not self._unknown_types:
            return []
        if MACHINE != "x86_64":
            return [
                f"TYPE ?: on {MACHINE} ksym does not decode instructions; ask for -w- to see writes alone"
            ]
        if not available():
            return [
                "TYPE ?: x86 instructions are decoded by iced-x86, which is not installed: pip install iced-x86"
            ]
        return []

    def close(self) -> None:
        """Close what names were read from."""
        self._users.close()


def _kallsyms() -> Kallsyms | None:
    try:
        table = Kallsyms.of_this_kernel()
    except OSError:
        return None
    return None if table.hidden else table
