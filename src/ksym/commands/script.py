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
from ksym.views import target
from ksym.views.output import Output, ReaderGone
from ksym.views.rows import FORMATS, RAW_HELP, check_raw
from ksym.views.target import STDOUT
from ksym.views.text import printable


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="ksym.data", help="the recording (default: ksym.data)"
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="table", help="how rows are written (default: table)"
    )
    parser.add_argument("--raw", action="store_true", help=RAW_HELP)
    parser.add_argument(
        "-o", "--output", metavar="OUT", default=STDOUT,
        help="rows into OUT (made with mode 0600), not to stdout",
    )  # fmt: skip
    parser.add_argument("-f", "--force", action="store_true", help="overwrite OUT")
    add_selection(parser)
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N rows alone")
    parser.add_argument("-q", "--quiet", action="store_true", help="no header, and no remarks")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the accessing instructions, too")


def run(args: argparse.Namespace) -> int:
    """Read the recording and print its rows."""
    check_raw(raw=args.raw, name=args.format)
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
    from ksym.reports.remarks import remarks
    from ksym.views.bulk import bulk_rows_for, texts

    target.check_apart(args.file, args.output)
    target.check(args.output, force=args.force)  # before anything takes time
    selection = Selection.of(args)
    with Progress(f"reading {printable(args.file)}") as progress:
        recording = open_recording(args.file, progress)
        accesses = recording.accesses()
    if selection:
        accesses = accesses.select(selection.mask(accesses))
    if args.limit:
        accesses = accesses.select(slice(args.limit))
    rows = bulk_rows_for(args.format, accesses, verbose=args.verbose, raw=args.raw)
    header = rows.header() if not args.quiet or args.format == "csv" else ""
    if args.output == STDOUT:
        try:
            with closing(Output(None)) as output:
                output.write(header)
                for text, _ in texts(rows, accesses):  # which shows how far it is
                    output.write(text)
        except ReaderGone:
            return 0
    else:
        with Progress("writing rows") as progress, target.created(args.output, force=args.force) as file:
            file.write(header.encode())
            done = 0
            for text, count in texts(rows, accesses):
                file.write(text.encode("utf-8", "backslashreplace"))
                done += count
                progress(done, len(accesses))
    if not args.quiet:
        print(*remarks(recording), sep="", end="", file=sys.stderr)
    return 0
