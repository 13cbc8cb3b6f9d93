# SPDX-License-Identifier: BSD-2-Clause
"""Print the accesses of a recording, a row an access, in any of trace's formats.

The rows are those that `ksym trace` would have printed. FILE is one of `ksym record`, or of
`perf record -e mem:ADDRESS -c 1`.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from ksym.commands.parser import positive
from ksym.views.output import Output, ReaderGone
from ksym.views.rows import FORMATS


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="ksym.data", help="default: ksym.data")
    parser.add_argument(
        "--format", choices=FORMATS, default="table", help="how rows are written (default: table)"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="rows into OUT (made with mode 0600), not to stdout"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N rows alone")
    parser.add_argument("-q", "--quiet", action="store_true", help="no header, and no remarks")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the accessing instructions, too")


def run(args: argparse.Namespace) -> int:
    """Print the rows."""
    from ksym.recording.reader import open_recording
    from ksym.views.bulk import bulk_rows_for, texts

    recording = open_recording(args.file)
    accesses = recording.accesses()
    if args.limit:
        accesses = accesses.select(slice(args.limit))
    with closing(Output(args.output)) as output:
        rows = bulk_rows_for(args.format, accesses, verbose=args.verbose)
        try:
            if not args.quiet or args.format == "csv":
                output.write(rows.header())
            for text, _ in texts(rows, accesses):
                output.write(text)
        except ReaderGone:
            return 0
    if recording.cut and not args.quiet:
        print(f"ksym: {args.file} is not whole: {recording.cut}", file=sys.stderr)
    return 0
