# SPDX-License-Identifier: BSD-2-Clause
"""COMMAND as it is started: what it inherits."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ksym.errors import KsymError
from ksym.watch.launch import Command
from support.descriptors import leaves_open


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


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", -9)])
def test_what_others_started_keeps_its_status(script: str, status: int) -> None:
    command = Command(["true"])
    other = subprocess.Popen(["sh", "-c", script])
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert command.poll() is None
    command.close()
    assert other.wait() == status


def test_what_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", full)
    told = r"cannot run true: no process can be started for it: .*ulimit -u"
    with leaves_open(), pytest.raises(KsymError, match=told):
        Command(["true"])


def test_a_command_that_does_not_heed_a_request_is_killed() -> None:
    command = Command(["sh", "-c", "trap '' TERM; echo; kill -STOP $$; while :; do :; done"])
    command.go()
    os.waitid(os.P_PID, command.pid, os.WSTOPPED | os.WNOWAIT)
    assert command.end(patience=0.05) == 128 + signal.SIGKILL


def test_a_command_that_was_not_started_ends_beside_another_one() -> None:
    """Children that wait hold nothing of each other: the end of a pipe is seen."""
    first = Command(["true"])
    second = Command(["true"])
    assert first.end() == 126
    second.go()
    os.waitid(os.P_PID, second.pid, os.WEXITED | os.WNOWAIT)
    assert second.end() == 0


def test_command_gets_what_it_is_to_inherit(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with target.open("wb") as file:
        os.set_inheritable(file.fileno(), True)
        command = Command(["sh", "-c", f"echo yes > /proc/self/fd/{file.fileno()}"])
        command.go()
        os.waitid(os.P_PID, command.pid, os.WEXITED | os.WNOWAIT)
        assert command.end() == 0
    assert target.read_text() == "yes\n"


@pytest.mark.parametrize("how", ["SIGCHLD is ignored", "other code waits for it"])
def test_an_end_whose_status_is_lost_is_seen(how: str) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    if how.startswith("SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    command = Command(["false"])
    try:
        command.go()
        with suppress(
            ChildProcessError
        ):  # without a handler the kernel reaps it, and then waitpid(2) returns
            os.waitpid(command.pid, 0)
        assert command.poll() == 0
        assert command.end() == 0
    finally:
        signal.signal(signal.SIGCHLD, before)
        command.close()
