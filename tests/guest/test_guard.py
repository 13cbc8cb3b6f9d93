# SPDX-License-Identifier: BSD-2-Clause
"""A variable that the kernel touches all the time: counts stay exact, and the guard keeps the machine usable."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from guest.running import LIMIT, broken, tallied, trace
from ksym.capture.merge import Merge
from ksym.capture.records import SampleRecord
from ksym.language.parser import parse_request
from ksym.linux.cpus import online_cpus
from ksym.program.shared import Cell
from ksym.program.wants import Sink, Wants
from ksym.runs.planting import Planting, plant
from ksym.runs.resources import Resources
from ksym.symbols.resolver import Resolver
from ksym.watch.arm import Options
from ksym.watch.plan import Scope
from support.program import Result, command, environment, ksym, shell

pytestmark = pytest.mark.guest

BUSY = "dd if=/dev/zero of=/dev/null bs=1M count=500 2> /dev/null"
TOLD = (
    r"guard: jiffies_64 disarmed: [\d,]+ hits/s on CPU \d+ took \d+ % of a CPU \(limit 0\.1 %\); watch less "
)


@pytest.mark.usefixtures("programs")
def test_writes_of_a_busy_variable_form_a_chain() -> None:
    rows = trace("jiffies_64:-w-", *shell(BUSY)).rows()
    assert broken(rows) == []
    assert len(rows) > 1
    # The first one may have come before ksym had read what was there.
    assert all(row["new"] > row["old"] for row in rows if row["old"] is not None or row is not rows[0])
    assert all(a["time_ns"] < b["time_ns"] for a, b in pairwise(rows))


def test_machine_stays_usable(tmp_path: Path) -> None:
    """With the usual guard a command runs to its end, whether or not that disarms the watch."""
    file = tmp_path / "rows"
    result = ksym("trace", "jiffies_64", "-o", str(file), "--format", "json", *shell(f"{BUSY}; exit 7"))
    assert result.status == 7, result.err
    accesses, hits, lost, _ = tallied(result)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert (len(rows), sum(row["hits"] for row in rows), lost) == (accesses, hits, 0)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("percent", [0.1, 0], ids=["disarmed", "guard off"])
def test_counts_add_up(percent: float) -> None:
    """What the programs saw and what came behind the guard's verdict are what the hardware's counters say."""
    request, resolver, scope = parse_request("jiffies_64"), Resolver(), Scope(tuple(online_cpus()))
    planting = Planting(Options(), Wants(Sink.RECORD), guard=percent)
    with Resources() as stack:
        found = [(request, resolver.resolve(request))]
        armed, guard, _ = plant(found, (None,), lambda: scope, planting, stack, resolver.kernel)
        assert armed.engine
        merge = Merge(armed.rings, chains=False, raw=True)
        over: Callable[[], bool] = lambda: bool(guard.look()) if guard else armed.counts()[0] > 1000  # noqa: E731
        armed.enable()
        while not over():
            pass
        armed.disable()
        shared = armed.engine.shared
        seen, suppressed, dropped = (
            shared.total(0, field) for field in (Cell.SEEN, Cell.DISARMED, Cell.DROPPED)
        )
        records = [record for record in merge.ready(last=True) if isinstance(record, SampleRecord)]
        assert armed.counts() == [seen + suppressed]
        assert len(records) == seen - dropped
        assert bool(suppressed) == bool(percent)


def disarmed(result: Result) -> None:
    assert result.status == 0, result.err
    assert tallied(result)[2:] == [0, 1]
    assert re.search(f"^ksym: {TOLD}", result.err, re.MULTILINE), result.err


@pytest.mark.parametrize("options", [(), ("--no-bpf",)], ids=["programs", "no programs"])
def test_guard_ends_a_run_that_watches_nothing_else(options: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "rows"
    result = ksym("trace", "jiffies_64", "--guard", "0.1", *options, "--format", "json", "-o", str(file))
    disarmed(result)
    assert tallied(result)[0] == len(file.read_text().splitlines()) > 0


def test_guard_over_counters_alone() -> None:
    result = ksym("stat", "jiffies_64", "--guard", "0.1")
    assert result.status == 0, result.err
    assert re.search(r"^ksym: \d+ hits, 0 lost, 1 disarmed; ", result.err, re.MULTILINE), result.err
    assert re.search(f"^ksym: {TOLD}", result.err, re.MULTILINE), result.err


@pytest.mark.parametrize("options", [(), ("--no-bpf",)], ids=["programs", "no programs"])
def test_guard_takes_off_the_worst_alone(options: tuple[str, ...], tmp_path: Path) -> None:
    told = tmp_path / "err"
    script = f"until grep -q disarmed {told}; do :; done; cat /proc/sys/kernel/panic"
    words = command(
        "trace", "jiffies_64", "panic_timeout", "--guard", "0.1", "-v", "--format", "json", *options, *shell(script)
    )  # fmt: skip
    with told.open("w") as err:
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=err, text=True, env=environment(), timeout=LIMIT
        )
    result = Result(done.returncode, done.stdout, told.read_text())
    disarmed(result)
    reads = [row for row in result.rows() if row["symbol"] == "panic_timeout"]
    assert [(row["comm"], row["access"]) for row in reads] == [("cat", "R")]
