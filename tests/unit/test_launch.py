# SPDX-License-Identifier: BSD-2-Clause
"""COMMAND as it is started: what it inherits."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.errors import KsymError
from ksym.linux import ptrace
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


def test_what_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "fork", full)
    with pytest.raises(KsymError, match=r"cannot run true: no process can be started for it: .*ulimit -u"):
        Command(["true"])
    assert os.listdir("/proc/self/fd") == before


def trace_until(stop: int, fifo: Path) -> None:
    """In a process of its own: trace COMMAND, and be killed at one of its stops, before it is looked at."""
    stops = 0

    def wait() -> bool:
        nonlocal stops
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
        stops += 1
        if stops == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    # It executes programs, starts processes and waits for them.
    script = f"(exec true) & wait; (exec true) & wait; echo done > {fifo}"
    Command(["sh", "-c", script], traced=True).run_until(lambda pid: False, wait)


@pytest.mark.parametrize("stop", [1, 2, 10, *range(40, 76, 2)])
def test_command_goes_on_when_its_tracer_is_killed(stop: int, tmp_path: Path) -> None:
    """Wherever it is stopped: behind exec(2), behind fork(2), the new process too."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    tracer = os.fork()
    if tracer == 0:
        try:
            trace_until(stop, fifo)
        finally:
            os._exit(0)
    status = os.waitpid(tracer, 0)[1]
    assert select.select([reading], [], [], 20)[0], f"COMMAND does not go on from stop {stop}"
    assert os.read(reading, 100) == b"done\n"
    os.close(reading)
    assert os.WIFSIGNALED(status) or stop > 10  # how many there are is the shell's business


def test_a_command_that_has_to_ask_to_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the interpreter has capabilities: it is not dumpable then, and cannot be seized."""

    def refused(pid: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(ptrace, "seize", refused)
    command = Command(["sh", "-c", "(exec true) & wait; exit 3"], traced=True)
    seen = []

    def mapped(pid: int) -> bool:
        seen.append(pid)
        return False

    def wait() -> bool:
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)
        return True

    assert command.run_until(mapped, wait) is None
    assert command.status == 3
    assert len(set(seen)) == 2
    command.close()
