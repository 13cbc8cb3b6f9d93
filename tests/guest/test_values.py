# SPDX-License-Identifier: BSD-2-Clause
"""Values, conditions and reads told from writes, on variables of a stock kernel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from guest.running import PID_MAX, broken, changes, tallied, trace
from support.program import ksym, shell

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("at_32768")]


def setting(value: int) -> str:
    return f"sysctl -q -w kernel.pid_max={value}"


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("twin", ["auto", "on"])
def test_old_and_new_through_sysctl(pid_max: str, twin: str) -> None:
    script = f"sysctl kernel.pid_max; {setting(40000)}; sysctl kernel.pid_max"
    rows = trace(pid_max, "--twin", twin, *shell(f"{{ {script}; }} > /dev/null")).rows()
    assert changes(rows, "sysctl") == [("R", 32768, 32768), ("W", 32768, 40000), ("R", 40000, 40000)]
    assert broken(rows) == []
    assert [row for row in rows if row["access"] != "R" and row["comm"] != "sysctl"] == []


def test_two_registers_tell_without_programs(pid_max: str) -> None:
    script = f"cat {PID_MAX}; {setting(40000)}"
    result = trace(pid_max, "--no-bpf", "--twin", "on", *shell(f"{{ {script}; }} > /dev/null"))
    assert changes(result.rows(), "cat", "sysctl") == [("R", None, None), ("W", None, None)]


@pytest.mark.parametrize("options", [(), ("--no-bpf",)], ids=["programs", "no programs"])
def test_reads_alone(pid_max: str, options: tuple[str, ...], request: pytest.FixtureRequest) -> None:
    if not options:
        request.getfixturevalue("programs")
    script = f"cat {PID_MAX}; {setting(40001)}; cat {PID_MAX}"
    result = trace(f"{pid_max}:r--", *options, *shell(f"{{ {script}; }} > /dev/null"))
    rows = result.rows()
    assert {row["access"] for row in rows} == {"R"}
    assert tallied(result)[:2] == [len(rows)] * 2
    seen = [("R", 32768, 32768), ("R", 40001, 40001)] if not options else [("R", None, None)] * 2
    assert changes(rows, "cat") == seen
    assert changes(rows, "sysctl") == []


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ('comm == "sysctl"', [("W", 32768, 40001), ("W", 40001, 40001)]),
        ('comm == "cat" && new > 32768', [("R", 40001, 40001)]),
        ("access != R && old == new", [("W", 40001, 40001)]),
        ('comm == "sys*" && changed && ip in {function}', [("W", 32768, 40001)]),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_conditions(pid_max: str, condition: str, kept: list[tuple[str, int, int]]) -> None:
    # It was written anew in 6.19.
    names = {line.split()[2] for line in Path("/proc/kallsyms").read_text().splitlines()}
    function = next(
        name for name in ("do_proc_dointvec_minmax_conv", "do_proc_int_conv_minmax") if name in names
    )
    request = f"{pid_max} if {condition.format(function=function)}"
    script = f"cat {PID_MAX}; {setting(40001)}; {setting(40001)}; cat {PID_MAX}"
    result = trace(request, *shell(f"{{ {script}; }} > /dev/null"))
    assert changes(result.rows()) == kept
    rejected = re.search(r"^ksym: (\d+) hits? did not match the condition$", result.err, re.MULTILINE)
    assert rejected, result.err
    assert int(rejected[1]) >= 4 - len(kept)


@pytest.mark.usefixtures("programs")
def test_table_shows_old_and_new(pid_max: str) -> None:
    result = ksym("trace", f"{pid_max} if changed", *shell(setting(40000)))
    assert result.status == 0, result.err
    assert re.search(
        rf"^\S+ sysctl-\d+ +\d+  {re.escape(pid_max)} +W     32768 -> 40000       \w+\+0x\w+$",
        result.out,
        re.MULTILINE,
    ), result.out


@pytest.mark.usefixtures("programs")
def test_name_of_a_live_task(tmp_path: Path) -> None:
    """Renamed through prctl while it is watched: the old name and the new one, as text."""
    go, done = tmp_path / "go", tmp_path / "done"
    for fifo in (go, done):
        os.mkfifo(fifo)
    script = (
        "import ctypes, sys; libc = ctypes.CDLL(None); libc.prctl(15, b'before', 0, 0, 0); print(flush=True);"
        "open(sys.argv[1]).read(); libc.prctl(15, b'behind', 0, 0, 0); open(sys.argv[2], 'w').close()"
    )
    words = [sys.executable, "-c", script, str(go), str(done)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as task:
        assert task.stdout
        task.stdout.readline()
        rows = trace(f"task({task.pid}).comm", *shell(f": > {go}; cat {done}")).rows()
        assert task.wait() == 0
    mine = [row for row in rows if row["tid"] == task.pid]
    written = [row for row in mine if row["access"] == "W"]
    assert (written[0]["old"], written[-1]["new"]) == ("before", "behind")
    # Between them the name may be a mixture, as some kernels copy it in parts.
    assert broken(rows) == []


@pytest.mark.usefixtures("programs")
def test_forks_and_processes() -> None:
    """``total_forks`` is one for all CPUs; of ``process_counts`` each CPU has its own, one up or down at a time.

    Both are changed by one instruction that reads and writes.
    """
    script = "taskset -c 0 sh -c '/bin/true; exit 0'; taskset -c 1 sh -c '/bin/true; exit 0'"
    rows = trace("total_forks", "process_counts", *shell(script)).rows()
    forks = [row for row in rows if row["symbol"] == "total_forks"]
    mine = [row for row in forks if row["comm"] != "kthreadd"]  # which may start a kworker meanwhile
    assert [(row["comm"], row["access"]) for row in mine] == [("sh", "RW")] * 4
    assert {row["new"] - row["old"] for row in forks} == {1}
    assert broken(forks) == []
    counts = [row for row in rows if row["symbol"] == "process_counts"]
    for cpu in (0, 1):
        own = [row for row in counts if row["cpu"] == cpu]
        assert len(own) >= 2
        assert broken(own) == []
    assert {row["access"] for row in counts} == {"RW"}
    assert {(row["new"] - row["old"]) % 2**64 for row in counts} == {1, 2**64 - 1}


@pytest.mark.usefixtures("programs")
def test_variable_of_a_loaded_module() -> None:
    """``overlay`` is a module everywhere: the guest's root is one, and the initramfs loads it."""
    file = Path("/sys/module/overlay/parameters/redirect_max")
    before = int(file.read_text())
    script = f"cat {file}; echo {before + 1} > {file}; cat {file}; echo {before} > {file}"
    rows = trace("overlay:redirect_max", *shell(f"{{ {script}; }} > /dev/null")).rows()
    after = before + 1
    assert changes(rows, "cat") == [("R", before, before), ("R", after, after)]
    assert changes(rows, "sh") == [("W", before, after), ("W", after, before)]
    assert broken(rows) == []


@pytest.mark.usefixtures("programs")
def test_who_made_the_hits(pid_max: str) -> None:
    script = f"{{ cat {PID_MAX}; cat {PID_MAX}; {setting(40000)}; }} > /dev/null"
    result = ksym("stat", pid_max, "--by", "function,task", "--json", *shell(script))
    assert result.status == 0, result.err
    rows = [json.loads(line) for line in result.out.splitlines()]
    hits = Counter((row["comm"], row["type"], row["hits"]) for row in rows if row["function"] != "alloc_pid")
    assert hits == {("cat", "R", 1): 2, ("sysctl", "W", 1): 1}
    assert len({row["tid"] for row in rows if row["comm"] == "cat"}) == 2
    total = sum(row["hits"] for row in rows)
    assert f"ksym: {total} hits, 0 lost, 0 disarmed; {pid_max} {total}\n" in result.err


@pytest.mark.usefixtures("programs")
def test_values_need_no_atomics() -> None:
    """Before 5.12 the programs do without; doctor says what that costs."""
    old = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (5, 12)
    findings = {row["what"]: row for row in map(json.loads, ksym("doctor", "--json").out.splitlines())}
    assert findings["programs at watchpoints"]["state"] == "ok"
    assert findings["values of user variables"]["state"] == ("limited" if old else "ok")
    assert findings["order of values"]["state"] == ("limited" if old else "ok")
    assert ("5.12" in findings["order of values"]["found"]) == old
