# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's refusals in words."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from ksym.language.parser import parse_request
from ksym.linux import privileges
from ksym.symbols.variable import Space, Variable
from ksym.watch import refusals
from ksym.watch.plan import Plan, PlannedEvent, make_plan
from ksym.watch.refusals import explain
from ksym.watch.registers import Holder


def plan(*requests: str, space: Space = Space.KERNEL, length: int = 4) -> Plan:
    parsed = map(parse_request, requests)
    return make_plan((each, Variable(each.target.text, 0xFFFFFFFF82000000, length, space)) for each in parsed)


def first(of: Plan, pid: int = -1, cpu: int = 1) -> PlannedEvent:
    return PlannedEvent(of.watches[0], of.watches[0].pieces[0], pid, cpu)


def said(number: int, of: Plan, event: PlannedEvent | None) -> str:
    return explain(OSError(number, "x"), event, of).line()


def test_no_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "free_registers", lambda **where: 2)
    monkeypatch.setattr(refusals, "holders", list)
    large, two = plan("v", length=40), plan("a", "b")
    assert said(errno.ENOSPC, large, first(large)) == (
        "cannot watch v: it takes 5 debug registers and CPU 1 has 2 free (40 bytes, at most 8 a register); "
        "watch its first bytes with v/16:rw-"
    )
    assert said(errno.ENOSPC, two, first(two, 77, -1)) == (
        "cannot watch a, b: they take 2 debug registers and thread 77 has 2 free (requests: a 1, b 1); "
        "ask for fewer at a time"
    )
    monkeypatch.setattr(refusals, "holders", lambda: [Holder(7, "gdb", "debugs pid 8")])
    assert said(errno.ENOSPC, two, first(two)).endswith(
        "; held perhaps by gdb (pid 7, debugs pid 8); end one of them, or ask for fewer at a time"
    )
    reads = plan("a:r--", "b:rw-")
    assert "(requests: a 2, b 1); " in said(errno.ENOSPC, reads, first(reads))


@pytest.mark.parametrize(
    ("request_", "space", "text"),
    [
        ("v:r--", Space.KERNEL, "this processor has no read-only watchpoints, only write and read-write; ask for "),
        ("v:--x", Space.KERNEL, "the kernel lets no breakpoint be set there "),
        ("v", Space.KERNEL, "the kernel refuses watches on what its own trap handler uses "),
        ("v", Space.USER, "the kernel refuses 4 bytes at 0xffffffff82000000; check the address"),
    ],
)  # fmt: skip
def test_invalid(request_: str, space: Space, text: str) -> None:
    of = plan(request_, space=space)
    assert said(errno.EINVAL, of, first(of)).startswith(f"cannot watch v: {text}")


def test_kernel_variable_in_a_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    of = plan("v")
    said_on_arm64 = (
        "cannot watch v: this machine watches kernel variables on whole CPUs, not in a process; "
        "leave out -p, and give --if 'pid == PID'"
    )
    for in_tasks in (True, False):
        monkeypatch.setattr(refusals, "KERNEL_IN_TASKS", in_tasks)
        assert (said(errno.EINVAL, of, first(of, 77, -1)) == said_on_arm64) == (not in_tasks)
        assert said(errno.EINVAL, of, first(of)).startswith(
            "cannot watch v: the kernel refuses watches on what "
        )


def ordinary(monkeypatch: pytest.MonkeyPatch, level: int) -> None:
    """An ordinary user, outside of containers, and this kernel.perf_event_paranoid."""
    monkeypatch.setattr(refusals, "paranoid", lambda: level)
    monkeypatch.setattr(privileges, "is_filtered", lambda name: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.parametrize(
    ("space", "level", "text"),
    [
        (Space.KERNEL, 2, "kernel addresses may be watched only by root (CAP_SYS_ADMIN); run it with sudo"),
        (
            Space.USER,
            3,
            "kernel.perf_event_paranoid is 3, which keeps perf events from all but root (CAP_PERFMON); run it with "
            "sudo, or: sysctl kernel.perf_event_paranoid=2",
        ),
        (Space.USER, 2, "that process belongs to another user, or it may not be traced; run it with sudo"),
    ],
)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_privileges(
    monkeypatch: pytest.MonkeyPatch, space: Space, level: int, text: str, number: int
) -> None:
    ordinary(monkeypatch, level)
    of = plan("v", space=space)
    assert said(number, of, first(of)).startswith(f"cannot watch v: {text}")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EOPNOTSUPP, "this kernel or machine has no hardware breakpoints for that; "),
        (errno.ESRCH, "process 5 ended while the watch was being planted; start the program with -- COMMAND"),
        (errno.ENODEV, "CPU 1 is offline; leave it out of -C"),
        (errno.EMFILE, "it needs more open files than are allowed "),
        (errno.ENOMEM, "the kernel has no memory for the ring buffers; "),
        (errno.EIO, "Input/output error; `ksym doctor` shows what works here"),
    ],
)
def test_other_refusals(monkeypatch: pytest.MonkeyPatch, number: int, text: str) -> None:
    monkeypatch.setattr(refusals, "paranoid", lambda: 2)
    of = plan("v")
    assert said(number, of, first(of, pid=5)).startswith(f"cannot watch v: {text}")


def test_an_address_space_that_is_limited_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 25, resource.RLIM_INFINITY))
    of = plan("v")
    assert said(errno.ENOMEM, of, first(of)) == (
        "cannot watch v: the limit of its memory (ulimit -v) leaves no room for the ring buffers; "
        "raise the limit with `ulimit -v`, or name fewer CPUs with -C"
    )


def test_no_perf_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "paranoid", lambda: None)
    of = plan("v")
    assert said(errno.ENOSYS, of, None) == (
        "cannot watch v: this kernel has no perf events; use one with CONFIG_PERF_EVENTS"
    )


def test_accesses_by_the_kernel_need_more_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary(monkeypatch, 2)
    of = plan("v", space=Space.USER)
    refusal = explain(OSError(errno.EACCES, "x"), first(of, 7), of, kernel_accesses=True)
    assert refusal.line() == (
        "cannot watch v: kernel.perf_event_paranoid is 2, which keeps accesses by the kernel from all but root "
        "(CAP_PERFMON); leave out --kernel-accesses, run it with sudo, or: sysctl kernel.perf_event_paranoid=1"
    )
