# SPDX-License-Identifier: BSD-2-Clause
"""Watching variables of a stock kernel by name."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from guest.running import LIMIT, PID_MAX, broken, trace
from ksym.linux.libc import MACHINE
from ksym.symbols.kallsyms import Kallsyms
from support.program import Result, command, environment, ksym, shell

pytestmark = pytest.mark.guest


def test_pid_max_is_read_and_written_by_sysctl(pid_max: str) -> None:
    value = PID_MAX.read_text().strip()
    result = trace(pid_max, "-g", *shell(f"sysctl kernel.pid_max; sysctl -w kernel.pid_max={value}"))
    reads, writes = (
        [row for row in result.rows() if row["comm"] == "sysctl" and row["access"] == kind] for kind in "RW"
    )
    assert len(writes) == 1
    assert reads
    assert all(any(frame.startswith("proc_sys_") for frame in row["stack"]) for row in reads + writes)
    assert all(row["length"] == 4 for row in reads + writes)
    assert PID_MAX.read_text().strip() == value


def test_write_watch_sees_no_reads(pid_max: str) -> None:
    value = PID_MAX.read_text().strip()
    result = trace(f"{pid_max}:-w-", *shell(f"cat {PID_MAX}; echo {value} > {PID_MAX}; cat {PID_MAX}"))
    assert [access for access, _ in result.kinds()] == ["W"]
    assert "1 access (1 hit)" in result.err


def test_jiffies_64_exactly_five_writes_in_order_of_time() -> None:
    rows = trace("jiffies_64:-w-", "--limit", "5").rows()
    assert len(rows) == 5
    assert {row["access"] for row in rows} <= {"W", "RW"}
    times = [row["time_ns"] for row in rows]
    assert times == sorted(times)


def test_jiffies_64_is_counted() -> None:
    result = ksym("stat", "jiffies_64:-w-", "--duration", "0.5", "--json")
    assert result.status == 0, result.err
    assert json.loads(result.out)["hits"] > 0


def test_forks_are_counted_exactly() -> None:
    result = ksym(
        "trace", "total_forks:-w-", "--format", "json", *shell("/bin/true; /bin/true; /bin/true; exit 3")
    )
    assert result.status == 3, result.err
    rows = result.rows()
    # kthreadd may start a kworker meanwhile, which is a fork as well.
    assert [row["comm"] for row in rows if row["comm"] != "kthreadd"] == ["sh"] * 3
    assert (
        f"ksym: {len(rows)} accesses ({len(rows)} hits), 0 lost, 0 disarmed; total_forks {len(rows)}\n"
        in result.err
    )


def test_per_cpu_variable_of_one_cpu() -> None:
    rows = trace("runqueues.nr_running@cpu1:-w-", "--limit", "6", *shell("taskset -c 1 /bin/true")).rows()
    assert rows
    assert len({row["address"] for row in rows}) == 1
    resolved = json.loads(ksym("resolve", "--json", "runqueues.nr_running").out)
    assert rows[0]["address"] == resolved["per_cpu"]["1"]


def test_per_cpu_variable_each_cpu_its_own_copy() -> None:
    result = trace("runqueues.nr_running:-w-", *shell("taskset -c 0 /bin/true; taskset -c 1 /bin/true"))
    copies = json.loads(ksym("resolve", "--json", "runqueues.nr_running").out)["per_cpu"]
    rows = result.rows()
    found = {(row["cpu"], row["address"]) for row in rows}
    assert found == {(cpu, copies[str(cpu)]) for cpu, _ in found}
    assert {cpu for cpu, _ in found} >= {0, 1}
    for cpu in (0, 1):
        assert broken([row for row in rows if row["cpu"] == cpu]) == []


def test_variable_of_a_module() -> None:
    file = "/sys/module/fuse/parameters/max_user_bgreq"
    if not os.path.exists(file):
        pytest.skip("fuse is built in or absent here")
    value = Path(file).read_text().strip()
    result = trace("fuse:max_user_bgreq", *shell(f"cat {file}; echo {value} > {file}"))
    kinds = result.kinds()
    assert ("R", "param_get_uint") in kinds
    assert sum(access == "W" for access, _ in kinds) >= 1
    found = json.loads(ksym("resolve", "--json", "fuse:max_user_bgreq").out)
    assert found["length"] == 4
    module = (
        "[fuse]" in Path("/proc/kallsyms").read_text()
    )  # else it is built in, and only the parameter is known
    assert any(("[fuse]" if module else "parameter fuse") in fact["source"] for fact in found["facts"])


def test_an_int_that_only_kallsyms_knows() -> None:
    file = Path("/proc/sys/kernel/kptr_restrict")
    result = trace("kptr_restrict", *shell(f"cat {file}; echo {file.read_text().strip()} > {file}"))
    assert [access for access, _ in result.kinds("cat")] == ["R"]
    assert [access for access, _ in result.kinds("sh")].count("W") == 1


def test_member_of_init_net() -> None:
    file = "/proc/sys/net/ipv4/ip_default_ttl"
    result = trace("init_net.ipv4.sysctl_ip_default_ttl", *shell(f"cat {file} > /dev/null; echo 64 > {file}"))
    assert {access for access, _ in result.kinds("cat")} == {"R"}
    assert [access for access, _ in result.kinds("sh")].count("W") == 1


def test_comm_of_the_commands_own_task() -> None:
    script = "import ctypes; ctypes.CDLL(None).prctl(15, b'renamed', 0, 0, 0)"
    result = trace("task(self).comm[0]:-w-", "-g", "--", "/usr/bin/python3", "-c", script)
    rows = result.rows()
    stacks = [" ".join(row["stack"]) for row in rows]
    # exec names the task, then prctl(PR_SET_NAME) does; each by a copy and a padding store at the most.
    assert {row["access"] for row in rows} == {"W"}
    assert sum("exec" in stack for stack in stacks) >= 1
    assert sum("prctl" in stack for stack in stacks) >= 1
    assert all("exec" in stack or "prctl" in stack for stack in stacks)


def test_execution_of_a_function() -> None:
    result = trace("kernel_clone:--x", "-g", *shell("/bin/true; /bin/true; exit 0"))
    rows = [row for row in result.rows() if row["comm"] != "kthreadd"]  # which may start a kworker meanwhile
    assert [row["access"] for row in rows] == ["X", "X"]
    assert all(row["function"] == "kernel_clone" and row["offset"] == 0 for row in rows)
    assert all(row["stack"][0] == "kernel_clone+0x0" for row in rows)
    assert all(any("clone" in frame or "fork" in frame for frame in row["stack"][1:]) for row in rows)


def test_two_runs_share_the_registers() -> None:
    inner = " ".join(command("stat", "jiffies_64:-w-", "nr_threads:-w-"))
    result = ksym("stat", "init_task.comm:-w-", "total_forks:-w-", *shell(f"{inner}; true"))
    assert result.status == 0, result.err
    refusal = next(line for line in result.err.splitlines() if "debug registers" in line)
    assert "they take 2 debug registers and CPU 0 has 1 free" in refusal
    assert "held perhaps by" in refusal


def test_a_misspelt_name_gets_the_nearest() -> None:
    result = ksym("trace", "jiffies_46")
    assert result.status == 125
    assert "jiffies_64" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["doctor", "selftest", "demo"])
def test_commands_that_take_nothing(command: str) -> None:
    result = ksym(command)
    assert result.status == 0, result.out + result.err
    # By selftest: a stock kernel lacks nothing of what it tries, but on arm64 the programs that take values.
    skipped = [line for line in result.out.splitlines() if line.startswith("skipped ")]
    assert [line for line in skipped if MACHINE != "aarch64" or "values" not in line] == []


@pytest.mark.parametrize("slowly", [True, False], ids=["slow", "quick"])
def test_a_cpu_that_goes_and_comes_is_followed(slowly: bool, tmp_path: Path) -> None:
    cpu, told = "/sys/devices/system/cpu/cpu1/online", tmp_path / "err"

    def until(text: str) -> str:
        return f"until grep -q '{text}' {told}; do :; done; "

    script = f"echo 0 > {cpu}; " + (until("went offline") if slowly else "") + f"echo 1 > {cpu}; "
    script += until("came online") + "taskset -c 1 /bin/true"
    words = command("trace", "runqueues.nr_running@cpu1:-w-", "-v", "--format", "json", *shell(script))
    with told.open("w") as err:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=err, text=True, env=environment(), timeout=LIMIT
        )
    assert done.returncode == 0, told.read_text()
    assert ", 0 lost, " in told.read_text()
    rows = Result(0, done.stdout, "").rows()
    assert any(row["cpu"] == 1 and row["comm"] in ("taskset", "true") for row in rows)


def test_symbols_move_with_the_kernel(kallsyms: Kallsyms, tmp_path: Path) -> None:
    """A System.map at link-time addresses names what kallsyms has, slid by KASLR."""
    text = kallsyms.find("_text")[0].address
    target = kallsyms.find("nr_threads")[0].address
    base = 0xFFFFFFFF81000000
    lines = [
        f"{base:016x} T _text",
        f"{base + target - text:016x} B only_in_the_map",
        f"{base + target - text + 4:016x} B next",
    ]
    path = tmp_path / "System.map"
    path.write_text("\n".join(lines) + "\n")
    result = ksym("resolve", "--json", "--vmlinux", str(path), "only_in_the_map")
    assert result.status == 0, result.err
    assert int(json.loads(result.out)["address"], 16) == target
