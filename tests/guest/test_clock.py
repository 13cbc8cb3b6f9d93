# SPDX-License-Identifier: BSD-2-Clause
"""The wall clock is set while a run goes on: rows keep their times, intervals and durations their length."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from guest.running import LIMIT
from support.program import ksym, shell

pytestmark = pytest.mark.guest

DAY, HOUR_NS = 86400, 3600 * 10**9  # an hour is more than any of these runs takes, and less than any step
STEPS = (0, DAY, -3 * DAY, 5 * DAY, 0)
"""What the clock is moved by, seen from its start: a write in front of each, and one behind the last."""


@pytest.fixture
def began() -> Iterator[int]:
    """The time of day, ns; the clock is right again in the end."""
    now, running = time.time_ns(), time.monotonic_ns()
    yield now
    time.clock_settime_ns(time.CLOCK_REALTIME, now + time.monotonic_ns() - running)


def script(began: int) -> str:
    """Writes ``panic_on_oops`` once, sets the clock, and so on."""
    write = "echo 0 > /proc/sys/kernel/panic_on_oops; "
    return write + "".join(f"date -s @{began // 10**9 + step} > /dev/null; {write}" for step in STEPS)


def check(times: list[int], began: int) -> None:
    """In order, and of the day on which the run began."""
    assert len(times) == 1 + len(STEPS)
    assert all(a < b for a, b in pairwise(times))
    assert all(began <= each < began + HOUR_NS for each in times)


def test_rows_of_a_trace(began: int) -> None:
    result = ksym("trace", "--format", "json", "panic_on_oops:-w-", *shell(script(began)), timeout=LIMIT)
    assert result.status == 0, result.err
    check([row["time_ns"] for row in result.rows()], began)


def test_a_recording(began: int, tmp_path: Path) -> None:
    pytest.importorskip("numpy", reason="reads a recording, which takes numpy")
    from ksym.recording.reader import open_recording

    file = tmp_path / "file.data"
    result = ksym("record", "-o", str(file), "panic_on_oops:-w-", *shell(script(began)), timeout=LIMIT)
    assert result.status == 0, result.err
    recording = open_recording(str(file))
    times = recording.accesses().time_ns.tolist()
    check(times, began)
    assert recording.cut is None
    assert began < recording.start.time_ns < times[0]


def test_intervals_and_durations(began: int) -> None:
    """While somebody sets the clock all the time."""
    setting = (
        f"while :; do date -s @{began // 10**9 + DAY}; date -s @{began // 10**9 - DAY}; done > /dev/null"
    )
    running = time.monotonic()
    result = ksym(
        "stat", "-I", "300", "--duration", "1", "--json", "panic_on_oops:-w-", *shell(setting), timeout=LIMIT
    )
    took = time.monotonic() - running
    assert re.search(r"^ksym: 0 hits, 0 lost", result.err, re.MULTILINE), result.err
    seconds = [json.loads(line)["seconds"] for line in result.out.splitlines()]
    assert seconds
    assert all(0 < b - a < took for a, b in pairwise([0.0, *seconds]))
    assert took >= 1
