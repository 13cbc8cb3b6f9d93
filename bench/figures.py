# SPDX-License-Identifier: BSD-2-Clause
"""What is measured: a function a figure, each giving one or more rows.

A run whose counts are not exact is an error, not a figure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench.growth import growth
from bench.offline import offline
from bench.record import record
from bench.report import Row
from bench.runner import (
    BenchError,
    Done,
    exactly,
    in_turns,
    ksym,
    missing,
    perf_record,
    retried,
    run,
    summary,
)
from bench.values import RowsRun, bpftrace_rows, values
from bench.workload import Bench, loop_times


def count(bench: Bench) -> list[Row]:
    """A hit that is only counted: ``stat`` against ``perf stat``."""
    accesses = 10_000 if bench.quick else 30_000
    command = bench.loop.command(accesses)

    def ours() -> float:
        done = run(ksym("stat", bench.loop.request, "--", *command))
        exactly(accesses, r"^ksym: (\d+) hits", done.stderr)
        return loop_times(done.stdout).ns_per_access

    def perf() -> float:
        done = run(["perf", "stat", "-x,", "-e", bench.loop.perf_event, "--", *command])
        exactly(accesses, r"^(\d+),,mem:", done.stderr)
        return loop_times(done.stdout).ns_per_access

    return [
        _against(
            "count: cost a hit, stat", "ns", "perf stat", "perf", ours, perf,
            pairs=3 if bench.quick else 21, asked=1.03,
        )
    ]  # fmt: skip


_START = "most of it is Python's start, which loads some 100 modules; bpftrace waits 200 ms of its time"


def armed(bench: Bench) -> list[Row]:
    """From nothing to armed, and to the end: the whole process on a command that does nothing.

    bpftrace 0.17 with ``-c`` starts COMMAND once its probes are attached, polls for its end every 100 ms, then
    drains once more: its 200 ms of waiting are part of its whole process, as a user sees it. COMMAND says when it
    started, so that the way to armed is compared without them. `BEGIN { exit() }` instead of ``-c`` waits the same.
    """
    command = bench.loop.command(0)

    def ours() -> Done:
        return run(ksym("stat", bench.variable.request, "--", *command))

    def bpftrace() -> Done:
        program = f"{bench.variable.bpftrace_probe} {{ @ = count(); }}"
        return run(["bpftrace", "-e", program, "-c", " ".join(command)])

    def perf() -> Done:
        # By number: this is the floor, without a name to find.
        return run(["perf", "stat", "-x,", "-a", "-e", bench.variable.perf_event, "--", *command])

    gone = missing("bpftrace")
    count = 3 if bench.quick else 15
    pairs = in_turns(ours, None if gone else bpftrace, count)
    floor = in_turns(ours, None if missing("perf") else perf, count)

    def row(
        what: str, unit: str, value: Callable[[Done], float], ratio: float | None, most: float | None,
        remark: str = "",
    ) -> Row:  # fmt: skip
        return Row(
            what, unit, [value(a) for a, _ in pairs], "bpftrace",
            [value(b) for _, b in pairs if b is not None], ratio, most, gone or "", remark,
        )  # fmt: skip

    return [
        row("arm: whole process", "ms", lambda done: done.wall_ms, 0.5, 150, _START),
        row("arm: until COMMAND starts", "ms", _until_started, None, None),
        Row(
            "arm: whole process",
            "ms",
            [a.wall_ms for a, _ in floor],
            "perf stat",
            [b.wall_ms for _, b in floor if b is not None],
            note=missing("perf") or "",
            remark="takes a number, finds no name",
        ),
        row("arm: CPU time", "ms", lambda done: done.cpu_seconds * 1000, None, None),
        row("arm: largest resident set", "MiB", lambda done: done.rss_kib / 1024, None, 40),
    ]


def _until_started(done: Done) -> float:
    return (loop_times(done.stdout).start - done.started) / 1e6


def loss(bench: Bench) -> list[Row]:
    """Rows of ``trace -o`` under full load, as table and as JSON: nothing may be lost. bpftrace prints rows like it."""
    probe = run(ksym("stat", bench.loop.request, "--", *bench.loop.command(20_000)))
    seconds = 2 if bench.quick else 10
    accesses = int(seconds * 1e9 / loop_times(probe.stdout).ns_per_access)
    gone = missing("bpftrace")
    peer = None if gone else retried(partial(bpftrace_rows, bench, accesses))
    rows = []
    for form in ("table", "json"):
        rows += _loss_rows(f"trace --format {form}", _loss_of(bench, form, accesses), peer, gone or "")
    return rows


def _loss_of(bench: Bench, form: str, accesses: int) -> RowsRun:
    file = bench.folder / f"rows.{form}"
    options = ("-q", "--format", form, "-f", "-o", str(file))
    done = run(ksym("trace", *options, bench.loop.request, "--", *bench.loop.command(accesses)))
    with file.open("rb") as lines:
        written = sum(1 for _ in lines)
    file.unlink()
    hits, lost = summary(done.stderr)
    if hits + lost != accesses or written != hits:
        raise BenchError(
            f"ksym trace --format {form}: {accesses} accesses, but {hits} hits, {lost} lost, {written} rows"
        )
    return RowsRun(done, loop_times(done.stdout), accesses, written)


def _loss_rows(name: str, ours: RowsRun, peer: RowsRun | None, gone: str) -> list[Row]:
    def row(what: str, unit: str, value: Callable[[RowsRun], float]) -> Row:
        return Row(
            f"{name}: {what}", unit, [value(ours)], "bpftrace", [value(peer)] if peer else [], note=gone
        )

    remark = f"bpftrace lost {peer.lost:,}" if peer else ""
    return [
        Row(f"{name}: lost of {ours.accesses:,}", "", [ours.lost], asked_most=0, remark=remark),
        Row(f"{name}: rows a second", "", [1e9 / ours.ns_a_row]),
        row("time a row, until the last is written", "ns", lambda run: run.ns_a_row),
        row("cost a hit", "ns", lambda run: run.times.ns_per_access),
        row("the tracer's CPU time a row", "ns", lambda run: run.tracer_cpu_ns_a_row),
        row("largest resident set", "MiB", lambda run: run.done.rss_kib / 1024),
        Row(f"{name}: past COMMAND's end", "ms", [(ours.done.ended - ours.times.end) / 1e6]),
    ]


def cost(bench: Bench) -> list[Row]:
    """A traced hit without programs in the kernel: ``trace --no-bpf`` against ``perf record -c 1``; both with stacks.

    Both plant the same perf events; ``values`` is about what ksym does where it may.
    """
    accesses = 10_000 if bench.quick else 40_000
    command = bench.loop.command(accesses)
    rows = []
    for what, option in (("trace --no-bpf", ()), ("trace --no-bpf -g", ("-g",))):
        rows_file = ("-f", "-o", str(bench.folder / "rows"))
        ours = ksym("trace", "--no-bpf", *rows_file, *option, bench.loop.request, "--", *command)
        peer = [*perf_record(bench.loop.perf_event, Path(os.devnull), *option), *command]
        rows.append(
            _against(
                f"cost a hit, {what}", "ns", " ".join(["perf record", *option]), "perf",
                partial(_loop_ns, ours), partial(_loop_ns, peer), pairs=3 if bench.quick else 9,
            )
        )  # fmt: skip
    return rows


def _loop_ns(argv: Sequence[str]) -> float:
    return loop_times(run(argv).stdout).ns_per_access


FIGURES: dict[str, Callable[[Bench], list[Row]]] = {
    "count": count,
    "armed": armed,
    "loss": loss,
    "cost": cost,
    "values": values,
    "record": record,
    "offline": offline,
    "growth": growth,
}


def _against(
    what: str,
    unit: str,
    peer_name: str,
    tool: str,
    ours: Callable[[], float],
    peer: Callable[[], float],
    *,
    pairs: int,
    asked: float | None = None,
) -> Row:
    gone = missing(tool)
    values = in_turns(ours, None if gone else peer, pairs)
    peers: Sequence[float] = [b for _, b in values if b is not None]
    return Row(what, unit, [a for a, _ in values], peer_name, peers, asked_ratio=asked, note=gone or "")
