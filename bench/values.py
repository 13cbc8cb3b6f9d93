# SPDX-License-Identifier: BSD-2-Clause
"""What a hit costs with its values, conditions and twins, and what it costs with the tools that people use for that.

All run on the same variable, written in the same loop: user mode's writes alone, where a tool can tell them
apart, and its output goes to a file. Each does as much of what a row of ``ksym trace`` says as it can; the
table's remarks tell what it cannot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.report import Row, by_cpu_time, ratio_text
from bench.runner import (
    BenchError,
    Done,
    exactly,
    ksym,
    missing,
    perf_record,
    perf_samples,
    rounds,
    run,
    summary,
)
from bench.workload import Bench, LoopTimes, loop_times

_NEVER = "new == -1"
"""The loop counts up from 0."""

_ROW = re.compile(rb"\d")
"""Starts with the time; the lines of a stack are indented."""

# What trace's table says, but for the name of the function: usym() of bpftrace 0.17 looks it up when it prints,
# which costs a hit nothing, and aborts if the process has ended by then.
_BPFTRACE = """
{probe}
{{
    $new = *(int64 *)uptr({address:#x});
    printf("%s %s-%d %03d %ld -> %ld %llx\\n",
           strftime("%H:%M:%S.%f", nsecs), comm, tid, cpu, @old, $new, reg("ip"));
    @old = $new;
}}
"""
_BPFTRACE_ROW = re.compile(rb"\S+ .+-\d+ \d+ -?\d+ -> -?\d+ (?!ffff)")
"""Rows of user code: the upper half of the addresses is the kernel's."""

# gdb prints the old value, the new one, and where it stopped.
_GDB = """
set pagination off
watch counter
commands
continue
end
run
"""


_FLOOR = "perf stat"
"""Takes what the trap takes and hardly more: no tool that has one can be cheaper."""


@dataclass(frozen=True)
class Hit:
    """What an access cost in one run.

    Args:
        ns: By the clock on the wall.
        cpu_ns: Of the program's CPU time.
        lost: Accesses of the run that the tool did not show.
    """

    ns: float
    cpu_ns: float
    lost: int = 0

    @classmethod
    def of(cls, times: LoopTimes, lost: int = 0) -> Hit:
        """From what the program printed."""
        return cls(times.ns_per_access, times.cpu_ns_per_access, lost)


@dataclass(frozen=True)
class RowsRun:
    """A run that printed a row an access into a file.

    Args:
        done: The tool's process.
        times: What the program printed.
        accesses: That it made.
        rows: That were printed.
    """

    done: Done
    times: LoopTimes
    accesses: int
    rows: int

    @property
    def lost(self) -> int:
        """Accesses without a row."""
        return self.accesses - self.rows

    @property
    def ns_a_row(self) -> float:
        """From the first access to the tool's end."""
        return (self.done.ended - self.times.start) / self.rows

    @property
    def tracer_cpu_ns_a_row(self) -> float:
        """CPU time of the tool without the program's."""
        return (self.done.cpu_seconds - self.times.cpu_seconds) * 1e9 / self.rows


@dataclass(frozen=True)
class Against:
    """A comparison that is made of two of the runs.

    Args:
        ours: Name of ksym's run.
        peer: Name of the other.
        ratio: The highest ratio of ours to the peer's that is asked for; None: none.
        remark: What the peer cannot do.
    """

    ours: str
    peer: str
    ratio: float | None = None
    remark: str = ""


_COMPARISONS = (
    Against("trace", "perf record", 1.15, "no values"),
    Against("trace", "perf stat", 1.2, "a number only"),
    Against("trace -g", "perf record -g", 1.15, "no values"),
    Against("trace, all rejected", "perf stat", 1.1, "no conditions"),
    Against("stat, all rejected", "perf stat", 1.1, "no conditions"),
    Against(
        "trace", "bpftrace", 1 / 2.5, "no old value but by its script, no function; the kernel's accesses too"
    ),
    Against("trace, all rejected", "bpftrace, all rejected", 1.0, "its script has no old value"),
    Against("trace", "gdb", 1 / 15, "stops the program; no time, no CPU; changes alone"),
    Against("trace rw-, twins", "trace rw-, one register", 1.8),
)


def values(bench: Bench) -> list[Row]:
    """A hit with its values, old and new: ``trace`` against perf, bpftrace and gdb; conditions; twins."""
    accesses, count = (5_000, 3) if bench.quick else (30_000, 15)
    ours, peers = _ours(bench, accesses), _peers(bench, accesses)
    gone = {name: why for name in peers if (why := missing(name.replace(",", "").split()[0]))}
    runs = ours | {name: peer for name, peer in peers.items() if name not in gone}
    measured = rounds(list(runs.values()), count)
    hits = dict(zip(runs, zip(*measured, strict=True), strict=True))
    rows = [row_of(each, hits, gone.get(each.peer, "")) for each in _COMPARISONS]
    return [*rows, lost_row([hits[name] for name in ours], hits, accesses)]


def _ours(bench: Bench, accesses: int) -> dict[str, Callable[[], Hit]]:
    writes, both = bench.loop.request, bench.loop.request_read_write
    return {
        "trace": partial(_trace, bench, accesses, writes),
        "trace -g": partial(_trace, bench, accesses, "-g", writes),
        "trace, all rejected": partial(_trace, bench, accesses, f"{writes} if {_NEVER}", rejected=True),
        "stat, all rejected": partial(_stat, bench, accesses, f"{writes} if {_NEVER}"),
        "trace rw-, twins": partial(_trace, bench, accesses, "--twin", "on", both),
        "trace rw-, one register": partial(_trace, bench, accesses, "--twin", "off", both),
    }


def _peers(bench: Bench, accesses: int) -> dict[str, Callable[[], Hit]]:
    """By name; the tool is the first word. gdb makes fewer accesses, as each takes it so long."""
    return {
        "perf stat": partial(_perf_stat, bench, accesses),
        "perf record": partial(perf_hit, bench, accesses),
        "perf record -g": partial(perf_hit, bench, accesses, "-g"),
        "bpftrace": partial(_bpftrace, bench, accesses),
        "bpftrace, all rejected": partial(_bpftrace_rejecting, bench, accesses),
        "gdb": partial(_gdb, bench, accesses // 10),
    }


def _trace(bench: Bench, accesses: int, *arguments: str, rejected: bool = False) -> Hit:
    file = bench.folder / "rows"
    done = run(ksym("trace", "-q", "-f", "-o", str(file), *arguments, "--", *bench.loop.command(accesses)))
    hits, lost = summary(done.stderr)
    expected = 0 if rejected else accesses
    if rejected:
        exactly(accesses, r"^ksym: (\d+) hits did not match", done.stderr)
    written = rows_in(file, _ROW)
    if hits + lost != expected or written != hits:
        raise BenchError(
            f"ksym trace: {expected} rows expected, but {written}; it said: {done.stderr.strip()[-400:]}"
        )
    file.unlink()
    return Hit.of(loop_times(done.stdout), lost)


def _stat(bench: Bench, accesses: int, request: str) -> Hit:
    done = run(ksym("stat", request, "--", *bench.loop.command(accesses)))
    exactly(accesses, r"^ksym: (\d+) hits did not match", done.stderr)
    return Hit.of(loop_times(done.stdout))


def _perf_stat(bench: Bench, accesses: int) -> Hit:
    done = run(["perf", "stat", "-x,", "-e", bench.loop.perf_event, "--", *bench.loop.command(accesses)])
    exactly(accesses, r"^(\d+),,mem:", done.stderr)
    return Hit.of(loop_times(done.stdout))


def perf_hit(bench: Bench, accesses: int, *options: str) -> Hit:
    """A run of ``perf record``."""
    file = bench.folder / "perf.data"
    done = run([*perf_record(bench.loop.perf_event, file, *options), *bench.loop.command(accesses)])
    # perf 6.1 was seen to have one sample too many, in one run of some hundreds.
    return Hit.of(loop_times(done.stdout), max(0, accesses - perf_samples(file)))


def _bpftrace(bench: Bench, accesses: int) -> Hit:
    ran = bpftrace_rows(bench, accesses)
    return Hit.of(ran.times, ran.lost)


def bpftrace_rows(bench: Bench, accesses: int) -> RowsRun:
    """A run of bpftrace that prints what trace's table says."""
    script, file = bench.folder / "values.bt", bench.folder / "bpftrace.rows"
    loop = bench.loop
    script.write_text(_BPFTRACE.format(probe=loop.bpftrace_probe, address=loop.address))
    done = run(["bpftrace", "-o", str(file), "-c", " ".join(loop.command(accesses)), str(script)])
    return RowsRun(done, loop_times(done.stdout), accesses, rows_in(file, _BPFTRACE_ROW))


def rows_in(file: Path, row: re.Pattern[bytes]) -> int:
    """Lines of a file that a tool wrote which start like a row.

    Line by line: what this program ever holds, the kernel counts to the largest resident set of each later run.
    """
    with file.open("rb") as lines:
        return sum(row.match(line) is not None for line in lines)


def _bpftrace_rejecting(bench: Bench, accesses: int) -> Hit:
    """The loop never stores -1; that the probe was there at all, its count tells."""
    loop = bench.loop
    script = f"""{loop.bpftrace_probe} {{
        @ = count();
        if (*(int64 *)uptr({loop.address:#x}) == -1) {{ printf("%s %d %d\\n", comm, tid, cpu); }}
    }}"""
    done = run(["bpftrace", "-e", script, "-c", " ".join(loop.command(accesses))])
    found = re.search(r"^@: (\d+)$", done.stdout, re.MULTILINE)
    if found is None or int(found[1]) < accesses:  # the kernel makes some of its own
        raise BenchError(f"bpftrace: {accesses} hits expected, but it said: {done.stdout.strip()[-300:]!r}")
    return Hit.of(loop_times(done.stdout))


def _gdb(bench: Bench, accesses: int) -> Hit:
    script = bench.folder / "values.gdb"
    script.write_text(_GDB)
    done = run(["gdb", "-nx", "-q", "-batch", "-x", str(script), "--args", *bench.loop.command(accesses)])
    # The first access stores the 0 that is there.
    return Hit.of(loop_times(done.stdout), accesses - 1 - done.stdout.count("\nNew value = "))


def row_of(each: Against, hits: Mapping[str, Sequence[Hit]], gone: str, figure: str = "values") -> Row:
    """A comparison's line of the table.

    Args:
        each: What is compared.
        hits: What each run gave, round by round; without a peer that is missing.
        gone: Why it is.
        figure: What the line starts with.
    """
    ours, peer = hits[each.ours], hits.get(each.peer, ())
    remarks = [each.remark] if each.remark else []
    if peer and each.peer != "gdb":  # which works in a process of its own
        remarks.append(by_cpu_time([hit.cpu_ns for hit in ours], [hit.cpu_ns for hit in peer]))
    if peer and each.ratio and each.ratio < 1 and _FLOOR in hits:
        least = ratio_text([hit.ns for hit in hits[_FLOOR]], [hit.ns for hit in peer])
        remarks.append(f"{_FLOOR} has {least}")
    lost = sum(hit.lost for hit in peer)
    if lost:
        remarks.append(f"{each.peer} lost {lost}")
    return Row(
        f"{figure}: {each.ours}", "ns", [hit.ns for hit in ours], each.peer, [hit.ns for hit in peer],
        asked_ratio=each.ratio, note=gone, remark="; ".join(remarks),
    )  # fmt: skip


def lost_row(
    ours: Sequence[Sequence[Hit]],
    hits: Mapping[str, Sequence[Hit]],
    accesses: int,
    figure: str = "values",
) -> Row:
    """What ``ours`` lost: the sum of all runs of a round, for each round."""
    lost = [sum(hit.lost for hit in hits_of_round) for hits_of_round in zip(*ours, strict=True)]
    others = {
        name: sum(hit.lost for hit in hits[name]) for name in ("perf record", "bpftrace") if name in hits
    }
    remark = "; ".join(f"{name} lost {count:,} of {accesses * len(lost):,}" for name, count in others.items())
    return Row(f"{figure}: lost of {len(ours)} x {accesses:,}", "", lost, asked_most=0, remark=remark)
