# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.errors import KsymError
from ksym.linux.maps import parse_maps, read_maps

TEXT = b"""\
55d0c6a00000-55d0c6a02000 r--p 00000000 fe:01 1234                       /usr/bin/my prog
55d0c6a02000-55d0c6a03000 r-xp 00002000 fe:01 1234                       /usr/bin/my prog (deleted)
55d0c6b00000-55d0c6b01000 rw-p 00000000 00:00 0
7f0000000000-7f0000001000 rw-s 00000000 00:01 99                         /odd\\012name
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
7ffc00100000-7ffc00102000 r-xp 00000000 00:00 0                          [vdso]
7ffc00200000-7ffc00202000 r-xp 00000000 00:00 0                          /memfd:x (deleted) (deleted)
"""


def test_lines_of_every_kind() -> None:
    maps = parse_maps(TEXT)
    assert [m.path for m in maps] == [
        "/usr/bin/my prog",
        "/usr/bin/my prog",
        "",
        "/odd\nname",
        "[stack]",
        "[vdso]",
        "/memfd:x (deleted)",
    ]
    assert [m.deleted for m in maps] == [False, True, False, False, False, False, True]
    assert [m.is_file for m in maps] == [True, True, False, True, False, False, False]
    assert maps[1].offset == 0x2000
    assert maps[1].executable
    assert maps[1].inode == 1234
    assert os.major(maps[1].device) == 0xFE
    assert maps[1].basename == "my prog"
    assert 0x55D0C6A02FFF in maps[1]
    assert 0x55D0C6A03000 not in maps[1]
    assert maps[0].file_key == maps[1].file_key


@given(st.binary())
def test_nonsense_is_passed_over(text: bytes) -> None:
    assert all(m.path is not None for m in parse_maps(text))


def test_own_process(tmp_path: Path) -> None:
    path = tmp_path / "a b\nc (deleted)"
    path.write_bytes(bytes(4096))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_READ) as held:
        assert held[0] == 0
        mapping = next(m for m in read_maps(os.getpid()) if m.inode == path.stat().st_ino)
        # the name really ends so: the kernel leaves nothing to tell it from a removed file
        assert mapping.path + " (deleted)" == str(path)
        path.unlink()
        mapping = next(m for m in read_maps(os.getpid()) if m.start == mapping.start)
        assert (mapping.path, mapping.deleted) == (str(path), True)


def test_own_data_is_mapped() -> None:
    value = ctypes.c_int(7)
    address = ctypes.addressof(value)
    assert [m.perms for m in read_maps(os.getpid()) if address in m] == ["rw-p"]


def test_no_such_process() -> None:
    with pytest.raises(KsymError, match="no such process"):
        read_maps(2**22 + 1)
