# SPDX-License-Identifier: BSD-2-Clause
"""Where rows go: whole, and never so that a signal cannot end the run."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ksym.errors import KsymError
from ksym.views import output
from ksym.views.output import Output, ReaderGone


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "rows"
    os.mkfifo(path)
    return path


def opened(fifo: Path) -> tuple[Output, int]:
    """An output into ``fifo``, and its reader's descriptor."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    return Output(str(fifo)), reader


def test_a_slow_reader_gets_everything_even_while_the_run_ends(fifo: Path) -> None:
    target, reader = opened(fifo)
    target.ending = lambda: True
    text = "".join(f"{number}\n" for number in range(100_000))
    got: list[bytes] = []

    def read() -> None:
        while data := os.read(reader, 9999):
            got.append(data)

    thread = threading.Thread(target=read)
    thread.start()
    target.write(text)
    target.close()
    thread.join()
    os.close(reader)
    assert b"".join(got).decode() == text


def test_a_reader_that_stands_still_does_not_hold_up_the_end(
    fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_PATIENCE", 10)
    target, reader = opened(fifo)
    asked = iter([False, False, True])
    target.ending = lambda: next(asked)
    with pytest.raises(KsymError, match="its reader takes no more"):
        target.write("x" * (1 << 20))
    assert next(asked, None) is None, "it waits as long as nothing ends the run"
    target.close()
    os.close(reader)


def test_a_reader_that_is_gone(fifo: Path) -> None:
    target, reader = opened(fifo)
    os.close(reader)
    with pytest.raises(ReaderGone):
        target.write("row\n")
    target.close()


def test_a_file_is_made_when_the_rows_begin(tmp_path: Path) -> None:
    """What is refused before that leaves the folder, and with --force what was there, as it was."""
    path = tmp_path / "rows"
    Output(str(path)).close()
    assert not path.exists()
    path.write_text("of an earlier run\n")
    target = Output(str(path), force=True)
    assert path.read_text() == "of an earlier run\n"
    target.begin()
    assert path.read_text() == ""
    target.close()
