# SPDX-License-Identifier: BSD-2-Clause
"""Recordings on this machine's own kernel, held against perf, in our files and in its own."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.errors import KsymError
from ksym.linux.libc import MACHINE
from ksym.recording.accesses import Accesses
from ksym.recording.reader import Recording, open_recording
from native.running import ONE_LINE, ended, sample, started, summary
from support.program import Result, ksym, shell
from synthetic.compile import build, nm

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="its instructions are x86"),
]

LOOP = r"""
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
volatile long counter;
static long rounds;
__attribute__((noinline)) void write_it(long value) { counter = value; }
__attribute__((noinline)) long read_it(void) { return counter; }
static void *work(void *name) {
    prctl(PR_SET_NAME, name);
    for (long i = 0; i < rounds; i++) { write_it(i); if (i % 4 == 0) read_it(); }
    return 0;
}
int main(int count, char **words) {
    rounds = atol(words[1]);
    pthread_t thread;
    pthread_create(&thread, 0, work, "second");
    work("first");
    pthread_join(thread, 0);
    return 0;
}
"""


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose two threads write and read ``counter``, as often as it is told: 5 accesses for 4 rounds."""
    return build(
        tmp_path_factory.mktemp("loop"),
        "loop",
        LOOP,
        "-g",
        "-O1",
        "-fno-omit-frame-pointer",
        "-no-pie",
        "-pthread",
    )


def perf(*words: str, cwd: Path) -> str:
    """Run perf, which must have nothing to say on stderr; its stdout."""
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    done = subprocess.run(["perf", *words], capture_output=True, text=True, cwd=cwd, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def record(program: Path, *words: str, rounds: int = 400, request: str = "./loop:counter:rw-") -> Result:
    """Record a run of ``loop`` into x.data beside it."""
    result = ksym(
        "record", "-f", "-o", "x.data", *words, request, "--", "./loop", str(rounds), cwd=program.parent
    )
    assert result.status == 0, result.err
    return result


def by_ip(accesses: Accesses) -> Counter[int]:
    return Counter(accesses.sites[site].ip for site in accesses.site.tolist())


def by_comm(accesses: Accesses) -> Counter[str]:
    return Counter(accesses.comms[comm] for comm in accesses.comm.tolist())


def perf_counts(folder: Path, file: str = "x.data") -> tuple[Counter[int], Counter[str]]:
    """Samples by ip and by comm, as perf script counts them."""
    text = perf("script", "-i", file, "-F", "comm,ip", "-G", cwd=folder)
    rows = [line.rsplit(None, 1) for line in text.splitlines() if line.strip()]
    return Counter(int(ip, 16) for _, ip in rows), Counter(comm.strip() for comm, _ in rows)


# -- perf reads what ksym recorded ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        (), ("-g",), ("-z",), ("-g", "-z"), ("--no-bpf", "--twin", "off"), ("--no-bpf", "--twin", "off", "-g"),
        ("--twin", "off"), ("--flush-ms", "1"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_perf_counts_what_ksym_counts(loop: Path, options: tuple[str, ...]) -> None:
    record(loop, *options)
    recording = open_recording(str(loop.parent / "x.data"))
    accesses = recording.accesses()
    assert recording.cut is None
    assert (len(accesses), int(accesses.hits.sum())) == (1000, 1000)
    ips, comms = perf_counts(loop.parent)
    assert by_ip(accesses) == ips
    assert by_comm(accesses) == comms == {"first": 500, "second": 500}
    functions = {accesses.sites[site].named.function for site in accesses.site.tolist()}
    assert functions == {"write_it", "read_it"}
    for words in (("report", "--stdio"), ("evlist",)):
        shown = perf(*words, "-i", "x.data", cwd=loop.parent)
        assert "./loop:counter:rw-" in shown
    if "-g" in options:
        stacks = {
            tuple(frame.function for frame in accesses.stacks[stack])
            for stack in set(accesses.stack.tolist())
        }
        assert {stack[0] for stack in stacks} == {"write_it", "read_it"}
        assert all("main" in stack or "start_thread" in stack for stack in stacks)


def test_both_registers_of_a_twin_are_one_access(loop: Path) -> None:
    record(loop, "--no-bpf", "--twin", "on")
    accesses = open_recording(str(loop.parent / "x.data")).accesses()
    assert len(accesses) == 1000
    assert sum(perf_counts(loop.parent)[0].values()) == 1800
    assert Counter(accesses.kind.tolist()) == {2: 800, 1: 200}


@pytest.mark.parametrize("options", [(), ("-g",), ("--no-bpf",)], ids=" ".join)
def test_a_variable_of_the_kernel(tmp_path: Path, options: tuple[str, ...]) -> None:
    variable = sample()
    touch = f"for n in 1 2 3; do cat {variable.file}; done"
    result = ksym(
        "record", "-o", "x.data", "--twin", "off", *options, variable.request, *shell(touch), cwd=tmp_path
    )
    assert result.status == 0, result.err
    accesses = open_recording(str(tmp_path / "x.data")).accesses()
    ips, comms = perf_counts(tmp_path)
    assert by_ip(accesses) == ips
    assert by_comm(accesses) == comms
    assert comms["cat"] == 3
    named = [accesses.sites[site].named.function for site in accesses.site.tolist()]
    assert all(named)
    if options == ("-g",):
        frames = [accesses.stacks[stack] for stack in accesses.stack.tolist()]
        assert all(any(frame.function == "vfs_read" for frame in stack) for stack in frames)


# -- what perf records ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stacks", [(), ("-g",)], ids=["", "-g"])
def test_side_by_side_with_perf(loop: Path, stacks: tuple[str, ...]) -> None:
    """Both watch the same run, each with a register of its own."""
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    address = nm(loop)["counter"]
    result = ksym(
        "record", "-f", "-o", "x.data", *stacks, "./loop:counter:rw-", "--", "perf", "record", "-q", "-o", "p.data",
        "-k", "CLOCK_MONOTONIC", *stacks, "-c", "1", "-e", f"mem:{address:#x}/8:rw:u", "./loop", "400", cwd=loop.parent,
    )  # fmt: skip
    assert result.status == 0, result.err
    ours, theirs = (open_recording(str(loop.parent / name)) for name in ("x.data", "p.data"))
    assert (ours.cut, theirs.cut) == (None, None)
    assert (ours.by_ksym, theirs.by_ksym) == (True, False)
    mine, perfs = ours.accesses(), theirs.accesses()
    assert by_ip(mine) == by_ip(perfs) == perf_counts(loop.parent, "p.data")[0]
    assert by_comm(mine) == by_comm(perfs) == {"first": 500, "second": 500}
    assert mine.kind.tolist().count(2) == perfs.kind.tolist().count(2) == 800
    for tid in set(mine.tid.tolist()):
        sequences = [
            [accesses.sites[site].named for site in accesses.site[accesses.tid == tid].tolist()]
            for accesses in (mine, perfs)
        ]
        assert [named.function for named in sequences[0]] == [named.function for named in sequences[1]]
        assert [named.offset for named in sequences[0]] == [named.offset for named in sequences[1]]
    assert abs(int(mine.time_ns[-1]) - int(perfs.time_ns[-1])) < 1_000_000_000
    if stacks:
        names = [
            {tuple(frame.function for frame in accesses.stacks[stack]) for stack in accesses.stack.tolist()}
            for accesses in (mine, perfs)
        ]
        assert names[0] == names[1]


def test_perf_without_a_kernel_of_ours_is_read_too(tmp_path: Path) -> None:
    """The whole system, a variable of the kernel: code is named by this machine, as it is the same kernel."""
    if shutil.which("perf") is None:
        pytest.skip("perf is not installed")
    variable = sample()
    address = re.findall("0xffff[0-9a-f]+", ksym("resolve", variable.request).out)[0]
    subprocess.run(
        ["perf", "record", "-q", "-a", "-o", "p.data", "-c", "1", "-e", f"mem:{address}/4:rw", "cat", variable.file],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    accesses = open_recording(str(tmp_path / "p.data")).accesses()
    which = [at for at, comm in enumerate(accesses.comm.tolist()) if accesses.comms[comm] == "cat"]
    assert len(which) == 1
    site = accesses.sites[accesses.site[which[0]]]
    traced = ksym(
        "trace", "--format", "json", "--twin", "off", variable.request, *shell(f"cat {variable.file}")
    )
    row = next(row for row in traced.rows() if row["comm"] == "cat")
    assert (site.named.function, site.named.offset) == (row["function"], row["offset"])
    assert accesses.kind[which[0]] == 1


# -- rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("-g",), ("--no-bpf",), ("--twin", "off")], ids=" ".join)
def test_script_shows_what_trace_shows(program: Path, options: tuple[str, ...]) -> None:
    """Of two runs, without what is another in each: times, processes, CPUs."""
    requests = ("./prog:counter", "./prog:text:-w-")
    words = (*options, *requests, "--", "setarch", "-R", "./prog")
    traced = ksym("trace", "--format", "json", *words, cwd=program.parent)
    recorded = ksym("record", "-f", "-o", "x.data", *words, cwd=program.parent)
    shown = ksym("script", "--format", "json", "x.data", cwd=program.parent)
    assert (traced.status, recorded.status, shown.status, shown.err) == (3, 3, 0, "")

    def rows(result: Result) -> list[dict[str, object]]:
        return [
            {key: value for key, value in row.items() if key not in ("time_ns", "cpu", "pid", "tid")}
            for row in result.rows()
        ]

    assert rows(traced) == rows(shown)
    assert len(rows(shown)) > 4


POINTS = r"""
#include <stdio.h>
struct node { struct node *next; long number; } head, tail;
void *volatile where;
struct node *volatile nodes[2];
int main(void) {
    where = &tail.number; where = stdout; where = main; where = 0; where = (void *)64;
    nodes[1] = &head; nodes[1] = &tail;
    return 0;
}
"""


def test_pointers_have_the_names_that_trace_gives_them(tmp_path: Path) -> None:
    build(tmp_path, "points", POINTS, "-g", "-O1", "-no-pie")
    words = ("./points:where:-w-", "./points:nodes:-w-", "--", "./points")
    traced = ksym("trace", "--format", "json", *words, cwd=tmp_path)
    assert ksym("record", "-o", "x.data", *words, cwd=tmp_path).status == 0
    shown = ksym("script", "--format", "json", "x.data", cwd=tmp_path)
    values = [[(row["old"], row["new"]) for row in result.rows()] for result in (traced, shown)]
    assert values[0] == values[1]
    assert [new for _, new in values[1]][:5] == [
        "tail+0x8",
        "_IO_2_1_stdout_ [libc.so.6]",
        "main",
        "0x0",
        "0x40",
    ]


def test_script_writes_what_it_is_asked_for(loop: Path) -> None:
    record(loop)
    whole = ksym("script", "x.data", cwd=loop.parent)
    assert whole.status == 0
    assert len(whole.out.splitlines()) == 1001
    assert len(ksym("script", "--limit", "3", "x.data", cwd=loop.parent).out.splitlines()) == 4
    assert len(ksym("script", "-q", "--only", "R", "x.data", cwd=loop.parent).out.splitlines()) == 200
    assert ksym("script", "-o", "rows.txt", "x.data", cwd=loop.parent).out == ""
    assert (loop.parent / "rows.txt").read_text() == whole.out
    assert (loop.parent / "rows.txt").stat().st_mode & 0o777 == 0o600


# -- files ---------------------------------------------------------------------------------------------


def test_a_recording_is_for_its_owner_and_replaces_nothing(loop: Path) -> None:
    path, old = loop.parent / "x.data", loop.parent / "x.data.old"
    for each in (path, old):
        each.unlink(missing_ok=True)
    path.write_text("something else")
    path.chmod(0o644)
    words = ("record", "-o", "x.data", "./loop:counter", "--", "./loop", "4")
    assert ksym(*words, cwd=loop.parent).status == 0
    assert old.read_text() == "something else"
    assert path.stat().st_mode & 0o777 == 0o600
    record(loop, rounds=4)
    assert old.read_text() == "something else"
    assert len(open_recording(str(path)).accesses()) == 10


def test_a_full_file_is_followed_by_another(loop: Path) -> None:
    result = record(loop, "--max-size", "200K", "--flush-ms", "1", rounds=20_000)
    recordings = [open_recording(str(loop.parent / name)) for name in ("x.data.1", "x.data")]
    assert [recording.cut for recording in recordings] == [None, None]
    first, second = (recording.accesses() for recording in recordings)
    assert summary(result.err).startswith("ksym: 50000 hits, 0 lost")
    assert 0 < len(first) < 50_000
    if len(second):  # the file may have been full with the last hit
        assert int(first.time_ns[0]) < int(second.time_ns[0])
    for accesses, name in ((first, "x.data.1"), (second, "x.data")):
        assert by_ip(accesses) == perf_counts(loop.parent, name)[0]
        assert set(by_comm(accesses)) <= {"first", "second", "loop"}


def recorded_so_far(path: Path) -> Recording | None:
    try:
        return open_recording(str(path))
    except KsymError:
        return None


def test_a_killed_recorder_leaves_what_it_flushed(loop: Path) -> None:
    path = loop.parent / "x.data"
    path.unlink(missing_ok=True)
    words = (
        "record",
        "-f",
        "-o",
        "x.data",
        "--flush-ms",
        "1",
        "./loop:counter",
        "--",
        "./loop",
        "1000000000",
    )
    with started(*words, cwd=loop.parent) as process:
        recording = None
        while recording is None or len(recording.accesses()) < 1000:
            assert process.poll() is None
            recording = recorded_so_far(path)
        process.kill()
        process.communicate()
    recording = open_recording(str(path))
    accesses = recording.accesses()
    assert len(accesses) >= 1000
    assert recording.cut == "its recorder was killed, or found no room"
    assert by_ip(accesses) == perf_counts(loop.parent)[0]
    shown = ksym("script", "x.data", cwd=loop.parent)
    assert shown.status == 0
    assert shown.err == f"ksym: x.data is not whole: {recording.cut}\n"
    assert len(shown.out.splitlines()) == 1 + len(accesses)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_what_it_took(loop: Path, tiny_disk: Path) -> None:
    path = tiny_disk / "x.data"
    result = ksym(
        "record",
        "-o",
        str(path),
        "--flush-ms",
        "1",
        "./loop:counter",
        "--",
        "./loop",
        "100000",
        cwd=loop.parent,
    )
    assert result.status == 125
    assert ONE_LINE.fullmatch(result.err), result.err
    assert "No space left on device" in result.err
    recording = open_recording(str(path))
    assert recording.cut == "its recorder was killed, or found no room"
    assert by_ip(recording.accesses()) == perf_counts(tiny_disk)[0]


def test_a_folder_that_is_not_there(loop: Path) -> None:
    result = ksym("record", "-o", "no/x.data", "./loop:counter", "--", "./loop", "4", cwd=loop.parent)
    assert result.status == 125
    assert ONE_LINE.fullmatch(result.err), result.err


def test_ctrl_c_ends_a_recording_in_order(loop: Path) -> None:
    path = loop.parent / "x.data"
    path.unlink(missing_ok=True)
    words = (
        "record",
        "-f",
        "-o",
        "x.data",
        "--flush-ms",
        "1",
        "./loop:counter",
        "--",
        "./loop",
        "1000000000",
    )
    with started(*words, cwd=loop.parent) as process:
        recording = None
        while recording is None or not len(recording.accesses()):
            assert process.poll() is None
            recording = recorded_so_far(path)
        _, error = ended(process, signal.SIGINT)
    assert re.search(r"ksym: \d+ hits, 0 lost", error), error
    recording = open_recording(str(path))
    assert recording.cut is None
    assert len(recording.accesses()) == sum(recording.counts["hits"])
