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
from typing import Any

from ksym.commands.parser import positive
from ksym.commands.session import Session, add_run_options, open_session
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
    with open_session(args, options, every=every) as session:
        before = [0] * len(session.plan.watches)
        started = time.monotonic()
        if args.interval and not args.json and not args.quiet:
            print(f"{'SECONDS':>12} {'HITS':>14}  SYMBOL", flush=True)
        for _ in session.run.rounds():
            counts = session.armed.counts()
            if args.interval:
                seconds = time.monotonic() - started
                _interval(args, session, seconds, [a - b for a, b in zip(counts, before, strict=True)])
                before = counts
            if args.limit and sum(counts) >= args.limit:
                session.run.stop("limit reached")
        counts = session.armed.counts()
        if args.interval and counts != before:
            seconds = time.monotonic() - started
            _interval(args, session, seconds, [a - b for a, b in zip(counts, before, strict=True)])
        if not args.interval:
            _totals(args, session, counts)
        status = session.status()
        _summary(args, session, counts)
        return status


def _interval(args: argparse.Namespace, session: Session, seconds: float, counts: Sequence[int]) -> None:
    for watch, count in zip(session.plan.watches, counts, strict=True):
        if args.json:
            row = {
                "seconds": round(seconds, 6),
                "symbol": watch.name,
                "access": str(watch.mode),
                "hits": count,
            }
            print(_json(row))
        else:
            print(f"{seconds:12.6f} {count:14,}  {printable(str(watch.request))}")
    sys.stdout.flush()


def _totals(args: argparse.Namespace, session: Session, counts: Sequence[int]) -> None:
    if args.json:
        for watch, count in zip(session.plan.watches, counts, strict=True):
            row = {
                "symbol": watch.name,
                "access": str(watch.mode),
                "address": hex(watch.variable.address),
                "length": watch.variable.length,
                "hits": count,
            }
            print(_json(row))
        sys.stdout.flush()
        return
    if not args.quiet:
        print(f"{'HITS':>14}  SYMBOL")
    for watch, count in zip(session.plan.watches, counts, strict=True):
        print(f"{count:14,}  {printable(str(watch.request))}")
        if args.verbose:
            for place, part in session.armed.counts_by_place(watch.index).items():
                print(f"{part:14,}    {place}")
    sys.stdout.flush()


def _json(row: dict[str, Any]) -> str:
    import json

    return json.dumps(row)


def _summary(args: argparse.Namespace, session: Session, counts: Sequence[int]) -> None:
    names = [watch.name for watch in session.plan.watches]
    tally = Tally(names, counts, None, notes=[] if args.quiet else session.run.notes)
    print("\n".join(tally.lines()), file=sys.stderr)
