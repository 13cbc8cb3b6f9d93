# SPDX-License-Identifier: BSD-2-Clause
"""The page of ``ksym report --html`` in a browser: what it shows, and what a zoom and a click do."""

from __future__ import annotations

import math
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import Keys

from browser.pages import many, write_page
from browser.tab import Tab, number
from ksym.capture.sites import Named
from ksym.recording.accesses import KINDS, Accesses
from ksym.reports.analysis import Analysis, summarise
from ksym.reports.groups import KEYS
from ksym.reports.select import Selection
from ksym.symbols.ctext import parse_type
from ksym.symbols.types import Array, Type
from support.accesses import START, Row, make_accesses, make_site, make_watch

SITES = (
    make_site("reader", 0x10, text="mov eax,[rip+0x2f00]"),
    make_site("writer", 0x20, text="mov [rip+0x2f00],eax", ip=0x401020),
    make_site("writer", 0x30, owner=None, text="lock inc dword [rdi]", ip=0x401030),
)
STACKS = (
    (Named("reader", 0x10, 0, "prog"), Named("loop", 5, 0, "prog"), Named("main", 5, 0, "prog")),
    (Named("writer", 0x20, 0, "prog"), Named("loop", 9, 0, "prog"), Named("main", 5, 0, "prog")),
    (Named("writer", 0x20, 0, "prog"), Named("main", 9, 0, "prog")),
)
FEW = [
    Row(0, "R", 0, 1, "one", 5, 5, 0, stack=0),
    Row(1_000_000, "W", 1, 2, "two", 7, 5, 1, stack=1, hits=2),
    Row(3_000_000, "W", 1, 2, "two", 7, 7, 1, stack=2),
    Row(10_000_000, "RW", 0, 1, "one", 8, 7, 2),
]


def few(rows: list[Row] = FEW) -> Accesses:
    return make_accesses(rows, sites=SITES, stacks=STACKS)


def nanoseconds(words: str) -> int:
    """``0.000 300 123 s``."""
    seconds = words.removesuffix(" s").replace(",", "").replace(" ", "")
    whole, fraction = seconds.lstrip("-").split(".")
    return (-1 if seconds.startswith("-") else 1) * (int(whole) * 10**9 + int(fraction))


def stretch(chip: str) -> tuple[int, int]:
    """The time that is shown, as a chip says it: ``0.000 300 123 s to 0.001 000 000 s``."""
    start, end = chip.split(" to ")
    return nanoseconds(start), nanoseconds(end)


def within(accesses: Accesses, chip: str) -> int:
    """How many accesses lie in it."""
    start, end = stretch(chip)
    since = accesses.time_ns - accesses.time_ns[0]
    return int(((since >= start) & (since <= end)).sum())


# -- what it shows ----------------------------------------------------------------------------------------


def test_it_loads_without_the_network(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_page(tmp_path, many(1000)))
    assert tab.text("#selected") == "All 1,000 accesses"
    assert tab.driver.title == "made-up.data - ksym report"
    assert "test, Linux 6.1.0, 4 CPUs" in tab.text("#facts")
    assert tab.script("return performance.getEntriesByType('resource').length") == 0
    assert tab.script("return new Set(document.querySelectorAll('[src], [href]:not(.skip)')).size") == 0


@pytest.mark.parametrize("key", KEYS)
def test_groups_are_those_of_the_terminal(tab: Tab, tmp_path: Path, key: str) -> None:
    accesses = many(1000)
    tab.open(write_page(tmp_path, accesses))
    tab.choose("#by", key)
    (subject,) = Analysis(accesses, Selection()).subjects
    groups, count = subject.groups((key,), most=10)
    shown = [(row["Accesses"], row["R"], row["W"], row.get("Silent", "")) for row in tab.table("#groups")]
    assert shown == [
        (str(group.accesses), str(group.kinds[1]), str(group.kinds[2]), str(group.silent or ""))
        for group in groups
    ]
    if key != "value":  # each has a value of its own
        name = {"task": "Task-PID", "cpu": "CPU", "stack": "Call chain"}.get(key, "Function")
        labels = [f"CPU {int(group.label[0])}" if key == "cpu" else group.label[0] for group in groups]
        if key == "stack":
            labels = [f"{' ← '.join(group.frames[:6])} and 1 more" for group in groups]
        assert [row[name] for row in tab.table("#groups")] == labels
        for row, group in zip(tab.table("#groups"), groups, strict=True):
            assert group.values is not None
            assert f", {group.values.different:,} different, " in row["Values"]
    assert tab.text("#groups-left") == (f"{count - 10:,} more" if count > 10 else "")


def test_call_chains_are_selected_like_other_groups(tab: Tab, tmp_path: Path) -> None:
    rows = [Row(at, "W", new=at, stack=at % 3 - 1) for at in range(9)]
    tab.open(write_page(tmp_path, few(rows)))
    tab.choose("#by", "stack")
    assert {row["Call chain"] for row in tab.table("#groups")} > {"none"}
    tab.click("#groups button", "none")
    assert tab.selected == 3
    assert tab.chips == ["call chain none"]


def test_samples_have_no_shares(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_page(tmp_path, many(100), sampled=True))
    assert "Share" not in tab.table("#groups")[0]
    assert [row["Samples"] for row in tab.table("#groups")] == ["75", "25"]
    assert not [row for row in tab.table("#groups") if "%" in row["Tasks"]]


def test_more_groups_in_another_order(tab: Tab, tmp_path: Path) -> None:
    rows = [Row(at, "W", new=at % 30, site=1) for at in range(60)]
    rows += [Row(60 + at, "R", new=29, site=0, hits=3) for at in range(5)]
    tab.open(write_page(tmp_path, few(rows)))
    tab.choose("#by", "value")
    assert tab.text("#groups-left") == "20 more"
    tab.click("#groups-more")
    assert [row["Value"] for row in tab.table("#groups")] == ["29", *map(str, range(29))]
    assert tab.text("#groups-left") == ""
    assert tab.table("#groups")[0]["Last written"] == "0.000 000 059 s by task-1 in writer+0x20 [prog]"
    tab.choose("#by", "function")
    assert [row["Accesses"] for row in tab.table("#groups")] == ["60", "5"]
    tab.click("#groups thead button", "R")
    assert [row["Accesses"] for row in tab.table("#groups")] == ["5", "60"]


def test_a_row_is_that_of_script(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_page(tmp_path, few()))
    rows = tab.table("#rows")
    assert [row["Type"] for row in rows] == ["R", "W", "W", "RW"]
    assert [row["Old → new"] for row in rows] == ["5", "5 → 7", "7 → 7", "7 → 8"]
    assert [row["Task-PID"] for row in rows] == ["one-1", "two-2", "two-2", "one-1"]
    assert [row["Hits"] for row in rows] == ["1", "2", "1", "1"]
    assert [row["Since the first"] for row in rows][1:3] == ["0.001 000 000 s", "0.003 000 000 s"]
    assert rows[3]["Function"] == "writer+0x30"


TEXT = Array("char[8]", 8, parse_type("char"), 8)
EDGES = (1.7e308, -1.7e308, math.inf, math.nan)
VARIABLES: list[tuple[str | Type, tuple[int, int] | None, list[int | bytes | None], list[str]]] = [
    ("int", None, [-1, 0, 2**31 - 1, -(2**31)], ["-1", "0", "2147483647", "-2147483648"]),
    ("unsigned long", None, [2**64 - 1, 0, 2**53 + 1], ["18446744073709551615", "0", "9007199254740993"]),
    ("long", None, [-(2**63), 2**63 - 1, -1], [str(-(2**63)), str(2**63 - 1), "-1"]),
    ("_Bool", None, [0, 1, 1], ["false", "true", "true"]),
    ("unsigned int", (4, 3), [0x10, 0x70, 0xFF], ["1", "7", "7"]),
    ("double", None, [b"\0\0\0\0\0\0\xf8?", b"\0\0\0\0\0\0\xf0\xbf"], ["1.5", "-1.0"]),
    ("double", None, [struct.pack("<d", value) for value in EDGES], ["1.7e+308", "-1.7e+308", "inf", "nan"]),
    (TEXT, None, [b"sshd\0\0\0\0", b"<b>hi\0\0\0"], ['"sshd"', '"<b>hi"']),
    ("unsigned int", None, [None, 3, None, 4], ["?", "3", "?", "4"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "bits", "values", "texts"), VARIABLES)
def test_values_of_every_kind(
    tab: Tab, tmp_path: Path, kind: str | Type, bits: tuple[int, int] | None,
    values: list[int | bytes | None], texts: list[str],
) -> None:  # fmt: skip
    rows = [
        Row(1000 * at, "W", new=new, old=old)
        for at, (old, new) in enumerate(zip([None, *values[:-1]], values, strict=True))
    ]
    tab.open(write_page(tmp_path, make_accesses(rows, watches=(make_watch(kind=kind, bits=bits),))))
    changes = [
        "-" if (old, new) == ("?", "?") else f"{old} → {new}"
        for old, new in zip(["?", *texts[:-1]], texts, strict=True)
    ]
    assert [row["Old → new"] for row in tab.table("#rows")] == changes


def test_several_variables(tab: Tab, tmp_path: Path) -> None:
    watches = (
        make_watch(),
        make_watch("./prog:other", "long", index=1),
        make_watch("./prog:run", access="--x", index=2),
    )
    rows = [
        Row(at, "X" if at % 3 == 2 else "W", new=None if at % 3 == 2 else -at % 4, watch=at % 3)
        for at in range(30)
    ]
    tab.open(write_page(tmp_path, make_accesses(rows, watches=watches, sites=SITES)))
    assert [row["Accesses"] for row in tab.table("#variables")] == ["10", "10", "10"]
    tab.click("#variables button", "./prog:other")
    assert tab.selected == 10
    assert "long, 8 bytes at 0x4000" in tab.table("#variables")[1]["What it is"]
    assert "Values of ./prog:other" in str(tab.one("#values .plot").get_attribute("aria-label"))
    tab.click("#variables button", "./prog:run")
    assert tab.selected == 20  # either
    assert {row["Old → new"] for row in tab.table("#rows") if row["Variable"] == "./prog:run"} == {"-"}
    tab.choose("#lanes", "watch")
    tab.click("#timeline summary")
    assert [row["Accesses"] for row in tab.table("#timeline details")] == ["0", "10", "10"]


@pytest.mark.parametrize("rows", [[], FEW[:1], [Row(0, "X")], [Row(0), Row(0)]])
def test_nothing_and_next_to_nothing(tab: Tab, tmp_path: Path, rows: list[Row]) -> None:
    tab.open(write_page(tmp_path, few(rows)))
    assert tab.selected == len(rows)
    assert len(tab.table("#rows")) == len(rows)
    tab.press("#timeline .plot", "+", Keys.ENTER, "-")
    assert tab.one("#access").is_displayed() == bool(rows)


# -- zoom -------------------------------------------------------------------------------------------------


def test_a_drag_zooms_and_narrows_the_rest(tab: Tab, tmp_path: Path) -> None:
    accesses = many(1000)
    tab.open(write_page(tmp_path, accesses))
    tab.drag("#timeline", 0.25, 0.5)
    (chip,) = tab.chips
    first = tab.selected
    assert 240 <= first <= 260
    assert within(accesses, chip) == first
    assert sum(number(row["Accesses"]) for row in tab.table("#groups")) == first
    tab.drag("#values", 0.2, 0.4)
    (chip,) = tab.chips
    second = tab.selected
    assert 45 <= second <= 55
    assert within(accesses, chip) == second
    assert f"{second} accesses of 1,000 selected" in tab.text("#selected")
    tab.click("#timeline .tools button", "Back")
    assert tab.selected == first
    tab.click("#timeline .tools button", "All of the time")
    assert (tab.selected, tab.chips) == (1000, [])


def test_the_keyboard_zooms_to_one_access(tab: Tab, tmp_path: Path) -> None:
    accesses = many(1000)
    tab.open(write_page(tmp_path, accesses))
    plot = "#timeline .plot"
    tab.press(plot, "+")
    half = tab.selected
    assert half == within(accesses, tab.chips[0])
    tab.press(plot, Keys.ARROW_RIGHT)
    start, end = stretch(tab.chips[0])
    assert 370_000 < start < 380_000  # a quarter of what was shown
    assert 870_000 < end < 880_000
    tab.press(plot, Keys.BACKSPACE, Keys.BACKSPACE)
    assert tab.selected == 1000
    tab.press(plot, Keys.ENTER)
    taken = number(tab.text("#access-h"))
    assert abs(taken - 500) <= 1
    tab.click("#access .tools button", "Zoom to it")
    assert tab.selected == 1
    assert tab.table("#rows")[0]["Since the first"] in tab.text("#access dl")
    tab.press(plot, "0")
    assert tab.selected == 1000
    tab.click("#access .tools button", "Next")
    assert number(tab.text("#access-h")) == taken + 1
    tab.click("#access .tools button", "Close")
    assert not tab.one("#access").is_displayed()


def test_a_click_takes_an_access(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_page(tmp_path, few()))
    margin, span = 50_000, 10_100_000  # of what is shown
    tab.click_at("#timeline", (1_000_000 + margin) / span, 0.75)  # CPU 1, the lower of two lanes
    assert tab.text("#access-h") == "Access 2 of 4"
    words = tab.text("#access dl")
    for part in ("two-2", "5 → 7", "mov [rip+0x2f00],eax", "writer.c:32", "0.001 000 000 s"):
        assert part in words
    assert [frame.text for frame in tab.all("#access ol li")] == [str(frame) for frame in STACKS[1]]
    tab.click_at("#timeline", (3_000_000 + margin) / span, 0.25)  # CPU 0: there is nothing
    assert tab.text("#access-h") == "Access 2 of 4"
    tab.click_at("#values", (9_900_000 + margin) / span)
    assert tab.text("#access-h") == "Access 4 of 4"
    assert not tab.one("#access ol").is_displayed()


def test_reads_and_writes_are_drawn_in_their_lanes(tab: Tab, tmp_path: Path) -> None:
    """Reads above the middle of their CPU's lane, writes below, in their colours; each alone, and in bins."""
    rows = [Row(0, "W", 0), Row(230, "R", 0), Row(530, "W", 1), Row(1000, "W", 0)]
    around = """
        const [canvas, over] = ['canvas', '.u-over'].map(query => document.querySelector(`#timeline ${query}`));
        const [from, to] = [canvas, over].map(each => each.getBoundingClientRect());
        const [x, y] = [to.x - from.x + arguments[0] * to.width, to.y - from.y + arguments[1] * to.height];
        const copy = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        copy.drawImage(canvas, 3 - Math.round(x), -Math.round(y));
        const bytes = [...copy.getImageData(0, 0, 7, 1).data];
        return Array.from({length: 7}, (_, pixel) => bytes.slice(4 * pixel, 4 * pixel + 4));
    """
    read, write = [9, 105, 218, 255], [188, 76, 0, 255]
    for times in (1, 200):  # so many at the same time are drawn as bins
        tab.open(write_page(tmp_path, make_accesses([row for row in rows for _ in range(times)])))
        early, late = 240 / 1020, 540 / 1020
        assert read in tab.script(around, early, 0.18)
        assert write in tab.script(around, late, 0.82)
        assert read not in tab.script(around, late, 0.18)  # CPU 0 did nothing then
        assert write not in tab.script(around, early, 0.4)  # nor did it write


def test_a_click_among_many_zooms(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_page(tmp_path, many(100_000)))
    tab.click_at("#timeline", 0.5, 0.2)
    assert 12_000 < tab.selected < 13_000
    assert not tab.one("#access").is_displayed()


# -- what is clicked narrows the rest -----------------------------------------------------------------------


def test_a_group_narrows_the_rest(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_page(tmp_path, many(1000)))
    tab.click("#groups button", "reader+0x10 [prog]")
    assert (tab.selected, tab.chips) == (250, ["instruction reader+0x10 [prog]"])
    # The other rows stay, so that they can be clicked, too; other tables have what is selected alone.
    assert [row["Accesses"] for row in tab.table("#groups")] == ["750", "250"]
    assert {row["Type"] for row in tab.table("#rows")} == {"R"}
    assert tab.one("#groups button[aria-pressed=true]").text.endswith("reader+0x10 [prog]")
    tab.choose("#by", "task")
    assert [row["Task-PID"] for row in tab.table("#groups")] == ["reader-100"]
    tab.choose("#by", "instruction")
    tab.click("#groups button", "writer+0x20 [prog]")
    assert tab.selected == 1000
    tab.click("#chips button")
    assert tab.selected == 750
    tab.drag("#timeline", 0.25, 0.5)
    assert 180 < tab.selected < 195
    tab.click("#clear")
    assert tab.text("#selected") == "All 1,000 accesses"


def test_findings_select_what_they_tell_of(tab: Tab, tmp_path: Path) -> None:
    accesses = many(3000)
    tab.open(write_page(tmp_path, accesses))
    found = summarise(Analysis(accesses, Selection()).subjects[0])
    assert found.silent
    assert found.turns
    assert found.near
    for name, count in (
        ("silent stores", found.silent.count),
        ("taking turns", found.turns.count),
        ("close together", found.near.count),
    ):  # fmt: skip
        tab.click("#findings button", name)
        assert tab.selected == count
        assert tab.chips == [f"{name}"]
    tab.click("#findings button", "close together")
    assert tab.selected == 3000


def test_the_flame_graph(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_page(tmp_path, few()))

    def frames() -> list[str]:
        return [str(frame.get_attribute("aria-label")) for frame in tab.all(".frame")]

    assert frames() == [
        "all: 3 accesses, 100.0%", "main [prog]: 3 accesses, 100.0%", "loop [prog]: 2 accesses, 66.7%",
        "writer [prog]: 1 access, 33.3%", "reader [prog]: 1 access, 33.3%", "writer [prog]: 1 access, 33.3%",
    ]  # fmt: skip
    assert tab.text("#flame .readout") == "all: 3 accesses, 100.0%; 1 access without a call chain"
    tab.click(".frame", "loop [prog]")
    assert (tab.selected, tab.chips) == (2, ["calls through main [prog] > loop [prog]"])
    assert [row["Type"] for row in tab.table("#rows")] == ["R", "W"]
    assert frames()[1] == "main [prog]: 2 accesses, 100.0%"
    tab.click(".frame", "main [prog]")  # wider again
    assert tab.selected == 3
    tab.click(".frame", "all")
    assert tab.selected == 4
    tab.choose("#flame-top", "inner")
    assert frames()[1] == "writer [prog]: 2 accesses, 66.7%"
    tab.click("#flame summary")
    table = [(row["Function"], row["Accesses"], row["Level"]) for row in tab.table("#flame details")]
    assert table[0] == ("writer [prog]", "2", "1")
    assert len(table) == 7
    # The keyboard: down to the widest, to its neighbour, and take it.
    tab.press(".frame.root", Keys.ARROW_DOWN)
    tab.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    tab.driver.switch_to.active_element.send_keys(Keys.ENTER)
    tab.drawn()
    assert tab.chips == ["calls through reader [prog]"]
    assert tab.selected == 1


def test_pages_of_rows(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_page(tmp_path, many(45)))
    assert tab.text("#rows .tools span") == "1 to 20 of 45"
    tab.click("#rows .tools button", "Last")
    assert tab.text("#rows .tools span") == "41 to 45 of 45"
    assert len(tab.table("#rows")) == 5
    tab.click("#rows .tools button", "Previous")
    assert tab.text("#rows .tools span") == "21 to 40 of 45"
    tab.click("#rows tbody button")
    assert tab.text("#access-h") == "Access 21 of 45"


def test_pictures_as_tables(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_page(tmp_path, many(1000)))
    tab.choose("#lanes", "task")
    tab.click("#timeline summary")
    assert tab.table("#timeline details") == [
        {"Lane": "writer-101", "Accesses": "750", "R": "0", "W": "750"},
        {"Lane": "reader-100", "Accesses": "250", "R": "250", "W": "0"},
    ]
    tab.click("#values summary")
    slices = tab.table("#values details")
    assert len(slices) == 20
    assert sum(number(row["Accesses"]) for row in slices) == 1000
    assert (slices[0]["Lowest"], slices[-1]["Last"]) == ("0", "999")


def test_many_tasks_share_a_lane(tab: Tab, tmp_path: Path) -> None:
    rows = [Row(at, "W", tid=at % 20, comm="c") for at in range(40)] + [
        Row(40 + at, "R", tid=3, comm="c") for at in range(5)
    ]
    tab.open(write_page(tmp_path, make_accesses(rows)))
    tab.choose("#lanes", "task")
    tab.click("#timeline summary")
    lanes = tab.table("#timeline details")
    assert (lanes[0]["Lane"], lanes[0]["Accesses"]) == ("c-3", "7")
    assert (lanes[-1]["Lane"], lanes[-1]["Accesses"]) == ("9 others", "18")


# -- for everybody ----------------------------------------------------------------------------------------

# Each text with its colour and what is behind it: {text, ratio}.
CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const channels = colours => {
  canvas.clearRect(0, 0, 1, 1);
  for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = colours => {
  const [r, g, b] = channels(colours).map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest(':disabled, script')) continue;
  const behind = [];
  for (let each = element; each; each = each.parentElement) behind.unshift(getComputedStyle(each).backgroundColor);
  const [a, b] = [light(behind), light([...behind, getComputedStyle(element).color])];
  found.push({text: walker.currentNode.data.trim(), ratio: (Math.max(a, b) + .05) / (Math.min(a, b) + .05)});
}
return found;
"""


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_can_be_read(tab: Tab, tmp_path: Path, dark: bool) -> None:
    tab.surroundings(dark=dark, width=1400)
    kinds = [
        Row(1000 * at, kind, at % 2, new=at, old=at, site=at % 3, stack=at % 3)
        for at, kind in enumerate(KINDS)
    ]
    tab.open(write_page(tmp_path, few(FEW + [row._replace(time=row.time + 10_000_000) for row in kinds])))
    tab.click("#groups button", "reader+0x10 [prog]")
    tab.click("#rows tbody button")
    page = "return getComputedStyle(document.body).backgroundColor"
    seen = tab.script(page)
    contrast = tab.script(CONTRAST)
    assert len(contrast) > 100
    assert [each for each in contrast if each["ratio"] < 4.5] == []
    tab.choose("#theme", "light" if dark else "dark")
    assert tab.script(page) != seen
    assert [each for each in tab.script(CONTRAST) if each["ratio"] < 4.5] == []


def test_what_has_the_focus_has_a_name(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_page(tmp_path, many(1000)))
    tab.click("#groups button", "reader+0x10 [prog]")
    tree = tab.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    focusable = [
        node for node in tree
        if any(each["name"] == "focusable" and each["value"].get("value") for each in node.get("properties", ()))
    ]  # fmt: skip
    assert len(focusable) > 40
    roles = [
        node["role"]["value"] for node in focusable
        if not node.get("name", {}).get("value") and node["role"]["value"] != "RootWebArea"
    ]  # fmt: skip
    assert roles == []
    assert all(table.find_elements("css selector", "caption") for table in tab.all("table"))


def test_the_focus_stays_where_it_was(tab: Tab, tmp_path: Path) -> None:
    tab.open(write_page(tmp_path, many(1000)))
    tab.press("#groups tbody button", Keys.ENTER)
    active = tab.driver.switch_to.active_element
    assert active.text.endswith("writer+0x20 [prog]")
    assert active.get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("width", [360, 700, 2000])
def test_a_window_of_any_width(tab: Tab, tmp_path: Path, width: int) -> None:
    tab.surroundings(dark=False, width=width)
    tab.open(write_page(tmp_path, many(1000)))
    assert tab.script("return document.documentElement.scrollWidth <= innerWidth")
    tab.surroundings(dark=False, width=1000)
    tab.drawn()
    tab.drawn()
    assert abs(tab.one("#timeline .u-wrap").size["width"] - tab.one("#timeline").size["width"]) <= 1


# -- what a recording may do ------------------------------------------------------------------------------

HOSTILE = (
    "<img src=x onerror=hacked=1>", "</script><script>hacked=1</script>", "${hacked=1}", "]]>\u2028--><!--<script>",
    "\x1b[31mred", "__proto__", "a\u202egnp.exe", "@SCRIPT@@DATA@", "'\"`<>&\\u003c", "\udcff",
)  # fmt: skip


def test_hostile_names_are_text(tab: Tab, tmp_path: Path) -> None:
    sites = tuple(make_site(name, at, owner=name, text=name, ip=at) for at, name in enumerate(HOSTILE))
    stacks = tuple((Named(name, 1, 2, name), Named(name, 3, 4, name)) for name in HOSTILE)
    watches = (make_watch(kind=Array("char[32]", 32, parse_type("char"), 32)),)
    rows = [
        Row(
            1000 * at,
            "W",
            at % 2,
            at,
            name,
            new=name.encode("utf-8", "surrogateescape")[:32],
            site=at,
            stack=at,
        )
        for at, name in enumerate(HOSTILE)
    ]
    accesses = make_accesses(rows, watches=watches, sites=sites, stacks=stacks)
    tab.open(write_page(tmp_path, accesses))
    names = [
        "<img src=x onerror=hacked=1>",
        "</script><script>hacked=1</script>",
        r"\x1b[31mred",
        r"a\u202egnp.exe",
    ]
    tasks = {row["Task-PID"].rpartition("-")[0] for row in tab.table("#rows")}
    assert set(names) <= tasks
    for key in ("instruction", "function", "task", "value"):
        tab.choose("#by", key)
        assert len(tab.table("#groups")) == len(HOSTILE)
    tab.choose("#lanes", "task")
    tab.click("#rows tbody button")
    for summary in tab.all("summary"):
        tab.script("arguments[0].click()", summary)
    tab.drawn()
    assert tab.script("return typeof hacked") == "undefined"
    assert tab.script("return document.scripts.length") == 1  # what was packed is gone, too
    assert tab.all("main img, main script") == []


def test_the_policy_holds(tab: Tab, tmp_path: Path) -> None:
    """Were there a way in, it could load nothing, send nothing, and run nothing."""
    tab.open(write_page(tmp_path, few()))
    tab.driver.execute_async_script("""
        const done = arguments[0];
        window.refused = [];
        addEventListener('securitypolicyviolation', event => refused.push(event.effectiveDirective));
        document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 1'}));
        document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.1:9/x'}));
        fetch('http://127.0.0.1:9/x').catch(() => setTimeout(done, 0));
    """)
    assert set(tab.script("return refused")) >= {"script-src-elem", "img-src", "connect-src"}
    assert tab.script("return typeof hacked") == "undefined"
    assert len(tab.complaints()) >= 3


# -- a million ----------------------------------------------------------------------------------------------


def test_a_million_accesses(tab: Tab, tmp_path: Path, record_property: Any) -> None:
    accesses = many(1_000_000)
    page = write_page(tmp_path, accesses)
    began = time.monotonic()
    tab.open(page)
    record_property("seconds", round(time.monotonic() - began, 2))
    assert tab.selected == 1_000_000
    assert [row["Accesses"] for row in tab.table("#groups")] == ["375,000", "375,000", "250,000"]
    tab.drag("#timeline", 0.25, 0.5)
    assert tab.selected == within(accesses, tab.chips[0])
    tab.click("#groups button", "reader+0x10 [prog]")
    start, end = stretch(tab.chips[0])
    since = accesses.time_ns - START
    assert tab.selected == int(((since >= start) & (since <= end) & (np.arange(len(since)) % 4 == 0)).sum())
    tab.click("#clear")
    tab.choose("#by", "value")
    assert tab.text("#groups-left") == f"{len(np.unique(accesses.new.view('<u8'))) - 10:,} more"
    tab.click("#rows .tools button", "Last")
    assert tab.table("#rows")[-1]["Since the first"] == "0.999 999 000 s"
    tab.click("#rows tbody tr:last-child button")
    tab.click("#access .tools button", "Zoom to it")
    assert tab.selected == 1
