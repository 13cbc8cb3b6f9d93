# SPDX-License-Identifier: BSD-2-Clause
"""The limit on open files: with too few of them each command refuses in one line, and with enough each works."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ksym.errors import KsymError
from ksym.linux.limits import LEAST_FILES, allow_files
from support.program import environment
from support.recordings import small_recording

COMMANDS = [
    "resolve",
    "doctor",
    "script",
    "report",
    "export",
    "trace",
    "stat",
    "record",
    "mount",
    "selftest",
    "demo",
]


def run(limit: int, *words: str) -> subprocess.CompletedProcess[str]:
    script = f'ulimit -n {limit} || exit 99; exec "$0" -m ksym "$@"'
    return subprocess.run(
        ["sh", "-c", script, sys.executable, *words], capture_output=True, text=True, env=environment()
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("limit", [6, 14, 26, LEAST_FILES - 1])
def test_too_few_are_refused_in_one_line(limit: int, command: str, tmp_path: Path) -> None:
    words = {"export": ("x.data", "--to", "csv"), "mount": (str(tmp_path),)}
    more = ("pid_max",) if command in ("resolve", "trace", "stat", "record") else words.get(command, ())
    done = run(limit, command, *more)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        f"ksym: cannot begin: it needs more open files than are allowed ({LEAST_FILES}, and RLIMIT_NOFILE is {limit}); "
        f"raise the limit: ulimit -n {LEAST_FILES}\n"
    )


@pytest.mark.parametrize("command", ["script", "report", "export"])
def test_what_the_message_advises_is_enough(command: str, tmp_path: Path) -> None:
    path = tmp_path / "x.data"
    small_recording(path, 3)
    more = ("--to", "jsonl", "-o", "-") if command == "export" else ()
    assert (
        run(4096, command, str(path), *more).stdout
        == run(LEAST_FILES, command, str(path), *more).stdout
        != ""
    )


def test_help_takes_no_files() -> None:
    assert run(6, "trace", "--help").returncode == 0
    assert run(6, "--version").returncode == 0


def test_a_soft_limit_is_raised_as_far_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(100, 200)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: limits.append(pair))
    allow_files(50)
    allow_files(150, wanted=1000)
    allow_files(200)
    assert limits == [(100, 200), (200, 200)]
    with pytest.raises(KsymError, match=r"\(201, and RLIMIT_NOFILE is 200\); raise the limit: ulimit -n 201"):
        allow_files(201)
