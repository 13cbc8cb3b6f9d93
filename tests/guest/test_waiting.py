# SPDX-License-Identifier: BSD-2-Clause
"""Programs in the kernel hold what COMMAND runs: this kernel's verifier takes them, and the stop comes in time."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from ksym.symbols.wanted import Wanted
from ksym.watch.launch import Command
from ksym.watch.run import Undisturbed
from native.programs import reloading
from support.program import ksym
from synthetic.compile import build

pytestmark = pytest.mark.guest


@pytest.mark.parametrize("name", ["sort", "libc.so.6"])
def test_a_program_is_held_until_it_is_let_go(name: str) -> None:
    wanted = Wanted([shutil.which(name) or name])
    command = Command(["sh", "-c", "(exec true) & wait; echo | sort >/dev/null; exit 5"])
    with Undisturbed() as signals:
        pid = command.run_until(wanted, signals)
    assert pid is not None
    assert command.holder is not None
    assert not command.holder.traces
    assert wanted.placement(pid) is not None
    command.go()
    while command.poll() is None:
        time.sleep(0.01)
    assert command.status == 5
    command.close()
    assert command.missed() == []


@pytest.mark.usefixtures("programs")
def test_a_library_is_followed_through_its_lives(tmp_path: Path) -> None:
    """It is held when it is mapped, and when it is unmapped: what comes to its address then is not shown."""
    build(tmp_path, "libplug.so", reloading.PLUGIN, "-g", "-O1", "-fPIC", "-shared")
    build(tmp_path, "host", reloading.HOST, "-g", "-O1", "-ldl")
    words = ["trace", "./libplug.so:level:-w-", "--format", "json", "--", "./host", "3", "foreign"]
    result = ksym(*words, cwd=tmp_path)
    assert result.status == 0, result.err
    assert [(row["old"], row["new"]) for row in result.rows()] == reloading.levels(3)
