# SPDX-License-Identifier: BSD-2-Clause
"""Variables of programs: every access from the first instruction on, with its type."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from ksym.linux.libc import MACHINE
from native.conftest import PROGRAM
from native.running import ended, line, readable, started, summary
from support.program import Result, ksym
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="the programs' instructions are x86"),
]

ALL = [("W", "early"), ("R", "main"), ("W", "main"), ("RW", "main"), ("RW", "main")]
"""What PROGRAM does to ``counter``, its constructor first."""

LIBRARY = "volatile long shared = 1; __attribute__((constructor)) static void load(void) { shared = 2; }"
USES_LIBRARY = "extern volatile long shared; int main(void) { shared++; return (int)shared; }"
NAMESPACES = """
namespace outer { namespace inner { volatile long value; struct S { static volatile int count; }; } }
volatile int outer::inner::S::count = 1;
int main() { outer::inner::value = 3; outer::inner::S::count = 2; return 0; }
"""
# Each thread writes as often as it is told on the CPU that it is told, both at once.
THREADS = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
volatile long shared;
pthread_barrier_t barrier;
static void *run(void *cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((long)cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) return (void *)1;
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 2000; i++) shared = i;
    return 0;
}
int main(void) {
    pthread_t a, b;
    void *failed[2];
    pthread_barrier_init(&barrier, 0, 2);
    pthread_create(&a, 0, run, (void *)0);
    pthread_create(&b, 0, run, (void *)1);
    pthread_join(a, &failed[0]);
    pthread_join(b, &failed[1]);
    return failed[0] || failed[1];
}
"""
# Has a thread before it is watched; for each line of stdin the old thread, a new one and a child write.
ATTACHED = r"""
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
volatile long shared;
int gate[2], back[2];
char c;
static void *old(void *n) { while (read(gate[0], &c, 1) == 1) { shared = 1; write(back[1], "x", 1); } return 0; }
static void *fresh(void *n) { shared = 2; return 0; }
int main(void) {
    pthread_t a, b;
    char line[64];
    if (pipe(gate) || pipe(back)) return 1;
    pthread_create(&a, 0, old, 0);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        write(gate[1], "x", 1);
        read(back[0], &c, 1);
        pthread_create(&b, 0, fresh, 0);
        pthread_join(b, 0);
        if (!fork()) { shared = 3; _exit(0); }
        wait(0);
        shared = 4;
        puts("done");
        fflush(stdout);
    }
    return 0;
}
"""


def trace(folder: Path, *words: str) -> Result:
    result = ksym("trace", *words[:-1], "--format", "json", "--", words[-1], cwd=folder)
    assert " 0 lost, 0 disarmed" in summary(result.err)
    return result


@pytest.mark.parametrize(
    "flags", [("-pie", "-fPIE"), ("-no-pie",), ("-static",), ("-static-pie", "-fPIE")], ids=" ".join
)
@pytest.mark.parametrize("access", ["rw-", "-w-"])
def test_every_access_from_the_constructor_on(tmp_path: Path, flags: tuple[str, ...], access: str) -> None:
    build(tmp_path, "prog", PROGRAM, "-O1", *flags)
    result = trace(tmp_path, f"./prog:counter:{access}", "./prog")
    assert result.status == 3
    expected = ALL if access == "rw-" else [("W", "early"), ("W", "main"), ("RW", "main"), ("RW", "main")]
    assert result.kinds() == expected
    assert {row["module"] for row in result.rows()} == {"prog"}
    assert {row["hits"] for row in result.rows()} == {1}


def test_a_member_by_its_type(program: Path) -> None:
    result = trace(program.parent, "./prog:cfg.limits[2]", "./prog")
    assert result.kinds() == [("W", "main")]
    assert result.rows()[0]["length"] == 8
    other = trace(program.parent, "./prog:cfg.limits[1]", "./prog")
    assert other.rows() == []


def test_sixteen_bytes_at_once_are_one_access_of_two_registers(program: Path) -> None:
    result = trace(program.parent, "./prog:wide", "./prog")
    assert [(row["access"], row["hits"]) for row in result.rows()] == [("R", 2), ("W", 2)]
    assert summary(result.err) == "ksym: 2 accesses (4 hits), 0 lost, 0 disarmed; ./prog:wide 2"


def test_rep_movsb_over_eight_bytes_is_one_access_of_eight_hits(program: Path) -> None:
    (row,) = trace(program.parent, "./prog:text:-w-", "./prog").rows()
    assert (row["access"], row["hits"], row["function"]) == ("W", 8, "main")
    assert "rep movsb" in row["instruction"]
    (row,) = trace(program.parent, "./prog:text", "./prog").rows()
    assert row["hits"] == 8
    counted = ksym("stat", "./prog:text", "--json", "--", "./prog", cwd=program.parent)
    assert json.loads(counted.out)["hits"] == 8


def test_what_is_not_touched_has_no_rows(program: Path) -> None:
    result = trace(program.parent, "./prog:unused", "./prog")
    assert (result.rows(), result.status) == ([], 3)


def test_calls_of_a_function(program: Path) -> None:
    result = trace(program.parent, "./prog:work:--x", "./prog")
    assert result.kinds() == [("X", "work"), ("X", "work")]
    assert [row["offset"] for row in result.rows()] == [0, 0]


def test_a_variable_of_a_library_from_its_constructor_on(tmp_path: Path) -> None:
    build(tmp_path, "libown.so", LIBRARY, "-shared", "-fPIC", "-O1")
    build(tmp_path, "prog", USES_LIBRARY, "-O1", "-fPIC", "libown.so", "-Wl,-rpath,$ORIGIN")
    result = trace(tmp_path, "libown.so:shared:-w-", "./prog")
    assert result.status == 3
    assert [where for _, where in result.kinds()] == ["load", "main"]


def test_names_of_cplusplus(tmp_path: Path) -> None:
    build(tmp_path, "prog", NAMESPACES, "-g", "-O1", suffix="cc")
    result = trace(tmp_path, "./prog:outer::inner::value", "./prog:outer::inner::S::count", "./prog")
    assert [(row["symbol"], row["access"]) for row in result.rows()] == [
        ("./prog:outer::inner::value", "W"),
        ("./prog:outer::inner::S::count", "W"),
    ]


def test_a_program_that_a_shell_starts(program: Path) -> None:
    result = ksym(
        "trace",
        "./prog:counter",
        "--format",
        "json",
        "--",
        "sh",
        "-c",
        "true; ./prog; exit 9",
        cwd=program.parent,
    )
    assert result.kinds() == ALL
    assert result.status == 9


def test_two_threads_on_two_cpus_lose_nothing_and_stay_in_order(tmp_path: Path) -> None:
    build(tmp_path, "prog", THREADS, "-O1", "-pthread")
    result = trace(tmp_path, "./prog:shared", "./prog")
    if result.status:
        pytest.skip("there are no CPUs 0 and 1")
    rows = result.rows()
    assert Counter(row["cpu"] for row in rows) == {0: 2000, 1: 2000}
    assert len({row["tid"] for row in rows}) == 2
    assert all(a["time_ns"] <= b["time_ns"] for a, b in pairwise(rows))
    assert sum(row["hits"] for row in rows) == 4000


def test_a_process_that_runs_with_its_threads_and_children(tmp_path: Path) -> None:
    path = build(tmp_path, "prog", ATTACHED, "-O1", "-pthread")
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as target:
        assert target.stdin is not None
        assert target.stdout is not None
        assert target.stdout.readline() == "ready\n"
        arguments = ("trace", "./prog:shared", "-p", str(target.pid), "--format", "csv")
        with started(*arguments, cwd=tmp_path) as process:
            # The header is written before the watch is armed; a row proves it.
            assert line(process).startswith("time_ns,")
            rounds = 0
            seen = ""
            while not seen:
                rounds += 1
                target.stdin.write("go\n")
                target.stdin.flush()
                assert target.stdout.readline() == "done\n"
                seen = line(process) if readable(process, 0.3) else ""
            target.stdin.write("go\n")
            target.stdin.close()
            assert target.stdout.readline() == "done\n"
            target.wait(timeout=20)
            out, error = ended(process)  # it ends with the process
    assert process.returncode == 0
    last = [text.split(",") for text in out.splitlines()][-4:]
    # The old thread, the new one, the child, the main thread.
    assert len(last) == 4
    assert [row[8] for row in last] == ["W"] * 4
    assert len({row[3] for row in last}) == 4
    assert len({row[2] for row in last}) == 2
    assert " 0 lost" in summary(error)


def test_the_kernels_accesses_on_request(tmp_path: Path) -> None:
    source = "#include <unistd.h>\nlong shared; int main(void) { return read(0, &shared, 8) != 8; }"
    build(tmp_path, "prog", source, "-O1")
    for option, kinds in (((), 0), (("--kernel-accesses",), 1)):
        result = ksym(
            "stat",
            "./prog:shared",
            *option,
            "--json",
            "--",
            "sh",
            "-c",
            "echo 1234567 | ./prog",
            cwd=tmp_path,
        )
        assert result.status == 0
        assert bool(json.loads(result.out)["hits"]) == bool(kinds)


def test_a_child_that_runs_another_program_is_left(program: Path, tmp_path: Path) -> None:
    source = r"""
    #include <unistd.h>
    #include <sys/wait.h>
    volatile long shared;
    int main(void) {
        shared = 1;
        if (!fork()) { shared = 2; execl("/bin/true", "true", (char *)0); }
        wait(0);
        shared = 3;
        return 0;
    }
    """
    build(tmp_path, "prog", source, "-O1", "-no-pie")
    result = trace(tmp_path, "./prog:shared", "./prog")
    assert result.kinds() == [("W", "main")] * 3
    assert len({row["pid"] for row in result.rows()}) == 2


CHAIN = r"""
struct node { struct node *next; int values[4]; } second, first = {&second};
int main(void) { second.values[2] = 5; return 0; }
"""


def test_a_pointer_that_the_program_sets_as_it_starts(tmp_path: Path) -> None:
    """One at fixed addresses holds it from the beginning; of another one it would lead to where nothing ever is."""
    build(tmp_path, "fixed", CHAIN, "-g", "-O1", "-no-pie")
    (row,) = trace(tmp_path, "./fixed:first.next->values[2]", "./fixed").rows()
    assert (row["access"], row["new"]) == ("W", 5)
    build(tmp_path, "moved", CHAIN, "-g", "-O1", "-pie", "-fPIE")
    result = ksym("trace", "./moved:first.next->values[2]", "--", "./moved", cwd=tmp_path)
    assert (result.status, result.out) == (125, "")
    assert "before this step holds 0x" in result.err
    assert "where there is nothing" in result.err
    assert result.err.endswith("start it, and use -p PID once it has\n")
