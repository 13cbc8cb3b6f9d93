# SPDX-License-Identifier: BSD-2-Clause
"""The standard library is enough where ksym watches and records; what reads recordings may need more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.program import SOURCES

MODULES = sorted(
    ".".join(path.relative_to(SOURCES).with_suffix("").parts)
    for path in SOURCES.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)
# What reads recordings: it may need numpy and others.
READING = ("ksym.exports.", "ksym.api.recording", "ksym.reports.", "ksym.views.bulk")
RECORDING = ("accesses", "knowledge", "machine", "perf_file", "recorder", "scan", "writer", "zstd")
STANDALONE = [
    name
    for name in MODULES
    if not name.startswith(READING)
    and (not name.startswith("ksym.recording.") or name.removeprefix("ksym.recording.") in RECORDING)
]
# What starting a command may not load: slow to import, and not needed before the watch is armed.
HEAVY = (
    "elftools",
    "iced_x86",
    "numpy",
    "json.tool",
    "asyncio",
    "subprocess",
    "socket.ssl",
    "http",
    "email",
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code with site-packages hidden."""
    prologue = f"import sys; sys.path.insert(0, {str(SOURCES)!r})\n"
    return subprocess.run([sys.executable, "-I", "-S", "-c", prologue + code], capture_output=True, text=True)


def test_there_are_modules() -> None:
    assert len(STANDALONE) > 50
    assert {f"ksym.recording.{name}" for name in RECORDING} <= set(STANDALONE)


def test_modules_import_without_site_packages() -> None:
    done = python(f"import importlib\nfor name in {STANDALONE!r}: importlib.import_module(name)")
    assert done.returncode == 0, done.stderr


def test_what_reads_recordings_says_what_is_missing() -> None:
    code = (
        "import ksym, ksym.commands.export as export\n"
        "from ksym.commands.parser import parse\n"
        "def text(what):\n"
        "    try: what()\n"
        "    except ksym.KsymError as error: print(error)\n"
        "text(lambda: ksym.open('x'))\n"
        "text(lambda: export.run(parse('export', export, ['x', '--to', 'csv'])))"
    )
    done = python(code)
    assert done.stdout.splitlines() == [
        "cannot read recordings: numpy is not installed; pip install numpy",
        "cannot export to csv: numpy is not installed; pip install numpy",
    ], done.stderr


@pytest.mark.parametrize("command", ["trace", "stat"])
def test_nothing_heavy_is_imported_to_start(command: str) -> None:
    code = (
        "from ksym.__main__ import main\n"
        f"status = main([{command!r}, 'no such request ['])\n"
        f"import ksym.commands.{command}\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = python(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_pyz_is_one_file_that_runs(tmp_path: Path) -> None:
    target = tmp_path / "ksym.pyz"
    root = SOURCES.parent
    subprocess.run([sys.executable, root / "scripts" / "build-pyz", target], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, "-I", "-S", target, "--version"], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ksym ")
    names = subprocess.run(
        [sys.executable, "-I", "-S", target, "resolve"], capture_output=True, text=True, cwd="/"
    )
    assert names.returncode == 2
    assert names.stderr.startswith("ksym: cannot read the command line: ")
    assert "Traceback" not in names.stderr
