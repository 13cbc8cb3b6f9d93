# SPDX-License-Identifier: BSD-2-Clause
"""A perf.data file from anybody, check sums right or wrong: rows and reports, or a KsymError in one line.

No control character but the newline reaches what is for people, whatever names the file has.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator, Sequence
from unittest import mock

from fuzz.contract import Broken
from fuzz.perf_records import mutate as mutate
from ksym.errors import KsymError
from ksym.recording import foreign
from ksym.recording.accesses import Accesses
from ksym.recording.reader import Recording, open_recording
from ksym.reports.analysis import Analysis
from ksym.reports.layout import glyphs, plain
from ksym.reports.machine_readable import report
from ksym.reports.select import Selection
from ksym.reports.terminal import Style, Terminal
from ksym.symbols import kallsyms
from ksym.views.bulk import bulk_rows_for, texts
from ksym.views.rows import FORMATS

LONGEST = 8192
_KALLSYMS = b"ffffffff81000000 T _text\nffffffff81000100 T do_it\nffffffff82000000 T _etext\n"
_MOST_ROWS = 400
_REPORTS = 32
"""A report of one in so many: it takes longer than the rest."""


def run(data: bytes) -> None:
    """Read it, and show it in one way or another."""
    chance = zlib.crc32(data)
    name = FORMATS[chance % len(FORMATS)]
    _read(data, [name], reported=(chance >> 8) % _REPORTS == 0)


def replay(data: bytes) -> None:
    """Read it, and show it in every way."""
    _read(data, FORMATS, reported=True)


def _read(data: bytes, formats: Sequence[str], *, reported: bool) -> None:
    with machine():
        recording = opened(data)
        if recording is None:
            return
        try:
            accesses = recording.accesses()
        except KsymError as error:
            told(error)
            return
        for name in formats:
            text = rows(name, accesses.select(slice(_MOST_ROWS)))
            if name != "json" and not text.replace("\n", "").isprintable():
                raise Broken(f"{name}: control characters")
        if reported:
            _report(recording, accesses)


def opened(data: bytes) -> Recording | None:
    """A file with these bytes, read; None: it is refused."""
    file = os.memfd_create("fuzz")
    try:
        os.write(file, data)
        return open_recording(f"/proc/self/fd/{file}")
    except KsymError as error:
        told(error)
        return None
    finally:
        os.close(file)


@contextlib.contextmanager
def machine() -> Iterator[None]:
    """The machine where it is read has a small kernel, and none of the files that a recording names."""
    with (
        mock.patch.object(kallsyms, "read_bytes", _symbols),
        mock.patch.object(foreign, "_is_file", _nothing),
        mock.patch.object(foreign, "Kernel", _NoMemory),
    ):
        yield


# No MagicMock: to make one takes as long as to read a small recording.
def _symbols(path: str) -> bytes:
    return _KALLSYMS


def _nothing(path: str) -> bool:
    return False


class _NoMemory:
    memory_or_none = None


def rows(name: str, accesses: Accesses) -> str:
    """Its rows in a format."""
    bulk = bulk_rows_for(name, accesses, verbose=True)
    return bulk.header() + "".join(text for text, _ in texts(bulk, accesses))


def _report(recording: Recording, accesses: Accesses) -> None:
    from ksym.commands.report import _about

    selection = Selection()
    try:
        analysis = Analysis(accesses, selection, sampled=recording.sampled is not None)
        about = _about(recording)
        style = Style(100, glyphs("utf-8"), ("instruction",), 5, "cpu")
        text = plain(Terminal(about, analysis, selection, style, lambda site: None).lines())
        report(about, analysis, ("task", "function"), 5, "task", lambda site: None)
    except KsymError as error:
        told(error)
        return
    if not text.replace("\n", "").isprintable():
        raise Broken("report: control characters")


def told(error: KsymError) -> None:
    """Look at an error."""
    if "\n" in error.line():
        raise Broken("not one line")
