# SPDX-License-Identifier: BSD-2-Clause
"""Processes of many threads."""

from __future__ import annotations

import re
import select
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.running import ONE_LINE
from support.program import command, environment
from synthetic.compile import build

pytestmark = pytest.mark.native

THREADS = 300
PROGRAM = r"""
#include <pthread.h>
#include <stdio.h>
#include <semaphore.h>
volatile long counter;
static sem_t start;
static void *work(void *unused) { sem_wait(&start); counter = 1; return unused; }
int main(void) {
    pthread_t threads[300];
    for (int i = 0; i < 300; i++) pthread_create(&threads[i], NULL, work, NULL);
    puts("ready"); fflush(stdout);
    while (getchar() == 'p') counter = 2;
    for (int i = 0; i < 300; i++) sem_post(&start);
    for (int i = 0; i < 300; i++) pthread_join(threads[i], NULL);
    return 0;
}
"""


@pytest.fixture
def many(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes ``counter`` for each ``p`` on its stdin; then its 300 threads do so, once each."""
    path = build(tmp_path, "many", PROGRAM, "-g", "-O1", "-pthread")
    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def words(many: subprocess.Popen[str], verb: str, *options: str) -> list[str]:
    return command(verb, f"/proc/{many.pid}/exe:counter", "-p", str(many.pid), *options)


def test_each_thread_is_watched(many: subprocess.Popen[str]) -> None:
    assert many.stdin is not None
    with subprocess.Popen(
        words(many, "trace", "--quiet"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as ksym:
        assert ksym.stdout is not None
        while not select.select([ksym.stdout], [], [], 0.02)[
            0
        ]:  # until a row shows that the main thread is watched
            many.stdin.write("p")
            many.stdin.flush()
        many.stdin.write("\n")
        many.stdin.flush()
        rows, errors = (text.decode() for text in ksym.communicate())
    assert ksym.returncode == 0, errors
    by_thread = Counter(line.split()[1] for line in rows.splitlines())
    del by_thread[f"many-{many.pid}"]
    assert len(by_thread) == THREADS
    assert set(by_thread.values()) == {1}
    assert re.match(r"ksym: (\d+) accesses \(\1 hits\), 0 lost, 0 disarmed", errors)


@pytest.mark.parametrize("verb", ["trace", "stat"])
def test_too_few_open_files_are_allowed(many: subprocess.Popen[str], verb: str) -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 100; exec "$0" "$@"', *words(many, verb)],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (125, "")
    assert ONE_LINE.fullmatch(done.stderr)
    assert "it needs more open files than are allowed" in done.stderr
