# SPDX-License-Identifier: BSD-2-Clause
"""What the native tests run: a sample variable of the kernel, and ksym as a process to talk to."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.commands.samples import PARAMETERS, Sample, find_sample
from ksym.errors import KsymError
from ksym.linux.cpus import online_cpus
from ksym.watch.registers import free_registers
from support.program import command, environment

ONE_LINE = re.compile(r"ksym: [^:\n][^\n]*: [^\n]+\n")
"""``ksym: WHAT: WHY; WHAT TO DO`` and nothing else."""


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
def started(*arguments: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Ksym in the background, its output not buffered here; killed at the end if it still runs."""
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=cwd, env=environment()
    )  # fmt: skip
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
