# SPDX-License-Identifier: BSD-2-Clause
"""COMMAND as it is started: what it inherits."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.watch.launch import Command


@pytest.fixture
def hangups_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    yield
    signal.signal(signal.SIGHUP, before)


def ignored_by_command(tmp_path: Path) -> int:
    """The mask of signals that COMMAND ignores (man 5 proc, SigIgn)."""
    target = tmp_path / "status"
    command = Command(["cp", "/proc/self/status", str(target)])
    command.go()
    while command.poll() is None:
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)
    command.close()
    line = next(line for line in target.read_text().splitlines() if line.startswith("SigIgn:"))
    return int(line.split()[1], 16)


@pytest.mark.usefixtures("hangups_ignored")
def test_command_keeps_what_nohup_ignores(tmp_path: Path) -> None:
    assert ignored_by_command(tmp_path) & 1 << signal.SIGHUP - 1


def test_command_does_not_ignore_what_python_does(tmp_path: Path) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert signal.getsignal(number) == signal.SIG_IGN
        assert not ignored_by_command(tmp_path) & 1 << number - 1


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137)])
def test_what_others_started_keeps_its_status(script: str, status: int) -> None:
    """Whoever waits for tracees gets all children."""
    command = Command(["true"], traced=True)
    other = subprocess.Popen(["sh", "-c", script])
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert command.poll() is None
    assert command.reaped == {other.pid: status}
    command.close()
    other.returncode = command.reaped.pop(other.pid)
