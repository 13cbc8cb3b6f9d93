# SPDX-License-Identifier: BSD-2-Clause
"""What a run keeps must not grow with the number of processes that come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ksym.capture.access import Access
from ksym.capture.pipeline import Pipeline
from ksym.capture.records import ExitRecord, ForkRecord, Record, SampleRecord
from ksym.capture.sites import Named, Site, Sites
from ksym.capture.tasks import Tasks
from ksym.language.parser import parse_request
from ksym.symbols.variable import Space, Variable
from ksym.views import rows
from ksym.views.jsonl import JsonLines
from ksym.views.rows import Rows
from ksym.views.table import Table
from ksym.watch.plan import PlannedEvent, Watch, make_plan

EVENT = 5


class NoCode:
    """User-space code of which only names are known."""

    def name(self, pid: int, ip: int) -> Named:
        return Named("f", ip & 0xF)

    def read(self, pid: int, address: int, length: int) -> bytes:
        return b""

    def bits(self, pid: int, ip: int) -> int:
        return 64


def watch() -> Watch:
    return make_plan([(parse_request("./prog:v"), Variable("./prog:v", 0x1000, 4, Space.USER))]).watches[0]


def child(pid: int, at: int) -> list[Record]:
    """A child that is forked, makes an access and ends."""
    return [
        ForkRecord(at, pid, pid, 1, 1),
        SampleRecord(at + 1, 0, EVENT, 0x400001, pid, pid, ()),
        ExitRecord(at + 2, pid, pid),
    ]


def sizes(of: Any) -> int:
    """All that an object's own tables hold."""
    return sum(len(table) for table in vars(of).values() if isinstance(table, dict | set | list))


def test_processes_that_ended_are_forgotten() -> None:
    one = watch()
    planned = {(EVENT, 0): PlannedEvent(one, one.pieces[0], 1, 0)}
    sites = Sites(lambda: None, lambda: None, NoCode())
    pipeline = Pipeline(planned, sites, Tasks())
    for pid in range(2, 1000):
        accesses = pipeline.take(child(pid, pid * 10), until=pid * 10 + 2)
        assert [(a.pid, a.site.named.function) for a in accesses] == [(pid, "f")]
    assert sizes(sites) + sizes(pipeline) < 20


@pytest.mark.parametrize("make", [lambda: Table([watch()]), JsonLines])
def test_formats_keep_so_many_texts(make: Callable[[], Rows], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("table", "jsonl"):
        monkeypatch.setattr(f"ksym.views.{module}.PLACES_KEPT", 10)
    assert rows.PLACES_KEPT > 10
    format_, one = make(), watch()
    lines = []
    for number in range(100):
        site = Site(number, number, Named(f"f{number}", 1), None, 4)
        access = Access(number, 0, number, number, f"comm{number}", one, 0x1000, "W", site)
        lines.append(format_.row(access))
    assert sizes(format_) < 50
    assert all(f"f{number}" in line and f"comm{number}" in line for number, line in enumerate(lines))
