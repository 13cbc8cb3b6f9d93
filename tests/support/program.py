# SPDX-License-Identifier: BSD-2-Clause
"""Running ksym as a user does: a process with arguments, stdout, stderr and a status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parents[2] / "src"


@dataclass(frozen=True)
class Result:
    """What one run left."""

    status: int
    out: str
    err: str

    def rows(self) -> list[dict[str, Any]]:
        """The accesses among the lines of stdout, of a run with ``--format json``."""
        return [json.loads(line) for line in self.out.splitlines() if line.startswith('{"time_ns"')]

    def kinds(self, comm: str | None = None) -> list[tuple[str, str]]:
        """(TYPE, function) of each access, or of those of one task name."""
        return [(row["access"], row["function"]) for row in self.rows() if comm in (None, row["comm"])]


def environment() -> dict[str, str]:
    """The environment in which ``python -m ksym`` finds these sources."""
    return {**os.environ, "PYTHONPATH": str(SOURCES)}


def command(*arguments: str, python: Sequence[str] = ()) -> list[str]:
    """The words that run ksym; ``python`` are options of the interpreter."""
    return [sys.executable, *python, "-m", "ksym", *arguments]


def ksym(
    *arguments: str,
    timeout: float = 120,
    cwd: Path | None = None,
    stdin: str | None = None,
    python: Sequence[str] = (),
) -> Result:
    """Run ksym to its end."""
    done = subprocess.run(
        command(*arguments, python=python), capture_output=True, text=True, errors="replace", timeout=timeout,
        env=environment(), cwd=cwd, input=stdin,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


def shell(script: str) -> Sequence[str]:
    """COMMAND words that run a shell script."""
    return ("--", "sh", "-c", script)
