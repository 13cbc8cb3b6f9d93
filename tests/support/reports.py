# SPDX-License-Identifier: BSD-2-Clause
"""Accesses to report on, and their reports."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from ksym.capture.sites import Named
from ksym.recording.accesses import KINDS, Accesses
from ksym.reports import layout
from ksym.reports.about import About
from ksym.reports.analysis import NEAR_NS, Analysis
from ksym.reports.findings import LATE_NS
from ksym.reports.groups import Subject
from ksym.reports.machine_readable import report
from ksym.reports.select import Selection
from ksym.reports.terminal import Style, Terminal
from support.accesses import Row, make_accesses, make_site, make_watch

SITES = (make_site("reader", 0x10), make_site("writer", 0x20), make_site("writer", 0x30, ip=0x401030))


STACKS = (
    (Named("reader", 0x10), Named("main", 5)),
    (Named("writer", 0x20), Named("loop", 1), Named("main", 9)),
)


def subject(rows: list[Row], **tables: Any) -> Subject:
    tables.setdefault("sites", SITES)
    (only,) = Analysis(make_accesses(rows, **tables), Selection()).subjects
    return only


@st.composite
def rows(draw: st.DrawFn, most: int = 40) -> list[Row]:
    """Accesses to two variables, close together; values are few, so that they meet again."""
    made = draw(
        st.lists(
            st.tuples(
                st.sampled_from((0, 1, 900, NEAR_NS, NEAR_NS + 1, LATE_NS, LATE_NS + 1)), st.sampled_from(KINDS),
                st.integers(0, 2), st.integers(1, 3), st.sampled_from((None, 0, 1, 2)),
                st.sampled_from((None, 0, 1, 2)), st.integers(0, 2), st.integers(0, 1),
                st.integers(1, 3), st.integers(1, 2), st.integers(-1, 1),
            ),
            max_size=most,
        )
    )  # fmt: skip
    now, found = 0, []
    for gap, kind, cpu, tid, new, old, site, watch, hits, pid, stack in made:
        now += gap
        found.append(Row(now, kind, cpu, tid, f"t{tid}", new, old, site, watch, hits, pid, stack))
    return found


WATCHES = (make_watch(), make_watch("./prog:other", "int", index=1))


def both(found: list[Row], watches: tuple[Any, ...] = WATCHES) -> Accesses:
    return make_accesses(found, watches=watches, sites=SITES, stacks=STACKS)


EVERYTHING = Selection()


ABOUT = About("two.data", None, {"hostname": "vm", "release": "6.1", "arch": "x86_64", "cpus": 2}, "ksym 0.1")


def text_of(
    analysis: Analysis, by: tuple[str, ...] = ("instruction",), *, width: int = 80, about: About = ABOUT,
    most: int = 25, selection: Selection = EVERYTHING, glyphs: layout.Glyphs = layout.UNICODE,
) -> str:  # fmt: skip
    style = Style(width, glyphs, by, most, "cpu")
    return layout.plain(Terminal(about, analysis, selection, style, lambda site: "prog.c:7").lines())


def json_of(analysis: Analysis, by: tuple[str, ...] = ("instruction",), lanes: str | None = "cpu") -> str:
    return json.dumps(report(ABOUT, analysis, by, 0, lanes, lambda site: None))


SMALL = [
    Row(0, "W", 0, 11, "maker", 1, 0, site=1), Row(1_000_000, "R", 1, 12, "taker", 1, 1, site=0),
    Row(1_000_900, "W", 0, 11, "maker", 1, 1, site=1), Row(3_000_000, "W", 1, 12, "taker", 7, 1, site=2, hits=2),
]  # fmt: skip
