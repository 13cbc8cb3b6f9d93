# SPDX-License-Identifier: BSD-2-Clause
"""Files of /proc and /sys: what is read ahead is what would have been read, or it is read again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.__main__ import _needs_no_symbols
from ksym.linux import files
from ksym.linux.files import drop_ahead, read_ahead, read_bytes, read_text
from support.descriptors import leaves_open

LONG = bytes(range(256)) * 20_000
"""More than a piece."""


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is left open."""
    drop_ahead()  # of other tests' command lines
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    with leaves_open():
        yield
        assert files._ahead == {}


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
    read_ahead(str(path))
    reader = reader_of(path)
    read_ahead(str(path))  # once is enough
    assert reader_of(path) == reader
    ended(reader)
    path.write_bytes(b"new")
    assert read_bytes(path) == LONG
    assert read_text(path) == "new"
    with pytest.raises(ChildProcessError):
        os.waitpid(reader, os.WNOHANG)


def test_other_files_are_read_as_ever(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"other")
    read_ahead(str(path))
    assert read_bytes(other) == b"other"
    assert read_bytes(path) == LONG


@pytest.mark.parametrize(
    "how",
    ["not waited for", "short", "without memory", "without memfd_create", "without processes", "one CPU"],
)
def test_what_could_not_be_read_ahead_is_read(path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def refused(*_: object) -> int:
        raise OSError(11, "Resource temporarily unavailable")

    def short(fd: int, data: bytes) -> int:
        return write(fd, data[:-1])

    write = os.write
    if how == "short":
        monkeypatch.setattr(os, "write", short)
    if how == "without memfd_create":
        monkeypatch.delattr(os, "memfd_create")
    if how == "without memory":
        monkeypatch.setattr(os, "memfd_create", refused)
    if how == "without processes":
        monkeypatch.setattr(os, "fork", refused)
    if how == "one CPU":
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    read_ahead(str(path))
    assert (str(path) in files._ahead) == (how in ("not waited for", "short"))
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


def test_a_reader_that_nobody_asked_is_gone_before_anything_is_armed(tmp_path: Path) -> None:
    running, over, reaped = (tmp_path / name for name in ("fifo", "over", "reaped"))
    os.mkfifo(running)
    readers = []
    for path in (running, over, reaped):
        read_ahead(str(path))
        readers.append(reader_of(path))
    ended(readers[1])
    os.waitpid(readers[2], 0)
    drop_ahead()
    for reader in readers:
        with pytest.raises(ChildProcessError):
            os.waitpid(reader, os.WNOHANG)


def test_a_file_that_is_not_there_is_an_error_of_the_reading_alone(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    read_ahead(str(missing))
    with pytest.raises(FileNotFoundError):
        read_bytes(missing)


@pytest.mark.parametrize(
    ("word", "needs_none"),
    [
        ("pid_max:rw-", False),
        ("*(int *)0xffff/8", False),
        ("task(1).comm", False),
        ("rows.json", False),
        ("./prog:counter:-w-", True),
        ("-p", True),
        ("--pid=12", True),
        ("0xffffffff81000000/8:-w-", True),
        ("--help", True),
    ],
)
def test_kernel_symbols_are_read_ahead_for_what_looks_like_one(word: str, needs_none: bool) -> None:
    assert _needs_no_symbols(word) is needs_none
