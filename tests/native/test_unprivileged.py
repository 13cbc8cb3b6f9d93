# SPDX-License-Identifier: BSD-2-Clause
"""Without programs in the kernel: what can still work does, and one line says what is missing and why.

That is so for a user without privileges, and for root with ``--no-bpf``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ksym.__main__ import main
from ksym.linux import bpf
from ksym.linux.libc import MACHINE
from native.running import ONE_LINE, as_nobody, ended, line, nobody, readable, started, summary
from support.program import Result, ksym
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="what is missing elsewhere is more"),
]

# For each line of stdin, and once at the end: three reads, each with a write behind it.
PROGRAM = r"""
#include <stdio.h>
#include <unistd.h>
volatile long shared;
__attribute__((noinline)) void reads(void) { (void)shared; }
__attribute__((noinline)) void writes(long n) { shared = n; }
static void touch(void) { for (long n = 1; n < 4; n++) { reads(); writes(n); } }
int main(int count, char **words) {
    char c;
    if (count > 1)
        while (read(0, &c, 1) == 1) { touch(); if (write(1, "x", 1) != 1) return 1; }
    else
        touch();
    puts("ran");
    return 3;
}
"""
READS, WRITES = [("R", "reads")] * 3, [("W", "writes")] * 3
ALL = [access for pair in zip(READS, WRITES, strict=True) for access in pair]
REFUSED = "it takes CAP_BPF, or root"
LACKING = f"ksym: no values (OLD -> NEW), and a plain perf event for each hit: {REFUSED}"
NEEDS_PROGRAM = "it needs a program in the kernel: "


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The program, where everybody can run it."""
    level = int(Path("/proc/sys/kernel/perf_event_paranoid").read_text())
    if level > 2:
        pytest.skip(f"kernel.perf_event_paranoid is {level}")
    where = Path("/tmp") / f"ksym-test-{os.getpid()}"
    where.mkdir(mode=0o755)
    try:
        build(where, "prog", PROGRAM, "-g", "-O1")
        yield where
    finally:
        shutil.rmtree(where)


class Runner(NamedTuple):
    """Runs ksym without programs; ``why`` there are none, and ``lacking``, what is said of it."""

    folder: Path
    unprivileged: bool
    why: str
    lacking: list[str]

    def __call__(self, verb: str, *words: str) -> Result:
        if self.unprivileged:
            return nobody(verb, *words, "--", "./prog", cwd=self.folder)
        return ksym(verb, "--no-bpf", *words, "--", "./prog", cwd=self.folder)


@pytest.fixture(params=["nobody", "--no-bpf"])
def run(request: pytest.FixtureRequest, folder: Path) -> Runner:
    """As a user without privileges, and as root with ``--no-bpf``, who needs not be told."""
    if request.param == "nobody":
        return Runner(folder, True, REFUSED, [LACKING])
    return Runner(folder, False, "--no-bpf keeps them out", [])


def lines(result: Result) -> list[str]:
    """What stderr says besides the summary."""
    said = result.err.splitlines()
    said.remove(summary(result.err))
    return said


@pytest.mark.parametrize(("access", "expected"), [("rw-", ALL), ("-w-", WRITES), ("r--", READS)])
def test_accesses_and_their_types(run: Runner, access: str, expected: list[tuple[str, str]]) -> None:
    result = run("trace", f"./prog:shared:{access}", "--format", "json")
    assert result.status == 3
    assert result.kinds() == expected
    assert {(row["old"], row["new"], row["hits"]) for row in result.rows()} == {(None, None, 1)}
    assert summary(result.err) == (
        f"ksym: {len(expected)} accesses ({len(expected)} hits), 0 lost, 0 disarmed; ./prog:shared {len(expected)}"
    )
    assert lines(result) == run.lacking


def test_the_table_has_a_dash_for_values(run: Runner) -> None:
    result = run("trace", "./prog:shared")
    rows = result.out.splitlines()
    assert [row.split()[4:6] for row in rows if row.split()[-1] == "[prog]"] == [
        [kind, "-"] for kind, _ in ALL
    ]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("pid > 1", ALL),
        ('comm == "prog"', ALL),
        ('comm == "pro*" && tid > 1 && cpu >= 0', ALL),
        ('comm != "prog"', []),
        ("access == R", READS),
        ("access == W || pid == 1", WRITES),
        ("!(ip in reads) && access != X", WRITES),
    ],
)
def test_conditions_on_what_perf_tells(run: Runner, condition: str, expected: list[tuple[str, str]]) -> None:
    result = run("trace", f"./prog:shared if {condition}", "--format", "json")
    assert result.kinds() == expected
    assert f"ksym: {len(expected)} accesses ({len(expected)} hits), 0 lost, 0 disarmed" in summary(result.err)
    missed = len(ALL) - len(expected)
    rejected = [f"ksym: {missed} hits did not match the condition"] if missed else []
    assert lines(result) == [*run.lacking, *rejected]


def test_what_is_missing_is_said_first_and_once(folder: Path) -> None:
    said = nobody("trace", "./prog:shared", "-v", "--", "sh", "-c", "./prog >&2", cwd=folder).err.splitlines()
    assert said.count(LACKING) == 1
    assert said.index(LACKING) < said.index("ran")
    assert LACKING not in nobody("trace", "./prog:shared", "-q", "--", "./prog", cwd=folder).err


@pytest.mark.parametrize(
    ("words", "what", "todo"),
    [
        (
            ("trace", f"./prog:shared if {condition}"),
            f"cannot judge the condition '{condition}'",
            "compare pid, tid, cpu, comm, access or ip, or run it as root with BPF",
        )
        for condition in ("new > 1", "pid > 1 && !changed", "uid == 65534")
    ]
    + [
        (
            ("stat", "./prog:shared", "--if", "pid > 1"),
            "cannot judge the condition 'pid > 1'",
            "use ksym trace, or run it as root with BPF",
        ),
        (
            ("trace", "./prog:shared", "--on-hit", "stop"),
            "cannot stop tasks (--on-hit stop)",
            "run it as root with BPF",
        ),
    ]
    + [
        (
            ("stat", "./prog:shared", "--by", by),
            "cannot count by function, task or cpu (--by)",
            "leave --by out, or run it as root with BPF",
        )
        for by in ("function", "cpu")
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    run: Runner, words: tuple[str, ...], what: str, todo: str
) -> None:
    result = run(*words)
    if not run.unprivileged:
        todo = "leave --no-bpf out"
    assert result.err == f"ksym: {what}: {NEEDS_PROGRAM}{run.why}; {todo}\n"
    assert ONE_LINE.fullmatch(result.err)
    # Nothing has run: not even COMMAND.
    assert (result.status, result.out) == (125, "")


def test_what_command_starts_has_not_run_either(folder: Path) -> None:
    """It is stopped when the variable is in memory, on the way to being refused, and its starter waits for it."""
    words = ("trace", "--no-bpf", "./prog:shared if changed", "--", "sh", "-c", "./prog; echo went on")
    for _ in range(5):
        result = ksym(*words, cwd=folder)
        assert (result.status, result.out) == (125, "")


@pytest.mark.parametrize(("access", "hits"), [("rw-", 6), ("-w-", 3), ("r--", 3)])
def test_counting(run: Runner, access: str, hits: int) -> None:
    result = run("stat", f"./prog:shared:{access}", "--json")
    (counted,) = [json.loads(each) for each in result.out.splitlines() if each.startswith("{")]
    assert (result.status, counted["hits"]) == (3, hits)
    assert summary(result.err) == f"ksym: {hits} hits, 0 lost, 0 disarmed; ./prog:shared {hits}"
    assert lines(result) == []


def test_stacks(run: Runner) -> None:
    result = run("trace", "./prog:shared:-w-", "-g", "--format", "json")
    assert [row["stack"][0].partition("+")[0] for row in result.rows()] == ["writes"] * 3


def test_an_action_at_a_hit(run: Runner) -> None:
    result = run("trace", "./prog:shared:-w-", "--limit", "1", "--on-hit", "exec cat", "-q")
    (row,) = [json.loads(each) for each in result.err.splitlines() if each.startswith("{")]
    assert (row["access"], row["function"], row["new"]) == ("W", "writes", None)


def test_quiet_is_quiet(run: Runner) -> None:
    result = run("trace", "./prog:shared", "-q")
    assert result.err == summary(result.err) + "\n"


def test_a_running_process_of_ones_own(folder: Path) -> None:
    prefix, names = as_nobody()
    with subprocess.Popen(
        [*prefix, "./prog", "wait"], cwd=folder, env=names, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as target:  # fmt: skip
        assert target.stdin is not None
        assert target.stdout is not None
        words = ("trace", "./prog:shared", "-p", str(target.pid), "--format", "json")
        with started(*words, cwd=folder, unprivileged=True) as process:
            touched = 0
            while not readable(process):
                target.stdin.write(b"x")
                assert target.stdout.read(1) == b"x"
                touched += 1
            rows = [line(process)]
            target.stdin.close()
            assert target.wait() == 3
            rest, error = ended(process)
    rows += rest.splitlines()
    kinds = [(row["access"], row["function"]) for row in map(json.loads, rows)]
    # It was armed while some round of accesses was going on, or between two.
    assert (ALL * touched)[-len(kinds) :] == kinds
    assert process.returncode == 0
    assert error.splitlines() == [LACKING, summary(error)]


def test_root_is_told_why_where_programs_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As lockdown, or a kernel without BPF, would."""

    def refuse(*_: object, **__: object) -> int:
        raise bpf.VerifierError(
            13, "0: R1=ctx() R10=fp0\nR3 invalid mem access 'scalar'\nprocessed 1 insns\n"
        )

    monkeypatch.setattr(bpf, "load", refuse)
    prog = f"{folder}/prog"
    for words in ((), ("-v",)):
        assert main(["trace", f"{prog}:shared", "--format", "json", *words, "--", prog]) == 3
        said = capfd.readouterr()
        assert Result(3, said.out, said.err).kinds() == ALL
        about = [text for text in said.err.splitlines() if "verifier" in text]
        reason = (
            "ksym: no values (OLD -> NEW), and a plain perf event for each hit: "
            "the kernel's verifier refused the program: R3 invalid mem access 'scalar'"
        )
        assert about[-1] == reason
        shown = [text for text in about[:-1] if re.match("ksym: verifier: ", text)]
        assert shown == (
            [
                "ksym: verifier: 0: R1=ctx() R10=fp0", "ksym: verifier: R3 invalid mem access 'scalar'",
                "ksym: verifier: processed 1 insns",
            ]
            if words
            else []
        )  # fmt: skip
