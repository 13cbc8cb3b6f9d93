# SPDX-License-Identifier: BSD-2-Clause
"""Values of user variables on stock kernels: whose memory it is, what the kernel writes, whose numbers tasks have."""

from __future__ import annotations

from pathlib import Path

import pytest

from native.programs import memories, numbered
from support.program import ksym
from synthetic.compile import build

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("programs")]


@pytest.fixture(scope="module")
def relatives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiler takes seconds here."""
    return build(tmp_path_factory.mktemp("relatives"), "prog", memories.RELATIVES, "-g", "-O1")


def changes(program: Path, request: str) -> tuple[list[tuple[int, int]], str]:
    """Old and new value of each write, and stderr."""
    result = ksym("trace", request, "--format", "json", "--", "./prog", cwd=program.parent)
    assert result.status == 0, result.err
    return [(row["old"], row["new"]) for row in result.rows() if row["access"] != "R"], result.err


@pytest.mark.parametrize("access", ["-w-", "rw-"])
def test_processes_that_share_memory_or_copy_it(access: str, relatives: Path) -> None:
    assert changes(relatives, f"./prog:turn:{access}")[0] == memories.RELATIVES_SHOWN


def test_condition_on_memory_that_was_copied(relatives: Path) -> None:
    kept, error = changes(relatives, "./prog:turn:-w- if old == 210")
    assert kept == [(210, 211), (210, 200)]
    assert "not known" not in error


def test_memory_that_comes_back_as_anothers(tmp_path: Path) -> None:
    source = memories.SHORT_LIVED.replace("atoi(words[1])", "24")
    program = build(tmp_path, "prog", source, "-g", "-O1")
    assert changes(program, "./prog:mark:-w-")[0] == [*((7, 1000 + n) for n in range(1, 25)), (7, 8)]


def test_what_the_kernel_writes_for_the_program(tmp_path: Path) -> None:
    program = build(tmp_path, "prog", memories.BY_THE_KERNEL, "-g", "-O1")
    shown, error = changes(program, "./prog:level:-w-")
    assert shown == [(4, 5), (6, 6), (9, 6)]
    assert "ksym: the kernel's own writes to ./prog:level" in error


def test_numbers_in_a_pid_namespace(tmp_path: Path) -> None:
    program = build(tmp_path, "prog", numbered.THREADS, "-g", "-O1", "-pthread")
    pid, tid, rows, _ = numbered.traced(program, "pid == {pid} && tid == {tid}", nested=True)
    assert [(row["old"], row["new"], row["pid"], row["tid"]) for row in rows] == [
        (1, 11, pid, tid),
        (11, 31, pid, tid),
    ]
