# SPDX-License-Identifier: BSD-2-Clause
"""Programs in the kernel hold what COMMAND runs: this kernel's verifier takes them, and the stop comes in time."""

from __future__ import annotations

import shutil
import time

import pytest

from ksym.symbols.wanted import Wanted
from ksym.watch.launch import Command
from ksym.watch.run import Undisturbed

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
