# SPDX-License-Identifier: BSD-2-Clause
"""Watches whose variable goes away, or whose CPU."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.running import CYCLES, EACH, LIMIT, check_hits, hitting, tallied
from ksym.linux.libc import MACHINE
from support.program import Result, command, environment, ksym, shell

pytestmark = pytest.mark.guest

MESSAGE = "ksym: loop:max_part is not watched any more: module loop was unloaded"


@pytest.fixture
def _loop_is_loaded() -> Iterator[None]:
    subprocess.run(["modprobe", "loop"], check=True)
    yield
    assert not Path("/sys/module/loop").exists()


@pytest.mark.usefixtures("_loop_is_loaded")
def test_module_that_is_unloaded() -> None:
    result = ksym("trace", "loop:max_part", "--format", "json", "--", "rmmod", "loop")
    assert result.status == 0, result.err
    assert tallied(result)[2:] == [0, 0]
    assert result.err.splitlines().count(MESSAGE) == 1


@pytest.mark.usefixtures("_loop_is_loaded")
def test_other_watches_go_on(tmp_path: Path) -> None:
    told = tmp_path / "err"
    script = f"rmmod loop; until grep -q unloaded {told}; do :; done; cat /proc/sys/kernel/panic"
    words = command("trace", "loop:max_part", "panic_timeout", "-v", "--format", "json", *shell(script))
    with told.open("w") as err:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=err, text=True, env=environment(), timeout=LIMIT
        )
    result = Result(done.returncode, done.stdout, told.read_text())
    assert result.status == 0, result.err
    assert MESSAGE in result.err.splitlines()
    reads = [row for row in result.rows() if row["symbol"] == "panic_timeout"]
    assert [(row["comm"], row["access"]) for row in reads] == [("cat", "R")]


@pytest.mark.usefixtures("_loop_is_loaded")
def test_recording_of_a_module_that_is_unloaded(tmp_path: Path) -> None:
    """What was recorded before stays."""
    file, parameter = tmp_path / "file.data", "/sys/module/loop/parameters/max_part"
    result = ksym("record", "-o", str(file), "loop:max_part", *shell(f"cat {parameter}; rmmod loop"))
    assert result.status == 0, result.err
    assert result.err.splitlines().count(MESSAGE) == 1
    hits, lost = recorded(result)
    assert hits >= 1
    assert lost == 0


@pytest.mark.usefixtures("programs", "_loop_is_loaded")
@pytest.mark.parametrize("words", [("stat",), ("trace", "--twin", "on")], ids=["stat", "twin"])
def test_module_that_comes_back(words: tuple[str, ...], tmp_path: Path) -> None:
    """What lies at the old address by then is not what was asked for, not even if it is the same again."""
    told, parameter = tmp_path / "err", "/sys/module/loop/parameters/max_part"
    script = f"cat {parameter}; rmmod loop; until grep -q unloaded {told}; do sleep 0.1; done; "
    script += f"modprobe loop; cat {parameter} {parameter}; rmmod loop"
    with told.open("w") as err:
        done = subprocess.run(
            command(*words, "-v", "loop:max_part", *shell(script)),
            stdout=subprocess.PIPE, stderr=err, text=True, env=environment(), timeout=LIMIT,
        )  # fmt: skip
    said = told.read_text()
    assert done.returncode == 0, said
    assert said.splitlines().count(MESSAGE) == 2  # at once, and in the summary
    assert re.search(r"^ksym: 1 (hit|access \(\d hits?\)), 0 lost, 0 disarmed", said, re.MULTILINE), said


def test_recording_follows_a_cpu_that_goes_and_comes(tmp_path: Path) -> None:
    """A write before on that CPU, one meanwhile elsewhere, one behind on it again: each is recorded."""
    cpu, told = "/sys/devices/system/cpu/cpu1/online", tmp_path / "err"
    write = "echo 0 > /proc/sys/kernel/panic_on_oops"

    def until(text: str) -> str:
        return f"until grep -q '{text}' {told}; do :; done"

    there = f"taskset -c 1 sh -c '{write}'"
    script = f"{there}; echo 0 > {cpu}; {until('went offline')}; {write}; "
    script += f"echo 1 > {cpu}; {until('came online')}; {there}"
    words = command(
        "record", "-v", "-o", str(tmp_path / "file.data"), "panic_on_oops:-w-", *shell(script)
    )  # fmt: skip
    with told.open("w") as err:
        done = subprocess.run(words, stderr=err, env=environment(), timeout=LIMIT)
    result = Result(done.returncode, "", told.read_text())
    assert result.status == 0, result.err
    assert recorded(result) == (3, 0)


@pytest.mark.skipif(MACHINE == "aarch64", reason="there a write may trap more than once")
@pytest.mark.parametrize("verb", ["stat", "trace"])
def test_a_cpu_that_goes_while_it_is_hit(verb: str, tmp_path: Path) -> None:
    told = tmp_path / "err"
    options = ("--no-fold",) if verb == "trace" else ()
    words = (verb, "-q", "-v", "--guard", "off", *options, "panic_on_oops:-w-", *shell(hitting(told, tmp_path)))
    with told.open("a") as err:  # the script empties it
        done = subprocess.run(
            command(*words), stdout=subprocess.PIPE, stderr=err, text=True, env=environment(), timeout=LIMIT
        )
    said = told.read_text()
    assert done.returncode == 0, said
    found = re.search(r"^ksym: (\d+ accesses \()?(\d+) hits\)?, 0 lost, 0 disarmed", said, re.MULTILINE)
    assert found, said
    check_hits(int(found[2]))
    if verb == "trace":
        tasks = Counter(line.split()[1] for line in done.stdout.splitlines())
        assert tasks.total() == int(found[2])
        assert tasks.most_common(1)[0][1] == CYCLES * EACH  # the one on CPU 0


def recorded(result: Result) -> tuple[int, int]:
    """Hits and losses, as the summary has them."""
    found = re.search(r"^ksym: (\d+) hits?, (\d+) lost, ", result.err, re.MULTILINE)
    assert found, result.err
    return int(found[1]), int(found[2])
