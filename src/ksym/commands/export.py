# SPDX-License-Identifier: BSD-2-Clause
"""Write a recording in a format of other programs.

parquet is for DuckDB, pandas, Spark and Trino; perfetto for ui.perfetto.dev; folded for flame graphs; speedscope
for speedscope.app; csv and jsonl have the rows of `ksym script`. The file is named after the recording where -o
is left out, gets mode 0600, and overwrites none.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ksym.errors import KsymError, UsageError
from ksym.reports.select import Selection, add_selection
from ksym.views import target
from ksym.views.rows import RAW_HELP, check_raw
from ksym.views.text import printable

if TYPE_CHECKING:
    from ksym.recording.accesses import Accesses
    from ksym.recording.reader import Recording

ENDINGS = {
    "parquet": ".parquet", "perfetto": ".perfetto-trace", "folded": ".folded",
    "speedscope": ".speedscope.json", "csv": ".csv", "jsonl": ".jsonl",
}  # fmt: skip
_TEXTS = ("folded", "csv", "jsonl")

Write = Callable[["Accesses", BinaryIO, Callable[[int], None]], None]


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", nargs="?", default="ksym.data", help="default: ksym.data")
    parser.add_argument("--to", required=True, choices=ENDINGS, metavar="FORMAT", help=", ".join(ENDINGS))
    parser.add_argument(
        "-o", "--output", metavar="OUT",
        help="the file to write, - for stdout; a folder with --partition (default: FILE's name with another ending)",
    )  # fmt: skip
    parser.add_argument("-f", "--force", action="store_true", help="overwrite OUT")
    add_selection(parser)
    parser.add_argument("--raw", action="store_true", help=RAW_HELP)
    parser.add_argument(
        "--partition", action="store_true",
        help="parquet: add to the folder OUT as host=HOST/date=DATE, for the recordings of a fleet",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Read the recording, write the export, say what it is called."""
    _check(args)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start threads for what is not used here
    write = _writer(args.to, fleet=args.partition, raw=args.raw)
    from ksym.recording.reader import open_recording
    from ksym.reports.progress import Progress
    from ksym.reports.remarks import remarks

    out = Path(args.file).stem + ENDINGS[args.to] if args.output is None else args.output
    if not args.partition:
        target.check_apart(args.file, out)
        target.check(out, force=args.force)  # before anything takes time
    with Progress(f"reading {printable(args.file)}") as progress:
        recording = open_recording(args.file, progress)
        accesses = _selected(recording.accesses(), Selection.of(args))
    count = len(accesses)
    with Progress(f"writing {printable(out)}") as progress:

        def put(some: Accesses, file: BinaryIO, before: int = 0) -> None:
            write(some, file, lambda done: progress(before + done, count))

        if args.partition:
            out = str(_add(recording, accesses, Path(out), put, force=args.force))
        else:
            with target.created(out, force=args.force) as file:
                put(accesses, file)
    if out != target.STDOUT:
        print(f"ksym: {printable(out)}: {count:,} access{'' if count == 1 else 'es'}", file=sys.stderr)
    print(*remarks(recording), sep="", end="", file=sys.stderr)
    return 0


def _check(args: argparse.Namespace) -> None:
    check_raw(raw=args.raw, name=args.to)
    what = "cannot read the command line"
    if args.partition and args.to != "parquet":
        raise UsageError(what, f"--partition is for parquet, not for {args.to}", "leave it out")
    if args.partition and args.output in (None, "", "-"):
        raise UsageError(what, "--partition needs a folder", "name it with -o")
    if args.output == "-" and args.to not in _TEXTS:
        raise UsageError(what, f"{args.to} is no text for stdout", "name a file with -o")


def _selected(accesses: Accesses, selection: Selection) -> Accesses:
    return accesses.select(selection.mask(accesses)) if selection else accesses


def _writer(name: str, *, fleet: bool, raw: bool) -> Write:
    """What writes accesses in the format of that name.

    Raises:
        KsymError: a library is missing.
    """
    try:
        import numpy  # noqa: F401
    except ImportError:
        raise _missing(name, "numpy", "numpy") from None
    if name in ("csv", "jsonl"):
        from ksym.exports import rows

        return functools.partial(rows.write, name="json" if name == "jsonl" else name, raw=raw)
    if name == "parquet":
        if not find_spec("pyarrow"):
            raise _missing(name, "pyarrow", "'ksym[data]'")
        # pyarrow takes as long to load as some hundred thousand accesses do to read: it is loaded meanwhile.
        loading = threading.Thread(target=import_module, args=("ksym.exports.parquet",))
        loading.start()

        def write_parquet(accesses: Accesses, out: BinaryIO, step: Callable[[int], None]) -> None:
            loading.join()
            from ksym.exports import parquet

            parquet.write(accesses, out, step, fleet=fleet)

        return write_parquet
    write: Write = import_module(f"ksym.exports.{name}").write
    return write


def _missing(name: str, library: str, package: str) -> KsymError:
    return KsymError(f"cannot export to {name}", f"{library} is not installed", f"pip install {package}")


def _add(
    recording: Recording, accesses: Accesses, folder: Path, put: Callable[..., None], *, force: bool
) -> Path:
    """Add a recording to a fleet's folder; returns the folder, or the only file that was written.

    A file is called after the moment of the recording's first access: the same recording added again is noticed.
    """
    from ksym.exports import parquet

    whole = recording.accesses()
    name = f"ksym-{int(whole.time_ns[0]) if len(whole) else 0}.parquet"
    parts = [
        (folder / path, some) for path, some in parquet.partitions(accesses, recording.machine.hostname, name)
    ]
    for path, _ in parts:
        target.check_apart(recording.path, str(path))
        target.check(str(path), force=force)
    done = 0
    for path, some in parts:
        target.make_folders(path.parent)
        with target.created(str(path), force=force) as file:
            put(some, file, done)
        done += len(some)
    return parts[0][0] if len(parts) == 1 else folder
