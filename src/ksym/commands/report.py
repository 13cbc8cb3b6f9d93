# SPDX-License-Identifier: BSD-2-Clause
"""Say who touches the variables of a recording: from where, how often, reading or writing, which values.

FILE is what ksym record wrote, or perf record -e mem:ADDRESS. It may come from another machine.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from ksym.errors import KsymError
from ksym.reports.select import Selection, add_selection
from ksym.views import target
from ksym.views.text import printable

if TYPE_CHECKING:
    from ksym.recording.reader import Recording
    from ksym.reports.about import About
    from ksym.reports.analysis import Analysis
    from ksym.reports.terminal import SourceOf

KEYS = ("function", "instruction", "task", "cpu", "value", "stack")
_ROWS = 25
_WIDTHS = range(40, 1000)


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "file", metavar="FILE", nargs="?", default="ksym.data", help="the recording (default: ksym.data)"
    )
    parser.add_argument(
        "--by", type=keys, metavar="KEY[,KEY]", default=("instruction",),
        help=f"a row for each {', '.join(KEYS)}, or each of several together (default: instruction)",
    )  # fmt: skip
    add_selection(parser)
    parser.add_argument(
        "--top", type=rows, metavar="N",
        help=f"the first N rows of a variable, 0 for all (default: {_ROWS}; with --json all)",
    )  # fmt: skip
    parser.add_argument(
        "--timeline",
        choices=("cpu", "task", "off"),
        default="cpu",
        help="what has a line over time (default: cpu)",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="one object, for programs")
    output.add_argument(
        "--html", metavar="PAGE", help="a page for a browser, which needs no network; - for stdout"
    )
    parser.add_argument("-f", "--force", action="store_true", help="overwrite PAGE")


def keys(text: str) -> tuple[str, ...]:
    """``task`` or ``task,function``."""
    words = tuple(dict.fromkeys(text.split(",")))
    if not all(word in KEYS for word in words):
        raise argparse.ArgumentTypeError(f"'{text}' is none of {', '.join(KEYS)}, or several of them")
    return words


def rows(text: str) -> int:
    """A number of rows; 0: all."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 0 on")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Read the recording and print the report."""
    text = _report(args)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a name may have letters that the terminal's code has not
    print(text, end="")
    return 0


def _report(args: argparse.Namespace) -> str:
    os.environ.setdefault(
        "OPENBLAS_NUM_THREADS", "1"
    )  # numpy would start a thread a CPU, for what is not used here
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise KsymError(
            f"cannot report {args.file}",
            "numpy is not installed",
            "pip install numpy, or read it on another machine",
        ) from None
    from ksym.recording.reader import open_recording
    from ksym.reports.analysis import Analysis
    from ksym.reports.layout import coloured, glyphs, plain
    from ksym.reports.progress import Progress
    from ksym.reports.source import Sources
    from ksym.reports.terminal import Style, Terminal

    selection = Selection.of(args)
    target.check_apart(args.file, args.html or target.STDOUT, option="--html" if args.html else "-o")
    if args.html is not None:
        target.check(args.html, force=args.force, option="--html")  # before anything takes time
    with Progress(f"reading {printable(args.file)}") as progress:
        recording = open_recording(args.file, progress)
        analysis = Analysis(recording.accesses(), selection, sampled=recording.sampled is not None)
    about = _about(recording)
    lanes = None if args.timeline == "off" else args.timeline
    with closing(Sources(recording.machine.build_ids)) as sources:
        if args.html:
            return _page(args, about, analysis, selection, sources.line, recording)
        if args.json:
            from ksym.reports.machine_readable import report

            return json.dumps(report(about, analysis, args.by, args.top or 0, lanes, sources.line)) + "\n"
        terminal = sys.stdout.isatty()
        width = _width()
        most = _ROWS if args.top is None else args.top
        style = Style(width, glyphs(sys.stdout.encoding), args.by, most, lanes)
        lines = Terminal(about, analysis, selection, style, sources.line).lines()
        return coloured(lines, width) if terminal else plain(lines)


def _page(
    args: argparse.Namespace, about: About, analysis: Analysis, selection: Selection, source: SourceOf,
    recording: Recording,
) -> str:  # fmt: skip
    """Write the page; what is said of it goes to stderr."""
    from ksym.reports import html
    from ksym.reports.progress import Progress
    from ksym.reports.words import count

    accesses = recording.accesses()
    origin = int(accesses.time_ns[0]) if len(accesses) else 0
    with (
        Progress(f"writing {printable(args.html)}") as progress,
        target.created(args.html, force=args.force, option="--html") as file,
    ):
        html.write(file, about, analysis, selection, source, origin, progress)
    if args.html != target.STDOUT:
        print(f"ksym: {printable(args.html)}: {count(len(analysis), 'access')}", file=sys.stderr)
    return ""


def _width() -> int:
    """Columns of the terminal; of anything else what COLUMNS says, or 120."""
    try:
        width = os.get_terminal_size(1).columns
    except OSError:
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isascii() and columns.isdigit() else 0
    return min(max(width, _WIDTHS[0]), _WIDTHS[-1]) if width else 120


def _about(recording: Recording) -> About:
    from ksym.reports.about import About

    machine, counts = recording.machine, recording.counts
    made_by = f"ksym {recording.start.version}" if recording.by_ksym else f"perf {machine.version}".strip()

    def number(name: str) -> int:
        value = counts.get(name)
        return value if isinstance(value, int) else 0

    notes = counts.get("notes")
    lacking = [clause for clause in (recording.unopened, recording.following) if clause]
    return About(
        recording.path,
        machine={
            "hostname": machine.hostname, "release": machine.release, "arch": machine.arch, "cpus": machine.cpus,
        },
        made_by=made_by, lost=number("lost"), rejected=number("rejected"), suppressed=number("suppressed"),
        disarmed=number("disarmed"), removed=number("removed"), unwritten=number("unwritten"),
        continues=number("file") > 1, cut=recording.cut,
        notes=tuple(map(str, [*(notes if isinstance(notes, list) else []), *lacking])),
        sampled=recording.sampled,
    )  # fmt: skip
