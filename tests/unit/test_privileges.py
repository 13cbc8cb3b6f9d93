# SPDX-License-Identifier: BSD-2-Clause
"""Why the kernel refuses: seccomp, capabilities, user namespaces, kernel.perf_event_paranoid; nothing is planted."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ksym.linux import libc, privileges
from ksym.symbols.kernel import memory_refusal
from ksym.watch import refusals
from support import filtered
from support.program import environment
from synthetic.compile import build, need

ALL = "ffffffffffffffff"
WITHOUT_PERFMON = f"{(1 << 64) - 1 & ~(1 << 38) & ~(1 << 21):x}"


def status(
    monkeypatch: pytest.MonkeyPatch, *, capabilities: str = ALL, ids: str = "0 0 4294967295", user: int = 0
) -> None:
    """A process with these capabilities, as this user, in a user namespace with these ids; no filter."""
    texts = {
        "/proc/self/status": f"Name:\tksym\nCapEff:\t{capabilities}\nSeccomp:\t0\n",
        "/proc/self/uid_map": ids,
    }
    monkeypatch.setattr(privileges, "read_text", texts.__getitem__)
    monkeypatch.setattr(os, "geteuid", lambda: user)


def test_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    status(monkeypatch, capabilities=WITHOUT_PERFMON)
    assert privileges.lacks(privileges.PERFMON, privileges.SYS_ADMIN)
    assert not privileges.lacks(privileges.PERFMON, privileges.BPF)
    why, todo = privileges.refusal("perf_event_open", privileges.PERFMON, privileges.SYS_ADMIN) or ("", "")
    assert why == "root lacks CAP_PERFMON here (CapEff in /proc/self/status)"
    assert todo.endswith("give the container CAP_PERFMON (--cap-add PERFMON)")
    status(monkeypatch, capabilities=WITHOUT_PERFMON, user=1000)
    why, todo = privileges.refusal("perf_event_open", privileges.PERFMON, privileges.SYS_ADMIN) or ("", "")
    assert (why, todo) == ("it takes CAP_PERFMON, or root", "run it with sudo")
    status(monkeypatch)
    assert privileges.refusal("perf_event_open", privileges.PERFMON) is None


def test_root_of_a_user_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    status(monkeypatch, ids="0 1000 1")
    why, todo = privileges.refusal("bpf", privileges.BPF) or ("", "")
    assert why == "root of a user namespace has no CAP_BPF on this machine (/proc/self/uid_map)"
    assert todo == "run it as the machine's own root"


@pytest.mark.parametrize("options", [{}, {"kernel": True}, {"system_wide": True}, {"kernel_accesses": True}])
@pytest.mark.parametrize("level", [2, 4])
def test_root_is_never_told_to_use_sudo(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, bool], level: int
) -> None:
    monkeypatch.setattr(refusals, "paranoid", lambda: level)
    for capabilities in (ALL, WITHOUT_PERFMON, "0"):
        status(monkeypatch, capabilities=capabilities)
        why, todo = refusals.no_privilege(**options)
        assert "sudo" not in todo
        assert "sysctl" not in todo
        assert "another user" not in why


@pytest.mark.parametrize(
    ("options", "allowed"), [({}, 2), ({"kernel_accesses": True}, 1), ({"system_wide": True}, 0)]
)
def test_the_sysctl_is_advised_only_where_it_is_too_high(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, bool], allowed: int
) -> None:
    for level in range(-1, 5):
        status(monkeypatch, user=1000)
        monkeypatch.setattr(refusals, "paranoid", lambda level=level: level)
        todo = refusals.no_privilege(**options)[1]
        assert (f"sysctl kernel.perf_event_paranoid={allowed}" in todo) == (level > allowed)


def under_a_filter(
    calls: tuple[str, ...], *words: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    numbers = ",".join(str(libc._NUMBERS[libc.MACHINE][call]) for call in calls)
    command = [sys.executable, filtered.__file__, numbers, sys.executable, "-m", "ksym", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=cwd)


SEEN = "(Seccomp: 2 in /proc/self/status); run it outside of the container, or give the container "


def test_a_filter_is_named_as_the_cause(tmp_path: Path) -> None:
    need("gcc")
    build(tmp_path, "lone", "int lone; int main(void) { return ++lone - 1; }", "-g")
    calls = ("perf_event_open", "bpf")
    for verb in (["trace"], ["stat"], ["record", "-o", "x.data"]):
        done = under_a_filter(calls, *verb, "./lone:lone", "--", "./lone", cwd=tmp_path)
        assert done.returncode == 125, done
        assert (
            f"ksym: cannot watch ./lone:lone: a seccomp filter forbids perf_event_open {SEEN}" in done.stderr
        )
    if os.geteuid() == 0:
        done = under_a_filter(calls, "trace", "workqueue:panic_on_stall", "--duration", "1")
        assert ": a seccomp filter forbids bpf (Seccomp: 2 in /proc/self/status)" in done.stderr
        assert "sudo" not in done.stderr


def test_a_filter_of_ptrace_is_named_as_the_cause(tmp_path: Path) -> None:
    need("gcc")
    build(tmp_path, "lone", "int lone; int main(void) { return ++lone - 1; }", "-g")
    done = under_a_filter(("ptrace",), "trace", "./lone:lone", "--", "./lone", cwd=tmp_path)
    assert done.returncode == 125, done
    assert done.stderr.startswith(f"ksym: cannot wait for ./lone: a seccomp filter forbids ptrace {SEEN}")


@pytest.mark.parametrize(("scope", "told"), [("0\n", False), ("1\n", False), ("2\n", False), ("3\n", True)])
def test_yama_is_named_where_it_forbids_all(monkeypatch: pytest.MonkeyPatch, scope: str, told: bool) -> None:
    monkeypatch.setattr(privileges, "is_filtered", lambda name: False)
    monkeypatch.setattr(privileges, "read_text", {"/proc/sys/kernel/yama/ptrace_scope": scope}.__getitem__)
    found = privileges.no_tracing()
    assert (found is not None) == told
    assert found is None or found[0].startswith("kernel.yama.ptrace_scope is 3, which forbids ptrace")


def test_doctor_names_the_filter() -> None:
    done = under_a_filter(("perf_event_open", "bpf"), "doctor", "--json")
    found = {each["what"]: each for each in map(json.loads, done.stdout.splitlines())}
    for what in ("watch own processes", "debug registers", "watch system-wide", "watch kernel variables"):
        assert "a seccomp filter forbids perf_event_open" in found[what]["found"]
        assert "sudo" not in found[what]["cure"]
    assert "a seccomp filter forbids bpf" in found["programs at watchpoints"]["found"]


def test_what_reaches_the_kernel_is_not_filtered() -> None:
    """The calls that look for a filter are refused by the kernel with another errno than a filter gives."""
    code = (
        "import os; from ksym.linux import privileges as p;"
        "p._status = lambda name: '2';"
        "print(*[p.is_filtered(each) for each in p._INVALID])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    if "True" in done.stdout and os.geteuid() != 0:
        pytest.skip("bpf(2) is refused to ordinary users before its arguments are looked at")
    assert done.stdout.split() == ["False"] * 4, done


def test_a_filter_that_answers_as_an_old_kernel_does_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "is_filtered", lambda name: name == "bpf")
    why, todo = memory_refusal(OSError(errno.ENOSYS, "x"))
    assert why.startswith("a seccomp filter forbids bpf (Seccomp: 2 in /proc/self/status)")
    assert "seccomp profile that allows bpf" in todo
