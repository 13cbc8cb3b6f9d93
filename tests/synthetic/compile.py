# SPDX-License-Identifier: BSD-2-Clause
"""Small C and C++ programs, built when a test needs them, and run with a pipe to wait on."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest


def need(*tools: str) -> None:
    """Skip the test where a tool is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


@cache
def _makes_32_bits() -> bool:
    words = ("gcc", "-m32", "-xc", "-", "-o", os.devnull)
    return not subprocess.run(words, input=b"int main(void) { return 0; }", capture_output=True).returncode


def need_32_bits() -> None:
    """Skip the test where gcc makes no programs of 32 bits."""
    need("gcc")
    if not _makes_32_bits():
        pytest.skip("gcc -m32 does not work here: gcc-multilib is not installed")


def build(folder: Path, name: str, source: str, *flags: str, suffix: str = "c") -> Path:
    """Compile ``source`` to ``folder/name``."""
    compiler = "g++" if suffix == "cc" else "gcc"
    need(compiler)
    file = folder / f"{name}.{suffix}"
    file.write_text(source)
    out = folder / name
    # The source goes first: libraries among the flags have to follow what uses them.
    subprocess.run([compiler, str(file), "-o", str(out), *flags], check=True, cwd=folder)
    return out


@contextlib.contextmanager
def running(*command: str | Path, env: dict[str, str] | None = None) -> Iterator[tuple[int, list[str]]]:
    """Run a program that prints a line, then waits for its stdin to close; gives PID and the line's words."""
    process = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout is not None
    try:
        yield process.pid, process.stdout.readline().split()
    finally:
        process.communicate(timeout=20)


def nm(path: Path, *options: str) -> dict[str, int]:
    """Defined symbols and their addresses, by binutils."""
    need("nm")
    text = subprocess.run(["nm", *options, str(path)], check=True, capture_output=True, text=True).stdout
    rows = (line.split(maxsplit=2) for line in text.splitlines())
    return {row[2].partition("@")[0]: int(row[0], 16) for row in rows if len(row) == 3}
