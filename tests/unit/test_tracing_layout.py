# SPDX-License-Identifier: BSD-2-Clause
"""The tables of the tracing directory: 2.6.35's byte for byte, in tracefs's frame; and ksym's own."""

from __future__ import annotations

import pytest

from ksym.capture.sites import Named
from ksym.language.request import Mode
from ksym.symbols.ctext import parse_type
from ksym.tracing import layout
from ksym.tracing.buffer import Entry, Marker
from ksym.tracing.layout import OwnRows, SeedRows, watches_of
from ksym.views.text import printable
from support.accesses import make_watch
from support.tracing import make_access

# Copied from kernel/trace/trace_ksym.c of v2.6.35: ksym_trace_print_header() and ksym_profile_open().
HEADER_2_6_35 = (
    "#       TASK-PID   CPU#      Symbol                    Type    Function\n"
    "#          |        |          |                        |         |\n"
)
PROFILE_2_6_35 = (
    "  Access Type   Symbol                                       Counter\n"
    "  -----------   ------                                       -------\n"
)


def test_frame_is_that_of_tracefs() -> None:
    assert layout.frame("ksym_tracer", 3, 55, 2) == (
        "# tracer: ksym_tracer\n#\n# entries-in-buffer/entries-written: 3/55   #P:2\n#\n"
    )
    assert layout.frame("nop", 0, 0, 1).startswith("# tracer: nop\n#\n")


def test_rows_of_2_6_35() -> None:
    rows = SeedRows(values=False)
    assert rows.header() == HEADER_2_6_35
    watch = make_watch("pid_max")
    assert rows.text(make_access(watch, 1)) == (
        "     sysctl-4711  [000] pid_max+0x0/0x4 W  do_proc_dointvec_minmax_conv+0x5b/0x80\n"
    )
    assert rows.text(make_access(watch, 1, access="RW", cpu=31, comm="a-long-name-15b", tid=123456)) == (
        "a-long-name-15b-123456 [031] pid_max+0x0/0x4 RW do_proc_dointvec_minmax_conv+0x5b/0x80\n"
    )
    assert " R  do_proc" in rows.text(make_access(watch, 1, access="R"))


def test_rows_with_values() -> None:
    watch, access = make_watch("pid_max"), make_access(make_watch("pid_max"), 1)
    text = SeedRows(values=True).text(access)
    assert text.startswith(SeedRows(values=False).text(access)[:-1] + "  ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert watch.name in text


def test_call_chains() -> None:
    stack = (Named("inner", 1, 16, None), Named("outer", 32, 64, None))
    text = SeedRows(values=False).text(make_access(make_watch("pid_max"), 1, stack=stack))
    assert text.splitlines()[1:] == [" => inner+0x1", " => outer+0x20"]


@pytest.mark.parametrize("rows", [SeedRows(values=False), OwnRows([make_watch("pid_max")])])
def test_markers_are_lines_whatever_is_in_them(rows: layout.Layout) -> None:
    for text in ("hello", "", "two\nlines", "\x1b[31mred\0"):
        line = rows.text(Marker(10**9, 1, 12, "a\nb", text))
        assert line.count("\n") == 1
        assert line.endswith(f"tracing_mark_write: {printable(text)}\n")
        assert line[:-1].isprintable()
    assert SeedRows(values=False).text(Marker(1, 3, 12, "sh", "x")) == (
        "         sh-12    [003] tracing_mark_write: x\n"
    )


def test_own_rows() -> None:
    watch = make_watch("pid_max")
    rows = OwnRows([watch])
    header, row = rows.header(), rows.text(make_access(watch, 10**9))
    assert header.startswith("# TIME ")
    assert row.startswith("  ")
    assert row.split()[1:5] == ["sysctl-4711", "000", "pid_max", "W"]
    # Columns stand under their titles.
    assert header.index("SYMBOL") == row.index("pid_max")
    assert header.index("TASK-PID") == row.index("sysctl")


def test_profile_of_2_6_35() -> None:
    rows = [
        (Mode.READ_WRITE, "pid_max", 3), (Mode.WRITE, "x" * 40, 0), (Mode.READ, "jiffies_64", 10**15),
        (Mode.EXECUTE, "do_exit", 1),
    ]  # fmt: skip
    assert layout.profile(rows) == PROFILE_2_6_35 + "".join(
        f"{kind}{name:<36} {count:>15}\n"
        for kind, name, count in (
            ("  RW            ", "pid_max", 3),
            ("  W             ", "x" * 40, 0),
            ("  R             ", "jiffies_64", 10**15),
            ("  X             ", "do_exit", 1),
        )
    )
    assert layout.profile([]) == PROFILE_2_6_35


def test_missed_is_said_as_in_tracefs() -> None:
    assert layout.missed(1, 52) == "CPU:1 [LOST 52 EVENTS]\n"


def test_watches_of_entries() -> None:
    one, two = make_watch("a"), make_watch("b", parse_type("unsigned long"))
    entries: list[Entry] = [
        make_access(one, 1),
        Marker(2, 0, 1, "sh", "x"),
        make_access(two, 3),
        make_access(one, 4),
    ]
    assert watches_of(entries) == [one, two]
