# SPDX-License-Identifier: BSD-2-Clause
"""Starting one run of a tool, measured from outside; and pairs of runs, in turns."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

ROOT = Path(__file__).resolve().parent.parent

# The package that has a peer, for the message that it is missing.
PACKAGES = {"perf": "linux-perf", "bpftrace": "bpftrace"}


class BenchError(Exception):
    """A figure cannot be had; the text says why."""


@dataclass(frozen=True)
class Done:
    """A finished run. Times in seconds; ``started`` and ``ended`` are CLOCK_MONOTONIC nanoseconds.

    ``rss_kib`` is the largest resident set of the process or of a child that it waited for. The kernel
    carries the starting process's own over exec(2), so it is never below that of this program.
    """

    status: int
    stdout: str
    stderr: str
    started: int
    ended: int
    cpu_seconds: float
    rss_kib: int

    @property
    def wall_ms(self) -> float:
        """From before the fork to the exit."""
        return (self.ended - self.started) / 1e6


def run(argv: Sequence[str], *, check: bool = True) -> Done:
    """Run a command to its end.

    Raises:
        BenchError: it failed, and ``check`` is set.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic_ns()
        # wait4 and not Popen.wait, because only it tells what the process used.
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=_environment())
        _, status, usage = os.wait4(process.pid, 0)
        ended = time.monotonic_ns()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        done = Done(
            process.returncode,
            out.read().decode(errors="replace"),
            err.read().decode(errors="replace"),
            started,
            ended,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss,
        )
    if check and done.status != 0:
        raise BenchError(f"{Path(argv[0]).name} failed with {done.status}: {done.stderr.strip()[-300:]}")
    return done


@cache
def _environment() -> dict[str, str]:
    """This one's, without what makes Python slower than a user's (no bytecode cache, unbuffered output)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    if not _script().exists():
        kept["PYTHONPATH"] = str(ROOT / "src")
    return kept


def _script() -> Path:
    """The command as it is installed into this tree's .venv."""
    return ROOT / ".venv" / "bin" / "ksym"


def ksym(*arguments: str) -> list[str]:
    """A ksym command line: the installed command, or the sources with this Python."""
    program = [str(_script())] if _script().exists() else [sys.executable, "-m", "ksym"]
    return [*program, *arguments]


def missing(tool: str) -> str | None:
    """Why a peer cannot be measured, or None."""
    if shutil.which(tool):
        return None
    return f"{tool} is missing (Debian: {PACKAGES[tool]})"


def version(tool: str) -> str:
    """What a peer calls itself."""
    try:
        done = run([tool, "--version"], check=False)
    except OSError:
        return "missing"
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else "?"


def in_turns(ours: Callable[[], _T], peer: Callable[[], _T] | None, pairs: int) -> list[tuple[_T, _T | None]]:
    """Run both in turns, ours first; a first round warms caches and is thrown away.

    Args:
        ours: A run of ksym.
        peer: The same work with the peer; None if it is missing.
        pairs: How often.
    """
    results = []
    for _ in range(pairs + 1):
        results.append((ours(), peer() if peer else None))
    return results[1:]
