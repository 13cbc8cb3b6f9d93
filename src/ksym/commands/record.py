# SPDX-License-Identifier: BSD-2-Clause
"""Record every access to variables into a file that ksym and perf read, without loss.

The file is a perf.data file: `perf script -i FILE`, `perf report -i FILE` and others open it. `ksym report FILE`
says who touches the variable, `ksym script FILE` prints the rows that `ksym trace` would have printed.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from ksym.capture.sites import Sites
from ksym.capture.users import Users
from ksym.commands.parser import positive
from ksym.commands.run_options import add_run_options, asked, check_output
from ksym.errors import KsymError, UsageError
from ksym.program.shared import Cell
from ksym.program.wants import Sink, Wants
from ksym.recording.files import Files
from ksym.recording.recorder import FLUSH_SECONDS, LEAST_SIZE, Recorder
from ksym.recording.writer import FileCut
from ksym.runs.planting import Planting
from ksym.runs.session import Session, open_session
from ksym.symbols.kallsyms import Kallsyms
from ksym.views.summary import Tally, number
from ksym.views.text import printable
from ksym.watch.arm import Options

if TYPE_CHECKING:
    from ksym.recording.limit import Limit

TAKES_COMMAND = True
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(?:I?B)?", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PROGRESS_SECONDS = 0.5


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_run_options(parser, verbose="say what ended the run, and CPUs that come and go at once")
    parser.add_argument(
        "-o", "--output", type=output, metavar="FILE", default="ksym.data",
        help="the recording (default: ksym.data)",
    )  # fmt: skip
    parser.add_argument(
        "-f", "--force", action="store_true", help="overwrite FILE; else it becomes FILE.old, as with perf"
    )
    parser.add_argument("-g", "--stacks", action="store_true", help="call chains, kernel and user")
    parser.add_argument("--limit", type=positive, metavar="N", help="end after exactly N accesses")
    parser.add_argument("-z", "--compress", action="store_true", help="compress with zstd, as perf does")
    parser.add_argument(
        "--max-size", type=size, metavar="SIZE",
        help="keep the newest hits in FILE and FILE.1, which take at most SIZE together, e.g. 200M (least: 1M)",
    )  # fmt: skip
    parser.add_argument(
        "--flush-ms", type=positive, metavar="MS", default=int(FLUSH_SECONDS * 1000),
        help="write at least so often (default: 1000)",
    )  # fmt: skip


def output(text: str) -> str:
    """The name of a file."""
    if text in ("", "-"):
        what = "an empty name names no file" if not text else "a recording needs a seekable file, not stdout"
        raise argparse.ArgumentTypeError(f"{what}; name a file")
    return text


def size(text: str) -> int:
    """A number of bytes: ``1.5M``, ``200MB``, ``2GiB``; a K is 1024."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 1.5M, 100M or 2G")
    count = float(match[1]) * _UNITS[match[2].upper()]  # which may be infinite
    if not LEAST_SIZE <= count < 1 << 62:
        raise argparse.ArgumentTypeError(f"'{text}' is less than 1M, or more than any disk has")
    return int(count)


def run(args: argparse.Namespace) -> int:
    """Record until COMMAND, the duration, the limit or Ctrl-C ends it."""
    if args.limit and args.max_size:
        raise UsageError(
            "cannot read the command line", "--limit keeps the first accesses, --max-size the last ones",
            "give one of them",
        )  # fmt: skip
    check_output(args)
    compressor = _compressor() if args.compress else None
    options = Options(stacks=args.stacks, kernel_accesses=args.kernel_accesses)
    # An access may take several hits, so their number is not counted in the kernel.
    planting = Planting(options, Wants(Sink.RECORD), args.twin, not args.no_bpf, args.guard, args.verbose)
    files = Files(args.output, force=args.force, rotates=bool(args.max_size))
    with closing(files), open_session(asked(args), planting) as session:
        session.warn()
        if not args.quiet:
            session.tell_lacking()
        users = Users(*session.code_pids)
        session.run.on_mapped = users.hold
        sites = _sites(session, users)
        if args.verbose:
            session.run.on_note = lambda note: print(f"ksym: {printable(note)}", file=sys.stderr, flush=True)
        limit = _limit(session, args.limit) if args.limit else None
        try:
            recorder = Recorder(
                session.armed, sites, users, pids=session.pids, open_file=files.open, compressor=compressor,
                flush_seconds=args.flush_ms / 1000, most_bytes=0 if files.null else args.max_size or 0,
                limit=args.limit or 0, taken=limit.take if limit else lambda batch: None,
            )  # fmt: skip
        except OSError as error:
            files.discard()
            raise files.error(error) from error
        with closing(users), closing(recorder):
            recording = _Recording(args, session, recorder, limit, files, users)
            try:
                recording.follow()
            except OSError as error:
                recording.stop(error)
                raise files.error(error, readable=recording.readable()) from error
            lost = files.settle()
            recording.summary()  # before COMMAND is ended, which may take its time
            status = session.status()
            if lost:
                raise lost
            return status


def _sites(session: Session, users: Users) -> Sites:
    kernel = session.resolver.kernel
    return Sites(Kallsyms.shown, lambda: kernel.memory_or_none, users)


def _limit(session: Session, most: int) -> Limit:
    from ksym.recording.limit import Limit  # few recordings have one

    users = Users(*session.code_pids)
    return Limit(session.armed, _sites(session, users), users, most)


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


class _Recording:
    """A session that is recorded."""

    def __init__(
        self,
        args: argparse.Namespace,
        session: Session,
        recorder: Recorder,
        limit: Limit | None,
        files: Files,
        users: Users,
    ) -> None:
        self._files, self._users = files, users
        self._args, self._session, self._recorder, self._limit = args, session, recorder, limit
        self._progress = sys.stderr.isatty() and not args.quiet
        self._shown_at = 0.0
        self._stopped: dict[str, Any] = {}
        """What the file says of its hits, where it could not be written to its end."""

    def follow(self) -> None:
        """Record until the run is over."""
        for _ in self._session.run.rounds():
            self._recorder.round(self._counts)
            if self._progress:
                self._show()
            if self._limit and self._limit.reached:
                self._session.run.stop("limit reached")
        self._recorder.round(self._counts)  # what the rings still hold is not lost
        if self._limit:
            self._limit.finish()
        self._session.armed.release()
        self._recorder.finish(self._counts() | self._ending())
        self._show_no_more()

    def stop(self, error: OSError) -> None:
        """End a recording that cannot be written."""
        self._session.armed.release()
        self._session.run.stop("it cannot be written")
        why = error.strerror or "it fails"
        self._stopped = self._recorder.stop(self._counts() | self._ending(), why)
        self._show_no_more()
        if not self._recorder.readable and not isinstance(error, FileCut):
            self._files.discard()
        self.summary()

    def readable(self) -> str | None:
        """Return the file in which the last hits that were written can be read; None where there is none."""
        if self._recorder.readable:
            return self._files.name(self._args.output)
        return self._files.name(f"{self._args.output}.1") if self._recorder.kept[1] else None

    def _ending(self) -> dict[str, Any]:
        return {"notes": self._notes(), "ended_by": self._session.run.ended_by}

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at < _PROGRESS_SECONDS:
            return
        self._shown_at = now
        seconds = now - self._session.run.armed_at
        hits, counts = self._recorder.hits, self._counts()
        sys.stderr.write(
            f"\r\x1b[Kksym: {seconds:.0f} s  {hits} hits  {hits / max(seconds, 0.1):.0f}/s  "
            f"{counts['no_room']} lost  {in_bytes(self._recorder.bytes_written)}"
        )
        sys.stderr.flush()

    def _show_no_more(self) -> None:
        if self._progress:
            sys.stderr.write("\r\x1b[K")

    def _counts(self) -> dict[str, Any]:
        armed = self._session.armed
        hits = armed.counts()
        engine = armed.engine
        watches = range(len(armed.plan.watches))

        def each(*cells: Cell) -> list[int]:
            return [
                sum(engine.shared.total(watch, cell) for cell in cells) if engine else 0 for watch in watches
            ]

        rejected, suppressed, dropped = map(each, (Cell.REJECTED, Cell.DISARMED, Cell.DROPPED))
        passed_over = sum(rejected) + sum(suppressed)
        return {
            "hits": hits,
            "lost": max(0, sum(hits) - passed_over - self._recorder.hits),
            "no_room": sum(dropped) if engine else self._recorder.lost_records,
            "rejected": sum(rejected),
            "suppressed": sum(suppressed),
            "disarmed": self._session.run.disarmed,
            "away": each(Cell.REJECTED, Cell.DISARMED, Cell.DROPPED),
        }

    def _notes(self) -> list[str]:
        session = self._session
        notes = [*session.notes(verbose=self._args.verbose), *session.foreign()]
        return [*notes, *session.further_copies(self._users)]

    def summary(self) -> None:
        """Say on stderr what there is."""
        counts, limit = self._counts(), self._limit
        names = [watch.name for watch in self._session.plan.watches]
        rejected, accesses, shown, hidden = counts["rejected"], None, 0, 0
        if limit:
            accesses, shown = limit.accesses, limit.hits
            rejected += limit.rejected
            hidden = self._recorder.hits - limit.rejected - shown
        tally = Tally(
            names, counts["hits"], accesses, shown, lost=counts["no_room" if self._stopped else "lost"],
            no_room=counts["no_room"], hidden=hidden, rejected=rejected, suppressed=counts["suppressed"],
            disarmed=counts["disarmed"], notes=[] if self._args.quiet else self._notes(),
        )  # fmt: skip
        print("\n".join([*tally.lines(), *self._file_lines()]), file=sys.stderr, flush=True)

    def _file_lines(self) -> Sequence[str]:
        """Return what there is in the files."""
        here, before, removed = self._recorder.kept
        name, name_before = map(self._files.name, (self._args.output, f"{self._args.output}.1"))
        lines = []
        if self._stopped:
            here = self._stopped["recorded"]
            lines.append(f"ksym: {number(self._stopped['unwritten'], 'hit')} caught, but not written")
        if removed:
            lines.append(f"ksym: {number(removed, 'hit')} in files that were removed (--max-size)")
        if not self._args.quiet and name and (self._recorder.readable or not self._stopped):
            path, more = printable(name), ""
            if before and name_before:
                more = f" (and {printable(name_before)}: {number(before, 'hit')})"
            length = in_bytes(self._recorder.length)
            lines.append(f"ksym: {path}: {number(here, 'hit')}, {length}{more}; ksym report {path}")
        return lines


def in_bytes(count: int) -> str:
    """``88 B``, ``1.2 KB``, ``34.5 MB``."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count} B"
