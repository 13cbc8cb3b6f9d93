# SPDX-License-Identifier: BSD-2-Clause
"""The arithmetic and the table of ``make bench``; nothing is timed here."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench import offline, page
from bench.figures import FIGURES
from bench.picture import picture
from bench.record import LongRun, long_rows
from bench.report import (
    BEHIND,
    NOT_ASKED,
    OK,
    Row,
    as_json,
    by_cpu_time,
    ratios,
    rows_of,
    spread,
    table,
    verdict,
)
from bench.runner import (
    ROOT,
    BenchError,
    Done,
    RunFailed,
    exactly,
    in_turns,
    perf_record,
    rounds,
    run,
    summary,
)
from bench.values import Against, Hit, lost_row, row_of
from bench.workload import Loops, LoopsTimes, LoopTimes, build_loops, loop_times, loops_times


def test_ratios_are_taken_pair_by_pair() -> None:
    # Both are twice as slow in the second pair: the medians of each would not tell, the ratios do.
    row = Row("x", "ns", [10, 22, 11], "peer", [10, 20, 10])
    assert ratios(row) == [1.0, 1.1, 1.1]
    assert spread(ratios(row)).median == 1.1


def test_runs_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError):
        ratios(Row("x", "ns", [1, 2], "peer", [1]))


def test_spread() -> None:
    found = spread([3.0, 1.0, 8.0, 2.0])
    assert (found.median, found.least, found.most) == (2.5, 1.0, 8.0)
    with pytest.raises(ValueError):
        spread([])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (Row("ratio met", "ns", [10], "peer", [10], asked_ratio=1.0), OK),
        (Row("ratio missed", "ns", [11], "peer", [10], asked_ratio=1.05), BEHIND),
        (Row("most met", "ms", [150], asked_most=150), OK),
        (Row("most missed", "ms", [151], asked_most=150), BEHIND),
        (Row("one of two missed", "ms", [90], "peer", [100], asked_ratio=0.5, asked_most=150), BEHIND),
        (Row("peer missing", "ns", [10], "peer", asked_ratio=1.0, note="peer is missing"), NOT_ASKED),
        (Row("peer missing, most met", "ms", [10], "peer", asked_ratio=1.0, asked_most=20), OK),
        (Row("nothing lost", "", [0], asked_most=0), OK),
        (Row("nothing asked", "ns", [1], "peer", [2]), NOT_ASKED),
        (Row("failed", "", remark="FAILED: why", asked_most=1), NOT_ASKED),
    ],
    ids=lambda value: value.what if isinstance(value, Row) else "",
)
def test_verdict(row: Row, expected: str) -> None:
    assert verdict(row) == expected


def test_table_names_what_is_missing_and_aligns() -> None:
    rows = [
        Row("count", "ns", [10.0, 11.0, 12.0], "perf", [10.0, 10.0, 10.0], asked_ratio=1.03),
        Row("arm", "ms", [90.25], "bpftrace", note="bpftrace is missing (Debian: bpftrace)", asked_ratio=0.5),
        Row("rows", "", [123456.0]),
        Row("values", "ns", [10.0], "gdb", [200.0], asked_ratio=1 / 15, remark="old value by its program"),
    ]
    lines = table(rows).split("\n")
    assert lines[0].split("  ")[0] == "WHAT"
    assert "11 ns" in lines[1]
    assert "1.100 (1.000-1.200)" in lines[1]
    assert lines[1].endswith(BEHIND)
    assert "90.25 ms  bpftrace is missing (Debian: bpftrace)" in lines[2]
    assert "123,456" in lines[3]
    assert "ratio <= 0.0667  ok" in lines[4]
    assert lines[4].endswith("  old value by its program")
    starts = [
        line.index(word)
        for line, word in zip(lines, ("KSYM", "11 ns", "90.25", "123,456", "10 ns"), strict=True)
    ]
    assert len(set(starts)) == 1


def test_a_failure_does_not_widen_the_table() -> None:
    lines = table([Row("x", "s", [1.5]), Row("offline", "", remark=f"FAILED: {'why ' * 30}")]).split("\n")
    assert len(lines[0]) == len("WHAT     KSYM   PEER  RATIO (LEAST-MOST)  ASKED  VERDICT  REMARK")
    assert "FAILED: why" in lines[2]


def test_one_run_has_no_spread() -> None:
    line = table([Row("x", "MB", [30.0], "peer", [20.0])]).split("\n")[1]
    assert "peer 20 MB  1.500  " in line


def test_json_has_every_value_and_the_verdict() -> None:
    made = json.loads(as_json([Row("count", "ns", [10, 12], "perf", [10, 10], asked_ratio=1.2)], {"cpus": 2}))
    assert made["machine"] == {"cpus": 2}
    row = made["rows"][0]
    assert (row["ours"], row["peer"], row["verdict"]) == ([10, 12], [10, 10], OK)
    assert row["ratio"] == {"median": 1.1, "least": 1.0, "most": 1.2}


def test_turns_alternate_and_the_first_round_is_thrown_away() -> None:
    order: list[str] = []

    def ours() -> int:
        order.append("a")
        return len(order)

    def peer() -> int:
        order.append("b")
        return len(order)

    assert in_turns(ours, peer, 2) == [(3, 4), (5, 6)]
    assert order == list("ababab")


def test_rounds_take_all_in_turns() -> None:
    order: list[str] = []
    runs = [partial(order.append, name) for name in "abc"]
    assert rounds(runs, 2) == [[None] * 3] * 2
    assert "".join(order) == "abcabcabc"


def test_a_failed_run_is_tried_once_more(capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = iter("x1xx")

    def once() -> str:
        outcome = next(outcomes)
        if outcome == "x":
            raise RunFailed("perf failed with 133")
        return outcome

    assert rounds([once], 0) == []
    assert capsys.readouterr().err == "bench: once more, as perf failed with 133\n"
    with pytest.raises(RunFailed):
        rounds([once], 0)


def test_an_inexact_run_is_not_tried_again() -> None:
    def inexact() -> int:
        runs.append(1)
        raise BenchError("20 hits expected")

    runs: list[int] = []
    with pytest.raises(BenchError, match="20 hits"):
        rounds([inexact], 3)
    assert len(runs) == 1


def test_turns_without_a_peer() -> None:
    assert in_turns(lambda: 1, None, 2) == [(1, None), (1, None)]


def test_loop_times_are_found_among_a_tools_output() -> None:
    times = loop_times("          HITS  SYMBOL\nloop 1000 3000 500000000 20.500 19.250\n  100  x\n")
    assert times == LoopTimes(1000, 3000, 0.5, 20.5, 19.25)
    with pytest.raises(BenchError):
        loop_times("bpftrace: no\n")


def test_a_failed_run_is_an_error_that_tells_why() -> None:
    with pytest.raises(BenchError, match="sh failed with 3: went wrong"):
        run(["sh", "-c", "echo went wrong >&2; exit 3"])
    assert run(["sh", "-c", "exit 3"], check=False).status == 3


def test_output_into_a_file_is_not_read(tmp_path: Path) -> None:
    done = run(["sh", "-c", "echo rows; echo said >&2"], output=tmp_path / "out")
    assert (done.stdout, done.stderr, (tmp_path / "out").read_text()) == ("", "said\n", "rows\n")


def test_a_childs_cpu_time_is_not_the_recorders_own() -> None:
    done = run(["sh", "-c", f'"{sys.executable}" -S -c "sum(range(5_000_000))"; exit 0'])
    assert done.own_cpu_seconds < done.cpu_seconds


def test_a_tools_own_count_is_held_against_what_was_done() -> None:
    exactly(20, r"^ksym: (\d+) hits", "ksym: 20 hits, 0 lost\n")
    for text in ("ksym: 19 hits, 0 lost\n", "ksym: nothing\n"):
        with pytest.raises(BenchError, match="20 hits expected"):
            exactly(20, r"^ksym: (\d+) hits", text)


def test_summary() -> None:
    assert summary("note\nksym: 1 access (1 hit), 2 lost, 0 disarmed; x 1\n") == (1, 2)
    assert summary("ksym: 5 accesses (12 hits), 0 lost, 0 disarmed; x 5\n") == (12, 0)
    assert summary("ksym: 7 hits, 1 lost, 0 disarmed; x 8\n") == (7, 1)
    with pytest.raises(BenchError, match="no summary"):
        summary("ksym: cannot trace x: why\n")


HITS = {"trace": [Hit(10, 8), Hit(12, 9)], "perf record": [Hit(10, 8), Hit(10, 6, lost=3)]}


def test_a_comparison_of_values_shows_cpu_time_and_loss() -> None:
    row = row_of(Against("trace", "perf record", 1.15, "no values"), HITS, "")
    assert (row.ours, row.peer, row.asked_ratio) == ([10, 12], [10, 10], 1.15)
    assert row.remark == "no values; by CPU time 1.250; perf record lost 3"


def test_a_slow_peer_is_shown_with_what_a_bare_count_would_reach() -> None:
    hits = {"trace": [Hit(12, 12)], "perf stat": [Hit(10, 10)], "gdb": [Hit(100, 5)]}
    row = row_of(Against("trace", "gdb", 1 / 15, "stops"), hits, "")
    assert (row.remark, verdict(row)) == ("stops; perf stat has 0.100", BEHIND)


def test_a_comparison_of_values_without_the_peer() -> None:
    row = row_of(Against("trace", "gdb", 0.1, "stops"), HITS, "gdb is missing (Debian: gdb)")
    assert (row.ours, row.peer, row.note) == ([10, 12], [], "gdb is missing (Debian: gdb)")
    assert verdict(row) == NOT_ASKED


def test_loss_is_summed_over_the_runs_of_a_round() -> None:
    hits = {"trace": [Hit(1, 1), Hit(1, 1, lost=2)], "trace -g": [Hit(1, 1, lost=1), Hit(1, 1)]}
    row = lost_row(list(hits.values()), hits | {"bpftrace": [Hit(1, 1, lost=7), Hit(1, 1)]}, 500)
    assert (row.ours, row.asked_most, row.remark) == ([1, 2], 0, "bpftrace lost 7 of 1,000")
    assert verdict(row) == BEHIND


def test_cpu_time_is_a_remark() -> None:
    assert by_cpu_time([3, 4, 5], [2, 2, 2]) == "by CPU time 2.000"


def test_perf_records_every_access_into_the_file() -> None:
    argv = perf_record("mem:0x10/8:wu", Path("x"), "-g")
    assert " ".join(argv) == "perf record -q -N -B -g -c 1 -e mem:0x10/8:wu -o x --"


def test_loops_on_several_cpus(tmp_path: Path) -> None:
    loops = build_loops(tmp_path)
    each = 1000 // len(loops.cpus)
    times = loops_times(run(loops.command(1000)).stdout)
    assert (times.accesses, times.traps) == (each * len(loops.cpus), 0)
    told = loops_times("x\nloops 2500000000 10 1\n")
    assert (told, told.hits) == (LoopsTimes(2.5, 10, 1), 9)
    with pytest.raises(BenchError):
        loops_times("loop 1 2 3 4 5\n")


def test_loops_run_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loops, "cpus", [3, 5])
    loops = Loops(Path("loops"), 0x10)
    assert loops.command_for(60) == ["loops", str(1 << 62), "60", "3", "5"]
    assert loops.command(10)[:2] == ["loops", "5"]


LONG = LongRun(LoopsTimes(60.0, 8_000_000, 0), 0, 3.0, 50_000, 704_000_000)


def test_a_long_run_has_a_line_for_all_that_was_asked() -> None:
    peer = LongRun(LoopsTimes(60.0, 8_000_002, 2), 5, 0.6, 20_000, 256_000_000)
    lost, cpu, memory, file = long_rows("record 60 s", LONG, peer, "")
    assert (lost.ours, lost.asked_most, verdict(lost)) == ([0], 0, OK)
    assert (
        lost.remark == "perf record lost 5 of 8,000,000; 2 hits reached the program as signals, and no tool"
    )
    assert (cpu.ours, cpu.peer, cpu.asked_most, verdict(cpu)) == ([5.0], [1.0], 10, OK)
    assert (memory.ours, memory.asked_most, verdict(memory)) == ([51.2], 100, OK)
    assert (file.ours, file.peer, verdict(file)) == ([88.0], [32.0], NOT_ASKED)


def test_a_long_run_without_the_peer() -> None:
    rows = long_rows("record 60 s", LONG, None, "perf is missing (Debian: linux-perf)")
    assert not any(row.peer for row in rows)
    assert rows[0].remark == ""
    assert "perf is missing" in table(rows)


def done_in(seconds: float, cpu: float, rss_kib: int) -> Done:
    return Done(0, "", "", 0, int(seconds * 1e9), cpu, cpu, rss_kib)


READ = Against("script", "perf script", 1.0)
READ_BY = {
    "script": [done_in(2, 1.5, 2000), done_in(3, 1.5, 4000)],
    "perf script": [done_in(1, 1, 1000), done_in(4, 1, 1000)],
}


def test_reading_is_compared_by_time_and_by_memory() -> None:
    time = offline.time_row(READ, READ_BY, 1_000_000, "")
    assert (time.what, time.unit, verdict(time)) == ("script: 1,000,000 accesses", "ms", BEHIND)
    assert (ratios(time), time.remark) == ([2.0, 0.75], "by CPU time 1.500")
    assert (time.cpu, time.peer_cpu) == ([1.5, 1.5], [1, 1])
    memory = offline.memory_row(READ, READ_BY, 4096, "")
    assert (memory.ours, memory.peer, verdict(memory)) == ([500, 1000], [250, 250], OK)
    large = offline.large_row(READ, READ_BY, 10_000_000, "")
    assert (large.unit, large.remark) == ("GB", "took 2.0 s, perf script 1.0 s")


def test_reading_without_the_peer() -> None:
    ours = {"script": READ_BY["script"]}
    gone = "perf is missing (Debian: linux-perf)"
    for row in (make(READ, ours, 1_000_000, gone) for make in (offline.time_row, offline.memory_row)):
        assert (row.peer, row.note) == ([], gone)
    assert offline.large_row(READ, ours, 1, gone).remark == "took 2.0 s"


def test_a_reader_that_does_not_show_all_gives_no_figure() -> None:
    with pytest.raises(BenchError, match="perf script -i: 5 accesses expected, but it has 4"):
        offline._all(["perf", "script", "-i", "file"], 5, 4)


def test_every_figure_says_what_it_is() -> None:
    assert list(FIGURES) == ["count", "armed", "loss", "cost", "values", "record", "offline", "growth"]
    assert all(figure.__doc__ for figure in FIGURES.values())


def test_the_picture_has_a_mark_for_each_figure_with_a_peer() -> None:
    rows = [
        Row("fast <&>", "ns", [50, 60], "perf", [100, 100], asked_ratio=1.1),
        Row("slow", "ns", [300, 300], "perf", [100, 100], asked_ratio=1.1),
        Row("not asked", "ns", [100], "gdb", [2000]),
        Row("alone", "MB", [5], asked_most=10),
        Row("none lost", "", [0], "perf", [7]),
    ]
    root = ElementTree.fromstring(picture(rows, "one & the same machine"))
    space = "{http://www.w3.org/2000/svg}"
    marks = [mark.get("class") for mark in root.iter(f"{space}circle")]
    assert marks == ["ok", "behind", "plain"]
    where = [float(str(mark.get("cx"))) for mark in root.iter(f"{space}circle")]
    assert where[2] < where[0] < where[1]
    words = ["".join(text.itertext()) for text in root.iter(f"{space}text")]
    assert {"fast <&>", "0.55 perf", "slow", "3.00 perf", "0.05 gdb", "one & the same machine"} <= set(words)
    assert not {"alone", "none lost"} & set(words)


def test_a_picture_of_nothing_is_one() -> None:
    assert ElementTree.fromstring(picture([], "")).tag.endswith("svg")


def published() -> list[Row]:
    """A line of each figure; the first is behind."""
    return [
        Row(name, "ns", [30 if not number else 10], "perf", [10], asked_ratio=1.1, figure=name)
        for number, name in enumerate(FIGURES)
    ]


MACHINE = {
    "date": "2026-01-01", "kernel": "6.1", "cpu": "A|B", "cpus": 2, "perf": "perf 6", "bpftrace": "bpftrace 1",
    "gdb": "GNU gdb 13", "python": "3.11", "load before": 0.1, "quick": False,
}  # fmt: skip


def test_results_are_read_back() -> None:
    rows = [Row("x", "ns", [1, 2], "perf", [1, 1], 1.1, 5, "note", "remark", [1], [2], "count")]
    again, machine = rows_of(as_json(rows, MACHINE))
    assert (again[0].ours, again[0].remark, again[0].figure) == ([1, 2], "remark", "count")
    assert (as_json(again, machine), machine) == (as_json(rows, MACHINE), MACHINE)
    for text in ("{}", '{"rows": [{}], "machine": {}}', "[]", "x"):
        with pytest.raises(ValueError, match=r"no results of the bench|Expecting value"):
            rows_of(text)


def test_the_page_has_a_table_a_figure_and_the_readme_what_is_behind() -> None:
    text = "\n".join(page.table(published(), MACHINE))
    assert text.count("| what | ksym |") == len(FIGURES)
    assert "2026-01-01" in text
    assert text.count("**BEHIND**") == 1
    told = list(page.behind(published()))
    assert told[0] == f"{len(FIGURES) - 1} of {len(FIGURES)} figures are what was asked for; behind are:"
    assert told[2:] == ["- count: 30 ns, perf 10 ns: 3.00 times that, asked 1.1"]
    assert list(page.behind(published()[1:])) == [
        f"{len(FIGURES) - 1} of {len(FIGURES) - 1} figures are what was asked for."
    ]
    assert (
        list(page.behind([Row("memory", "MB", [50], asked_most=40, remark="why")]))[-1]
        == "- memory: 50 MB, asked at most 40 MB (why)"
    )


@pytest.mark.parametrize(
    ("rows", "machine", "why"),
    [
        (published(), MACHINE | {"quick": True}, "quick"),
        (published()[:-1], MACHINE, "left out growth"),
        ([*published(), Row("x", "ns", remark="FAILED: why", figure="count")], MACHINE, "FAILED: why"),
        (
            [*published(), Row("x", "ns", [1], note="gdb is missing", figure="count")],
            MACHINE,
            "gdb is missing",
        ),
    ],
)
def test_half_a_bench_is_not_published(rows: list[Row], machine: dict[str, object], why: str) -> None:
    page.publishable(published(), MACHINE)
    with pytest.raises(ValueError, match=why):
        page.publishable(rows, machine)


def test_the_pages_have_a_place_for_the_figures() -> None:
    for path in (page.DOCS / "bench.md", ROOT / "README.md"):
        renewed = page.replaced(path.read_text(), iter(["new"]))
        assert f"{page.BEGIN}\n\nnew\n\n{page.END}" in renewed
    with pytest.raises(ValueError, match="where the figures go"):
        page.replaced("no page", iter([]))
