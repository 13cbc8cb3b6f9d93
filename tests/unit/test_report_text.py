# SPDX-License-Identifier: BSD-2-Clause
"""ksym report as a person reads it, on accesses that are made up."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.capture.sites import Named
from ksym.reports import layout
from ksym.reports.about import About, length
from ksym.reports.analysis import Analysis
from ksym.reports.groups import KEYS
from ksym.reports.select import Selection, kinds
from ksym.reports.terminal import Style, Terminal
from ksym.symbols.types import Integer
from ksym.symbols.variable import Space, Variable
from support.accesses import Row, make_accesses, make_site, make_watch
from support.reports import (
    ABOUT,
    SITES,
    SMALL,
    both,
    json_of,
    rows,
    text_of,
)

PAGE = """\
two.data
  watched  ./prog:counter:rw-
  when     2026-11-23 08:17:18.0000 to 08:17:18.0030, 3 ms
  machine  vm, Linux 6.1 x86_64, 2 CPUs, ksym 0.1
  counted  4 accesses (5 hits), 0 lost, 0 suppressed

./prog:counter   unsigned int, 4 bytes at 0x4000 of user space; watched rw-
  4 accesses: 1 R, 3 W   values: first 1, last 7, 2 different

 SHARE  ACCESSES  HITS  R  W  FUNCTION            INSTRUCTION    SOURCE    CPU
 50.0%         2     2  0  2  writer+0x20 [prog]  mov [rdx],eax  prog.c:7  0
        by maker-11   values 1   silent 1
 25.0%         1     1  1  0  reader+0x10 [prog]  mov [rdx],eax  prog.c:7  1
        by taker-12   values 1
 25.0%         1     2  0  1  writer+0x30 [prog]  mov [rdx],eax  prog.c:7  1
        by taker-12   values 7

look here
  • silent stores: 1 of 3 writes (33.3%) stored the value that was there; writer
    [prog] 1
  • taking turns: 1 of 2 writes (50.0%) came from another CPU than the write
    before; CPUs 0 and 1 1
  • close together: 1 access within 2 us behind another CPU's, one of the two a
    write, the closest 900 ns apart; reader+0x10 [prog] and writer+0x20 [prog]
    1. A hint, no proof: look whether one lock is held around both

 VALUE  LAST WRITTEN   TASK-PID  CPU  FUNCTION
     7  08:17:18.0030  taker-12  001  writer+0x30 [prog]
     1  08:17:18.0010  maker-11  000  writer+0x20 [prog]
"""


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("utc")
def test_the_page() -> None:
    text = text_of(Analysis(make_accesses(SMALL, sites=SITES), Selection()))
    assert text.startswith(PAGE)
    rest = text[len(PAGE) :].splitlines()
    assert rest[1].startswith("over time, ")
    assert rest[2].startswith("  CPU 0 W  █")
    assert rest[2].endswith("█" + " " * (len(rest[2]) - rest[2].rindex("█") - 3) + " 2")


@pytest.mark.parametrize("by", [(key,) for key in KEYS] + [("task", "function"), KEYS])
@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_lines_fit(by: tuple[str, ...], width: int) -> None:
    text = text_of(Analysis(both(SMALL), Selection()), by, width=max(width, 80 if len(by) > 1 else 0))
    if len(by) < 3 and width >= 80:
        assert max(map(len, text.splitlines())) <= max(width, 80)
    assert "writer" in text


@given(rows(most=8), st.sampled_from(KEYS))
def test_every_recording_has_a_page(found: list[Row], by: str) -> None:
    analysis = Analysis(both(found), Selection())
    assert f"{len(found):,} access" in text_of(analysis, (by,))
    assert json.loads(json_of(analysis, (by,)))["accesses"] == len(found)


def test_nothing_and_one() -> None:
    nothing = Analysis(make_accesses([]), Selection())
    assert "0 accesses (0 hits)" in text_of(nothing)
    assert "no accesses" in text_of(nothing)
    assert json.loads(json_of(nothing))["variables"][0]["rows"] == []
    one = text_of(Analysis(make_accesses([Row(new=3)]), Selection()))
    assert "1 access (1 hit)" in one
    assert "100.0%" in one
    assert "over time" not in one
    none_selected = Analysis(make_accesses([Row()]), Selection(only=kinds("R")))
    assert "selected --only R: of 1 access" in text_of(none_selected, selection=Selection(only=kinds("R")))


def test_rows_that_are_left_out_are_summed_up() -> None:
    made = [Row(tid=tid, comm="t", hits=2) for tid in range(5) for _ in range(tid + 1)]
    text = text_of(Analysis(make_accesses(made), Selection()), ("task",), most=2)
    assert re.search(r" 60\.0% +9 +18 .*t-4\b|33\.3%", text)
    assert re.search(r"40\.0% +6 +12 +0 +6  3 more; --top 0 shows all", text)


HOSTILE = "\x1b[31m\r\nevil\u202e\x07"


def test_hostile_names_are_printed_printable() -> None:
    variable_ = Variable("./p:" + HOSTILE, 0x4000, 4, Space.USER, Integer(HOSTILE, 4, True), section=HOSTILE)
    watch = replace(make_watch(), variable=variable_)
    site = make_site(HOSTILE, owner=HOSTILE, text=HOSTILE)
    made = [
        Row(0, cpu=0, comm=HOSTILE, stack=0, old=1, new=1),
        Row(1, cpu=1, comm=HOSTILE, stack=0, old=2, new=3),
    ]
    accesses = make_accesses(made, watches=[watch], sites=[site], stacks=[(Named(HOSTILE, 1, 0, HOSTILE),)])
    about = About(
        HOSTILE,
        1,
        dict.fromkeys(("hostname", "release", "arch"), HOSTILE),
        HOSTILE,
        cut=HOSTILE,
        notes=(HOSTILE,),
    )
    analysis = Analysis(accesses, Selection())
    style = Style(100, layout.UNICODE, ("instruction",), 25, "task")
    for by in (*((key,) for key in KEYS), KEYS):
        lines = Terminal(about, analysis, Selection(), replace(style, by=by), lambda site: HOSTILE).lines()
        for line in lines:
            assert all(text.isprintable() for text, _ in line)
    assert json.loads(json_of(analysis))["variables"][0]["symbol"] == "./p:" + HOSTILE


def test_what_was_missed_is_said() -> None:
    about = replace(
        ABOUT, lost=1234, rejected=5, suppressed=6, disarmed=1, cut="it was killed", notes=("a CPU went",)
    )
    made = [Row(0, old=1, new=2), Row(10**6, old=3, new=4)]
    text = " ".join(text_of(Analysis(make_accesses(made), Selection()), about=about).split())
    for words in (
        "1,234 lost", "5 did not match the condition", "6 suppressed", "1 disarmed", "cut it was killed",
        "note a CPU went", "changed unseen: 1 time",
        "By lost hits, hits that did not match the condition, accesses that",
    ):  # fmt: skip
        assert words in text


def test_a_terminal_without_block_characters() -> None:
    assert layout.glyphs("utf-8", {}) is layout.UNICODE
    for encoding in ("ascii", "latin-1", None, "no such encoding"):
        assert layout.glyphs(encoding, {}) is layout.ASCII
    assert text_of(Analysis(both(SMALL), Selection()), glyphs=layout.ASCII).isascii()


@pytest.mark.parametrize(
    ("environment", "drawn"),
    [
        ("", layout.UNICODE),
        ("LC_ALL=C", layout.ASCII),
        ("LC_ALL=POSIX LANG=en_US.UTF-8", layout.ASCII),
        ("LC_ALL= LC_CTYPE=C LANG=en_US.UTF-8", layout.ASCII),
        ("LANG=C LC_CTYPE=C.UTF-8", layout.ASCII),  # the latter is Python's own doing (PEP 538)
        ("LC_CTYPE=C.UTF-8", layout.UNICODE),
        ("LC_ALL=C.UTF-8 LANG=C", layout.UNICODE),
        ("LC_CTYPE=de_DE.UTF-8 LANG=C", layout.UNICODE),
    ],
)
def test_the_locale_that_was_asked_for(environment: str, drawn: layout.Glyphs) -> None:
    assert layout.glyphs("utf-8", dict(word.split("=") for word in environment.split())) is drawn


@pytest.mark.parametrize("width", [40, 41, 50])
@pytest.mark.parametrize("by", KEYS)
def test_a_narrow_terminal(width: int, by: str) -> None:
    rows = [each._replace(comm="a long name", stack=0) for each in SMALL * 400]
    rows = [each._replace(time=at * 10_000) for at, each in enumerate(rows)]
    text = text_of(Analysis(both(rows), Selection()), (by,), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("writer+0x20") >= 1


def test_colours_change_no_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    analysis = Analysis(both(SMALL), Selection())
    lines = Terminal(
        ABOUT, analysis, Selection(), Style(80, layout.UNICODE, ("task",), 25, "cpu"), lambda site: None
    ).lines()
    pytest.importorskip("rich")
    coloured = layout.coloured(lines, 80)
    assert "\x1b[" in coloured
    bare = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == layout.plain(lines).splitlines()


def test_wide_characters_take_two_columns() -> None:
    assert (layout.cells("abc"), layout.cells("日本"), layout.cells("e\u0301")) == (3, 4, 1)
    assert layout.pad("日本", 6) == "日本  "
    assert layout.cut("日本語の名前", 8) == "日本..."
    assert layout.cut("abc", 3) == "abc"


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (999, "999 ns"), (1500, "1.5 us"), (21e6, "21 ms"), (1.24e9, "1.24 s"), (250e9, "4 min 10 s"),
     (7380e9, "2 h 3 min")],
)  # fmt: skip
def test_lengths_of_time(ns: float, text: str) -> None:
    assert length(ns) == text
