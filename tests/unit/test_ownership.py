# SPDX-License-Identifier: BSD-2-Clause
"""Whose memory lies at the addresses of user variables."""

from __future__ import annotations

import os

import pytest

from ksym.capture import ownership
from ksym.capture.ownership import Ownership
from ksym.capture.records import CommRecord, DataRecord, ExitRecord, ForkRecord
from ksym.linux.maps import parse_maps
from ksym.watch.presence import Hold, hold_at

DEVICE = os.makedev(8, 1)
LIBRARY = Hold(0x7F00_3010, 0x7F00_0000, (DEVICE, 42, "/lib/libx.so"), shared=False)
"""A variable in the fourth page of a library."""


def mapped(start: int, length: int, inode: int = 0, path: str = "//anon", pid: int = 7) -> DataRecord:
    return DataRecord(1, pid, start, length, 0, path, DEVICE if inode else 0, inode)


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Ownership:
    """Of one place, number 3; no process has the library in its memory now."""
    monkeypatch.setattr(ownership, "maps_of", lambda pid: [])
    return Ownership(lambda: {3: {0: LIBRARY}})


@pytest.mark.parametrize(
    ("record", "changed"),
    [
        (mapped(0x7F00_3000, 0x1000), [3]),
        (mapped(0x7EFF_0000, 0x2_0000), [3]),
        (mapped(0x7F00_3000, 0x1000, 43, "/lib/liby.so"), [3]),
        (mapped(0x7F00_4000, 0x1000), []),
        (mapped(0x7F00_3000, 0x1000, 42, "/lib/libx.so"), []),  # its protection was changed
        (mapped(0x7F00_0000, 0x5000, 42, "/lib/libx.so"), []),
    ],
)
def test_what_is_mapped_over_a_variable(owner: Ownership, record: DataRecord, changed: list[int]) -> None:
    assert owner.mapped(record) == changed
    assert owner.foreign(3, 7) == owner.any_foreign(3) == bool(changed)
    assert not owner.foreign(3, 8)


def test_what_a_program_maps_over_its_own_variable_is_the_variable(
    owner: Ownership, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is zeroed data that is reported again."""
    still = parse_maps(b"7f000000-7f003000 r-xp 00000000 08:01 42    /lib/libx.so\n")
    monkeypatch.setattr(ownership, "maps_of", lambda pid: still)
    assert owner.mapped(mapped(0x7F00_3000, 0x8000)) == []
    assert owner.mapped(mapped(0x7F00_3000, 0x1000, 77, "/dev/shm/board")) == []
    # Where it lies over the library's first page, the library cannot have been there any more.
    assert owner.mapped(mapped(0x7F00_0000, 0x8000)) == [3]


def test_a_program_is_not_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its process is still there to be asked, or not."""
    monkeypatch.setattr(ownership, "maps_of", lambda pid: [])
    owner = Ownership(lambda: {3: {0: LIBRARY._replace(program=True)}})
    assert owner.mapped(mapped(0x7F00_3000, 0x1000, 77, "/dev/shm/board")) == []
    assert owner.mapped(mapped(0x7F00_0000, 0x8000)) == [3]


def test_the_file_mapped_anew_is_the_variable_again(owner: Ownership) -> None:
    owner.mapped(mapped(0x7F00_3000, 0x1000))
    assert owner.mapped(mapped(0x7F00_0000, 0x5000, 42, "/lib/libx.so")) == [3]
    assert not owner.foreign(3, 7)


def test_a_child_inherits_other_memory_until_it_runs_another_program(owner: Ownership) -> None:
    owner.mapped(mapped(0x7F00_3000, 0x1000))
    assert owner.changed(ForkRecord(2, 7, 71, 7, 7)) == []  # a thread
    assert owner.changed(ForkRecord(2, 9, 9, 7, 7)) == [3]
    assert owner.foreign(3, 9)
    owner.changed(CommRecord(3, 9, 9, "x", exec=False))
    assert owner.foreign(3, 9)
    owner.changed(CommRecord(3, 9, 9, "x", exec=True))
    assert not owner.foreign(3, 9)
    owner.changed(ExitRecord(4, 7, 7))
    assert not owner.any_foreign(3)


MAPS = b"""\
00400000-00401000 r--p 00000000 08:01 9    /bin/prog
00401000-00402000 r-xp 00001000 08:01 9    /bin/prog
00402000-00403000 rw-p 00002000 08:01 9    /bin/prog
00403000-00409000 rw-p 00000000 00:00 0
01000000-01021000 rw-p 00000000 00:00 0    [heap]
7f000000-7f001000 rw-s 00000000 00:01 77   /dev/zero (deleted)
7f100000-7f101000 rw-p 00000000 00:00 0
"""


@pytest.mark.parametrize(
    ("address", "start", "inode", "shared"),
    [
        (0x402010, 0x400000, 9, False),
        (0x408010, 0x400000, 9, False),  # zeroed data
        (0x1000010, 0x1000010, 0, False),
        (0x7F000010, 0x7F000010, 77, True),
        (0x7F100010, 0x7F100010, 0, False),
    ],
)
def test_what_holds_a_variable(address: int, start: int, inode: int, shared: bool) -> None:
    hold = hold_at(parse_maps(MAPS), address)
    assert hold is not None
    assert (hold.start, hold.key[1], hold.shared) == (start, inode, shared)
    assert hold.there(parse_maps(MAPS))
    assert not hold.there(parse_maps(b""))


def test_nothing_holds_what_is_not_mapped() -> None:
    assert hold_at(parse_maps(MAPS), 0x5000) is None
