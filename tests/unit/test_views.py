# SPDX-License-Identifier: BSD-2-Clause
"""Rows and summaries of accesses that are made up."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.capture.access import Access
from ksym.capture.instructions import Instruction
from ksym.capture.sites import Named, Site
from ksym.capture.values import Value
from ksym.language.parser import parse_request
from ksym.symbols.variable import Space, Variable
from ksym.views.delimited import defused
from ksym.views.fields import NAMES
from ksym.views.rows import FORMATS, rows_for
from ksym.views.summary import Tally
from ksym.views.text import printable
from ksym.watch.plan import make_plan

PLAN = make_plan([(parse_request("pid_max"), Variable("pid_max", 0xFFFFFFFF82C0FFE8, 8, Space.KERNEL))])
INSTRUCTION = Instruction(0xFFFFFFFF8110BEED, "mov [rdx],eax", frozenset({"W"}), 4)
SITE = Site(0xFFFFFFFF8110BEEF, INSTRUCTION.address, Named("do_conv", 0x5B, 0x80), INSTRUCTION, 4)
ACCESS = Access(10**9, 1, 4711, 4712, "sysctl", PLAN.watches[0], 0xFFFFFFFF82C0FFE8, "W", SITE)
FEW, MANY = Value("32768", 32768, "32768"), Value("65536", 65536, "65536")
NOWHERE = Site(0x401000, 0x401000, Named(None, 0x401000), None, 0)


def row(name: str, access: Access) -> str:
    return rows_for(name, PLAN.watches).row(access)


@pytest.mark.parametrize(
    ("access", "expected"),
    [
        (ACCESS, "     sysctl-4712  [001] pid_max+0x0/0x8 W  do_conv+0x5b/0x80\n"),
        (
            replace(ACCESS, access="RW", tid=5),
            "     sysctl-5     [001] pid_max+0x0/0x8 RW do_conv+0x5b/0x80\n",
        ),
        (
            replace(
                ACCESS, comm="a-long-name-of-15", tid=1234567, cpu=123, access="R", address=ACCESS.address + 4
            ),
            "a-long-name-of-15-1234567 [123] pid_max+0x4/0x8 R  do_conv+0x5b/0x80\n",
        ),
        (
            replace(ACCESS, site=replace(SITE, named=Named("f", 1, 2, "ext4")), access="X"),
            "     sysctl-4712  [001] pid_max+0x0/0x8 X  f+0x1/0x2 [ext4]\n",
        ),
        (replace(ACCESS, site=NOWHERE, access="?"), "     sysctl-4712  [001] pid_max+0x0/0x8 ?  0x401000\n"),
    ],
)
def test_the_format_of_2_6_35(access: Access, expected: str) -> None:
    assert row("ksym", access) == expected


def test_the_header_of_2_6_35() -> None:
    assert rows_for("ksym", PLAN.watches).header() == (
        "#       TASK-PID   CPU#      Symbol                    Type    Function\n"
        "#          |        |          |                        |         |\n"
    )


def test_json_has_the_contracts_keys_in_order() -> None:
    access = replace(ACCESS, hits=8, stack=(Named("f", 1), Named("g", 2, 0, "mod")), old=FEW, new=MANY)
    found = json.loads(row("json", access))
    contract = "time_ns cpu pid tid comm symbol address length access old new ip function offset instruction hits stack"
    assert list(found)[:17] == contract.split()
    assert list(found) == list(NAMES)
    assert {name: found[name] for name in ("cpu", "pid", "tid", "comm", "symbol", "address", "length", "access")} == {
        "cpu": 1, "pid": 4711, "tid": 4712, "comm": "sysctl", "symbol": "pid_max", "address": "0xffffffff82c0ffe8",
        "length": 8, "access": "W",
    }  # fmt: skip
    assert (found["old"], found["new"]) == (32768, 65536)
    assert (found["ip"], found["function"], found["offset"]) == ("0xffffffff8110beef", "do_conv", 91)
    assert (found["instruction"], found["hits"]) == ("mov [rdx],eax", 8)
    assert found["stack"] == ["f+0x1", "g+0x2 [mod]"]


def test_what_is_not_known_is_null() -> None:
    found = json.loads(row("json", replace(ACCESS, site=NOWHERE)))
    for name in ("old", "new", "function", "offset", "instruction", "stack", "instruction_address"):
        assert found[name] is None
    assert found["ip"] == "0x401000"


def test_csv_is_read_back() -> None:
    rows = rows_for("csv", PLAN.watches)
    awkward = replace(ACCESS, comm='a,"b\n', stack=(Named("f", 1), Named("g", 2)))
    (found,) = csv.DictReader(io.StringIO(rows.header() + rows.row(awkward)))
    assert found["comm"] == 'a,"b\\n'
    assert (found["instruction"], found["stack"], found["old"]) == ("mov [rdx],eax", "f+0x1;g+0x2", "")


FORMULAS = [
    "=cmd|'/c calc'!A0",
    "@SUM(1)",
    "+1+cmd",
    "-2+3",
    "-",
    "\t=1",
    "\r=1",
    "\uff1d1",
    "--5",
    "-0x10",
    "=1.5",
]
NUMBERS = ["-17", "+17", "-1.5", "-2.5e-07", "-inf", "0", "17"]


@pytest.mark.parametrize("text", FORMULAS)
def test_csv_has_no_formula_for_a_spreadsheet_unless_it_is_asked_for_as_it_is(text: str) -> None:
    """Whatever text comes from a program: names of tasks, of code and its files, and values."""
    value = Value(text, text, json.dumps(text))
    site = replace(SITE, named=Named(text, 1, 2, text))
    access = replace(
        ACCESS, comm=text, site=site, old=value, new=value, stack=(Named(text, 1), Named(text, 2))
    )
    found = {}
    for raw in (False, True):
        rows = rows_for("csv", PLAN.watches, raw=raw)
        (found[raw],) = csv.DictReader(io.StringIO(rows.header() + rows.row(access)))
    for name in ("comm", "function", "module", "old", "new"):
        assert found[True][name] == printable(text)
        assert found[False][name] == printable("'" + text)
    assert found[True]["stack"] == printable(f"{text}+0x1;{text}+0x2")
    assert found[False]["stack"] == printable(f"'{text}+0x1;'{text}+0x2")


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_in_csv_stay_numbers(text: str) -> None:
    rows = rows_for("csv", PLAN.watches)
    value = Value(text, float(text), json.dumps(float(text)))
    access = replace(ACCESS, comm=text, old=value, new=Value("-5", -5, "-5"))
    (found,) = csv.DictReader(io.StringIO(rows.header() + rows.row(access)))
    assert (found["comm"], found["old"], found["new"]) == (text, text, "-5")


@given(st.text(max_size=12))
def test_no_text_is_a_formula_in_csv_and_each_is_found_again(text: str) -> None:
    shown = defused(text)
    for cell in shown.split(";"):
        number = cell and not math.isnan(_number(cell))
        assert cell[:1] not in set("=+-@\t\r\n") or (number and shown == text)
    assert re.sub("(^|;)'(?=[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20])", r"\1", shown) in (text, shown)


def _number(text: str) -> float:
    try:
        return float(text.replace("nan", "0"))
    except ValueError:
        return math.nan


def test_columns_of_the_table() -> None:
    rows = rows_for("table", PLAN.watches, verbose=True)
    header, text = rows.header(), rows.row(replace(ACCESS, hits=3, stack=(Named("f", 1),)))
    first, second = text.splitlines()
    assert re.match(r"\d\d:\d\d:\d\d\.\d{4} sysctl-4712 +001  pid_max ", first)
    assert first.endswith("do_conv+0x5b  {mov [rdx],eax}  (3 hits)")
    for name, word in (("SYMBOL", "pid_max"), ("TYPE", "W "), ("FUNCTION", "do_conv"), ("OLD -> NEW", "- ")):
        assert first.index(word, header.index(name)) == header.index(name)
    assert second.strip() == "f+0x1"


def test_a_row_says_what_its_access_was_and_a_task_column_that_grew_stays_wide() -> None:
    rows = rows_for("table", PLAN.watches)
    accesses = [
        ACCESS,
        replace(ACCESS, comm="a-very-long-name", tid=4_000_000),
        ACCESS,
        replace(ACCESS, cpu=2),
        replace(ACCESS, tid=7),
        replace(ACCESS, access="R"),
        replace(ACCESS, time_ns=ACCESS.time_ns + 99_999),
        replace(ACCESS, time_ns=ACCESS.time_ns + 250_000_000),
        replace(ACCESS, time_ns=ACCESS.time_ns + 3_600 * 10**9),
    ]
    texts = [rows.row(access) for access in accesses]
    words = [text.split() for text in texts]
    tasks = [
        "sysctl-4712",
        "a-very-long-name-4000000",
        "sysctl-4712",
        "sysctl-4712",
        "sysctl-7",
        *["sysctl-4712"] * 4,
    ]
    assert [row[1:5] for row in words] == [
        [task, f"{access.cpu:03d}", "pid_max", access.access]
        for task, access in zip(tasks, accesses, strict=True)
    ]
    assert {text.index(" 00") for text in texts[1:]} == {texts[1].index(" 00")}
    first, tick, quarter, hour = (row[0] for row in (words[0], *words[-3:]))
    assert first[3:] == hour[3:]
    assert first[:2] != hour[:2]
    decimals = int(first[-4:])
    assert (int(tick[-4:]) - decimals) % 10_000 <= 1
    assert (int(quarter[-4:]) - decimals) % 10_000 == 2500


@pytest.mark.parametrize(
    ("access", "old", "new", "shown"),
    [
        ("W", FEW, MANY, "32768 -> 65536"),
        ("W", FEW, FEW, "32768 -> 32768"),
        ("RW", FEW, FEW, "32768 -> 32768"),
        ("R", FEW, FEW, "32768"),
        ("R", FEW, Value("32768", 32768, "32768"), "32768"),
        ("R", FEW, MANY, "32768 -> 65536"),  # somebody wrote it unseen
        ("?", FEW, FEW, "32768"),
        ("W", None, MANY, "? -> 65536"),
        ("R", None, MANY, "? -> 65536"),
        ("W", FEW, None, "32768 -> ?"),
        ("W", None, None, "-"),
        ("X", FEW, FEW, "-"),
    ],
)
def test_values_in_the_table(access: str, old: Value | None, new: Value | None, shown: str) -> None:
    rows = rows_for("table", PLAN.watches)
    column = rows.header().index("OLD -> NEW")
    text = rows.row(replace(ACCESS, access=access, old=old, new=new))
    assert text[column:] == f"{shown:<21}do_conv+0x5b\n"


@pytest.mark.parametrize("length", [1, 5, 6, 7, 19, 20, 57, 60, 61, 600])
def test_long_values_in_the_table(length: int) -> None:
    rows = rows_for("table", PLAN.watches)
    column = rows.header().index("OLD -> NEW")
    long = Value("x" * length, "x" * length, f'"{"x" * length}"')
    part = "x" * length if length <= 60 else "x" * 57 + "..."
    text = rows.row(replace(ACCESS, old=FEW, new=long))[column:]
    values, blanks, function = text.partition("  ")
    assert (values, blanks, function.strip()) == (f"32768 -> {part}", "  ", "do_conv+0x5b")
    for name in ("json", "csv"):
        assert "x" * length in row(name, replace(ACCESS, new=long))


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (MANY, "65536"),
        (Value("true", True, "true"), "true"),
        (Value("65 'A'", 65, "65"), "65"),
        (Value("1.5", 1.5, "1.5"), "1.5"),
        (Value('"a,b\\n"', "a,b\n", '"a,b\\n"'), "a,b\\n"),
        (Value("{a = 1, b = {2}}", {"a": 1, "b": [2]}, '{"a": 1, "b": [2]}'), "{a = 1, b = {2}}"),
        (Value("0", 0, "0"), "0"),
    ],
)
def test_values_in_json_and_csv(value: Value, cell: str) -> None:
    for access in (replace(ACCESS, old=value), replace(ACCESS, new=value)):
        known, unknown = ("old", "new") if access.old else ("new", "old")
        found = json.loads(row("json", access))
        assert found[known] == value.plain
        assert found[unknown] is None
        rows = rows_for("csv", PLAN.watches)
        (cells,) = csv.DictReader(io.StringIO(rows.header() + rows.row(access)))
        assert (cells[known], cells[unknown]) == (cell, "")


def test_json_does_not_keep_the_first_values_of_a_place() -> None:
    rows = rows_for("json", PLAN.watches)
    found = [
        json.loads(rows.row(replace(ACCESS, old=old, new=new))) for old, new in ((FEW, MANY), (MANY, None))
    ]
    assert [(each["old"], each["new"]) for each in found] == [(32768, 65536), (65536, None)]


def test_values_leave_the_format_of_2_6_35_alone() -> None:
    assert row("ksym", replace(ACCESS, old=FEW, new=MANY)) == row("ksym", ACCESS)


@pytest.mark.parametrize("name", FORMATS)
def test_no_escape_sequence_of_a_value_reaches_the_terminal(name: str) -> None:
    # Names of enumerators and members come from whoever built the program.
    value = Value("{\x1b[2J = \u202e\n}", {"\x1b[2J": "\u202e\n"}, json.dumps({"\x1b[2J": "\u202e\n"}))
    text = row(name, replace(ACCESS, old=value, new=Value("\x1b[1m", "\x1b[1m", '"\\u001b[1m"')))
    assert text.count("\n") == 1
    assert text[:-1].isprintable()


@pytest.mark.parametrize("name", FORMATS)
def test_no_escape_sequence_of_a_task_reaches_the_terminal(name: str) -> None:
    text = row(name, replace(ACCESS, comm="\x1b[2J\u202e\n"))
    assert text.count("\n") == 1
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain näme", "plain näme"), ("\x1b[31m", "\\x1b[31m"), ("a\nb\tc", "a\\nb\\tc"), ("\u202e", "\\u202e"),
        ("\udcff", "\\udcff"), ("\U000e0001", "\\U000e0001"), ("", ""),
    ],
)  # fmt: skip
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert shown.isprintable()


def test_summaries() -> None:
    assert Tally(["pid_max"], (), [3], shown=10).lines() == [
        "ksym: 3 accesses (10 hits), 0 lost, 0 disarmed; pid_max 3"
    ]
    assert Tally(["a", "b"], [1, 0], None).lines() == ["ksym: 1 hit, 0 lost, 0 disarmed; a 1, b 0"]
    assert Tally(["a"], (), [1], shown=1).lines() == ["ksym: 1 access (1 hit), 0 lost, 0 disarmed; a 1"]
    lines = Tally(["a"], (), [4], shown=5, lost=2, no_room=2, hidden=3, notes=["CPU 1 went offline"]).lines()
    assert lines[0] == "ksym: 4 accesses (5 hits), 2 lost, 0 disarmed; a 4"
    assert lines[1] == "ksym: 3 hits after the limit not shown"
    assert lines[2].startswith("ksym: 2 hits lost, the ring buffers were full; ")
    assert lines[3] == "ksym: CPU 1 went offline"
    assert Tally(["a"], (), [0], lost=1).lines()[1:] == [
        "ksym: 1 hit counted, but the kernel made no record of them; see Counts in docs/limits.md"
    ]
