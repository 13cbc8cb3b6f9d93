# SPDX-License-Identifier: BSD-2-Clause
"""Record every access to variables into a file that ksym and perf read, without loss.

The file is a perf.data file: `perf script -i FILE`, `perf report -i FILE` and others open it. `ksym report FILE`
says who touches the variable, `ksym script FILE` prints the rows that `ksym trace` would have printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import closing
from typing import Any

from ksym.capture.sites import Sites
from ksym.capture.users import Users
from ksym.commands.parser import positive
from ksym.commands.run_options import add_run_options, asked
from ksym.errors import KsymError
from ksym.program.shared import Cell
from ksym.program.wants import Sink, Wants
from ksym.recording.recorder import FLUSH_SECONDS, Recorder
from ksym.runs.planting import Planting
from ksym.runs.session import Session, open_session
from ksym.symbols.kallsyms import Kallsyms
from ksym.views.summary import Tally
from ksym.watch.arm import Options

TAKES_COMMAND = True
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_PROGRESS_SECONDS = 0.5


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_options(parser, verbose="say what ended the run, and CPUs that come and go at once")
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="ksym.data", help="the recording (default: ksym.data)"
    )
    parser.add_argument(
        "-f", "--force", action="store_true", help="overwrite FILE; else it becomes FILE.old, as with perf"
    )
    parser.add_argument("-g", "--stacks", action="store_true", help="call chains, kernel and user")
    parser.add_argument("--limit", type=positive, metavar="N", help="end after exactly N hits")
    parser.add_argument("-z", "--compress", action="store_true", help="compress with zstd, as perf does")
    parser.add_argument(
        "--max-size", type=size, metavar="SIZE",
        help="begin a new file at this size, e.g. 100M; the full one is kept as FILE.1, the one before is removed",
    )  # fmt: skip
    parser.add_argument(
        "--flush-ms", type=positive, metavar="MS", default=int(FLUSH_SECONDS * 1000),
        help="write at least so often (default: 1000)",
    )  # fmt: skip


def size(text: str) -> int:
    """A number of bytes, with K, M or G behind it."""
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    number = text[: len(text) - len(unit)]
    if unit not in _UNITS or not number.isascii() or not number.isdigit() or not int(number):
        raise argparse.ArgumentTypeError(f"'{text}' is no size such as 500K, 100M or 2G")
    return int(number) * _UNITS[unit]


def run(args: argparse.Namespace) -> int:
    """Record until COMMAND, the duration, the limit or Ctrl-C ends it."""
    compressor = _compressor() if args.compress else None
    options = Options(stacks=args.stacks, kernel_accesses=args.kernel_accesses)
    wants = Wants(Sink.RECORD, limit=args.limit or 0)
    planting = Planting(options, wants, args.twin, not args.no_bpf, args.guard, args.verbose)
    files = _Files(args.output, force=args.force)
    with open_session(asked(args), planting) as session:
        users = Users(session.pid)
        kernel = session.resolver.kernel
        sites = Sites(Kallsyms.shown, lambda: kernel.memory_or_none, users)
        if args.verbose:
            session.run.on_note = lambda note: print(f"ksym: {note}", file=sys.stderr, flush=True)
        try:
            recorder = Recorder(
                session.armed, sites, users, pid=session.pid, open_file=files.open, compressor=compressor,
                flush_seconds=args.flush_ms / 1000, most_bytes=args.max_size or 0,
            )  # fmt: skip
        except OSError as error:
            raise files.error(error) from error
        with closing(users), closing(recorder):
            recording = _Recording(args, session, recorder)
            try:
                recording.follow()
            except OSError as error:
                session.armed.disable()
                raise files.error(error) from error
            status = session.status()
            recording.summary()
        return status


def _compressor() -> Any:
    from ksym.recording import zstd

    try:
        zstd.Compressor().close()
    except zstd.ZstdMissing:
        raise KsymError(
            "cannot compress the recording",
            "libzstd.so.1 is not installed",
            "install libzstd1, or leave -z out",
        ) from None
    return zstd.Compressor


class _Files:
    """The files of a recording, by their names."""

    def __init__(self, path: str, *, force: bool) -> None:
        self._path, self._force, self._number = path, force, 0

    def open(self) -> int:
        """Open the next file, mode 0600; what is there under the name is kept under another one."""
        if self._number:
            os.replace(self._path, f"{self._path}.1")
        elif os.path.lexists(self._path) and not self._force:
            os.replace(self._path, f"{self._path}.old")
        self._number += 1
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path, flags, 0o600)
        os.fchmod(fd, 0o600)
        return fd

    def error(self, error: OSError) -> KsymError:
        """In words."""
        return (
            KsymError(
                f"cannot write {self._path}",
                error.strerror or "it fails",
                "what was flushed before can be read",
            )
            if self._number and error.filename is None
            else KsymError(
                f"cannot write {self._path}", error.strerror or "it fails", "choose another file with -o"
            )
        )


class _Recording:
    """A session that is recorded."""

    def __init__(self, args: argparse.Namespace, session: Session, recorder: Recorder) -> None:
        self._args, self._session, self._recorder = args, session, recorder
        self._progress = sys.stderr.isatty() and not args.quiet
        self._shown_at = 0.0

    def follow(self) -> None:
        """Record until the run is over."""
        for _ in self._session.run.rounds():
            self._recorder.round(self._counts)
            if self._progress:
                self._show()
            limit = self._args.limit
            if limit and self._recorder.hits >= limit:
                self._session.run.stop("limit reached")
        self._recorder.round(self._counts)  # what the rings still hold is not lost
        self._recorder.finish(
            self._counts() | {"notes": self._notes(), "ended_by": self._session.run.ended_by}
        )
        if self._progress:
            sys.stderr.write("\r\x1b[K")

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at < _PROGRESS_SECONDS:
            return
        self._shown_at = now
        seconds = now - self._session.run.armed_at
        hits, counts = self._recorder.hits, self._counts()
        sys.stderr.write(
            f"\r\x1b[Kksym: {seconds:.0f} s  {hits:,} hits  {hits / max(seconds, 0.1):,.0f}/s  "
            f"{counts['no_room']:,} lost  {self._recorder.bytes_written / 1e6:,.1f} MB"
        )
        sys.stderr.flush()

    def _counts(self) -> dict[str, Any]:
        armed = self._session.armed
        hits = armed.counts()
        engine = armed.engine
        watches = range(len(armed.plan.watches))

        def total(cell: Cell) -> int:
            return sum(engine.shared.total(watch, cell) for watch in watches) if engine else 0

        away = total(Cell.REJECTED) + total(Cell.LIMITED) + total(Cell.DISARMED)
        return {
            "hits": hits,
            "recorded": self._recorder.hits,
            "lost": max(0, sum(hits) - away - self._recorder.hits) if engine else self._recorder.lost_records,
            "no_room": total(Cell.DROPPED) if engine else self._recorder.lost_records,
            "rejected": total(Cell.REJECTED),
            "suppressed": total(Cell.DISARMED),
            "disarmed": self._session.run.disarmed,
        }

    def _notes(self) -> list[str]:
        return self._session.notes(verbose=self._args.verbose)

    def summary(self) -> None:
        """Say on stderr what there is."""
        counts = self._counts()
        names = [watch.name for watch in self._session.plan.watches]
        tally = Tally(
            names, counts["hits"], None, lost=counts["lost"], no_room=counts["no_room"],
            rejected=counts["rejected"], suppressed=counts["suppressed"], disarmed=counts["disarmed"],
            notes=[] if self._args.quiet else self._notes(),
        )  # fmt: skip
        print("\n".join(tally.lines()), file=sys.stderr)
        if not self._args.quiet:
            path = self._args.output
            size = self._recorder.bytes_written / 1e6
            print(
                f"ksym: {path}: {self._recorder.hits:,} hits, {size:,.1f} MB; ksym report {path}",
                file=sys.stderr,
            )
