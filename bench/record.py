# SPDX-License-Identifier: BSD-2-Clause
"""What recordings cost: the program that is watched, and the recorder itself over a long run.

Every count that ksym tells is held against what the program did and against what perf finds in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.report import Row
from bench.runner import (
    BenchError,
    ksym,
    missing,
    perf_record,
    perf_samples,
    retried,
    rounds,
    run,
    summary,
)
from bench.values import Against, Hit, lost_row, perf_hit, row_of
from bench.workload import Bench, LoopsTimes, loop_times, loops_times

_COMPARISONS = (
    Against("record", "perf record", 1.1, "no values"),
    Against("record -g", "perf record -g", 1.1, "no values"),
)

_MEGA = 1e6


@dataclass(frozen=True)
class LongRun:
    """A recorder beside a program that does nothing but hit.

    Args:
        loops: What the program did.
        lost: Hits that are not in the file.
        cpu_seconds: Of the recorder alone, from its start to its end.
        rss_kib: Its largest resident set.
        size: Of the file, in bytes.
    """

    loops: LoopsTimes
    lost: int
    cpu_seconds: float
    rss_kib: int
    size: int

    @property
    def cpu_percent(self) -> float:
        """Of one CPU. The recorder's start and end count as well, the time that they take does not."""
        return 100 * self.cpu_seconds / self.loops.seconds


def record(bench: Bench) -> list[Row]:
    """A hit that is recorded, and a minute of nothing but hits on two CPUs: against ``perf record -c 1``."""
    return [*_cost(bench), *_long(bench)]


def _cost(bench: Bench) -> list[Row]:
    # Seconds long, so that what the recorder does every second meets the program.
    accesses, count = (20_000, 3) if bench.quick else (200_000, 9)
    gone = missing("perf")
    ours = {each.ours: partial(_hit, bench, accesses, *each.ours.split()[1:]) for each in _COMPARISONS}
    peers = {each.peer: partial(perf_hit, bench, accesses, *each.peer.split()[2:]) for each in _COMPARISONS}
    runs = ours if gone else ours | peers
    measured = rounds(list(runs.values()), count)
    hits: Mapping[str, Sequence[Hit]] = dict(zip(runs, zip(*measured, strict=True), strict=True))
    rows = [row_of(each, hits, gone or "", "cost a hit") for each in _COMPARISONS]
    return [*rows, lost_row([hits[name] for name in ours], hits, accesses, "record")]


def _hit(bench: Bench, accesses: int, *options: str) -> Hit:
    file = bench.folder / "record.data"
    command = bench.loop.command(accesses)
    done = run(ksym("record", "-q", "-f", "-o", str(file), *options, bench.loop.request, "--", *command))
    lost = _lost(done.stderr, file, accesses)
    file.unlink()
    return Hit.of(loop_times(done.stdout), lost)


def _lost(stderr: str, file: Path, expected: int) -> int:
    """What ``ksym record`` lost, as it said.

    Raises:
        BenchError: that is not all that is missing.
    """
    hits, lost = summary(stderr)
    held = hits if missing("perf") else perf_samples(file)
    if hits + lost != expected or held != hits:
        raise BenchError(
            f"ksym record: {expected} hits expected, but {hits} hits, {lost} lost, {held} in the recording"
        )
    return lost


def _long(bench: Bench) -> list[Row]:
    seconds = 10 if bench.quick else 60
    gone = missing("perf")
    ours = retried(partial(_long_ours, bench, seconds))
    peer = None if gone else retried(partial(_long_peer, bench, seconds))
    return long_rows(f"record {seconds} s on {len(bench.loops.cpus)} CPUs", ours, peer, gone or "")


def _long_ours(bench: Bench, seconds: int) -> LongRun:
    file = bench.folder / "record.data"
    command = bench.loops.command_for(seconds)
    done = run(ksym("record", "-q", "-f", "-o", str(file), bench.loops.request, "--", *command))
    loops = loops_times(done.stdout)
    lost = _lost(done.stderr, file, loops.hits)
    size = file.stat().st_size
    file.unlink()
    return LongRun(loops, lost, done.own_cpu_seconds, done.rss_kib, size)


def _long_peer(bench: Bench, seconds: int) -> LongRun:
    file = bench.folder / "perf.data"
    done = run([*perf_record(bench.loops.perf_event, file), *bench.loops.command_for(seconds)])
    loops = loops_times(done.stdout)
    lost = max(0, loops.hits - perf_samples(file))
    size = file.stat().st_size
    file.unlink()
    return LongRun(loops, lost, done.own_cpu_seconds, done.rss_kib, size)


def long_rows(name: str, ours: LongRun, peer: LongRun | None, gone: str) -> list[Row]:
    """The long run's lines of the table.

    Args:
        name: What each starts with.
        ours: ksym's run.
        peer: perf's; None if it is missing.
        gone: Why it is.
    """
    remarks = [f"perf record lost {peer.lost:,} of {peer.loops.hits:,}"] if peer else []
    traps = ours.loops.traps + (peer.loops.traps if peer else 0)
    if traps:
        remarks.append(f"{traps:,} hits reached the program as signals, and no tool")

    def row(what: str, unit: str, value: Callable[[LongRun], float], most: float | None) -> Row:
        return Row(
            f"{name}: {what}", unit, [value(ours)], "perf record", [value(peer)] if peer else [],
            asked_most=most, note=gone,
        )  # fmt: skip

    return [
        Row(f"{name}: lost of {ours.loops.hits:,}", "", [ours.lost], asked_most=0, remark="; ".join(remarks)),
        row("the recorder's CPU", "% of a core", lambda run: run.cpu_percent, 10),
        row("largest resident set", "MB", lambda run: run.rss_kib * 1024 / _MEGA, 100),
        row("file, a hit", "B", lambda run: run.size / run.loops.hits, None),
    ]
