# SPDX-License-Identifier: BSD-2-Clause
"""Who started whom."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from typing import Any

import pytest

from ksym.api import arguments
from ksym.commands.parser import pid_list
from ksym.errors import UsageError
from ksym.linux.processes import descendants, process_state, threads_of, ticks_now

WORKER = "import os, sys; child = os.fork(); child and print(child, flush=True); sys.stdin.read()"


def test_a_process_and_its_descendants() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert descendants(process.pid) == [child]
        assert {process.pid, child} <= set(descendants(os.getpid()))
        state, forked = process_state(process.pid), process_state(child)
        assert state is not None
        assert forked is not None
        assert (state.parent, forked.parent) == (os.getpid(), process.pid)
        assert (state.forked, forked.forked) == (False, True)
        assert state.started <= forked.started <= ticks_now()
        assert threads_of(child) == (child,)


def test_a_zombie_has_ended() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    state = process_state(process.pid)
    assert state is not None
    assert (state.name, state.ended) == ("true", True)
    assert descendants(os.getpid()).count(process.pid) == 0
    process.wait()
    assert process_state(process.pid) is None
    assert threads_of(process.pid) == ()


@pytest.mark.parametrize(
    ("value", "pids"),
    [(None, ()), (7, (7,)), ([7, 8], (7, 8)), ((8, 7, 8), (8, 7)), (range(3, 5), (3, 4))],
)
def test_pids_are_given_one_by_one_or_together(value: Any, pids: tuple[int, ...]) -> None:
    assert arguments.pids(value) == pids


@pytest.mark.parametrize("value", [0, -1, True, "7", b"7", [], [7, "8"], [0], 7.0, [7, True]])
def test_what_is_not_a_pid(value: Any) -> None:
    with pytest.raises(UsageError, match="whole number from 1 on, or several"):
        arguments.pids(value)


@pytest.mark.parametrize(
    ("text", "pids"),
    [("7", (7,)), ("7,8", (7, 8)), ("7, 8", (7, 8)), ("7,", None), (",", None), ("a,7", None)],
)
def test_a_list_of_pids(text: str, pids: tuple[int, ...] | None) -> None:
    if pids is not None:
        assert pid_list(text) == pids
        return
    with pytest.raises(argparse.ArgumentTypeError, match="list of PIDs"):
        pid_list(text)
