# SPDX-License-Identifier: BSD-2-Clause
"""``--on-hit exec``: commands that do not end are ended, with what they started."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from ksym.commands import actions
from ksym.commands.actions import Execute


@pytest.mark.parametrize("way", ["finish", "close"])
def test_a_command_past_its_limit_is_killed_with_its_children(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(actions, "_PATIENCE_SECONDS", 0.0)
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    # Each process that the command starts holds the FIFO open for writing.
    action = Execute(f"exec 9> {alive}; (sleep 1000; true) & sleep 1000", lambda access: "{}\n")
    none: Any = None
    with capfd.disabled():  # the command's output goes where stderr goes
        action.take(none)
    with alive.open("rb") as reading:
        told = action.finish() if way == "finish" else []
        action.close()
        assert reading.read() == b"", "one of them still lives"
    if way == "finish":
        assert told == [
            "--on-hit: 1 command killed, with their process groups: they had not ended 0 s after the run"
        ]


def test_a_command_that_ends_is_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    action = Execute("exit 3", lambda access: "{}\n")
    none: Any = None
    with capfd.disabled():
        action.take(none)
    until = time.monotonic() + 10
    told = action.finish()
    assert time.monotonic() < until
    assert told == ["--on-hit: the command failed for 1 access (last with exit status 3)"]
    action.close()
