# SPDX-License-Identifier: BSD-2-Clause
"""ksym report --json, on accesses that are made up."""

from __future__ import annotations

import json

from hypothesis import given

from ksym.recording.accesses import KINDS
from ksym.reports.analysis import NEAR_NS, Analysis, summarise
from ksym.reports.select import Selection
from support.accesses import Row, make_accesses
from support.reports import (
    SITES,
    SMALL,
    both,
    json_of,
    rows,
)


@given(rows())
def test_json_has_the_same_numbers(found: list[Row]) -> None:
    analysis = Analysis(both(found), Selection())
    data = json.loads(json_of(analysis))
    assert (data["accesses"], data["hits"]) == (len(found), sum(row.hits for row in found))
    for each, entry in zip(analysis.subjects, data["variables"], strict=True):
        assert entry["types"] == dict(zip(KINDS, each.kinds, strict=True))
        assert entry["groups"] == len(entry["rows"])
        assert sum(row["accesses"] for row in entry["rows"]) == entry["accesses"] == len(each)
        assert sum(sum(lane["counts"]) for lane in entry["timeline"]["lanes"]) == len(each)
        assert sum(stack["accesses"] for stack in entry["stacks"]) == int((each.accesses.stack >= 0).sum())
        found_ = summarise(each)
        silent = entry["findings"]["silent_stores"]
        assert (silent and silent["count"]) == (found_.silent and found_.silent.count)


def test_json() -> None:
    data = json.loads(
        json_of(Analysis(make_accesses(SMALL, sites=SITES), Selection()), ("value", "task"), None)
    )
    (entry,) = data["variables"]
    assert (entry["symbol"], entry["address"], entry["length"], entry["type"]) == (
        "./prog:counter", "0x4000", 4, "unsigned int",
    )  # fmt: skip
    row = entry["rows"][0]
    assert (row["value"], row["comm"], row["tid"], row["accesses"], row["share"]) == (1, "maker", 11, 2, 0.5)
    assert row["last_writer"]["tid"] == 11
    assert entry["timeline"] is None
    assert entry["findings"]["close_together"] == {
        "count": 1, "window_ns": NEAR_NS, "least_ns": 900,
        "places": [{"places": ["reader+0x10 [prog]", "writer+0x20 [prog]"], "count": 1}],
    }  # fmt: skip
    assert [writer["value"] for writer in entry["last_writers"]] == [7, 1]
