# SPDX-License-Identifier: BSD-2-Clause
"""Show every access to variables as it happens, a row an access.

With COMMAND, the watch lasts as long as it runs and is planted before its first instruction; a kernel
variable is watched whoever touches it (-p PID narrows that to one process). TYPE is the access that was
made: R, W, RW (one instruction that did both), X, or ? where it cannot be known.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing, nullcontext

from ksym.commands.actions import STOP, Action, Stopped, action_for, on_hit
from ksym.commands.parser import add_no_fold, positive
from ksym.commands.run_options import add_run_options, asked, check_output
from ksym.errors import KsymError
from ksym.program.wants import Sink, Wants
from ksym.runs.live import Live
from ksym.runs.planting import Planting
from ksym.runs.session import Session, open_session
from ksym.views.output import Output, ReaderGone
from ksym.views.rows import FORMATS, RAW_HELP, Shown, check_raw, rows_for, shown
from ksym.views.summary import number
from ksym.views.text import printable
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
    parser.add_argument("--raw", action="store_true", help=RAW_HELP)
    add_no_fold(parser)
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="rows into FILE (made with mode 0600), not to stdout"
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite FILE")


def run(args: argparse.Namespace) -> int:
    """Trace until COMMAND, the duration, the limit or Ctrl-C ends it."""
    check_raw(raw=args.raw, name=args.format)
    check_output(args)
    options = Options(stacks=args.stacks, kernel_accesses=args.kernel_accesses)
    stop = args.on_hit == STOP
    # A row may take several hits, so its number is counted here; a stop is a hit's, and counted in the kernel.
    wants = Wants(Sink.RECORD, stop=stop, limit=(args.limit or 0) if stop else 0)
    planting = Planting(
        options, wants, twin=args.twin, bpf=not args.no_bpf, guard=args.guard, verbose=args.verbose
    )
    # The output first: a FIFO waits for its reader, and must not hold registers meanwhile.
    with (
        closing(Output(args.output, force=args.force)) as output,
        open_session(asked(args), planting) as session,
    ):
        output.begin()
        rows = rows_for(args.format, session.plan.watches, verbose=args.verbose, raw=args.raw)
        session.warn()
        if not args.quiet:
            session.tell_lacking()
        if args.verbose:
            session.run.on_note = lambda note: print(f"ksym: {printable(note)}", file=sys.stderr, flush=True)
        action = action_for(args.on_hit, rows_for("json", session.plan.watches).row)
        trace = Trace(session, output, shown(rows, fold=not args.no_fold), limit=args.limit, action=action)
        with closing(trace), closing(action) if action else nullcontext():
            trace.follow(rows.header() if not args.quiet or args.format == "csv" else "")
            session.armed.release()
            notes = trace.losses()
            if not args.quiet:
                notes += [*session.notes(verbose=args.verbose), *trace.remarks()]
            if action:
                notes += action.finish()
        # Before COMMAND is ended, which may take its time.
        print("\n".join(trace.tally(notes).lines()), file=sys.stderr, flush=True)
        status = session.status()
        if failure := trace.failure or output.settle():
            raise failure
        return status


class Trace(Live):
    """A session's accesses, written as they come.

    Args:
        session: The armed run.
        output: Where rows go.
        rows: Makes them.
        limit: End after so many accesses.
        action: What else happens at each.
    """

    def __init__(
        self,
        session: Session,
        output: Output,
        rows: Shown,
        *,
        limit: int | None = None,
        action: Action | None = None,
    ) -> None:
        # COMMAND is left as it was stopped, for whoever looks into it.
        stopped = isinstance(action, Stopped) and session.command
        super().__init__(session, limit=limit, at_limit=session.armed.disable if stopped else None)
        self._action, self._output, self._rows = action, output, rows
        self._unshown = 0
        self.failure: KsymError | None = None
        """Why rows could not be written; the run was ended then."""
        output.ending = session.run.held_up

    def follow(self, header: str = "") -> None:
        """Write rows until the run is over; it is once they cannot be written.

        Raises:
            KsymError: if not even the header can be written; nothing has run.
        """
        if not self._written(header):
            return
        reader, held = True, 0
        for accesses in self.batches():
            if reader:
                reader = self._show(self._rows.rows(accesses))
            if self.failure:
                # A row may be held back from the batch before.
                self._unshown += len(accesses) + held
            held = 0 if self.failure else len(accesses)
            if self._action:
                for access in accesses:
                    self._action.take(access)
                self._action.turn()
        if reader:
            self._show(self._rows.rest())

    def _show(self, text: str) -> bool:
        """Write rows; return False if no more of them can be."""
        try:
            return not text or self._written(text)
        except KsymError as error:
            self.failure = error
            self._session.run.stop("the rows cannot be written")
            return False

    def losses(self) -> list[str]:
        """Return how many rows could not be written, where some could not."""
        return [f"up to {number(self._unshown, 'access')} not shown"] if self._unshown else []

    def _written(self, text: str) -> bool:
        try:
            self._output.write(text)
        except ReaderGone:
            run = self._session.run
            run.stop("the reader of the rows went away")
            run.notes.append("the reader of the rows went away: the last ones were not shown")
            return False
        return True
