# SPDX-License-Identifier: BSD-2-Clause
"""Recordings on this machine's own kernel, held against perf, in our files and in its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.errors import KsymError
from ksym.linux.libc import MACHINE
from ksym.recording.accesses import Accesses
from ksym.recording.reader import Recording, open_recording
from native.running import ONE_LINE, ended, nobody, sample, started, summary
from support.program import Result, command, environment, ksym, shell
from synthetic.compile import build, nm

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="its instructions are x86"),
]

LOOP = r"""
#include <pthread.h>
#include <stdio.h>
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
    if (count > 2) { write_it(-1); getchar(); }
    pthread_t thread;
    pthread_create(&thread, 0, work, "second");
    work("first");
    pthread_join(thread, 0);
    return 0;
}
"""


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program whose two threads write and read ``counter``, as often as it is told: 5 accesses for 4 rounds.

    With a further argument it writes once and waits for a line before that.
    """
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
    script = ("script", "--no-fold")
    whole = ksym(*script, "x.data", cwd=loop.parent)
    assert whole.status == 0
    assert len(whole.out.splitlines()) == 1001
    assert len(ksym(*script, "--limit", "3", "x.data", cwd=loop.parent).out.splitlines()) == 4
    assert len(ksym(*script, "-q", "--only", "R", "x.data", cwd=loop.parent).out.splitlines()) == 200
    assert ksym(*script, "-o", "rows.txt", "x.data", cwd=loop.parent).out == ""
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


def test_the_newest_hits_in_a_bounded_size(loop: Path) -> None:
    result = record(loop, "--max-size", "1M", rounds=20_000)
    paths = [loop.parent / name for name in ("x.data.1", "x.data")]
    assert sum(path.stat().st_size for path in paths) <= 1 << 20
    recordings = [open_recording(str(path)) for path in paths]
    assert [recording.cut for recording in recordings] == [None, None]
    # One wall clock for both, however it was set meanwhile: taken anew, it would differ by nanoseconds at least.
    assert recordings[0].start.offset == recordings[1].start.offset
    assert summary(result.err) == "ksym: 50000 hits, 0 lost, 0 disarmed; ./loop:counter 50000"
    kept = [recording.accesses() for recording in recordings]
    removed = 50_000 - sum(map(len, kept))
    assert removed > 0
    assert f"ksym: {removed} hits in files that were removed (--max-size)\n" in result.err
    for recording, accesses, path in zip(recordings, kept, paths, strict=True):
        counts = recording.counts
        assert (counts["hits"], counts["recorded"], counts["lost"]) == ([len(accesses)], len(accesses), 0)
        assert counts["removed"] == removed
        assert by_ip(accesses) == perf_counts(loop.parent, path.name)[0]
        assert set(by_comm(accesses)) <= {"first", "second"}
    if len(kept[1]):  # the file may have been full with the last hit
        assert int(kept[0].time_ns[-1]) <= int(kept[1].time_ns[0])
    shown = ksym("report", "x.data", cwd=loop.parent).out
    assert f"{removed:,} hits in files that were removed" in shown
    assert "goes on where the file before it ended" in shown


def test_a_file_of_somebody_is_kept(loop: Path) -> None:
    (loop.parent / "y.data.1").write_text("mine")
    words = ("record", "--max-size", "1M", "-o", "y.data", "./loop:counter", "--", "./loop", "20000")
    assert ksym(*words, cwd=loop.parent).status == 0
    assert (loop.parent / "y.data.1.old").read_text() == "mine"
    assert open_recording(str(loop.parent / "y.data.1")).counts["continued"]


def test_a_device_stays_what_it_is(loop: Path, tmp_path: Path) -> None:
    null, pipe = tmp_path / "null", tmp_path / "pipe"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(pipe)
    before = [each.lstat().st_ino for each in (null, pipe)]
    request = ("./loop:counter", "--", "./loop", "400")
    result = ksym("record", "-o", str(null), *request, cwd=loop.parent)
    assert (result.status, summary(result.err)) == (
        0,
        "ksym: 1000 hits, 0 lost, 0 disarmed; ./loop:counter 1000",
    )
    for name in (str(pipe), str(tmp_path), "-", ""):
        result = ksym("record", "-f", "-o", name, *request, cwd=loop.parent)
        assert result.status == (125 if name.startswith("/") else 2)
        assert ONE_LINE.fullmatch(result.err), result.err
    assert [each.lstat().st_ino for each in (null, pipe)] == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["null", "pipe"]


def recorded_so_far(path: Path) -> Recording | None:
    try:
        return open_recording(str(path))
    except KsymError:
        return None


ENDLESS = ("record", "-f", "-o", "x.data", "--flush-ms", "1", "./loop:counter", "--", "./loop", "1000000000")
"""Records until somebody ends it."""


@pytest.mark.parametrize("options", [(), ("-z",)], ids=" ".join)
def test_a_killed_recorder_leaves_what_it_flushed(loop: Path, options: tuple[str, ...]) -> None:
    path = loop.parent / "x.data"
    path.unlink(missing_ok=True)
    with started(ENDLESS[0], *options, *ENDLESS[1:], cwd=loop.parent) as process:
        recording = None
        while recording is None or len(recording.accesses()) < 1000:
            assert process.poll() is None
            recording = recorded_so_far(path)
        process.kill()
        process.communicate()
    recording = open_recording(str(path))
    accesses = recording.accesses()
    assert len(accesses) >= 1000
    assert recording.cut == "its recorder was killed"
    assert recording.machine.hostname == os.uname().nodename
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


def hits_in(path: Path) -> int:
    """How many hits a reader finds already in a file that grows."""
    try:
        return len(open_recording(str(path)).accesses())
    except KsymError:
        return 0


def test_a_full_disk_leaves_what_it_took(loop: Path, tiny_disk: Path) -> None:
    path = tiny_disk / "x.data"
    words = ("-o", str(path), "--flush-ms", "1", "./loop:counter", "--", "./loop", "100000", "wait")
    with subprocess.Popen(
        command("record", *words), stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=loop.parent, env=environment()
    ) as process:  # fmt: skip
        until = time.monotonic() + 60
        while not hits_in(path):
            assert time.monotonic() < until
        error = process.communicate(b"\n")[1].decode()
    assert process.returncode == 125
    lines = error.splitlines(keepends=True)
    assert ONE_LINE.fullmatch(lines[-1]), error
    assert "No space left on device" in lines[-1]
    recording = open_recording(str(path))
    kept = recording.accesses()
    assert len(kept) > 0
    assert recording.cut == "its recorder could not write on: No space left on device"
    assert recording.machine.hostname == os.uname().nodename
    assert by_ip(kept) == perf_counts(tiny_disk)[0]
    caught = int(re.findall(r"ksym: (\d+) hits, 0 lost", summary(error))[0])
    assert f"ksym: {caught - len(kept)} hits caught, but not written\n" in lines
    assert recording.counts["unwritten"] == caught - len(kept)


# -- names and numbers ---------------------------------------------------------------------------------

STARTS = r"""
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
volatile long value;
__attribute__((noinline)) void put(long number) { value = number; }
static void *work(void *unused) { for (int i = 0; i < 10; i++) put(i); return 0; }
int main(void) {
    for (int each = 0; each < 3; each++) {
        if (fork()) continue;
        pthread_t threads[2];
        for (int i = 0; i < 2; i++) pthread_create(threads + i, 0, work, 0);
        work(0);
        for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
        execl("/bin/true", "true", (char *)0);
    }
    while (wait(0) > 0) ;
    work(0);
    execl("/bin/true", "true", (char *)0);
}
"""


@pytest.mark.parametrize("options", [(), ("-g",), ("--no-bpf",)], ids=" ".join)
def test_what_ran_before_another_program_has_names(tmp_path: Path, options: tuple[str, ...]) -> None:
    build(tmp_path, "starts", STARTS, "-g", "-O1", "-no-pie", "-fno-omit-frame-pointer", "-pthread")
    result = ksym("record", "-o", "x.data", *options, "./starts:value:-w-", "--", "./starts", cwd=tmp_path)
    assert summary(result.err) == "ksym: 100 hits, 0 lost, 0 disarmed; ./starts:value 100"
    accesses = open_recording(str(tmp_path / "x.data")).accesses()
    named = [accesses.sites[site].named for site in accesses.site.tolist()]
    assert [(name.function, name.owner) for name in named] == [("put", "starts")] * 100
    if options == ("-g",):
        stacks = [accesses.stacks[stack] for stack in accesses.stack.tolist()]
        assert {stack[1].function for stack in stacks} <= {"work", "start_thread", "main"}


def test_user_code_in_stacks_of_the_kernel_has_names(tmp_path: Path) -> None:
    words = ("-g", "task(self).comm:-w-", *shell("/bin/true; /bin/true"))
    assert ksym("record", "-o", "x.data", *words, cwd=tmp_path).status == 0
    accesses = open_recording(str(tmp_path / "x.data")).accesses()
    frames = {accesses.stacks[stack][-1].function for stack in accesses.stack.tolist()}
    assert None not in frames
    traced = ksym("trace", "--format", "json", *words, cwd=tmp_path)
    assert all(not row["stack"][-1].startswith("0x") for row in traced.rows())


COPIES = r"""
#include <string.h>
char text[16] __attribute__((aligned(16)));
int main(void) {
    for (int i = 0; i < 40; i++) {
        char *to = text, *from = "0123456789abcde";
        unsigned long count = 16;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    }
    return 0;
}
"""


@pytest.mark.parametrize("options", [(), ("--no-bpf", "--twin", "off"), ("-g",)], ids=" ".join)
@pytest.mark.parametrize("most", [1, 7, 40, 100])
def test_a_limit_is_one_of_accesses(tmp_path: Path, options: tuple[str, ...], most: int) -> None:
    build(tmp_path, "copies", COPIES, "-O1", "-no-pie")
    words = ("record", "-o", "x.data", "--limit", str(most), *options, "./copies:text:-w-", "--", "./copies")
    result = ksym(*words, cwd=tmp_path)
    said = re.match(r"ksym: (\d+) access(?:es)? \(\d+ hits\), 0 lost, 0 disarmed", summary(result.err))
    assert said, result.err
    rows = int(said[1])
    # an access in which the thread was moved to another CPU counts as two
    assert rows == most or 40 <= rows < most
    assert len(open_recording(str(tmp_path / "x.data")).accesses()) == rows
    assert len(ksym("script", "--format", "json", "x.data", cwd=tmp_path).rows()) == rows


def test_both_lines_say_the_same(loop: Path) -> None:
    for words in ((), ("--no-bpf", "--twin", "on")):
        result = record(loop, *words)
        assert summary(result.err) == "ksym: 1000 hits, 0 lost, 0 disarmed; ./loop:counter 1000"
        size = (loop.parent / "x.data").stat().st_size / 1000
        assert f"\nksym: x.data: 1000 hits, {size:.1f} KB; ksym report x.data\n" in result.err


def test_names_are_shown_without_their_escapes(loop: Path) -> None:
    name = "\x1b[31mred.data"
    result = ksym("record", "-o", name, "./loop:counter", "--", "./loop", "4", cwd=loop.parent)
    (loop.parent / name).unlink()
    assert "\x1b" not in result.err
    assert r"\x1b[31mred.data" in result.err


def test_what_is_lacking_is_told_at_the_start(tmp_path: Path) -> None:
    """As another user, who may have no program; COMMAND's own line comes behind it."""
    build(
        tmp_path, "points", POINTS.replace("int main(void) {", 'int main(void) { fprintf(stderr, "runs\\n");')
    )
    tmp_path.chmod(0o777)
    for folder in (tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(folder.stat().st_mode | 0o711)
    result = nobody("record", "-o", "x.data", "./points:where:-w-", "--", "./points", cwd=tmp_path)
    if result.status == 125:
        pytest.skip(result.err)
    assert result.err.startswith("ksym: no values (OLD -> NEW)")
    assert result.err.index("no values") < result.err.index("runs")
    assert result.err.count("no values") == 1


def test_a_folder_that_is_not_there(loop: Path) -> None:
    result = ksym("record", "-o", "no/x.data", "./loop:counter", "--", "./loop", "4", cwd=loop.parent)
    assert result.status == 125
    assert ONE_LINE.fullmatch(result.err), result.err


def test_ctrl_c_ends_a_recording_in_order(loop: Path) -> None:
    path = loop.parent / "x.data"
    path.unlink(missing_ok=True)
    with started(*ENDLESS, cwd=loop.parent) as process:
        recording = None
        while recording is None or not len(recording.accesses()):
            assert process.poll() is None
            recording = recorded_so_far(path)
        _, error = ended(process, signal.SIGINT)
    assert re.search(r"ksym: \d+ hits, 0 lost", error), error
    recording = open_recording(str(path))
    assert recording.cut is None
    assert len(recording.accesses()) == sum(recording.counts["hits"])
