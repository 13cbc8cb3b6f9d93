# SPDX-License-Identifier: BSD-2-Clause
"""A program whose threads are told apart by their numbers, and what traces it in a pid namespace of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.program import command, environment
from synthetic.compile import need

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


def traced(program: Path, condition: str, *, nested: bool) -> tuple[int, int, list[dict[str, Any]], str]:
    """Trace ``total`` in a pid namespace; the program's and its second thread's number there, rows, and stderr.

    Args:
        program: `THREADS`.
        condition: May name ``{pid}`` and ``{tid}``.
        nested: The program has a namespace of its own, inside ksym's.
    """
    words = command(
        "trace", f"{program}:total:-w- if {condition}", f"{program}:ticks:-w-", "-p", "{pid}", "--format", "json"
    )  # fmt: skip
    done = in_a_namespace(sys.executable, "-c", DRIVER, json.dumps([nested, str(program), *words]))
    assert done.returncode == 0, done.stderr
    pid, tid, out, error = json.loads(done.stdout)
    rows = [row for row in map(json.loads, out.splitlines()) if row["symbol"].endswith("total")]
    return pid, tid, rows, error
