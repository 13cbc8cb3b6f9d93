# SPDX-License-Identifier: BSD-2-Clause
"""Whether what is watched is still what it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from ksym.language.parser import parse_request
from ksym.linux.maps import Mapping
from ksym.symbols.variable import Space, Variable
from ksym.watch import presence
from ksym.watch.plan import make_plan
from ksym.watch.presence import Presence, hold_at, presence_checks


@pytest.fixture
def look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Presence:
    """Over a variable of module ``some``, which is loaded."""
    monkeypatch.setattr(presence, "_MODULES", str(tmp_path))
    (tmp_path / "some").mkdir()
    request = parse_request("some:name")
    variable = Variable("some:name", 0xFFFFFFFFC0000000, 4, Space.KERNEL, module="some")
    return Presence(presence_checks(make_plan([(request, variable)], twin=False)))


GONE = [(0, "some:name is not watched any more: module some was unloaded")]


def test_a_module_that_stays(look: Presence) -> None:
    assert look.look() == look.look() == []


def test_a_module_that_goes_is_told_once(look: Presence, tmp_path: Path) -> None:
    (tmp_path / "some").rmdir()
    assert look.look() == GONE
    assert look.look() == []


def test_a_module_that_has_come_back_is_another_one(look: Presence, tmp_path: Path) -> None:
    """Between two looks, to another address."""
    (tmp_path / "again").mkdir()  # first, so that the file system has another number for it, as sysfs has
    (tmp_path / "some").rmdir()
    (tmp_path / "again").rename(tmp_path / "some")
    assert look.look() == GONE


def library(at: int, *, tail: int = 0x4000) -> list[Mapping]:
    """The mappings of a library of five pages; the last one is written."""
    code = Mapping(at, at + tail, "r-xp", 0, 8, 42, "/lib/lib.so")
    return [code, Mapping(at + tail, at + tail + 0x1000, "rw-p", tail, 8, 42, "/lib/lib.so")]


def test_another_copy_that_reaches_to_the_old_start_is_not_the_same() -> None:
    hold = hold_at(library(0x7F0000004000), 0x7F0000008010)
    assert hold is not None
    assert hold.start == 0x7F0000004000
    assert hold.there(library(0x7F0000004000))
    assert hold.there(library(0x7F0000004000, tail=0x3000))
    assert not hold.there(library(0x7F0000000000))
