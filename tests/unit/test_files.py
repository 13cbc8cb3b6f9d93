# SPDX-License-Identifier: BSD-2-Clause
"""Files of /proc and /sys: what is read ahead is what would have been read, or it is read again."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ksym.__main__ import _of_a_process
from ksym.linux import files
from ksym.linux.files import read_ahead, read_bytes, read_text

LONG = bytes(range(256)) * 20_000
"""More than a piece."""


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(LONG)
    return path


def reader_of(path: Path) -> int:
    return files._ahead[str(path)][0]


def ended(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_the_first_reading_gets_what_was_read_ahead_and_the_next_what_is_there(path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    read_ahead(str(path))
    ended(reader_of(path))
    path.write_bytes(b"new")
    assert read_bytes(path) == LONG
    assert read_text(path) == "new"
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_other_files_are_read_as_ever(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"other")
    read_ahead(str(path))
    assert read_bytes(other) == b"other"
    assert read_bytes(path) == LONG


@pytest.mark.parametrize("how", ["not waited for", "without memory", "without processes", "one CPU"])
def test_what_could_not_be_read_ahead_is_read(path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def refused(*_: object) -> int:
        raise OSError(11, "Resource temporarily unavailable")

    if how == "without memory":
        monkeypatch.setattr(os, "memfd_create", refused)
    if how == "without processes":
        monkeypatch.setattr(os, "fork", refused)
    if how == "one CPU":
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    read_ahead(str(path))
    assert (str(path) in files._ahead) == (how == "not waited for")
    if how == "not waited for":
        os.waitpid(reader_of(path), 0)  # as if SIGCHLD were ignored
    assert read_bytes(path) == LONG


def test_what_a_killed_reader_has_not_read_is_read(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)  # nobody writes: the reader waits for ever
    read_ahead(str(path))
    os.kill(reader_of(path), signal.SIGKILL)
    path.unlink()
    path.write_bytes(LONG)
    assert read_bytes(path) == LONG


def test_a_file_that_is_not_there_is_an_error_of_the_reading_alone(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    read_ahead(str(missing))
    with pytest.raises(FileNotFoundError):
        read_bytes(missing)


@pytest.mark.parametrize(
    ("word", "of_a_process"),
    [
        ("pid_max:rw-", False),
        ("*(int *)0xffff/8", False),
        ("task(1).comm", False),
        ("rows.json", False),
        ("./prog:counter:-w-", True),
        ("-p", True),
        ("--pid=12", True),
    ],
)
def test_kernel_symbols_are_read_ahead_for_what_looks_like_one(word: str, of_a_process: bool) -> None:
    assert _of_a_process(word) is of_a_process
