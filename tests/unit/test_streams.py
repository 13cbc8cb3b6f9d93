# SPDX-License-Identifier: BSD-2-Clause
"""Standard streams that the caller has closed."""

from __future__ import annotations

import subprocess
import sys

from support.program import environment


def run(redirections: str, *words: str) -> subprocess.CompletedProcess[str]:
    script = f'exec "$0" -m ksym "$@" {redirections}'
    return subprocess.run(
        ["sh", "-c", script, sys.executable, *words], capture_output=True, text=True, env=environment()
    )


def test_a_closed_stdout_is_told_in_one_line() -> None:
    done = run(">&-", "--help")
    assert done.returncode == 125
    assert (
        done.stderr == "ksym: cannot write the output: Bad file descriptor; make room or send it elsewhere\n"
    )


def test_a_closed_stderr_sends_nothing_to_stdout() -> None:
    done = run("2>&-", "trace", "pid_max:w")
    assert (done.returncode, done.stdout) == (2, "")


def test_all_closed() -> None:
    assert run("<&- >&- 2>&-", "--version").returncode == 125


def test_a_closed_stdin_does_not_matter() -> None:
    assert run("<&-", "--version").returncode == 0
