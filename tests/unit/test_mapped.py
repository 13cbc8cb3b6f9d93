# SPDX-License-Identifier: BSD-2-Clause
"""Files of mappings whose names are gone, or another file's by now."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ksym.capture import mapped
from ksym.capture.mapped import Kept, find
from ksym.capture.pointers import user_pointer_names
from ksym.capture.records import CommRecord, DataRecord, ExitRecord, ForkRecord, MmapRecord
from ksym.capture.sites import Named
from ksym.capture.usernames import UserNames
from ksym.capture.users import Users
from ksym.capture.values import Values
from ksym.symbols import types
from ksym.symbols.variable import Space, Variable
from support.descriptors import leaves_open
from synthetic import perf
from synthetic.elf import Image, Sym

START = 0x7F00_0000_0000
GONE = 4_999_999
"""No process has this number."""


def library(path: Path, function: str = "work") -> MmapRecord:
    """A library whose one function is at 0x1000, and the record of a process that had it mapped."""
    image = Image(
        symbols=[Sym(function, 0x1000, 0x100, type=2)], loads=[(0, 0, 0x2000, 0x2000)], build_id=bytes(20)
    )
    path.write_bytes(image.write())
    status = path.stat()
    return MmapRecord(
        time.monotonic_ns(),
        GONE,
        START,
        0x2000,
        0,
        str(path),
        status.st_dev,
        status.st_ino,
        _generation(path),
    )


def _generation(path: Path) -> int:
    fd = os.open(path, os.O_PATH)
    try:
        return mapped._generation(fd) or 0
    finally:
        os.close(fd)


@pytest.fixture
def users() -> Users:
    return Users()


HERE = START + 0x1010
NAMED, BARE = Named("work", 0x10, 0x100, "lib.so"), Named("lib.so", 0x1010, 0, "lib.so", in_file=True)


def test_a_file_that_is_there_is_read(tmp_path: Path, users: Users) -> None:
    users.mapped(library(tmp_path / "lib.so"))
    assert users.name(GONE, HERE) == NAMED
    assert users.build_ids() == {str(tmp_path / "lib.so"): bytes(20).hex()}
    users.close()


def test_a_file_that_was_removed_since_is_read_all_the_same(tmp_path: Path, users: Users) -> None:
    record = library(tmp_path / "lib.so")
    users.mapped(record)
    (tmp_path / "lib.so").unlink()
    users.changed(ExitRecord(record.time + 1, GONE, GONE))
    assert users.name(GONE, HERE) == NAMED
    assert users.read(GONE, START, 4) == b"\x7fELF"
    users.close()


def test_a_file_is_kept_as_soon_as_it_is_told_of(tmp_path: Path, users: Users) -> None:
    """Its mapping is told twice: at once, and in order of time with all other records."""
    record = library(tmp_path / "lib.so")
    file = os.major(record.device), os.minor(record.device), record.inode, record.generation
    users.hold(perf.mmap2(record.time, GONE, START, 0x2000, 0, record.path, file=file))
    (tmp_path / "lib.so").unlink()
    users.mapped(record)
    assert users.name(GONE, HERE) == NAMED
    users.close()


def test_a_file_that_was_gone_already_gives_its_name_and_the_offset(tmp_path: Path, users: Users) -> None:
    record = library(tmp_path / "lib.so")
    (tmp_path / "lib.so").unlink()
    users.mapped(replace(record, path=record.path + " (deleted)"))
    assert users.name(GONE, HERE) == BARE
    assert str(users.name(GONE, HERE)) == "lib.so+0x1010"
    users.close()


def test_another_file_of_the_same_name_is_not_read(tmp_path: Path, users: Users) -> None:
    record = library(tmp_path / "lib.so")
    library(tmp_path / "new", "play")
    os.replace(tmp_path / "new", tmp_path / "lib.so")
    users.mapped(record)
    assert users.name(GONE, HERE) == BARE
    users.close()


@pytest.mark.parametrize("tells", [True, False], ids=["generation", "time"])
def test_an_inode_whose_number_was_given_again_is_another_file(
    tmp_path: Path, users: Users, tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by its generation, where the file system tells that; else it has changed after it was mapped."""
    record = library(tmp_path / "lib.so", "play")
    other = replace(record, generation=9) if tells else replace(record, time=record.time - 60_000_000_000)
    monkeypatch.setattr(mapped, "_generation", lambda fd: 8 if tells else None)
    users.mapped(other)
    assert users.name(GONE, HERE) == BARE
    users.close()


def test_two_files_of_one_name_are_two(tmp_path: Path, users: Users) -> None:
    first = library(tmp_path / "lib.so")
    users.mapped(first)
    library(tmp_path / "new", "play")
    os.replace(tmp_path / "new", tmp_path / "lib.so")
    second = replace(library(tmp_path / "x"), path=str(tmp_path / "lib.so"), start=START + 0x10000)
    status = (tmp_path / "lib.so").stat()
    users.mapped(replace(second, inode=status.st_ino, generation=_generation(tmp_path / "lib.so")))
    assert users.name(GONE, HERE) == NAMED
    assert users.name(GONE, HERE + 0x10000) == replace(NAMED, function="play")
    users.close()


def test_anonymous_code_has_its_address(users: Users) -> None:
    users.mapped(MmapRecord(1, GONE, START, 0x1000, 0, "//anon"))
    assert users.name(GONE, START + 8) == Named(None, START + 8)


def test_what_is_mapped_is_found_by_its_process(tmp_path: Path) -> None:
    """This process has it open under a link of /proc; its name is gone."""
    memory = os.memfd_create("made")
    os.write(memory, Image().write())
    status = os.fstat(memory)
    record = MmapRecord(
        1, os.getpid(), START, 0x1000, 0, "/memfd:made (deleted)", status.st_dev, status.st_ino
    )
    assert find(record) is None  # it is open, but not mapped at START
    os.close(memory)


@pytest.mark.parametrize("matches", [True, False])
def test_a_build_id_tells_the_file_where_there_is_no_inode(tmp_path: Path, matches: bool) -> None:
    record = replace(library(tmp_path / "lib.so"), device=0, inode=0, generation=0)
    fd = find(replace(record, build_id=bytes(20).hex() if matches else "12"))
    assert (fd is not None) == matches
    if fd is not None:
        os.close(fd)


def test_but_so_many_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "_MOST_KEPT", 3)
    with leaves_open():
        kept = Kept()
        records = [library(tmp_path / f"lib{number}.so") for number in range(5)]
        with leaves_open(3):
            for record in records:
                kept.keep(record)
                kept.keep(record)
        for path in tmp_path.iterdir():
            path.unlink()
        taken = [kept.take(record) for record in records]
        assert [fd is None for fd in taken] == [True, True, False, False, False]
        for fd in taken:
            if fd is not None:
                os.close(fd)
        kept.close()


def test_a_child_has_the_code_that_its_parent_had_when_it_forked(tmp_path: Path, users: Users) -> None:
    """Also once the parent runs another program, of which code lies at the same addresses."""
    first, second = library(tmp_path / "lib.so"), library(tmp_path / "other.so")
    parent, child, grandchild = GONE, GONE + 1, GONE + 2
    assert first.start == second.start
    users.mapped(first)
    users.changed(ForkRecord(2, child, child, parent, parent))
    users.changed(CommRecord(3, parent, parent, "other", True))
    users.mapped(second)
    users.changed(ForkRecord(4, grandchild, grandchild, child, child))
    for pid, file in ((parent, "other.so"), (child, "lib.so"), (grandchild, "lib.so")):
        assert users.name(pid, HERE) == replace(NAMED, owner=file)
    users.close()


def test_a_child_has_what_its_parent_had_from_the_start() -> None:
    """What was mapped before anybody told of it is read while the parent runs it."""
    me, child = os.getpid(), GONE + 1
    address = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p).value or 0
    known = Users(me)
    known.changed(ForkRecord(2, child, child, me, me))
    expected = known.name(me, address)
    assert (expected.owner or "").startswith("libc")
    known.changed(CommRecord(3, me, me, "other", True))
    assert known.name(child, address) == expected
    known.close()


def test_of_a_long_line_of_forks_not_all_are_asked(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(UserNames, "name", lambda names, ip: asked.append(names.pid))
    for pid in range(GONE, GONE + 500):
        users.changed(ForkRecord(pid, pid + 1, pid + 1, pid, pid))
    assert users.name(GONE + 500, HERE) == Named(None, HERE)
    assert asked == [GONE + 500 - age for age in range(65)]
    users.close()


def test_a_long_line_of_forks_takes_no_more_than_a_short_one(tmp_path: Path, users: Users) -> None:
    """Neither time nor memory: each process maps something, and is forked from the one before."""
    record = library(tmp_path / "lib.so")
    for pid in range(GONE, GONE + 20_000):
        users.mapped(replace(record, pid=pid, start=START + 0x10000 * (pid - GONE)))
        users.changed(ForkRecord(pid, pid + 1, pid + 1, pid, pid))
    last = GONE + 20_000
    near, far = HERE + 0x10000 * 19_990, HERE
    assert (users.name(last, near), users.name(last, far)) == (NAMED, Named(None, HERE))
    assert users.name(GONE, far) == NAMED
    users.close()


# -- what a process has by now is not what it had -------------------------------------------------------


def own_function() -> int:
    """Where the C library's getppid is in this process."""
    address = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p).value
    assert address is not None
    return address


def test_a_child_is_not_asked_that_runs_another_program_by_now() -> None:
    me, address = os.getpid(), own_function()
    known = Users(me)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        known.changed(ForkRecord(2, child.pid, child.pid, me, me))
        assert known.name(child.pid, address) == known.name(me, address)
        assert known.name(child.pid, address).owner
        assert known.read(child.pid, address, 8) == known.read(me, address, 8)
    known.close()


def test_code_that_came_to_the_place_of_a_library_has_an_address() -> None:
    me, address = os.getpid(), own_function()
    known = Users(me)
    assert known.name(me, address).owner
    known.mapped(MmapRecord(2, me, address & -4096, 4096, 0, "//anon"))
    assert known.name(me, address) == Named(None, address)
    known.close()


def test_code_is_read_from_its_file_though_other_memory_is_there_by_now(tmp_path: Path) -> None:
    me = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library(tmp_path / "lib.so")
    with open(tmp_path / "lib.so", "rb") as file:
        size = len(file.read()) + 4095 & -4096
        start = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, file.fileno(), 0)
    known = Users(me)
    before = known.read(me, start, 4)
    libc.mmap(start, size, mmap.PROT_READ, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10, -1, 0)  # MAP_FIXED
    assert before == b"\x7fELF" == known.read(me, start, 4)
    assert ctypes.string_at(start, 4) == bytes(4)
    libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(size))
    known.close()


@pytest.mark.parametrize(
    ("start", "length", "path", "gone"),
    [
        (START, 0x1000, "//anon", True),
        (START + 0x1000, 0x1000, "//anon", True),
        (START - 0x8000, 0x20000, "/other.so", True),
        (START + 0x2000, 0x1000, "//anon", False),
        (START + 0x1000, 0x1000, "lib.so", False),
    ],
    ids=["its beginning", "its code", "all of it", "its .bss", "its own file"],
)
def test_a_pointer_has_no_name_of_a_library_that_is_gone(
    tmp_path: Path, users: Users, start: int, length: int, path: str, gone: bool
) -> None:
    users.mapped(library(tmp_path / "lib.so"))
    variable = Variable(
        "p", 0x1000, 8, Space.USER, types.Pointer("void *", 8, lambda: types.Integer("char", 1, True))
    )
    values = Values(variable, user_pointer_names(lambda: users.loaded(GONE), lambda address: None))
    pointer = HERE.to_bytes(8, "little")
    assert values.of(pointer).text == "work+0x10 [lib.so]"
    path = str(tmp_path / path) if path == "lib.so" else path
    if users.mapped(DataRecord(2, GONE, start, length, 0, path)):
        values.forget()
    assert values.of(pointer).text == (f"{HERE:#x}" if gone else "work+0x10 [lib.so]")
    users.close()
