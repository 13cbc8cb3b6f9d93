# SPDX-License-Identifier: BSD-2-Clause
"""What it takes to read a recording: ``ksym report``, ``script`` and ``export`` against perf, on the same file.

All write into files, and each must have shown every access. The recording is made by two threads on two CPUs
that write the same variable, so that what ``report`` looks for across CPUs is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.report import Row, by_cpu_time
from bench.runner import BenchError, Done, exactly, ksym, missing, retried, rounds, run, summary
from bench.values import Against
from bench.workload import Bench, loops_times

_FEW, _MANY, _LARGE = 100_000, 1_000_000, 10_000_000

_BYTES_AN_ACCESS = 1000
_LARGE_GIGABYTES = 2.0


_COMPARISONS = (
    Against(
        "report", "perf report --stdio", 1.0, "values and lines, too; loading modules is two fifths of it"
    ),
    Against("script", "perf script", 1.0),
    Against("export --to parquet", "perf script", 1 / 3),
)


def offline(bench: Bench) -> list[Row]:
    """Reading a recording: report, script and export against perf; memory, and that of ten times as much."""
    file, gone = bench.folder / "offline.data", missing("perf") or ""
    try:
        rows = _rows(bench, file, gone)
        return rows if bench.quick else [*rows, *_large(bench, file, gone)]
    finally:
        file.unlink(missing_ok=True)  # nearly 1 GB


def _rows(bench: Bench, file: Path, gone: str) -> list[Row]:
    accesses, count = (_FEW, 3) if bench.quick else (_MANY, 7)
    runs = _recorded(bench, file, accesses, perf=not gone)
    measured = rounds(list(runs.values()), count)
    done: Mapping[str, Sequence[Done]] = dict(zip(runs, zip(*measured, strict=True), strict=True))
    rows = [time_row(each, done, accesses, gone) for each in _COMPARISONS]
    return [*rows, *(memory_row(each, done, accesses, gone) for each in _COMPARISONS)]


def _large(bench: Bench, file: Path, gone: str) -> list[Row]:
    runs = _recorded(bench, file, _LARGE, perf=not gone)
    done = {name: [retried(each)] for name, each in runs.items()}
    return [large_row(each, done, _LARGE, gone) for each in _COMPARISONS]


def _recorded(bench: Bench, file: Path, accesses: int, *, perf: bool) -> dict[str, Callable[[], Done]]:
    """Make a recording, in place of the one before; its readers by their names."""
    held = retried(partial(_make, bench, accesses, file))
    readers: dict[str, Callable[[], Done]] = {
        "report": partial(_report, bench, file, held),
        "script": partial(_script, bench, file, held),
        "export --to parquet": partial(_export, bench, file, held),
    }
    if perf:
        readers["perf report --stdio"] = partial(_perf_report, bench, file, held)
        readers["perf script"] = partial(_perf_script, bench, file, held)
    return readers


def _make(bench: Bench, accesses: int, file: Path) -> int:
    """Record; give back how many accesses the recording has, which may be a few less (`LoopsTimes.hits`)."""
    command = bench.loops.command(accesses)
    done = run(ksym("record", "-q", "-f", "-o", str(file), bench.loops.request, "--", *command))
    expected = loops_times(done.stdout).hits
    if summary(done.stderr) != (expected, 0):
        raise BenchError(f"ksym record: {expected} hits expected, but it said: {done.stderr.strip()[-300:]}")
    return expected


def _report(bench: Bench, file: Path, accesses: int) -> Done:
    return _shown(ksym("report", str(file)), bench, accesses, rb"^  counted +([\d,]+) accesses")


def _perf_report(bench: Bench, file: Path, accesses: int) -> Done:
    argv = ["perf", "report", "--stdio", "-i", str(file)]
    return _shown(argv, bench, accesses, rb"^# Event count \(approx\.\): (\d+)")


def _script(bench: Bench, file: Path, accesses: int) -> Done:
    return _lines(ksym("script", "-q", str(file)), bench, accesses)


def _perf_script(bench: Bench, file: Path, accesses: int) -> Done:
    return _lines(["perf", "script", "-i", str(file)], bench, accesses)


def _export(bench: Bench, file: Path, accesses: int) -> Done:
    out = bench.folder / "offline.parquet"
    done = run(ksym("export", "--to", "parquet", "-f", "-o", str(out), str(file)))
    exactly(accesses, r": (\d+) accesses$", done.stderr.replace(",", ""))
    out.unlink()
    return done


def _shown(argv: Sequence[str], bench: Bench, accesses: int, pattern: bytes) -> Done:
    """Run what prints one number of all accesses."""
    out = bench.folder / "offline.out"
    done = run(argv, output=out)
    found = re.search(pattern, out.read_bytes(), re.MULTILINE)
    _all(argv, accesses, int(found[1].replace(b",", b"")) if found else 0)
    out.unlink()
    return done


def _lines(argv: Sequence[str], bench: Bench, accesses: int) -> Done:
    """Run what prints a line an access."""
    out = bench.folder / "offline.out"
    done = run(argv, output=out)
    with out.open("rb") as lines:
        _all(argv, accesses, sum(1 for _ in lines))
    out.unlink()
    return done


def _all(argv: Sequence[str], accesses: int, shown: int) -> None:
    if shown != accesses:
        raise BenchError(f"{' '.join(argv[:-1])}: {accesses} accesses expected, but it has {shown}")


def time_row(each: Against, done: Mapping[str, Sequence[Done]], accesses: int, gone: str) -> Row:
    """How long ours takes, beside the other; both CPU times are in the JSON.

    Args:
        each: What is compared.
        done: What the runs of each gave, round by round; without a peer that is missing.
        accesses: In the recording.
        gone: Why it is missing.
    """
    ours, peer = done[each.ours], done.get(each.peer, ())
    cpu, peer_cpu = [one.cpu_seconds for one in ours], [one.cpu_seconds for one in peer]
    remarks = [each.remark] if each.remark else []
    if peer:
        remarks.append(by_cpu_time(cpu, peer_cpu))
    return Row(
        f"{each.ours}: {accesses:,} accesses", "ms", [one.wall_ms for one in ours],
        each.peer, [one.wall_ms for one in peer], each.ratio, note=gone,
        remark="; ".join(remarks), cpu=cpu, peer_cpu=peer_cpu,
    )  # fmt: skip


def memory_row(each: Against, done: Mapping[str, Sequence[Done]], accesses: int, gone: str) -> Row:
    """The largest resident set, all of it, by the accesses. The arguments are those of `time_row`."""
    ours, peer = done[each.ours], done.get(each.peer, ())
    return Row(
        f"{each.ours}: memory an access", "B", [one.rss_kib * 1024 / accesses for one in ours],
        each.peer, [one.rss_kib * 1024 / accesses for one in peer], asked_most=_BYTES_AN_ACCESS, note=gone,
    )  # fmt: skip


def large_row(each: Against, done: Mapping[str, Sequence[Done]], accesses: int, gone: str) -> Row:
    """The largest resident set of all, and how long it took. The arguments are those of `time_row`."""
    ours, peer = done[each.ours], done.get(each.peer, ())
    took = f"took {ours[0].wall_ms / 1000:.1f} s"
    if peer:
        took += f", {each.peer} {peer[0].wall_ms / 1000:.1f} s"
    return Row(
        f"{each.ours}: {accesses:,} accesses", "GB", [one.rss_kib * 1024 / 1e9 for one in ours],
        each.peer, [one.rss_kib * 1024 / 1e9 for one in peer], asked_most=_LARGE_GIGABYTES,
        note=gone, remark=took, cpu=[one.cpu_seconds for one in ours], peer_cpu=[one.cpu_seconds for one in peer],
    )  # fmt: skip
