# SPDX-License-Identifier: BSD-2-Clause
"""The clock of the records, also in a time namespace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from ksym.errors import KsymError
from ksym.linux import clock
from ksym.linux.clock import monotonic_ns, namespace_offset, parse_offsets, wall_offset
from support.program import environment

TELL = """
import json, time
from ksym.linux.clock import monotonic_ns, wall_offset
print(json.dumps([monotonic_ns(), time.time_ns() - wall_offset()]))
"""


@pytest.mark.parametrize("words", [(), ("--fork",)], ids=["exec", "fork"])
@pytest.mark.parametrize("offset", ["86400", "-1"])
def test_a_time_namespace_does_not_move_it(offset: str, words: tuple[str, ...]) -> None:
    if os.geteuid() != 0 or not os.path.exists("/proc/self/ns/time") or not shutil.which("unshare"):
        pytest.skip("a time namespace takes root, CONFIG_TIME_NS and unshare(1)")
    before = time.monotonic_ns()
    done = subprocess.run(
        ["unshare", "--time", "--monotonic", offset, "--boottime", "77", *words, sys.executable, "-c", TELL],
        stdout=subprocess.PIPE, env=environment(),
    )  # fmt: skip
    after = time.monotonic_ns()
    if done.returncode:
        pytest.skip("no time namespace can be made here")
    for moment in json.loads(done.stdout):
        assert before <= moment <= after


def test_the_hosts_own_clock() -> None:
    if os.readlink("/proc/self/ns/time") != "time:[4026531834]":
        pytest.skip("the tests run in a time namespace themselves")
    assert time.monotonic_ns() <= monotonic_ns() <= time.monotonic_ns()
    assert abs(wall_offset() - (time.time_ns() - time.monotonic_ns())) < 10**9


def test_offsets_are_read() -> None:
    assert (
        parse_offsets("monotonic         172800         5\nboottime         604800         0\n")
        == 172800 * 10**9 + 5
    )
    for text in ("", "boottime 1 2\n", "monotonic 1\n", "monotonic x 1\n"):
        with pytest.raises(ValueError):
            parse_offsets(text)


def test_an_offset_that_cannot_be_read_is_no_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """After unshare(2) without a fork, only a process that has stayed in the old namespace could tell."""
    monkeypatch.setattr(os, "readlink", lambda path: f"time:[{len(path)}]")
    with pytest.raises(KsymError, match="in a time namespace whose offset it cannot read"):
        namespace_offset.__wrapped__()
    monkeypatch.setattr(os, "readlink", lambda path: "time:[1]")
    monkeypatch.setattr(clock, "read_text", lambda path: "monotonic 3 4\nboottime 0 0\n")
    assert namespace_offset.__wrapped__() == 3_000_000_004
