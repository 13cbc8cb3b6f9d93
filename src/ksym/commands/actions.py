# SPDX-License-Identifier: BSD-2-Clause
"""``--on-hit``: what else happens at an access. ``stop`` is done by the program in the kernel, ``exec CMD`` here."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ksym.capture.access import Access
from ksym.views.summary import number
from ksym.views.text import printable

if TYPE_CHECKING:
    import subprocess

STOP, EXEC = "stop", "exec "
_PER_SECOND = 10
_AT_ONCE = 4
_PATIENCE_SECONDS = 10.0


def on_hit(text: str) -> str:
    """``stop``, or ``exec CMD``; for argparse."""
    text = text.strip()
    if text != STOP and not (text.startswith(EXEC) and text[len(EXEC) :].strip()):
        raise argparse.ArgumentTypeError(f"'{text}' is neither stop nor 'exec CMD'")
    return text


class Stopped:
    """Tells of the tasks that were stopped, each time once for its process, until it goes on."""

    def __init__(self) -> None:
        self._told: set[int] = set()

    def take(self, access: Access) -> None:
        """An access whose task the kernel has stopped."""
        if access.pid in self._told or access.pid == 0:
            return
        self._told.add(access.pid)
        print(
            f"ksym: stopped {printable(access.comm)} (pid {access.pid}); look: gdb -p {access.pid}; "
            f"let it go on: kill -CONT {access.pid}",
            file=sys.stderr,
            flush=True,
        )

    def turn(self) -> None:
        """Once a round: who went on may be stopped and told of again."""
        self._told = {pid for pid in self._told if _is_stopped(pid)}

    def finish(self) -> list[str]:
        """What the summary tells: nothing."""
        return []

    def close(self) -> None:
        """Leave the tasks as they are: stopped, for whoever looks into them."""


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"T"
    except OSError:
        return False


class Execute:
    """Runs a command for accesses, with the row as JSON on its standard input; what it writes goes to stderr.

    At most ten a second are started and four run at once: a hot variable must not become a fork bomb. Accesses that
    came in between are shown all the same, and counted.

    Args:
        command: For the shell.
        row: Makes the JSON line of an access.
    """

    def __init__(self, command: str, row: Callable[[Access], str]) -> None:
        self._command, self._row = command, row
        self._running: list[subprocess.Popen[bytes]] = []
        self._starts: deque[float] = deque(maxlen=_PER_SECOND)
        self._skipped = 0
        self._failed, self._last_failure, self._killed = 0, 0, 0

    def take(self, access: Access) -> None:
        """An access that was kept."""
        self.turn()
        now = time.monotonic()
        if len(self._running) >= _AT_ONCE or (len(self._starts) == _PER_SECOND and now - self._starts[0] < 1):
            self._skipped += 1
            return
        self._starts.append(now)
        from subprocess import Popen  # slow to import, and seldom needed

        # A file takes the row whole, whether the command reads it or not.
        row = os.memfd_create("ksym-row", os.MFD_CLOEXEC)
        try:
            os.write(row, self._row(access).encode())
            os.lseek(row, 0, os.SEEK_SET)
            # A session of its own, so that all that the command starts can be ended together.
            self._running.append(
                Popen(
                    self._command, shell=True, stdin=row, stdout=sys.stderr.fileno(), start_new_session=True
                )
            )
        finally:
            os.close(row)

    def turn(self) -> None:
        """Once a round: note which commands have ended."""
        self._running = [process for process in self._running if not self._ended(process)]

    def _ended(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is None:
            return False
        if process.returncode:
            self._failed += 1
            code = process.returncode
            self._last_failure = code if code > 0 else 128 - code  # killed: as shells have it
        return True

    def finish(self) -> list[str]:
        """Wait for the last ones; returns what the summary tells."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._running:
            self.turn()
            if time.monotonic() >= deadline:
                self._kill()
            elif self._running:
                time.sleep(0.005)
        told = []
        if self._killed:
            after = f"they had not ended {_PATIENCE_SECONDS:.0f} s after the run"
            told.append(
                f"--on-hit: {number(self._killed, 'command')} killed, with their process groups: {after}"
            )
        if self._failed:
            times = f"last with exit status {self._last_failure}"
            told.append(f"--on-hit: the command failed for {number(self._failed, 'access')} ({times})")
        if self._skipped:
            rate = f"at most {_PER_SECOND} a second, {_AT_ONCE} at once"
            told.append(f"--on-hit: the command was not run for {number(self._skipped, 'access')} ({rate})")
        return told

    def _kill(self) -> None:
        """Kill the commands that still run, each with all that it has started."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._killed += 1
        self._running.clear()

    def close(self) -> None:
        """Leave no command behind."""
        self._kill()


Action = Stopped | Execute


def action_for(text: str | None, row: Callable[[Access], str]) -> Action | None:
    """What ``--on-hit`` asks for.

    Args:
        text: See on_hit.
        row: See Execute.
    """
    if text is None:
        return None
    return Stopped() if text == STOP else Execute(text[len(EXEC) :].strip(), row)
