# SPDX-License-Identifier: BSD-2-Clause
"""Standard streams that the caller has closed, or that take nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.program import environment
from support.recordings import small_recording


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A recording."""
    small_recording(tmp_path / "own.data", 3)
    return tmp_path / "own.data"


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
    done = run("2>&-", "trace", "pid_max:wr")
    assert (done.returncode, done.stdout) == (2, "")


def test_all_closed() -> None:
    assert run("<&- >&- 2>&-", "--version").returncode == 125


def test_a_closed_stdin_does_not_matter() -> None:
    assert run("<&-", "--version").returncode == 0


FULL_OUT = [
    ("--help",),
    ("--version",),
    ("trace", "--help"),
    ("export", "-h"),
    ("resolve", "--help"),
    ("doctor",),
]


@pytest.mark.parametrize("words", FULL_OUT, ids=" ".join)
@pytest.mark.parametrize("stderr", ["", "2>/dev/full", "2>&-"])
@pytest.mark.parametrize("stdout", [">/dev/full", ">&-"])
def test_output_that_is_lost_is_a_failure(stdout: str, stderr: str, words: tuple[str, ...]) -> None:
    done = run(f"{stdout} {stderr}", *words)
    assert done.returncode == 125
    if stderr:
        assert (done.stdout, done.stderr) == ("", "")
    else:
        assert re.fullmatch(
            r"ksym: cannot write the output: [^\n]+; make room or send it elsewhere\n", done.stderr
        )


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_a_lost_stderr_matters_where_something_was_said(stderr: str, own: Path) -> None:
    """Wrong usage and a failure keep their status; what would be a success is none without its message."""
    assert run(stderr, "--help").returncode == 0
    assert run(stderr, "script", str(own)).returncode == 0
    assert run(stderr, "nosuch").returncode == 2
    assert run(stderr).returncode == 2
    assert run(stderr, "script", "/nosuch").returncode == 125
    exported = run(stderr, "export", str(own), "--to", "csv", "-o", str(own.with_name("x.csv")))
    assert (exported.returncode, exported.stdout) == (125, "")
    assert own.with_name("x.csv").exists()


def test_a_reader_of_stderr_that_has_seen_enough_is_no_loss(own: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [
        sys.executable,
        "-m",
        "ksym",
        "export",
        str(own),
        "--to",
        "csv",
        "-o",
        str(own.with_name("x.csv")),
    ]
    assert subprocess.run(words, stderr=writing, env=environment()).returncode == 0
    os.close(writing)


@pytest.mark.parametrize("name", ["/usr/bin/ksym", "/usr/bin/other"])
def test_an_interrupt_while_ksym_is_imported_ends_it_without_a_word(name: str) -> None:
    """Only as the program: others keep their handler."""
    code = (
        "import os, sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'ksym.errors': os.kill(os.getpid(), 2)\n"
        f"sys.argv = [{name!r}]\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "from ksym.__main__ import run\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    ended = name.endswith("/ksym")
    assert (done.returncode, "KeyboardInterrupt" in done.stderr) == (-2, not ended)
    assert not ended or done.stderr == ""
