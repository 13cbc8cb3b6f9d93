# SPDX-License-Identifier: BSD-2-Clause
"""Processes of many threads and children: those that are there, and those that come, each way of starting one."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import select
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import ksym as api
from ksym.api.live import Access
from native.programs import family
from native.programs.exact import caught
from native.running import ONE_LINE
from support.program import command, environment, ksym
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


# -- all that a process can start ------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "twins": {"twin": "on"},
    "one register": {"twin": "off"},
    "no program": {"twin": "off", "bpf": False},
}


@pytest.fixture(scope="module")
def relatives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family.program(tmp_path_factory.mktemp("family"))


@contextlib.contextmanager
def waiting(relatives: Path, how: str = "wait") -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [relatives, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        try:
            yield process
        finally:
            process.kill()


def check(rows: Sequence[Access]) -> None:
    """Each actor wrote as often as it does, the children in processes and the threads in threads of their own."""
    assert Counter(row.function for row in rows) == family.WRITES
    assert {(row.access, row.hits) for row in rows} == {("RW", 1)}
    tasks: dict[str | None, set[tuple[int, int]]] = {}
    for row in rows:
        tasks.setdefault(row.function, set()).add((row.pid, row.tid))
    ((first, _),) = tasks["parent"]
    assert {function for function, found in tasks.items() if first in {pid for pid, _ in found}} == {
        "old", "young", "from_young", "parent",
    }  # fmt: skip
    assert (len(tasks["old"]), len(tasks["behind_exec"])) == (family.OLD, 2)
    others = len(tasks) - 2
    assert sum(map(len, tasks.values())) == family.OLD + 2 + others
    assert len(set().union(*tasks.values())) == family.OLD + 2 + others
    assert len({pid for found in tasks.values() for pid, _ in found}) == 7


@pytest.mark.parametrize("way", WAYS)
def test_a_command_and_all_that_it_starts(relatives: Path, way: str) -> None:
    """A child that executes the program again is watched again; in between its address means something else."""
    check(caught(relatives, "{}:shared", **WAYS[way]))


@pytest.mark.parametrize("way", WAYS)
def test_a_process_with_threads_and_all_that_it_starts(relatives: Path, way: str) -> None:
    with waiting(relatives) as process:
        assert process.stdin is not None
        with api.trace(f"{relatives}:shared", pid=process.pid, **WAYS[way]) as accesses:
            process.stdin.write("go\n")
            process.stdin.flush()
            rows = list(accesses)  # up to its end
        assert process.wait() == 0
    check(rows)
    assert (accesses.tally.lost, accesses.tally.notes) == (0, [])


@pytest.mark.parametrize("options", [(), ("--no-bpf",), ("--by", "task,function")], ids=" ".join)
def test_they_are_all_counted(relatives: Path, options: tuple[str, ...]) -> None:
    done = ksym("stat", f"{relatives}:shared", *options, "--json", "--", str(relatives))
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert sum(row["hits"] for row in rows) == sum(family.WRITES.values())
    if "--by" in options:
        found = Counter[str]()
        for row in rows:
            found[row["function"]] += row["hits"]
        assert found == family.WRITES


def test_threads_that_come_and_go_while_it_is_being_armed(relatives: Path) -> None:
    """Each adds one: behind the first moments, of which docs/limits.md tells, no value is missing."""
    with (
        waiting(relatives, "churn") as process,
        api.trace(f"{relatives}:shared:-w-", pid=process.pid) as accesses,
    ):
        rows = list(itertools.islice(accesses, 600))
    values = [row.new for row in rows[100:]]
    assert isinstance(values[0], int)
    assert values == list(range(values[0], values[0] + 500))
    assert len({row.tid for row in rows}) == 600
    assert accesses.tally.lost == 0
