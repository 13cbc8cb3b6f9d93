# SPDX-License-Identifier: BSD-2-Clause
"""Print the accesses of a recording, a row an access, in any of trace's formats.

The rows are those that `ksym trace` would have printed. FILE is what ksym record wrote, or perf record -e mem:ADDRESS.
It may come from another machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing

from ksym.commands.parser import positive
from ksym.errors import KsymError
from ksym.reports.select import Selection, add_selection
from ksym.views.output import Output, ReaderGone
from ksym.views.rows import FORMATS
from ksym.views.text import printable


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="ksym.data", help="the recording (default: ksym.data)"
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="table", help="how rows are written (default: table)"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="rows into OUT (made with mode 0600), not to stdout"
    )
    add_selection(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N rows alone")
    parser.add_argument("-q", "--quiet", action="store_true", help="no header, and no remarks")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the accessing instructions, too")


def run(args: argparse.Namespace) -> int:
    """Read the recording and print its rows."""
    # numpy would start a thread for each CPU, for what is not used here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise KsymError(
            f"cannot read {args.file}",
            "numpy is not installed",
            "pip install numpy, or read it on another machine",
        ) from None
    from ksym.recording.reader import open_recording
    from ksym.reports.progress import Progress
    from ksym.views.bulk import bulk_rows_for, texts

    selection = Selection.of(args)
    with Progress(f"reading {printable(args.file)}") as progress:
        recording = open_recording(args.file, progress)
        accesses = recording.accesses()
    if selection:
        accesses = accesses.select(selection.mask(accesses))
    if args.limit:
        accesses = accesses.select(slice(args.limit))
    with closing(Output(args.output)) as output, Progress("writing rows") as progress:
        rows = bulk_rows_for(args.format, accesses, verbose=args.verbose)
        try:
            if not args.quiet or args.format == "csv":
                output.write(rows.header())
            done = 0
            for text, count in texts(rows, accesses):
                output.write(text)
                done += count
                if args.output:  # else the rows themselves show how far it is
                    progress(done, len(accesses))
        except ReaderGone:
            return 0
    if not args.quiet:
        _remark(args.file, recording.cut, recording.counts.get("lost"))
    return 0


def _remark(path: str, cut: str | None, lost: object) -> None:
    """Say on stderr what is missing."""
    name = printable(path)
    if isinstance(lost, int) and lost:
        print(
            f"ksym: {name}: {lost} hit{'' if lost == 1 else 's'} lost while it was recorded", file=sys.stderr
        )
    if cut:
        print(f"ksym: {name} is not whole: {printable(cut)}", file=sys.stderr)
