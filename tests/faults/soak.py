# SPDX-License-Identifier: BSD-2-Clause
"""A run of very many hits through small rings: every one is shown or told as lost, and ksym does not grow.

Three runs, one after the other, each with one register: a recording whose files are rotated, a trace whose rows are
counted as they come, and a tracing directory whose buffer is overwritten all the time.

Hits that the hypervisor takes away (docs/limits.md, "Seen, and not explained") reach no counter: those that come to the
program as signals it counts itself, and those that come nowhere are told here as unseen. What is exact is what ksym
can know: hits shown + lost = what the kernel's counter says.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.workload import Loops, build_loops, loops_times

from ksym.capture.merge import BACKLOG_BYTES
from ksym.commands.samples import Sample
from ksym.linux.mounts import mount_at
from ksym.recording.reader import open_recording
from support.program import environment
from synthetic.compile import build

RING_BYTES = 256 << 10
"""The hits of some 30 ms at full rate. By itself ksym takes 4 MiB."""
SHARES = {"record": 0.7, "trace": 0.25, "mount": 0.05}
"""Of all hits: a tracing directory's cost the most."""
NOISE_KIB = 4096
"""Resident memory moves so far up and down in any run of Python's that has seen everything."""
_SAMPLE_SECONDS = 0.25

_SMALL = f"""
import sys
from ksym.watch import rings
rings.RING_BYTES = {RING_BYTES}
from ksym.__main__ import run
run()
"""

# One write(2) to the file of a parameter is one write of the variable.
_WRITES = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words)
{
    char held[64];
    int file = open(words[2], O_RDWR);
    long length = pread(file, held, sizeof held, 0);
    for (long left = atol(words[1]); left > 0; left--)
        if (pwrite(file, held, length, 0) != length)
            return 1;
    return 0;
}
"""


class SoakError(Exception):
    """Something is not as it must be."""


def ksym(*words: str) -> list[str]:
    """The words that run ksym with small rings."""
    return [sys.executable, "-c", _SMALL, *words]


@dataclass
class Usage:
    """What ksym's process takes, sampled while it runs."""

    kib: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def sample(self, pid: int) -> None:
        """Look at it now."""
        with contextlib.suppress(OSError):  # it is about to end
            words = Path(f"/proc/{pid}/statm").read_text().split()
            count = len(os.listdir(f"/proc/{pid}/fd"))
            if int(words[1]):
                self.kib.append(int(words[1]) * os.sysconf("SC_PAGE_SIZE") // 1024)
                self.descriptors.append(count)

    def before_and_after(self) -> tuple[int, int]:
        """Resident memory, KiB: the median of the third quarter, when all has been seen, and of the last one."""
        quarter = max(1, len(self.kib) // 4)
        return int(median(self.kib[2 * quarter : 3 * quarter])), int(median(self.kib[-quarter:]))

    def check(self, backlog_kib: int) -> None:
        """Raise where it has grown, but for what it may let wait."""
        if len(self.kib) < 8:
            raise SoakError(f"too short a run to see whether it grows: {len(self.kib)} samples")
        before, after = self.before_and_after()
        if after - before > NOISE_KIB and after > self.kib[0] + backlog_kib + NOISE_KIB:
            raise SoakError(f"memory grew from {before} KiB to {after}: {self.kib}")
        quarter = len(self.descriptors) // 4
        if max(self.descriptors[-quarter:]) > max(self.descriptors[: 3 * quarter]):
            raise SoakError(f"descriptors became more: {self.descriptors}")


@dataclass(frozen=True)
class Outcome:
    """A run that was exact.

    Args:
        name: The command of ksym's.
        made: Accesses that the program made.
        signals: Of them, those that came to it as SIGTRAP.
        counted: What the kernel's counter says.
        shown: Hits in files, rows or the buffer, and those that had to make room there.
        lost: Hits told as lost.
        seconds: How long it took.
        usage: What ksym took meanwhile.
    """

    name: str
    made: int
    signals: int
    counted: int
    shown: int
    lost: int
    seconds: float
    usage: Usage

    def __str__(self) -> str:
        before, after = self.usage.before_and_after()
        return (
            f"{self.name:7} {self.counted:>12,} hits = {self.shown:,} shown + {self.lost:,} lost; "
            f"made {self.made:,}, {self.signals} as signals, {self.made - self.signals - self.counted} unseen; "
            f"{self.seconds:.0f} s; {before / 1024:.1f} -> {after / 1024:.1f} MiB, "
            f"{self.usage.descriptors[-1]} descriptors"
        )


def follow(
    process: subprocess.Popen[bytes],
    usage: Usage,
    pid: int,
    *,
    takes: Callable[[bytes], None] = lambda data: None,
    begun: Callable[[], bool] = lambda: True,
) -> None:
    """Take what a process prints until it has ended, and sample one from when hits come."""
    assert process.stdout is not None
    due = time.monotonic()
    while True:
        if time.monotonic() >= due:
            if begun():
                usage.sample(pid)
            due = time.monotonic() + _SAMPLE_SECONDS
        if select.select([process.stdout], [], [], max(0.0, due - time.monotonic()))[0]:
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                break
            takes(data)
    process.wait()


def record(folder: Path, loops: Loops, hits: int) -> Outcome:
    """A recording, in 64 MB at most (1 MB where hits are few, so that files are rotated all the same)."""
    most = "64M" if hits >= 5_000_000 else "1M"
    words = ("record", "--max-size", most, "-o", "soak.data", loops.request, "--", *loops.command(hits))
    begun, usage = time.monotonic(), Usage()
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            ksym(*words), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=said
        )
    out = bytearray()
    follow(process, usage, process.pid, takes=out.extend, begun=(folder / "soak.data").exists)
    told = (folder / "said").read_text()
    counted, lost = (int(number) for number in found(r"^ksym: (\d+) hits, (\d+) lost, 0 disarmed", told))
    here, before = (
        int(number) for number in found(r"soak\.data: (\d+) hits, .*soak\.data\.1: (\d+) hits", told)
    )
    removed = int(found(r"^ksym: (\d+) hits in files that were removed", told)[0])
    for name, expected in (("soak.data", here), ("soak.data.1", before)):
        recording = open_recording(str(folder / name))
        if recording.cut or int(recording.accesses().hits.sum()) != expected:
            raise SoakError(f"{name} has not the {expected} hits that the summary says: {recording.cut}")
    no_record(told)
    times = loops_times(out.decode())
    shown = here + before + removed
    return checked(
        Outcome("record", times.accesses, times.traps, counted, shown, lost, time.monotonic() - begun, usage)
    )


def trace(folder: Path, loops: Loops, hits: int) -> Outcome:
    """A trace, whose rows are counted; the program says how many accesses it made on a pipe of its own."""
    begun, usage, rows, end = time.monotonic(), Usage(), 0, b""

    def take(data: bytes) -> None:
        nonlocal rows, end
        rows += data.count(b"\n")
        end = data[-1:]

    quiet = ("sh", "-c", 'exec "$@" > made', "sh", *loops.command(hits))
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(
            ksym("trace", "--format", "json", loops.request, "--", *quiet),
            cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=said,
        )  # fmt: skip
    follow(process, usage, process.pid, takes=take, begun=lambda: rows > 0)
    told = (folder / "said").read_text()
    pattern = r"^ksym: (\d+) access(?:es)? \((\d+) hits?\), (\d+) lost, 0 disarmed"
    accesses, shown, lost = (int(number) for number in found(pattern, told))
    if (rows, end) != (accesses, b"\n"):
        raise SoakError(f"{rows} rows came, the summary says {accesses}")
    no_record(told)
    times = loops_times((folder / "made").read_text())
    return checked(
        Outcome(
            "trace", times.accesses, times.traps, shown + lost, shown, lost, time.monotonic() - begun, usage
        )
    )


def no_record(told: str) -> None:
    """What is lost is what the rings had no room for, by the programs' own count: nothing vanished on its way."""
    if "the kernel made no record" in told:
        raise SoakError(f"more hits are missing than the rings had no room for: {told}")


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A tracing directory on ``folder/at``, where hits may come as fast as they can."""
    at = folder / "at"
    at.mkdir()
    words = ksym("mount", "--guard", "off", str(at))
    process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        line = process.stderr.readline().decode()
        if not line.startswith("ksym: tracing directory on"):
            raise SoakError(line)
        yield process
        process.terminate()
        if process.wait(60) or mount_at(str(at)):
            raise SoakError("the tracing directory does not end")
    finally:
        process.kill()
        process.wait()
        while mount_at(str(at)) is not None:
            subprocess.run(["umount", "-l", at], check=True)


def mount(folder: Path, sample: Sample, hits: int) -> Outcome:
    """A tracing directory, whose buffer holds 1024 entries of each CPU."""
    writes = build(folder, "writes", _WRITES, "-O1")
    begun, usage = time.monotonic(), Usage()
    with mounted(folder) as server:
        at = folder / "at"
        (at / "buffer_size_kb").write_text("64")
        (at / "ksym_trace_filter").write_text(f"{sample.request}:-w-")
        process = subprocess.Popen([writes, str(hits), sample.file], stdout=subprocess.PIPE)
        follow(process, usage, server.pid)
        if process.returncode:
            raise SoakError(f"{sample.file} cannot be written")
        counted = int((at / "ksym_profile").read_text().split()[-1])
        present, written = found(r"entries-written: (\d+)/(\d+)", (at / "trace").read_text())
        errors = (at / "error_log").read_text()
    lost = counted - int(written)
    if lost < 0 or (lost > 0) != ("came too fast" in errors):
        raise SoakError(f"{written} entries of {counted} hits, and error_log says: {errors!r}")
    if int(present) > 1024 * len(os.sched_getaffinity(0)):
        raise SoakError(f"the buffer holds {present} entries")
    return checked(Outcome("mount", hits, 0, counted, int(written), lost, time.monotonic() - begun, usage))


def found(pattern: str, text: str) -> tuple[str, ...]:
    """What a pattern finds in what ksym said."""
    match = re.search(pattern, text, re.MULTILINE)
    if not match:
        raise SoakError(f"ksym did not say {pattern!r}: {text}")
    return match.groups()


def checked(outcome: Outcome) -> Outcome:
    """The outcome, if it is exact."""
    if outcome.shown + outcome.lost != outcome.counted:
        raise SoakError(f"not exact: {outcome}")
    if outcome.counted > outcome.made - outcome.signals:
        raise SoakError(f"more hits than accesses: {outcome}")
    outcome.usage.check(BACKLOG_BYTES >> 10 if outcome.name == "trace" else 0)
    return outcome


def soak(folder: Path, sample: Sample, hits: int) -> Iterator[Outcome]:
    """All runs.

    Args:
        folder: For files; 100 MB are written there.
        sample: A variable of the kernel.
        hits: In all.

    Raises:
        SoakError: something is not exact, or grows.
    """
    loops = build_loops(folder)
    yield record(folder, loops, int(hits * SHARES["record"]))
    yield trace(folder, loops, int(hits * SHARES["trace"]))
    yield mount(folder, sample, int(hits * SHARES["mount"]))
