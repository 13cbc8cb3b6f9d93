# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import random
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ksym.symbols.nearest import nearest, suggestion

NAMES = [
    "pid_max",
    "pid_max_min",
    "jiffies",
    "jiffies_64",
    "total_forks",
    "nr_threads",
    "panic_on_stall",
    "HZ",
]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("pid_maxx", "pid_max"),
        ("pid_mxa", "pid_max"),
        ("pidmax", "pid_max"),
        ("jifies", "jiffies"),
        ("panic_on_stal", "panic_on_stall"),
        ("nr_thread", "nr_threads"),
        ("PID_MAX", "pid_max"),
        ("forks", "total_forks"),
        ("hz", "HZ"),
    ],
)
def test_typing_errors_find_what_was_meant(typed: str, meant: str) -> None:
    assert nearest(typed, NAMES)[0] == meant


def test_nothing_near_is_nothing() -> None:
    assert nearest("zzzzzz", NAMES) == []
    assert nearest("", NAMES) == []
    assert nearest("pid_max", []) == []
    assert suggestion("zzzzzz", NAMES) == ""


def test_at_most_n_and_each_once() -> None:
    assert nearest("name_", ["name_a", "name_b", "name_b", "name_c", "name_d"], 2) == ["name_a", "name_b"]
    assert len(nearest("name_", [f"name_{each}" for each in "abcdef"])) == 3


def test_suggestion_is_worded() -> None:
    assert suggestion("pid_maxx", ["pid_max"]) == "did you mean pid_max?"
    assert suggestion("pid_ma", ["pid_max", "pid_mab"]) == "did you mean pid_mab or pid_max?"
    assert suggestion("name_", ["name_a", "name_b", "name_c"]) == "did you mean name_a, name_b or name_c?"


@given(st.text("abcdef_", min_size=6, max_size=20), st.integers(0, 100), st.sampled_from("xyz"))
@example("______", 2, "x")  # its longest common piece is found first where it does not belong
@example("abababab", 3, "x")
def test_one_wrong_letter_is_always_found(name: str, at: int, letter: str) -> None:
    at %= len(name)
    assert nearest(name[:at] + letter + name[at + 1 :], [name]) == [name]
    assert nearest(name[:at] + name[at + 1 :], [name]) == [name]


def test_two_hundred_thousand_names_take_no_noticeable_time() -> None:
    choose = random.Random(1)
    parts = [
        "tcp",
        "init",
        "do",
        "sys",
        "sched",
        "pid",
        "max",
        "lock",
        "mm",
        "page",
        "net",
        "dev",
        "info",
        "table",
    ]
    pool = [
        "_".join(choose.choices(parts, k=choose.randint(2, 5))) + str(number) for number in range(200_000)
    ]
    start = time.process_time()
    found = nearest("sched_pid_maxx", [*pool, "sched_pid_max"])
    # 40 ms on the machine it was written on; the bound leaves room for slow and busy ones.
    assert time.process_time() - start < 1
    assert found[0] == "sched_pid_max"
