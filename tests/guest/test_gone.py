# SPDX-License-Identifier: BSD-2-Clause
"""Watches whose variable goes away."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.running import tallied
from support.program import Result, command, environment, ksym, shell

pytestmark = pytest.mark.guest

MESSAGE = "ksym: loop:max_part is not watched any more: module loop was unloaded"


@pytest.fixture(autouse=True)
def _loop_is_loaded() -> Iterator[None]:
    subprocess.run(["modprobe", "loop"], check=True)
    yield
    assert not Path("/sys/module/loop").exists()


def test_module_that_is_unloaded() -> None:
    result = ksym("trace", "loop:max_part", "--format", "json", "--", "rmmod", "loop")
    assert result.status == 0, result.err
    assert tallied(result)[2:] == [0, 0]
    assert result.err.splitlines().count(MESSAGE) == 1


def test_other_watches_go_on(tmp_path: Path) -> None:
    told = tmp_path / "err"
    script = f"rmmod loop; until grep -q unloaded {told}; do :; done; cat /proc/sys/kernel/panic"
    words = command("trace", "loop:max_part", "panic_timeout", "-v", "--format", "json", *shell(script))
    with told.open("w") as err:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=err, text=True, env=environment(), timeout=120
        )
    result = Result(done.returncode, done.stdout, told.read_text())
    assert result.status == 0, result.err
    assert MESSAGE in result.err.splitlines()
    reads = [row for row in result.rows() if row["symbol"] == "panic_timeout"]
    assert [(row["comm"], row["access"]) for row in reads] == [("cat", "R")]
