# SPDX-License-Identifier: BSD-2-Clause
"""Numbers of tasks are those of ksym's own pid namespace: in conditions, rows and counts; 0 for a task outside."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ksym.linux.libc import MACHINE
from native.programs.numbered import THREADS, in_a_namespace, traced
from native.running import sample
from support.program import command, environment
from synthetic.compile import build, need

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="elsewhere no programs run at watchpoints"),
]


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
    pid, tid, rows, error = traced(threads, condition, nested=nested)
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
