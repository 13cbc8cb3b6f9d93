# SPDX-License-Identifier: BSD-2-Clause
"""The command ksym report."""

from __future__ import annotations

import argparse
import builtins
import io
import json
from typing import Any

import pytest

from ksym.commands import report as command
from ksym.commands.parser import parse
from ksym.errors import KsymError, UsageError
from ksym.recording import reader
from ksym.recording.accesses import Accesses
from ksym.recording.header import Machine
from ksym.reports import progress
from support.reports import (
    SMALL,
    both,
)


class FakeRecording:
    """What open_recording gives."""

    def __init__(self, accesses: Accesses, **counts: Any) -> None:
        self.path, self.machine, self.counts, self.cut = (
            "x.data",
            Machine("vm", "6.1", "x86_64", 2),
            counts,
            None,
        )
        self.by_ksym, self.sampled, self.unopened, self.following = True, None, None, None
        self.start = argparse.Namespace(version="0.1")
        self._accesses = accesses

    def accesses(self) -> Accesses:
        return self._accesses


def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: str, **counts: Any
) -> str:
    recording = FakeRecording(both(SMALL), **counts)
    monkeypatch.setattr(reader, "open_recording", lambda path, progress: recording)
    monkeypatch.delenv("COLUMNS", raising=False)
    assert command.run(parse("report", command, words)) == 0
    return capfd.readouterr().out


def test_the_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    text = run(
        monkeypatch, capfd, "x.data", "--by", "task", "--only", "W", lost=3, suppressed="many", notes=["n"]
    )
    assert "3 accesses (4 hits), 3 lost, 0 suppressed" in text
    assert "selected --only W: of 4 accesses" in text
    assert "\x1b" not in text
    data = json.loads(run(monkeypatch, capfd, "--json", "--top", "1", "--timeline", "task", notes="none"))
    assert (len(data["variables"][0]["rows"]), data["variables"][0]["groups"], data["notes"]) == (1, 3, [])
    assert data["variables"][0]["timeline"]["by"] == "task"
    assert "over time" not in run(monkeypatch, capfd, "--timeline", "off")


@pytest.mark.parametrize(
    "words",
    [
        ("--by", "pid"),
        ("--by", ""),
        ("--top", "-1"),
        ("--top", "x"),
        ("--only", "Q"),
        ("--since", "now"),
        ("a", "b"),
    ],
)
def test_wrong_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        parse("report", command, words)


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("patience", "screen", "shown"), [(0, Screen(), True), (3600, Screen(), False), (0, io.StringIO(), False)]
)
def test_a_bar_where_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, patience: int, screen: io.StringIO, shown: bool
) -> None:
    monkeypatch.setattr(progress, "_AFTER", patience)
    monkeypatch.setattr(progress, "_BETWEEN", 0)
    monkeypatch.setattr("sys.stderr", screen)
    with progress.Progress("reading x.data") as bar:
        for done in (0, 50, 100):
            bar(done, 100)
    text = screen.getvalue()
    assert bool(text) == shown
    if shown:
        assert f"[{'#' * 15:<30}]  50%" in text
        assert text.endswith("100%\r\x1b[K")


def test_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    importer = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "numpy":
            raise ImportError(name)
        return importer(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(KsymError, match="numpy is not installed"):
        command.run(parse("report", command, ["x.data"]))
