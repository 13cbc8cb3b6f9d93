# SPDX-License-Identifier: BSD-2-Clause
"""Numbers of tasks are those of ksym's own pid namespace: in conditions, rows and counts; 0 for a task outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ksym.linux.libc import MACHINE
from native.running import sample
from support.program import command, environment
from synthetic.compile import build, need

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="elsewhere no programs run at watchpoints"),
]

THREADS = """
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <unistd.h>
/* Ticks until stdin ends; then each of its two threads adds its share to the total. */
volatile int total, ticks; static int pipes[2];
static __attribute__((noinline)) void add(int n) { total += n; }
static void *second(void *none) {
  char c; if (read(pipes[0], &c, 1) == 1) { add(10); add(20); } return 0;
}
int main(void) {
  pthread_t thread; if (pipe(pipes) || pthread_create(&thread, 0, second, 0)) return 1;
  struct pollfd in = {0, POLLIN}; while (!poll(&in, 1, 1)) ticks++;
  add(1); if (write(pipes[1], "", 1) != 1) return 1; pthread_join(thread, 0); add(2); return 0;
}
"""

DRIVER = """
import json, os, subprocess, sys
nested, program, *ksym = json.loads(sys.argv[1])
words = ["unshare", "-p", "-f", program] if nested else [program]
run = subprocess.Popen(words, stdin=subprocess.PIPE)
def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]
pid = run.pid
while nested and pid == run.pid:
    pid = next((child for child in children(run.pid) if os.readlink(f"/proc/{child}/exe") == program), pid)
while os.readlink(f"/proc/{pid}/exe") != program or len(threads := os.listdir(f"/proc/{pid}/task")) < 2:
    pass
tid = max(map(int, threads))
words = [word.format(pid=pid, tid=tid) for word in ksym]
with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, text=False) as tracer:
    out = b""
    while b"ticks" not in out:
        out = tracer.stdout.readline()
        assert out, tracer.stderr.read()
    run.stdin.close()
    out, error = tracer.communicate()
run.wait()
print(json.dumps([pid, tid, out.decode(), error.decode()]))
"""


def in_a_namespace(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the first process of a pid namespace of its own."""
    need("unshare")
    prefix = ["unshare", "-p", "-f", "--mount-proc"]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no pid namespace can be made here")
    return subprocess.run([*prefix, *words], capture_output=True, text=True, env=environment(), timeout=60)


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("threads"), "prog", THREADS, "-g", "-O1", "-pthread")


@pytest.mark.parametrize("nested", [False, True], ids=["the same namespace", "one inside it"])
@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("pid == {pid}", [(0, 1), (1, 11), (11, 31), (31, 33)]),
        ("tid == {tid}", [(1, 11), (11, 31)]),
        ("pid == tid && new < 30", [(0, 1)]),
        ("tid != {pid} || pid != {pid}", [(1, 11), (11, 31)]),
    ],
)
def test_of_user_variables(condition: str, kept: list[tuple[int, int]], nested: bool, threads: Path) -> None:
    words = command(
        "trace",
        f"{threads}:total:-w- if {condition}",
        f"{threads}:ticks:-w-",
        "-p",
        "{pid}",
        "--format",
        "json",
    )
    done = in_a_namespace(sys.executable, "-c", DRIVER, json.dumps([nested, str(threads), *words]))
    assert done.returncode == 0, done.stderr
    pid, tid, out, error = json.loads(done.stdout)
    rows = [row for row in map(json.loads, out.splitlines()) if row["symbol"].endswith("total")]
    assert [(row["old"], row["new"]) for row in rows] == kept
    assert {row["pid"] for row in rows} == {pid}
    assert {row["tid"] for row in rows} <= {pid, tid}
    assert f"ksym: {4 - len(kept)} hit" in error or len(kept) == 4


def test_of_a_kernel_variable_that_tasks_of_all_namespaces_read(tmp_path: Path) -> None:
    """In this order: a task of ksym's namespace, one outside of it, one of its neighbour, one inside it."""
    chosen = sample()
    go, done = tmp_path / "go", tmp_path / "done"
    for fifo in (go, done):
        os.mkfifo(fifo)
    cat = f"cat {chosen.file}"
    script = f"{cat}; echo > {go}; cat {done}; unshare -p -f {cat}"

    def run(*words: str) -> list[dict[str, Any]]:
        need("unshare")
        prefix = ["unshare", "-p", "-f", "--mount-proc"]
        if subprocess.run([*prefix, "true"], capture_output=True).returncode:
            pytest.skip("no pid namespace can be made here")
        words = (*prefix, *command(*words), "--", "sh", "-c", script)
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as process:
            go.read_text()
            for outside in (cat, f"unshare -p -f {cat}"):
                subprocess.run(outside.split(), check=True, stdout=subprocess.DEVNULL)
            done.write_text("")
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return [json.loads(line) for line in out.splitlines() if line.startswith("{")]

    rows = run("trace", chosen.request, "--format", "json")
    assert [(row["comm"], row["pid"] != 0) for row in rows] == [
        ("cat", True), ("?", False), ("?", False), ("cat", True),
    ]  # fmt: skip
    assert all(row["pid"] == row["tid"] < 200 for row in rows)
    outside = run("trace", f"{chosen.request} if pid == 0", "--format", "json")
    assert [row["pid"] for row in outside] == [0, 0]
    inside = run("trace", f"{chosen.request} if pid != 0 && tid == pid", "--format", "json")
    assert [row["pid"] > 1 for row in inside] == [True, True]
    counted = run("stat", "--by", "task", f"{chosen.request} if tid == 0", "--json")
    assert [(row["comm"], row["pid"], row["hits"]) for row in counted] == [("?", 0, 2)]


def test_what_ksym_reads_itself_is_no_row() -> None:
    """The value before the first access is known, and reading it was none."""
    chosen = sample()
    value = chosen.file.read_text().strip()
    words = ["trace", chosen.request, "--format", "json", "--", "sh", "-c", f"echo {value} > {chosen.file}"]
    done = in_a_namespace(*command(*words))
    (row,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert (row["access"], row["old"]) == ("W", row["new"])
    assert row["old"] is not None
    assert "ksym: 1 access (1 hit), 0 lost" in done.stderr
