# SPDX-License-Identifier: BSD-2-Clause
"""Copies of a library's variable that come while another one is watched."""

from __future__ import annotations

import pytest

from ksym.capture.further import further_copies
from ksym.capture.usernames import Loaded
from ksym.language.parser import parse_request
from ksym.symbols.elf import ElfFile
from ksym.symbols.variable import Instance, Space, Variable
from ksym.watch.plan import Watch, make_plan
from synthetic.elf import Image


def loaded(path: str, bias: int) -> Loaded:
    return Loaded(bias, bias + 0x4000, bias, (ElfFile("x", data=Image().write(), label=path),), None)


def watches(instance: Instance | None) -> tuple[Watch, ...]:
    variable = Variable("./l.so:v", 0x5_2010, 4, Space.USER, instance=instance)
    return make_plan([(parse_request("./l.so:v"), variable)]).watches


MINE = Instance("/l.so", 0x2010, frozenset({0x5_0000}))
FIRST, SECOND, OTHER = loaded("/l.so", 0x5_0000), loaded("/l.so", 0x9_0000), loaded("/other.so", 0x20_0000)


@pytest.mark.parametrize(
    ("instance", "seen", "watched", "told"),
    [
        (MINE, [FIRST, OTHER], {0x5_2010}, []),
        (
            MINE,
            [FIRST, SECOND],
            {0x5_2010},
            ["l.so was loaded again: its copy of ./l.so:v at 0x92010 was not watched"],
        ),
        (MINE, [FIRST, SECOND], {0x5_2010, 0x9_2010}, []),
        (None, [FIRST, SECOND], {0x5_2010}, []),
    ],
    ids=["once", "twice", "both watched", "elsewhere by a pointer"],
)
def test_what_was_loaded_again(
    instance: Instance | None, seen: list[Loaded], watched: set[int], told: list[str]
) -> None:
    assert further_copies(watches(instance), watched, seen) == told
