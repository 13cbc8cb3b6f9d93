# SPDX-License-Identifier: BSD-2-Clause
"""What doctor says of machines unlike this one, and how selftest judges what it saw."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from ksym.capture.access import Access
from ksym.capture.decoders import Value
from ksym.capture.sites import Named, Site
from ksym.commands import checks, findings, program_checks, trials
from ksym.commands.findings import BROKEN, LIMITED, OK
from ksym.commands.trials import COUNTED, FAILED, SKIPPED, TOLD_APART_VALUES, VALUES, Trial, Way, try_it
from ksym.errors import KsymError, NoRegisters
from ksym.language.parser import parse_request
from ksym.linux import lockdown
from ksym.program.engine import EngineRefused
from ksym.symbols.kernel import Kernel
from ksym.symbols.resolver import Resolver
from ksym.symbols.variable import Space, Variable
from ksym.watch.plan import make_plan

Patch = pytest.MonkeyPatch
EMULATED = "a write fires only one of two registers at its address, as in an emulator: TYPE is decoded"
CONFIDENTIAL = "kernel lockdown is in confidentiality mode"


@pytest.fixture(autouse=True)
def _root_without_lockdown(monkeypatch: Patch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    locked(monkeypatch, confidential=False)


def locked(monkeypatch: Patch, *, confidential: bool = True) -> None:
    for module in (findings, program_checks):
        monkeypatch.setattr(module, "is_confidential", lambda: confidential)


def refusals(monkeypatch: Patch, **why: str) -> None:
    """Programs for variables there are refused, and why."""
    monkeypatch.setattr(program_checks, "_refusal", lambda space: why.get(space.value, ""))


def kernel(**known: Any) -> Kernel:
    return SimpleNamespace(**known)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "confidential"),
    [
        ("none integrity [confidentiality]\n", True),
        ("[none] integrity confidentiality\n", False),
        ("none [integrity] confidentiality\n", False),
        (OSError(), False),
    ],
)
def test_lockdown(text: str | OSError, confidential: bool, monkeypatch: Patch) -> None:
    def read(path: str) -> str:
        if isinstance(text, OSError):
            raise text
        return text

    monkeypatch.setattr(lockdown, "read_text", read)
    assert lockdown.is_confidential() == confidential


@pytest.mark.parametrize(
    ("free", "both", "state", "says"),
    [
        (4, True, OK, "by two registers at one address, for certain; reads alone (r--), too"),
        (1, True, LIMITED, "for certain, and alone (r--), by two registers; 1 free"),
        (4, False, LIMITED, EMULATED),
    ],
)  # fmt: skip
def test_reads_and_writes(free: int, both: bool, state: str, says: str, monkeypatch: Patch) -> None:
    monkeypatch.setattr(program_checks, "READ_REGISTERS", False)
    monkeypatch.setattr(program_checks, "free_registers", lambda **where: free)
    monkeypatch.setattr(program_checks, "both_fire", lambda **where: both)
    finding = program_checks.reads_and_writes(kernel())
    assert (finding.state, finding.found, bool(finding.cure)) == (state, says, state is LIMITED)


def test_reads_alone_where_the_processor_can(monkeypatch: Patch) -> None:
    monkeypatch.setattr(program_checks, "READ_REGISTERS", True)
    found = program_checks.reads_and_writes(kernel()).found
    assert found == "by the instruction that trapped; the processor has read-only watchpoints (r--)"


def test_arm64_code_needs_no_package(monkeypatch: Patch) -> None:
    monkeypatch.setattr(checks, "available", lambda: False)
    states = []
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(checks, "MACHINE", machine)
        states.append(checks._decoder(kernel()).state)
    assert states == [LIMITED, OK]


def test_no_programs_on_arm64(monkeypatch: Patch) -> None:
    monkeypatch.setattr(program_checks, "MACHINE", "aarch64")
    finding = program_checks.programs(kernel())
    assert (finding.state, finding.found) == (LIMITED, "not on aarch64: no values, and no conditions on them")
    assert finding.cure.startswith("rows and counts work")


@pytest.mark.parametrize(
    ("uid", "confidential", "why", "expected"),
    [
        (0, False, {}, (OK, "")),
        (0, False, {"user": "this kernel has no BPF"}, (BROKEN, "")),
        (1, False, {"user": "BPF is not permitted"}, (LIMITED, "run it with sudo")),
        (0, True, {"kernel": CONFIDENTIAL}, (LIMITED, "boot without lockdown=confidentiality")),
        (0, False, {"kernel": "the kernel's verifier refused the program: no"}, (BROKEN, "")),
    ],
)
def test_programs(
    uid: int, confidential: bool, why: dict[str, str], expected: tuple[str, str], monkeypatch: Patch
) -> None:
    monkeypatch.setattr(program_checks, "MACHINE", "x86_64")
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    locked(monkeypatch, confidential=confidential)
    refusals(monkeypatch, **why)
    finding = program_checks.programs(kernel())
    assert (finding.state, finding.cure) == expected
    assert all(each in finding.found for each in why.values())


def engines(monkeypatch: Patch, *, holds_limit: bool = True, refused: str = "") -> None:
    def make(space: Space, stack: object) -> SimpleNamespace:
        if refused:
            raise EngineRefused(refused)
        return SimpleNamespace(holds_limit=holds_limit)

    monkeypatch.setattr(program_checks, "_engine", make)


def test_order_of_values(monkeypatch: Patch) -> None:
    engines(monkeypatch)
    assert program_checks.order_of_values(kernel()).state == OK
    engines(monkeypatch, holds_limit=False)
    finding = program_checks.order_of_values(kernel())
    assert finding.state == LIMITED
    assert finding.found.endswith("no BPF_FETCH (5.12)")
    assert finding.cure
    engines(monkeypatch, refused="no")
    assert program_checks.order_of_values(kernel()).found == "not tried: there are no programs at watchpoints"


@pytest.mark.parametrize(
    ("memory", "btf", "why"),
    [
        (None, object(), "kernel memory cannot be read by BPF"),
        ("bpf", None, "the kernel has no readable BTF"),
        ("bpf", object(), "the kernel's mapping of all memory was not found"),
    ],
)
def test_user_values_without_the_mapping(
    memory: str | None, btf: object, why: str, monkeypatch: Patch
) -> None:
    class Reader:
        pass

    refusals(monkeypatch)
    monkeypatch.setattr(program_checks, "BpfMemory", Reader)
    known = kernel(direct_map=None, memory_or_none=Reader() if memory else None, btf=btf)
    finding = program_checks.user_values(known)
    assert finding.state == LIMITED
    assert finding.found == f"read where a rw- watch sees it, so a hit costs several times more: {why}"
    assert finding.cure


def test_user_values(monkeypatch: Patch) -> None:
    refusals(monkeypatch)
    assert program_checks.user_values(kernel(direct_map=object())).state == OK
    refusals(monkeypatch, user="no BPF")
    assert program_checks.user_values(kernel()).found == "not tried: there are no programs at watchpoints"


@pytest.mark.parametrize("space", Space)
@pytest.mark.parametrize(
    "error", [NoRegisters("cannot watch it", "none is free"), KsymError("cannot watch it", "so")]
)
def test_attaching_is_tried(space: Space, error: KsymError, monkeypatch: Patch) -> None:
    """Registers that are taken say nothing of programs."""

    def refuse(*arguments: object) -> None:
        raise error

    engine = SimpleNamespace(plan=None)
    monkeypatch.setattr(program_checks, "_engine", lambda space, stack: engine)
    monkeypatch.setattr(program_checks, "ArmedWatch", refuse)
    expected = "so" if space is Space.USER and type(error) is KsymError else ""
    assert program_checks._refusal(space) == expected


VARIABLE = Variable("own variable", 0x1000, 4, Space.USER)
REQUEST = parse_request("selftest:rw-")


def access(kind: str, old: int | None, new: int | None) -> Access:
    def value(number: int | None) -> Value | None:
        return None if number is None else Value(str(number), number, str(number))

    watch = make_plan([(REQUEST, VARIABLE)]).watches[0]
    site = Site(0, 0, Named(None, 0), None, 0)
    return Access(0, 0, 1, 1, "ksym", watch, 0x1000, kind, site, old=value(old), new=value(new))


def trial(rows: tuple[str, ...], way: Way) -> Trial:
    return Trial("one write", REQUEST, VARIABLE, lambda: None, rows, way)


@pytest.mark.parametrize(
    ("way", "expected", "seen", "counted", "outcome"),
    [
        (COUNTED, ("W",), [("?", None, None)], 1, (trials.OK, "1 expected, 1 seen, 1 counted")),
        (COUNTED, ("W",), [], 1, (FAILED, "1 expected, 0 seen, 1 counted")),
        (COUNTED, (), [], 0, (trials.OK, "0 expected, 0 seen, 0 counted")),
        (TOLD_APART_VALUES, ("W 0 -> -7", "R -7"), [("W", 0, -7), ("R", -7, -7)], 2, (trials.OK, "W 0 -> -7, R -7")),
        (TOLD_APART_VALUES, ("W 0 -> 7",), [("R", 0, 7)], 1, (FAILED, "W 0 -> 7 expected, R 0 -> 7 seen, 1 counted")),
        (VALUES, ("W 0 -> 7",), [("W", None, 7)], 1, (FAILED, "W 0 -> 7 expected, W ? -> 7 seen, 1 counted")),
        (TOLD_APART_VALUES, ("W 0 -> 7",), [("W", 0, 7)], 2, (FAILED, "W 0 -> 7 expected, W 0 -> 7 seen, 2 counted")),
        (TOLD_APART_VALUES, ("R 7",), [], 0, (FAILED, "R 7 expected, nothing seen, 0 counted")),
    ],
)  # fmt: skip
def test_comparison(
    way: Way, expected: tuple[str, ...], seen: list[Any], counted: int, outcome: tuple[str, str]
) -> None:
    found = trials._compared("a", trial(expected, way), [access(*each) for each in seen], counted)
    assert found == (outcome[0], f"a: {outcome[1]}")


@pytest.mark.parametrize(
    ("way", "error", "state"),
    [
        (COUNTED, NoRegisters("cannot watch it", "1 is free"), FAILED),
        (TOLD_APART_VALUES, NoRegisters("cannot watch it", "1 is free"), SKIPPED),
        (TOLD_APART_VALUES, KsymError("cannot watch it", "so"), FAILED),
    ],
)
def test_trial_that_cannot_be_planted(way: Way, error: KsymError, state: str, monkeypatch: Patch) -> None:
    def refuse(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(trials, "plant", refuse)
    name = ", ".join(filter(None, ("own variable, rw-", way.name, "one write")))
    assert try_it(trial(("W",), way), Resolver()) == (state, f"{name}: {error}")


@pytest.mark.parametrize(
    ("uid", "machine", "confidential", "state"),
    [(0, "x86_64", False, FAILED), (1, "x86_64", False, SKIPPED), (0, "aarch64", False, SKIPPED),
     (0, "x86_64", True, FAILED)],
)  # fmt: skip
def test_trial_without_programs(
    uid: int, machine: str, confidential: bool, state: str, monkeypatch: Patch
) -> None:
    """Lockdown is no reason for a user variable: a program may read that."""
    monkeypatch.setattr(findings, "MACHINE", machine)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    locked(monkeypatch, confidential=confidential)
    monkeypatch.setattr(trials, "plant", lambda *arguments: (None, None, ["no values: so"]))
    outcome = try_it(trial(("W 0 -> 7",), TOLD_APART_VALUES), Resolver())
    assert outcome == (state, "own variable, rw-, two registers, values, one write: no values: so")
