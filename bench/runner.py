# SPDX-License-Identifier: BSD-2-Clause
"""Starting one run of a tool, measured from outside; and pairs of runs, in turns."""

from __future__ import annotations

import os
import re
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
PACKAGES = {"perf": "linux-perf", "bpftrace": "bpftrace", "gdb": "gdb"}

_SUMMARY = re.compile(r"^ksym: (?:\d+ access(?:es)? \()?(\d+) hits?\)?, (\d+) lost", re.MULTILINE)


class BenchError(Exception):
    """A figure cannot be had; the text says why."""


class RunFailed(BenchError):
    """A tool ended with an error."""


@dataclass(frozen=True)
class Done:
    """A finished run. Times in seconds; ``started`` and ``ended`` are CLOCK_MONOTONIC nanoseconds.

    ``cpu_seconds`` has what the children used for which it waited, ``own_cpu_seconds`` has not.

    ``rss_kib`` is the largest resident set of the process or of a child that it waited for. The kernel
    carries the starting process's own over exec(2), so it is never below that of this program.
    """

    status: int
    stdout: str
    stderr: str
    started: int
    ended: int
    cpu_seconds: float
    own_cpu_seconds: float
    rss_kib: int

    @property
    def wall_ms(self) -> float:
        """From before the fork to the exit."""
        return (self.ended - self.started) / 1e6


def run(argv: Sequence[str], *, check: bool = True, output: Path | None = None) -> Done:
    """Run a command to its end.

    Args:
        argv: The command.
        check: A failure is an error.
        output: Where its standard output goes; ``stdout`` of what is given back is empty then.

    Raises:
        RunFailed: it failed, and ``check`` is set.
    """
    with output.open("wb") if output else tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic_ns()
        # wait4 and not Popen.wait, because only it tells what the process used.
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=_environment())
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        ended = time.monotonic_ns()
        own_cpu_seconds = _own_cpu_seconds(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if not output:
            out.seek(0)
        err.seek(0)
        done = Done(
            process.returncode,
            "" if output else out.read().decode(errors="replace"),
            err.read().decode(errors="replace"),
            started,
            ended,
            usage.ru_utime + usage.ru_stime,
            own_cpu_seconds,
            usage.ru_maxrss,
        )
    if check and done.status != 0:
        raise RunFailed(f"{Path(argv[0]).name} failed with {done.status}: {done.stderr.strip()[-300:]}")
    return done


def _own_cpu_seconds(pid: int) -> float:
    """What the threads of a process used that has ended and is not waited for yet."""
    # proc(5): utime and stime, the 14th and 15th. The name, in brackets before the 3rd, may hold anything.
    words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


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


def perf_record(event: str, file: Path, *options: str) -> list[str]:
    """Recording of every access with perf; the command follows.

    -N and -B: no build ids; they are looked for after the run and are not in the figure.
    """
    return ["perf", "record", "-q", "-N", "-B", *options, "-c", "1", "-e", event, "-o", str(file), "--"]


def perf_samples(file: Path) -> int:
    """Accesses in a recording, whoever made it, as perf counts them."""
    told = run(["perf", "report", "--stats", "-i", str(file)]).stdout
    found = re.search(r"SAMPLE events: +(\d+)", told)
    return int(found[1]) if found else 0


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


def exactly(expected: int, pattern: str, text: str) -> None:
    """Hold a tool's own count, the first group of ``pattern``, against what was done.

    Raises:
        BenchError: it is another number, or not there.
    """
    found = re.search(pattern, text, re.MULTILINE)
    if found is None or int(found[1]) != expected:
        raise BenchError(f"{expected} hits expected, but it said: {text.strip()[-300:]!r}")


def summary(stderr: str) -> tuple[int, int]:
    """Hits shown and hits lost, as ``ksym trace`` and ``ksym record`` tell them at their end.

    Raises:
        BenchError: it did not.
    """
    found = _SUMMARY.search(stderr)
    if found is None:
        raise BenchError(f"ksym printed no summary: {stderr[-300:]!r}")
    return int(found[1]), int(found[2])


def rounds(runs: Sequence[Callable[[], _T]], count: int) -> list[list[_T]]:
    """Run all in turns, A B C A B C; a first round warms caches and is thrown away.

    Args:
        runs: What is run.
        count: Rounds that count.

    Returns:
        For each round, what each run gave.
    """
    return [[retried(each) for each in runs] for _ in range(count + 1)][1:]


def retried(each: Callable[[], _T]) -> _T:
    """Try once more what failed: others may have held the registers.

    In virtual machines the watched program dies of SIGTRAP now and then, whichever tool watches it: seen with
    perf record and with ksym on a guest with more to do than CPUs. KVM before 6.14 may let a guest see a stale
    DR6 ("KVM: x86: Load DR6 with guest value only before entering .vcpu_run() loop").
    """
    try:
        return each()
    except RunFailed as error:
        print(f"bench: once more, as {error}", file=sys.stderr, flush=True)
        return each()


def in_turns(ours: Callable[[], _T], peer: Callable[[], _T] | None, pairs: int) -> list[tuple[_T, _T | None]]:
    """`rounds` of two, ours first.

    Args:
        ours: A run of ksym.
        peer: The same work with the peer; None if it is missing.
        pairs: How often.
    """
    if peer is None:
        return [(one, None) for (one,) in rounds([ours], pairs)]
    return [(one, other) for one, other in rounds([ours, peer], pairs)]
