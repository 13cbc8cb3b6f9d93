# SPDX-License-Identifier: BSD-2-Clause
"""Counting in the kernel: by function, task and CPU, under conditions, up to a limit. All numbers are exact."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ksym.__main__ import main
from ksym.capture.instructions import available
from ksym.linux import bpf
from ksym.linux.libc import MACHINE
from ksym.program import engine
from native.running import ONE_LINE, ended, line, sample, started, summary
from support.program import Result, command, environment, ksym, shell
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="programs at watchpoints run on x86 alone"),
]

READS, WRITES, MORE_WRITES, ADDS = 300, 200, 50, 30
HITS = READS + WRITES + MORE_WRITES + ADDS
ORDERED = 100
# Two threads, each on a CPU of its own, use ``shared`` at once; behind them main writes 0, 1, ... into ``ordered``.
# With the name of a fifo, the threads do so once more when there is something to read from it.
PROGRAM = rf"""
#define _GNU_SOURCE
#include <pthread.h>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>
volatile long shared;
volatile long ordered = -1;
static pthread_barrier_t barrier;
__attribute__((noinline)) static void reader(int n) {{ for (int i = 0; i < n; i++) (void)shared; }}
__attribute__((noinline)) static void writer(int n) {{ for (int i = 0; i < n; i++) shared = i; }}
__attribute__((noinline)) static void adder(int n) {{
    for (int i = 0; i < n; i++) __asm__ volatile("lock incq %0" : "+m"(shared));
}}
static void *run(void *cpu) {{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((long)cpu, &set);
    pthread_setname_np(pthread_self(), cpu ? "second" : "first");
    if (sched_setaffinity(0, sizeof set, &set)) return (void *)1;
    pthread_barrier_wait(&barrier);
    if (cpu) {{ reader({READS}); writer({MORE_WRITES}); }}
    else {{ writer({WRITES}); adder({ADDS}); }}
    return 0;
}}
static int both(void) {{
    pthread_t threads[2];
    void *failed[2];
    for (long i = 0; i < 2; i++) pthread_create(&threads[i], 0, run, (void *)i);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], &failed[i]);
    return failed[0] || failed[1];
}}
int main(int count, char **words) {{
    char go;
    pthread_barrier_init(&barrier, 0, 2);
    int failed = both();
    if (count > 1) failed |= read(open(words[1], O_RDONLY), &go, 1) != 1 || both();
    for (int i = 0; i < {ORDERED}; i++) ordered = i;
    return failed;
}}
"""
# Two threads that write for ever.
ENDLESS = r"""
#include <pthread.h>
volatile long first, second;
__attribute__((noinline)) static void *run(void *what) { for (;;) *(volatile long *)what = 1; return 0; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, run, (void *)&second);
    run((void *)&first);
}
"""
LIBRARY = "void library(volatile long *at, int n) { for (int i = 0; i < n; i++) *at = i; }"
# Its children are gone when their hits are named, one of them runs another program before it ends.
FORKS = r"""
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>
volatile long shared;
__attribute__((noinline)) static void child(int n) { for (int i = 0; i < n; i++) shared = i; }
int main(void) {
    void *handle = dlopen("./library.so", RTLD_NOW);
    if (!handle) return 1;
    void (*library)(volatile long *, int) = dlsym(handle, "library");
    library(&shared, 11);
    if (!fork()) { child(7); library(&shared, 5); execl("/bin/true", "true", (char *)0); }
    wait(0);
    if (!fork()) { child(3); _exit(0); }
    wait(0);
    return 0;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``prog`` and ``endless`` are."""
    where = tmp_path_factory.mktemp("counted")
    build(where, "prog", PROGRAM, "-g", "-O1", "-pthread")
    build(where, "endless", ENDLESS, "-g", "-O1", "-pthread")
    return where


def stat(folder: Path, *words: str, program: str = "./prog") -> Result:
    """Count what a program does."""
    return ksym("stat", *words, "--", program, cwd=folder)


def rows(result: Result) -> list[dict[str, Any]]:
    """The objects of a run with ``--json`` that went well."""
    assert result.status == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def hits(rows: Iterable[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], int]:
    """Hits by some of the keys."""
    sums = Counter[tuple[Any, ...]]()
    for row in rows:
        sums[tuple(row[key] for key in keys)] += row["hits"]
    return dict(sums)


BY_FUNCTION = {
    ("reader", "prog", "R"): READS,
    ("writer", "prog", "W"): WRITES + MORE_WRITES,
    ("adder", "prog", "RW"): ADDS,
}
BY_THREAD = {
    ("second", "R"): READS,
    ("first", "W"): WRITES,
    ("second", "W"): MORE_WRITES,
    ("first", "RW"): ADDS,
}
needs_decoder = pytest.mark.skipif(not available(), reason="RW is told by iced-x86, which is not installed")


@needs_decoder
@pytest.mark.parametrize("twin", ["auto", "on", "off"])
def test_by_function(folder: Path, twin: str) -> None:
    result = stat(folder, "./prog:shared", "--by", "function", "--json", "--twin", twin)
    assert hits(rows(result), "function", "module", "type") == BY_FUNCTION
    assert summary(result.err) == f"ksym: {HITS} hits, 0 lost, 0 disarmed; ./prog:shared {HITS}"


@needs_decoder
def test_by_task(folder: Path) -> None:
    found = rows(stat(folder, "./prog:shared", "--by", "task", "--json"))
    assert hits(found, "comm", "type") == BY_THREAD
    assert len({row["pid"] for row in found}) == 1
    assert len({row["tid"] for row in found}) == 2


@needs_decoder
def test_by_cpu(folder: Path) -> None:
    found = rows(stat(folder, "./prog:shared", "--by", "cpu", "--json"))
    assert hits(found, "cpu", "type") == {
        (int(comm == "second"), kind): n for (comm, kind), n in BY_THREAD.items()
    }


@needs_decoder
def test_by_several_in_a_table(folder: Path) -> None:
    result = stat(folder, "./prog:shared", "./prog:ordered:-w-", "--by", "function,task,cpu")
    lines = [re.sub(r"-\d+ ", "-TID ", line) for line in result.out.splitlines()]
    assert [line.split() for line in lines] == [
        ["HITS", "SHARE", "SYMBOL", "TYPE", "FUNCTION", "TASK-PID", "CPU"],
        ["300", "51.7%", "./prog:shared", "R", "reader", "[prog]", "second-TID", "001"],
        ["200", "34.5%", "./prog:shared", "W", "writer", "[prog]", "first-TID", "000"],
        ["50", "8.6%", "./prog:shared", "W", "writer", "[prog]", "second-TID", "001"],
        ["30", "5.2%", "./prog:shared", "RW", "adder", "[prog]", "first-TID", "000"],
        ["100", "100.0%", "./prog:ordered", "W", "main", "[prog]", "prog-TID", lines[-1].split()[-1]],
    ]


def test_reads_alone_are_what_is_left_of_both(folder: Path) -> None:
    for words in ((), ("--no-bpf",)):
        (row,) = rows(stat(folder, "./prog:shared:r--", "--json", *words))
        assert row["hits"] == READS
    by = rows(stat(folder, "./prog:shared:r--", "--by", "function", "--json"))
    assert hits(by, "function", "type") == {("reader", "R"): READS}


@needs_decoder
def test_intervals_add_up(folder: Path, tmp_path: Path) -> None:
    """What the program does behind the rows of its first turn comes in rows of later intervals."""
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    go = os.open(fifo, os.O_RDWR)
    try:
        words = ("./prog:shared", "--by", "function", "--json", "-I", "1", "--", "./prog", str(fifo))
        with started("stat", *words, cwd=folder) as counting:
            turns: list[list[dict[str, Any]]] = [[], []]
            while sum(row["hits"] for row in turns[0]) < HITS:
                turns[0].append(json.loads(line(counting)))
            os.write(go, b"\n")
            out, error = ended(counting)
    finally:
        os.close(go)
    assert counting.returncode == 0, error
    turns[1] = [json.loads(each) for each in out.splitlines()]
    for turn in turns:
        assert hits(turn, "function", "module", "type") == BY_FUNCTION
        assert min(row["hits"] for row in turn) > 0
    assert max(row["seconds"] for row in turns[0]) < min(row["seconds"] for row in turns[1])


def test_executions(folder: Path) -> None:
    (row,) = rows(stat(folder, "./prog:writer:--x", "--by", "function", "--json"))
    assert (row["type"], row["function"], row["hits"]) == ("X", "writer", 2)


def test_code_of_processes_that_are_gone_has_its_name(tmp_path: Path) -> None:
    build(tmp_path, "library.so", LIBRARY, "-O1", "-shared", "-fPIC")
    build(tmp_path, "forks", FORKS, "-g", "-O1", "-no-pie", "-ldl")
    found = rows(stat(tmp_path, "./forks:shared:-w-", "--by", "function,task", "--json", program="./forks"))
    pids = {row["pid"]: row["comm"] for row in found}
    assert list(pids.values()) == ["forks"] * 3
    assert sorted((row["function"], row["module"], row["hits"]) for row in found) == [
        ("child", "forks", 3),
        ("child", "forks", 7),
        ("library", "library.so", 5),
        ("library", "library.so", 11),
    ]


def test_a_kernel_variable() -> None:
    chosen = sample()
    file = chosen.file
    script = f"for i in 1 2 3 4 5; do cat {file} > /dev/null; done; read value < {file}; echo $value > {file}"
    # Somebody else may read it meanwhile.
    found = rows(ksym("stat", chosen.request, "--by", "function,task", "--json", *shell(script)))
    found = [row for row in found if row["comm"] in ("cat", "sh")]
    kinds = hits(found, "type", "comm")
    assert kinds == {("R", "cat"): 5, ("R", "sh"): 1, ("W", "sh"): 1}
    assert all(row["module"] is None and row["ip"] is None for row in found)
    assert len({row["function"] for row in found}) == 2


# -- conditions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("new >= 30", ORDERED - 30),
        ("old == 7 || new == 7", 2),
        ("changed", ORDERED),
        ("new & 1", ORDERED // 2),
        ('comm == "prog" && ip in main', ORDERED),
        ("ip in writer", 0),
        ("access != R", ORDERED),
    ],
)
def test_conditions(folder: Path, condition: str, expected: int) -> None:
    for words in ((f"./prog:ordered if {condition}",), ("./prog:ordered", "--if", condition)):
        result = stat(folder, *words, "--json")
        (row,) = rows(result)
        assert row["hits"] == expected
        assert f"ksym: {expected} hit" in summary(result.err)
        rejected = ORDERED - expected
        assert bool(rejected) == (f"ksym: {rejected} hits did not match the condition\n" in result.err)


def test_a_condition_from_two_cpus(folder: Path) -> None:
    for condition, expected in (
        ("access == R", READS),
        ("access != R", HITS - READS),
        ("cpu == 0", WRITES + ADDS),
    ):
        (row,) = rows(stat(folder, "./prog:shared", "--json", "--if", condition))
        assert row["hits"] == expected


@needs_decoder
def test_a_condition_and_by(folder: Path) -> None:
    result = stat(folder, './prog:shared if comm == "first"', "./prog:ordered", "--by", "function", "--json")
    assert hits(rows(result), "symbol", "function", "type") == {
        ("./prog:shared", "writer", "W"): WRITES,
        ("./prog:shared", "adder", "RW"): ADDS,
        ("./prog:ordered", "main", "W"): ORDERED,
    }
    assert f"ksym: {READS + MORE_WRITES} hits did not match the condition\n" in result.err


def test_the_hits_of_each_cpu_under_a_condition(folder: Path) -> None:
    result = stat(folder, "./prog:shared if access != R", "-v")
    assert [line.split() for line in result.out.splitlines()[1:]] == [
        ["280", "./prog:shared:rw-", "if", "access", "!=", "R"],
        ["230", "CPU", "0"],
        ["50", "CPU", "1"],
    ]


def test_the_hits_of_threads_that_started_later_are_their_starters(folder: Path) -> None:
    result = stat(folder, "./prog:shared", "-v", "-q")
    (request, of_thread), total = result.out.splitlines(), HITS
    assert request.split() == [f"{total:,}", "./prog:shared:rw-"]
    assert re.fullmatch(rf" *{total:,}    thread \d+ and what it started", of_thread)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--if", "access == RW"), "write access != R, or use ksym trace"),
        (("--if", "access != W && new > 1"), "write access != R, or use ksym trace"),
        (
            ("--if", "access == R", "--twin", "off"),
            "it takes a second register for each piece to tell reads from writes, and --twin off keeps it out; "
            "leave --twin off out, or use ksym trace",
        ),
        (("--if", "new > 1", "--no-bpf"), "cannot judge the condition 'new > 1'"),
        (("--if", "pid > 1", "--no-bpf"), "--no-bpf keeps them out"),
        (
            ("--by", "cpu", "--no-bpf"),
            "cannot count by function, task or cpu (--by): it needs a program in the kernel",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(folder: Path, words: tuple[str, ...], says: str) -> None:
    result = stat(folder, "./prog:shared", *words)
    assert (result.status, result.out) == (125, "")
    assert ONE_LINE.fullmatch(result.err)
    assert says in result.err


# -- limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 1234])
def test_a_limit_is_exact_over_two_cpus_and_two_requests(folder: Path, limit: int) -> None:
    words = ("./endless:first:-w-", "./endless:second:-w-", "--limit", str(limit), "--json", "-v")
    result = ksym("stat", *words, "--", "./endless", cwd=folder)
    assert sum(json.loads(line)["hits"] for line in result.out.splitlines()) == limit
    assert summary(result.err).startswith(f"ksym: {limit} hit")
    assert "ksym: ended by: limit reached\n" in result.err
    assert re.search(r"^ksym: \d+ hits after the limit not shown$", result.err, re.MULTILINE)


def test_a_limit_with_a_condition_and_by(folder: Path) -> None:
    words = ("./endless:first", "./endless:second", "--if", "access != R && new == 1", "--limit", "100")
    result = ksym("stat", *words, "--by", "function,cpu", "--json", "--", "./endless", cwd=folder)
    found = [json.loads(line) for line in result.out.splitlines()]
    assert sum(row["hits"] for row in found) == 100
    assert {row["function"] for row in found} == {"run"}


def test_a_limit_that_is_not_reached(folder: Path) -> None:
    result = stat(folder, "./prog:shared", "--limit", str(HITS), "--json")
    assert rows(result)[0]["hits"] == HITS
    assert "after the limit" not in result.err


def test_a_limit_without_programs_is_looked_at(folder: Path) -> None:
    words = ("./endless:first", "--limit", "10", "--no-bpf", "--json")
    result = ksym("stat", *words, "--", "./endless", cwd=folder)
    assert json.loads(result.out)["hits"] >= 10
    assert "ksym: --limit is looked at ten times a second, so there may be more hits: --no-bpf" in result.err


def test_a_limit_on_a_kernel_that_cannot_hold_it_is_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    load = bpf.load
    refused: list[bool] = []

    def older(kind: int, code: bytes, **options: Any) -> int:
        if options.get("name") == "ksym_hit" and not refused:
            refused.append(True)
            raise bpf.VerifierError(errno.EINVAL, "BPF_STX uses reserved fields")
        return load(kind, code, **options)

    monkeypatch.setattr(bpf, "load", older)
    main(["stat", f"{folder}/endless:first", "--limit", "10", "--json", "--", f"{folder}/endless"])
    said = capfd.readouterr()
    assert json.loads(said.out)["hits"] >= 10
    assert "so there may be more hits: this kernel's BPF lacks BPF_FETCH (5.12)\n" in said.err


def test_without_privileges_a_limit_is_looked_at(folder: Path) -> None:
    if not Path("/usr/bin/setpriv").exists():
        pytest.skip("setpriv is not installed")
    folder.chmod(0o755)
    folder.parent.chmod(0o755)
    words = command("stat", "./prog:shared", "--limit", "100000", "--json", "--", "./prog")
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *words],
        capture_output=True, text=True, cwd=folder, env=environment(),
    )  # fmt: skip
    if "perf_event_paranoid" in done.stderr or done.returncode == 1:
        pytest.skip(f"not allowed here: {done.stderr}")
    assert json.loads(done.stdout)["hits"] == HITS, done.stderr
    assert "so there may be more hits: it takes CAP_BPF, or root" in done.stderr


# -- what it costs -------------------------------------------------------------------------------------


def test_bare_counting_loads_no_program(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a program was asked for")

    monkeypatch.setattr(engine, "Engine", refuse)
    for request, count in (("shared", HITS), ("shared:-w-", HITS - READS), ("shared:r--", READS)):
        assert main(["stat", f"{folder}/prog:{request}", "--json", "--", f"{folder}/prog"]) == 0
        assert json.loads(capfd.readouterr().out)["hits"] == count


def test_hits_for_which_the_table_has_no_room_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setattr(engine, "_COUNTS", 2)
    assert (
        main(["stat", f"{folder}/prog:shared", "--by", "function", "--json", "-q", "--", f"{folder}/prog"])
        == 0
    )
    said = capfd.readouterr()
    found = [json.loads(line) for line in said.out.splitlines()]
    inside = sum(row["hits"] for row in found)
    assert 0 < inside < HITS
    assert f"ksym: {HITS} hits, 0 lost, " in said.err
    assert (
        f"ksym: {HITS - inside} hits in no row: the table had no room for more places or threads\n"
        in said.err
    )


def test_a_run_is_ended_by_a_signal(folder: Path) -> None:
    with started(
        "stat", "./endless:first", "--by", "function", "-I", "10", "--", "./endless", cwd=folder
    ) as process:
        assert any("run [endless]" in line(process) for _ in range(1000))
        rest, error = ended(process, signal.SIGINT)
    assert "run [endless]" in rest
    assert " 0 lost, 0 disarmed; ./endless:first " in summary(error)
