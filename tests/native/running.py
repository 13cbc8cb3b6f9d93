# SPDX-License-Identifier: BSD-2-Clause
"""What the native tests run: a sample variable of the kernel, and ksym as a process to talk to."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.commands.samples import PARAMETERS, Sample, find_sample
from ksym.errors import KsymError
from ksym.linux.cpus import online_cpus
from ksym.watch.registers import free_registers
from support.program import SOURCES, Result, command, environment

ONE_LINE = re.compile(r"ksym: [^:\n][^\n]*: [^\n]+\n")
"""``ksym: WHAT: WHY; WHAT TO DO`` and nothing else."""
_PYTHON = "/usr/bin/python3"
"""What another user runs: a virtual environment may lie where he cannot look."""


def sample() -> Sample:
    """A kernel variable behind a file; the test is skipped where there is none."""
    try:
        return find_sample(PARAMETERS)
    except KsymError as error:
        pytest.skip(str(error))


def free() -> list[int]:
    """Free registers of each CPU."""
    return [free_registers(cpu=cpu) for cpu in online_cpus()]


def summary(error: str) -> str:
    """The summary line of a run's stderr."""
    lines = [line for line in error.splitlines() if re.match(r"ksym: \d+ .* lost, \d+ disarmed; ", line)]
    assert len(lines) == 1, error
    return lines[0]


@contextlib.contextmanager
def started(
    *arguments: str, cwd: Path | None = None, unprivileged: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Ksym in the background, its output not buffered here; killed at the end if it still runs."""
    words, names = nobody_command(*arguments) if unprivileged else (command(*arguments), environment())
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=cwd, env=names
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def readable(process: subprocess.Popen[bytes], seconds: float = 0.05) -> bool:
    """Whether there is something on its stdout."""
    assert process.stdout is not None
    return bool(select.select([process.stdout.fileno()], [], [], seconds)[0])


def line(process: subprocess.Popen[bytes]) -> str:
    """The next line of its stdout."""
    assert readable(process, 30), "no more output"
    assert process.stdout is not None
    return process.stdout.readline().decode()


def row(process: subprocess.Popen[bytes], file: Path) -> str:
    """Touch the sample until a row comes: the watch is armed then."""
    while not readable(process):
        touch(file)
    return line(process)


def ended(process: subprocess.Popen[bytes], number: signal.Signals | None = None) -> tuple[str, str]:
    """Send a signal, if one is given, and wait; what is left of stdout, and stderr."""
    if number is not None:
        process.send_signal(number)
    out, error = process.communicate(timeout=30)
    return out.decode(), error.decode()


def touch(file: Path) -> None:
    """Read a file of the kernel once, from this process."""
    fd = os.open(file, os.O_RDONLY)
    try:
        os.pread(fd, 64, 0)
    finally:
        os.close(fd)


def as_nobody() -> tuple[list[str], dict[str, str]]:
    """What runs a program as a user without privileges: the words before it, and the environment.

    The test is skipped where that user cannot run ksym.
    """
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    prefix = [
        "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
    ]  # fmt: skip
    names = {"PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]}
    probe = subprocess.run(
        [*prefix, _PYTHON, "-c", "import sys, ksym; sys.exit(sys.version_info < (3, 11))"],
        env=names,
        capture_output=True,
    )
    if probe.returncode:
        pytest.skip(f"{_PYTHON} of another user cannot run these sources")
    return prefix, names


def nobody_command(*words: str) -> tuple[list[str], dict[str, str]]:
    """The words that run ksym as a user without privileges, and the environment."""
    prefix, names = as_nobody()
    return [*prefix, _PYTHON, "-m", "ksym", *words], names


def nobody(*words: str, cwd: Path | None = None) -> Result:
    """Run ksym to its end as a user without privileges."""
    command, names = nobody_command(*words)
    done = subprocess.run(command, env=names, cwd=cwd, capture_output=True, text=True, timeout=120)
    return Result(done.returncode, done.stdout, done.stderr)
