# SPDX-License-Identifier: BSD-2-Clause
"""User variables of several processes, and of processes that go on as others, run other programs and reload files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import ksym as api
from ksym.linux.libc import MACHINE
from native.programs import reloading
from native.running import ONE_LINE, ended, nobody_command, started, summary
from support.program import command, environment, ksym
from synthetic.compile import build, need

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="values are taken by programs, which arm64 does not have"),
]

# Each word of stdin makes one write; a family forks workers first, which read words from pipes of their own.
WORKERS = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
volatile long tickets = 40;
volatile long *board;
static void work(int add) { char c; while (read(0, &c, 1) == 1 && c != 'q') { tickets += add; *board += add; } }
int main(int count, char **words) {
    int workers = count > 1 ? atoi(words[1]) : 0;
    board = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < workers; i++) {
        pid_t pid = fork();
        if (!pid) { work(1); _exit(0); }
        printf("%d ", pid);
    }
    puts("");
    fflush(stdout);
    work(2);
    for (int i = 0; i < workers; i++) { write(3, "q", 1); wait(0); }
    return 0;
}
"""
DAEMON = r"""
#include <stdlib.h>
#include <unistd.h>
volatile int done;
int main(int count, char **words) {
    int ends[2];
    char c;
    if (pipe(ends)) return 9;
    if (!fork()) {
        close(ends[1]);
        if (read(ends[0], &c, 1)) _exit(9);  /* COMMAND has ended */
        if (count > 1) execlp("cat", "cat", (char *)0);
        if (read(0, &c, 1) == 1) for (int i = 0; i < 4; i++) done = i + 7;
        _exit(0);
    }
    return 3;
}
"""
RENEWED = r"""
#include <unistd.h>
volatile int done;
int main(int count, char **words) {
    int ends[2];
    char c;
    if (count > 1) {
        done = 6;
        return 0;
    }
    if (pipe(ends)) return 9;
    if (!fork()) {
        close(ends[1]);
        if (read(ends[0], &c, 1)) _exit(9);  /* COMMAND has ended */
        if (read(0, &c, 1) != 1) _exit(9);
        done = 5;
        execl(words[0], words[0], "renewed", (char *)0);
    }
    return 3;
}
"""
AGAIN = r"""
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
volatile long lives = 10;
int main(int count, char **words) {
    int left = atoi(words[1]);
    char next[2] = {'0' + left - 1, 0};
    lives += left;
    if (!left) return 4;
    if (left == 2) {
        if (!fork()) execl("/proc/self/exe", words[0], "0", (char *)0);
        wait(0);
    }
    execl("/proc/self/exe", words[0], next, (char *)0);
    return 9;
}
"""


def rows_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def values(rows: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(row["old"], row["new"]) for row in rows]


@contextmanager
def family(program: Path, workers: int = 0) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process and the workers that it has; all of them end with its stdin."""
    with subprocess.Popen(
        [program, str(workers)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        try:
            yield process, pids
        finally:
            process.kill()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("workers"), "workers", WORKERS, "-g", "-O1", "-pie", "-fPIE")


def test_each_process_has_its_own_address_and_its_own_values(workers: Path) -> None:
    with ExitStack() as stack:
        both = [stack.enter_context(family(workers))[0] for _ in range(2)]
        with api.trace(f"{workers}:tickets:-w-", pid=[each.pid for each in both]) as accesses:
            for process, words in zip(both, ("xx", "xxx"), strict=True):
                assert process.stdin is not None
                process.stdin.write(words + "q")
                process.stdin.flush()
                process.wait()
            rows = list(accesses)
        assert accesses.tally.lost == 0
    for process, count in zip(both, (2, 3), strict=True):
        own = [row for row in rows if row.pid == process.pid]
        assert [(row.old, row.new) for row in own] == [(40 + 2 * n, 42 + 2 * n) for n in range(count)]
        assert {row.function for row in own} <= {"work", "main"}
        assert len({row.address for row in own}) == 1
    assert len(rows) == 5
    assert len({row.address for row in rows}) == 2


@pytest.mark.parametrize("way", ["list", "repeated"])
@pytest.mark.parametrize("verb", ["trace", "stat", "record"])
def test_processes_are_named_in_a_list_or_one_by_one(
    workers: Path, verb: str, way: str, tmp_path: Path
) -> None:
    with family(workers) as (one, _), family(workers) as (two, _):
        pids = [str(one.pid), str(two.pid)]
        options = ["-p", ",".join(pids)] if way == "list" else ["-p", pids[0], "-p", pids[1]]
        more = {"trace": ["--format", "json"], "stat": [], "record": ["-o", str(tmp_path / "r.data")]}[verb]
        with started(verb, f"{workers}:tickets:-w-", *options, *more, "--limit", "2") as process:
            while process.poll() is None:
                for each in (one, two):
                    assert each.stdin is not None
                    each.stdin.write("x")
                    each.stdin.flush()
                process.send_signal(0)
            out, error = ended(process)
    assert process.returncode == 0, error
    assert " 2 " in summary(error) + " "
    if verb == "trace":
        assert {row["pid"] for row in rows_of(out)} <= {one.pid, two.pid}


def test_a_recording_of_two_processes_has_the_address_of_each(workers: Path, tmp_path: Path) -> None:
    file = tmp_path / "both.data"
    with family(workers) as (one, _), family(workers) as (two, _):
        with started(
            "record",
            f"{workers}:tickets:-w-",
            "-p",
            f"{one.pid},{two.pid}",
            "-o",
            str(file),
            "--flush-ms",
            "10",
        ) as process:
            while not file.exists() or file.stat().st_size < 4096:
                assert process.poll() is None
            for each in (one, two):
                assert each.stdin is not None
                each.stdin.write("xxq")
                each.stdin.flush()
                each.wait()
            _, error = ended(process)
        assert process.returncode == 0, error
    rows = rows_of(ksym("script", str(file), "--format", "json").out)
    assert {pid: values([row for row in rows if row["pid"] == pid]) for pid in (one.pid, two.pid)} == {
        one.pid: [(40, 42), (42, 44)],
        two.pid: [(40, 42), (42, 44)],
    }
    assert len({(row["pid"], row["address"]) for row in rows}) == len({row["address"] for row in rows}) == 2


def test_a_process_without_the_variable_is_named(workers: Path) -> None:
    with family(workers) as (one, _), subprocess.Popen(["sleep", "1000"]) as other:
        result = ksym("trace", f"{workers}:tickets", "-p", f"{one.pid},{other.pid}")
        other.kill()
    assert result.status == 125
    assert ONE_LINE.fullmatch(result.err)
    assert f"process {other.pid}" in result.err


def test_a_zombie_is_refused_as_one() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    result = ksym("trace", "0x404000/4", "-p", str(child.pid))
    child.wait()
    assert result.status == 125
    assert ONE_LINE.fullmatch(result.err)
    assert f"process {child.pid}: it has ended" in result.err


def test_children_from_before_are_told_and_the_option_for_them_works(workers: Path) -> None:
    with family(workers, 2) as (parent, children):
        result = ksym("trace", f"{workers}:tickets:-w-", "-p", str(parent.pid), "--duration", "0.1")
        assert f"2 children of process {parent.pid} from before have" in result.err
        found = re.search(r"-p [0-9,]+ ", result.err)
        assert found
        words = found[0].split()
        assert words[1] == ",".join(map(str, (parent.pid, *children)))
        again = ksym("trace", f"{workers}:tickets:-w-", *words, "--duration", "0.1")
        assert again.status == 0
        assert "from before" not in again.err
        shared = ksym("trace", f"{workers}:board[0]", "-p", str(parent.pid), "--duration", "0.1")
        assert re.search(r"board\[0\] lies in memory that processes \d+, \d+ have, too", shared.err), (
            shared.err
        )
        assert "from before" not in shared.err


@contextmanager
def left(program: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Ksym that runs COMMAND, which has ended, and the child of it that waits for a byte."""
    with subprocess.Popen(
        command(*words, "--", str(program)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment(),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.fullmatch(
            r"ksym: COMMAND ended; process (\d+) \(leaver\) still has .*:done; Ctrl-C ends\n", line
        )
        assert found, line
        yield process, int(found[1])


@pytest.mark.parametrize("verb", ["trace", "stat"])
def test_a_run_goes_on_with_the_child_that_command_leaves(verb: str, tmp_path: Path) -> None:
    program = build(tmp_path, "leaver", DAEMON, "-g", "-O1")
    words = [verb, f"{program}:done:-w-", *(["--format", "json"] if verb == "trace" else [])]
    with left(program, *words) as (process, pid):
        out, error = process.communicate("x", timeout=30)
    assert process.returncode == 3, error
    if verb == "trace":
        assert values(rows_of(out)) == [(0, 7), (7, 8), (8, 9), (9, 10)]
        assert {row["pid"] for row in rows_of(out)} == {pid}
    else:
        assert re.search(r"^ +4  ", out, re.M)


@pytest.mark.parametrize("verb", ["trace", "stat"])
def test_the_child_that_command_leaves_may_run_the_program_again(verb: str, tmp_path: Path) -> None:
    program = build(tmp_path, "leaver", RENEWED, "-g", "-O1")
    words = [verb, f"{program}:done:-w-", *(["--format", "json"] if verb == "trace" else [])]
    with left(program, *words) as (process, _):
        out, error = process.communicate("x", timeout=30)
    assert process.returncode == 3, error
    if verb == "trace":
        assert values(rows_of(out)) == [(0, 5), (0, 6)]
    else:
        assert re.search(r"^ +2  ", out, re.M), out


def test_a_run_that_is_ended_early_tells_who_goes_on(tmp_path: Path) -> None:
    program = build(tmp_path, "leaver", DAEMON, "-g", "-O1")
    with left(program, "trace", f"{program}:done:-w-") as (process, pid):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 3
        _, error = process.communicate(timeout=30)  # the child ends with its stdin
    assert f"process {pid} (leaver) still runs with {program}:done, not watched any more" in error


def test_nobody_waits_for_a_child_that_runs_another_program(tmp_path: Path) -> None:
    program = build(tmp_path, "leaver", DAEMON, "-g", "-O1")
    words = command("stat", f"{program}:done:-w-", "--", str(program), "x")
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        assert process.wait(timeout=30) == 3  # the child reads stdin still


@pytest.mark.parametrize("pie", ["-pie", "-no-pie"])
def test_a_program_that_runs_itself_again_is_watched_again(pie: str, tmp_path: Path) -> None:
    flags = ("-fPIE", "-pie") if pie == "-pie" else ("-fno-pie", "-no-pie")
    program = build(tmp_path, "again", AGAIN, "-g", "-O1", *flags)
    result = ksym("trace", f"{program}:lives:-w-", "--format", "json", "--", str(program), "3")
    assert result.status == 4
    assert sorted(values(result.rows())) == [(10, 10), (10, 10), (10, 11), (10, 12), (10, 13)]
    assert "5 accesses (5 hits), 0 lost" in summary(result.err)


def test_each_run_of_a_program_in_a_script_is_watched(tmp_path: Path) -> None:
    program = build(tmp_path, "again", AGAIN, "-g", "-O1")
    script = f"{program} 0; {program} 0; {program} 1"
    result = ksym("trace", f"{program}:lives:-w-", "--format", "json", "--", "sh", "-c", script)
    assert values(result.rows()) == [(10, 10), (10, 10), (10, 11), (10, 10)]


RUNS_TWO = r"""
#include <unistd.h>
volatile int steps;
__attribute__((noinline)) void first(void) { steps++; }
__attribute__((noinline)) void second(void) { steps += 2; }
int main(int count, char **words) {
    if (count > 1) { for (int i = 0; i < 7; i++) second(); return 0; }
    for (int i = 0; i < 5; i++) first();
    return execl(words[0], words[0], "second", NULL);
}
"""
BOTH_TWICE = {("first", "runs-two"): 10, ("second", "runs-two"): 14}


def test_the_code_of_each_run_of_a_program_is_named(tmp_path: Path) -> None:
    """Also where nobody told of the process before it had the variable."""
    program = build(tmp_path, "runs-two", RUNS_TWO, "-g", "-O1")
    words = (f"{program}:steps:-w-", "--", "sh", "-c", f"{program}; true; {program}; true")
    traced = ksym("trace", "--format", "json", *words).rows()
    assert Counter((row["function"], row["module"]) for row in traced) == BOTH_TWICE
    assert {row["comm"] for row in traced} == {"runs-two"}
    counted = map(json.loads, ksym("stat", "--by", "function", "--json", *words).out.splitlines())
    assert {(row["function"], row["module"]): row["hits"] for row in counted} == BOTH_TWICE
    assert ksym("record", "-o", "x.data", *words, cwd=tmp_path).status == 0
    read = ksym("script", "--format", "json", "x.data", cwd=tmp_path).rows()
    assert [(row["function"], row["comm"], row["old"]) for row in read] == [
        (row["function"], row["comm"], row["old"]) for row in traced
    ]


@pytest.mark.parametrize("more", [(), ("--no-bpf",)])
def test_perf_reads_a_recording_of_processes_that_came_later(tmp_path: Path, more: tuple[str, ...]) -> None:
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    program = build(tmp_path, "runs-two", RUNS_TWO, "-g", "-O1")
    words = (f"{program}:steps:-w-", "--", "sh", "-c", f"{program}; true; {program}; true")
    assert ksym("record", "-o", "x.data", *more, *words, cwd=tmp_path).status == 0
    done = subprocess.run(
        ["perf", "script", "-i", "x.data", "-F", "comm,ip,sym"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert Counter(tuple(line.split()[::2]) for line in done.stdout.splitlines()) == {
        ("runs-two", "first"): 10, ("runs-two", "second"): 14,
    }, done.stderr  # fmt: skip


@pytest.fixture(scope="module")
def host() -> Iterator[Path]:
    """In a folder that other users can look into."""
    with tempfile.TemporaryDirectory(prefix="ksym-test-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        build(folder, "libplug.so", reloading.PLUGIN, "-g", "-O1", "-fPIC", "-shared")
        yield build(folder, "host", reloading.HOST, "-g", "-O1", "-ldl")


@pytest.mark.parametrize("request_", ["./libplug.so:level:-w-", "./libplug.so:level:-w- if changed"])
@pytest.mark.parametrize("more", [(), ("foreign",)])
def test_a_library_that_comes_back_begins_a_new_life(
    host: Path, request_: str, more: tuple[str, ...]
) -> None:
    result = ksym("trace", request_, "--format", "json", "--", "./host", "4", *more, cwd=host.parent)
    assert result.status == 0
    assert values(result.rows()) == reloading.levels(4)


def test_a_library_that_a_traced_program_reloads_begins_a_new_life(host: Path) -> None:
    """The program cannot be held when it unloads the library, only before the library's first instruction."""
    need("strace")
    words = ("--", "strace", "-f", "-o", "/dev/null", "./host", "4")
    result = ksym("trace", "./libplug.so:level:-w-", "--format", "json", *words, cwd=host.parent)
    assert result.status == 0
    assert values(result.rows()) == reloading.levels(4)


def test_zeroed_data_that_comes_back_is_zero(host: Path) -> None:
    """The dynamic linker's own writes, which make it zero, are accesses, too."""
    result = ksym(
        "trace", "./libplug.so:zeroed:-w-", "--format", "json", "--", "./host", "3", cwd=host.parent
    )
    rows = [row for row in result.rows() if row["function"] == "step"]
    assert values(rows) == [(step * life, (step + 1) * life) for life in range(1, 4) for step in range(2)]


def test_other_memory_at_its_address_is_not_the_variable(host: Path) -> None:
    words, names = nobody_command(
        "trace", "./libplug.so:level:-w-", "--format", "json", "--", "./host", "1", "foreign"
    )
    done = subprocess.run(words, env=names, cwd=host.parent, capture_output=True, text=True, timeout=60)
    assert [row["function"] for row in rows_of(done.stdout)] == ["step", "step"], done.stderr
    assert "25 hits of other memory at its address, after it was unmapped, not shown" in done.stderr


@pytest.fixture(scope="module")
def parting(host: Path) -> Path:
    return build(host.parent, "parting", reloading.PARTING, "-g", "-O1", "-ldl")


@pytest.mark.parametrize("how", ["same", "foreign", "moved", "moved foreign"])
@pytest.mark.parametrize("who", reloading.PARTING_SHOWN)
def test_one_process_reloads_a_library_that_another_one_keeps(who: str, how: str, parting: Path) -> None:
    """Its life of the variable ends, and what lies at its address is not shown; the other one's goes on."""
    shown = reloading.PARTING_SHOWN[who]
    words = ("--", "./parting", who, how)
    result = ksym("trace", "./libplug.so:level:-w-", "--format", "json", *words, cwd=parting.parent)
    rows = result.rows()
    pids = list(dict.fromkeys(row["pid"] for row in rows))
    assert [values([row for row in rows if row["pid"] == pid]) for pid in pids] == shown
    total = sum(map(len, shown))
    foreign = "25 hits of other memory at its address, after it was unmapped, not shown"
    counted = ksym("stat", "./libplug.so:level:-w-", *words, cwd=parting.parent)
    recorded = ksym("record", "--force", "-o", "x.data", "./libplug.so:level:-w-", *words, cwd=parting.parent)
    for each in (result, counted, recorded):
        assert each.status == 0
        assert f" ({total} hits), 0 lost" in each.err or f"ksym: {total} hits, 0 lost" in each.err, each.err
        assert (foreign in each.err) == ("foreign" in how), each.err
    read = ksym("script", "--format", "json", "x.data", cwd=parting.parent).rows()
    assert sorted(values(read)) == sorted(values(rows))


def test_a_condition_knows_the_value_of_a_new_life(parting: Path) -> None:
    request = "./libplug.so:level:-w- if old == 5"
    result = ksym(
        "trace", request, "--format", "json", "--", "./parting", "child", "same", cwd=parting.parent
    )
    assert values(result.rows()) == [(5, 6), (5, 7)]


def test_without_programs_stat_says_what_it_cannot_tell(parting: Path) -> None:
    words = ("./libplug.so:level:-w-", "--no-bpf", "--", "./parting", "child", "foreign")
    result = ksym("stat", *words, cwd=parting.parent)
    assert "ksym: 29 hits, 0 lost" in result.err
    assert re.search(r"process \d+ unloaded .*:level while .* may be counted as the variable's", result.err)


OUTLIVED = r"""
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
volatile long lives = 10;
int main(int count, char **words) {
    int ends[2];
    char c, name[2] = {0};
    if (count > 1) {
        lives += 1;
        close(words[1][0] - '0');
        wait(0);
        return 0;
    }
    if (pipe(ends)) return 9;
    lives += 1;
    if (!fork()) {
        close(ends[1]);
        if (read(ends[0], &c, 1)) _exit(9);  /* the next life has written */
        lives += 2;
        _exit(0);
    }
    name[0] = '0' + ends[1];
    return execl("/proc/self/exe", words[0], name, (char *)0);
}
"""


def test_a_new_life_beside_a_child_of_the_one_before(tmp_path: Path) -> None:
    program = build(tmp_path, "outlived", OUTLIVED, "-g", "-O1")
    result = ksym("trace", f"{program}:lives:-w-", "--format", "json", "--", str(program))
    assert values(result.rows()) == [(10, 11), (10, 11), (11, 13)]


RELOADING_THREADS = r"""
#include <dlfcn.h>
#include <pthread.h>
static void *turns(void *unused) {
    for (int i = 0; i < 60; i++) {
        void *plugin = dlopen("./libplug.so", RTLD_NOW);
        ((void (*)(long))dlsym(plugin, "step"))(1);
        dlclose(plugin);
    }
    return unused;
}
int main(void) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(threads + i, 0, turns, 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
    return 0;
}
"""


def test_threads_that_load_and_unload_a_library(host: Path) -> None:
    build(host.parent, "turns", RELOADING_THREADS, "-g", "-O1", "-pthread", "-ldl")
    result = ksym("stat", "./libplug.so:level:-w-", "--", "./turns", cwd=host.parent)
    assert summary(result.err).startswith("ksym: 240 hits, 0 lost")
    assert "not watched any more" not in result.err


@pytest.mark.parametrize("verb", ["trace", "stat", "record"])
def test_where_nobody_is_held_the_summary_says_what_may_be_missing(verb: str, host: Path) -> None:
    more = ("-o", "/dev/null") if verb == "record" else ()
    words, names = nobody_command(verb, "./libplug.so:level:-w-", *more, "--", "./host", "1")
    done = subprocess.run(words, env=names, cwd=host.parent, capture_output=True, text=True, timeout=60)
    assert "later runs and loads of its file are not watched from their start on" in done.stderr
    held = ksym(verb, "./libplug.so:level:-w-", *more, "--", "./host", "1", cwd=host.parent)
    assert "later runs" not in held.err


@pytest.mark.parametrize("verb", ["trace", "stat", "record"])
def test_where_nobody_is_held_a_further_run_is_told(verb: str, host: Path) -> None:
    program = build(host.parent, "again", AGAIN, "-g", "-O1")
    more = ("-o", "/dev/null") if verb == "record" else ()
    for lives in ("0", "1"):
        words, names = nobody_command(verb, f"{program}:lives:-w-", *more, "--", str(program), lives)
        done = subprocess.run(words, env=names, cwd=host.parent, capture_output=True, text=True, timeout=60)
        assert done.returncode == 4
        assert ("later runs and loads" in done.stderr) == (lives == "1"), done.stderr
