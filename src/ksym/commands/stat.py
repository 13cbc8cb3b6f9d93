# SPDX-License-Identifier: BSD-2-Clause
"""Count the accesses to variables, at the hardware's own cost: no samples, no rings.

What is counted are hits: traps of the processor. One access can take several (see `ksym trace`).
With COMMAND, counting lasts as long as it runs; a kernel variable is counted whoever touches it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from ksym.commands.parser import positive
from ksym.commands.planting import Planting
from ksym.commands.session import Session, add_run_options, open_session
from ksym.views.output import Output, ReaderGone
from ksym.views.summary import Tally
from ksym.views.text import printable
from ksym.watch.arm import Options

TAKES_COMMAND = True
_FOREVER = 3600.0


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_options(parser, verbose="show the hits of each CPU or thread, too")
    parser.add_argument(
        "-I", "--interval", type=positive, metavar="MS", help="print the hits of each interval"
    )
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="end after N hits (checked ten times a second)"
    )
    parser.add_argument("--json", action="store_true", help="an object a line")


def run(args: argparse.Namespace) -> int:
    """Count until COMMAND, the duration, the limit or Ctrl-C ends it."""
    every = args.interval / 1000 if args.interval else (0.1 if args.limit else _FOREVER)
    options = Options(counting=True, kernel_accesses=args.kernel_accesses)
    with open_session(args, Planting(options, None, twin=args.twin), every=every) as session, closing(Output(None)) as output:
        output.ending = session.run.signalled
        try:
            counts = _count(args, session, output)
        except ReaderGone:
            session.armed.disable()
            return session.status()
        status = session.status()
        names = [watch.name for watch in session.plan.watches]
        notes = [] if args.quiet else session.notes(verbose=args.verbose)
        tally = Tally(names, counts, None, notes=notes)
        print("\n".join(tally.lines()), file=sys.stderr)
        return status


def _count(args: argparse.Namespace, session: Session, output: Output) -> list[int]:
    """Follow the run, write what is asked for, and return the hits of each watch."""
    before = [0] * len(session.plan.watches)
    started = time.monotonic()
    if args.interval and not args.json and not args.quiet:
        output.write(f"{'SECONDS':>12} {'HITS':>14}  SYMBOL\n")
    for _ in session.run.rounds():
        counts = session.armed.counts()
        if args.interval:
            output.write(_interval(args, session, time.monotonic() - started, counts, before))
            before = counts
        if args.limit and sum(counts) >= args.limit:
            session.run.stop("limit reached")
    counts = session.armed.counts()
    if not args.interval:
        output.write(_totals(args, session, counts))
    elif counts != before:
        output.write(_interval(args, session, time.monotonic() - started, counts, before))
    return counts


def _interval(
    args: argparse.Namespace, session: Session, seconds: float, counts: Sequence[int], before: Sequence[int]
) -> str:
    lines = []
    for watch, now, then in zip(session.plan.watches, counts, before, strict=True):
        hits = now - then
        if args.json:
            row = {
                "seconds": round(seconds, 6),
                "symbol": watch.name,
                "access": str(watch.mode),
                "hits": hits,
            }
            lines.append(_json(row))
        else:
            lines.append(f"{seconds:12.6f} {hits:14,}  {printable(str(watch.request))}\n")
    return "".join(lines)


def _totals(args: argparse.Namespace, session: Session, counts: Sequence[int]) -> str:
    lines = [] if args.quiet or args.json else [f"{'HITS':>14}  SYMBOL\n"]
    for watch, count in zip(session.plan.watches, counts, strict=True):
        if args.json:
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
        if args.verbose:
            places = session.armed.counts_by_place(watch.index)
            lines += [f"{part:14,}    {place}\n" for place, part in places.items()]
    return "".join(lines)


def _json(row: dict[str, Any]) -> str:
    import json

    return json.dumps(row) + "\n"
