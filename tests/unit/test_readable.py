# SPDX-License-Identifier: BSD-2-Clause
"""Names that are no text: bytes that are no UTF-8, in the path of a program above all."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ksym.language.parser import parse_request
from ksym.symbols.readable import readable
from ksym.symbols.variable import Space, Variable
from ksym.watch.plan import make_plan
from support.recordings import FakeArmed, Recorded, ksym
from synthetic import perf

NAME = "./" + os.fsdecode(b"b\xffd") + ":counter"


def test_only_what_no_text_has_is_replaced() -> None:
    for name in ("prog", "b\u00fcro", "\U0001f40d", ""):
        assert readable(name) == name
    assert readable(os.fsdecode(b"b\xffd \xc3\xbc")) == "b\ufffdd \u00fc"


def test_a_name_is_the_same_in_all_that_leaves_ksym(tmp_path: Path) -> None:
    variable = Variable(NAME, 0x404000, 4, Space.USER)
    armed = FakeArmed(make_plan([(parse_request(f"{NAME}:rw-"), variable)]).watches)
    recorded = Recorded(tmp_path / "x.data", armed)
    armed.rings[0].put(
        perf.sample(1, event=100, ip=0x401000, pid=9, tid=9, hit=perf.Hit(0, 1, 0, bytes(4), bytes(4)))
    )
    recorded.round()
    recorded.finish()
    file = str(tmp_path / "x.data")
    shown = "./b\ufffdd:counter"
    rows = tmp_path / "rows"
    ksym("script", "--format", "json", "--symbol", NAME, "-o", str(rows), file)
    row = json.loads(rows.read_text())
    assert row["symbol"] == shown
    ksym("script", "--format", "csv", "-f", "-o", str(rows), file)
    assert f",{shown}," in rows.read_text()
    report = ksym("report", "--json", file)[1]
    assert "\\ud" not in report
    (found,) = json.loads(report)["variables"]
    assert (found["symbol"], found["request"]) == (shown, f"{shown}:rw-")
    assert shown in ksym("report", file)[1]
