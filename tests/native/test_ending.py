# SPDX-License-Identifier: BSD-2-Clause
"""The end of a run: registers are given back first, counts are told, and nothing that ksym has started is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.linux.libc import MACHINE
from native.running import ended, free, line, sample, started, summary, touch
from support.program import command, environment, ksym
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="registers are counted as x86 has them"),
]

# Writes a variable as often as it is told, says so, and waits to be ended.
BUSY = r"""
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
volatile int level;
int main(int count, char **words) {
    if (count > 2) signal(SIGTERM, SIG_IGN);
    for (int i = 0; i < atoi(words[1]); i++) level = i;
    fprintf(stderr, "%d done\n", (int)getpid());
    for (;;) pause();
}
"""
STUBBORN = "trap '' TERM; echo $$; exec sleep 1000"


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("busy"), "busy", BUSY, "-g", "-O1")


@pytest.mark.parametrize("options", [(), ("--format", "json"), ("-o", "rows")], ids=" ".join)
def test_sigterm_while_the_reader_takes_nothing(options: tuple[str, ...], busy: Path, tmp_path: Path) -> None:
    """The pipe is full and nobody reads: the counts come all the same, and say what was not shown."""
    hits = 20_000
    words = ["trace", f"{busy}:level:-w-", *options, "--guard", "off", "--", str(busy), str(hits)]
    reading, writing = os.pipe()
    if options[:1] == ("-o",):
        os.mkfifo(tmp_path / "rows")
        os.close(reading)
        reading = os.open(tmp_path / "rows", os.O_RDONLY | os.O_NONBLOCK)
    with subprocess.Popen(
        command(*words), stdout=writing, stderr=subprocess.PIPE, env=environment(), cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        assert b"done" in process.stderr.readline()
        process.terminate()
        error = process.stderr.read().decode()
    os.close(writing)
    os.close(reading)
    assert process.returncode == 125
    counts = re.fullmatch(r"ksym: (\d+) accesses \((\d+) hits\), (\d+) lost, 0 disarmed; .*", summary(error))
    assert counts, error
    accesses, caught, lost = map(int, counts.groups())
    assert (accesses, caught + lost) == (caught, hits)
    unshown = re.search(r"^ksym: up to (\d+) access(?:es)? not shown$", error, re.MULTILINE)
    assert unshown, error
    assert 0 < int(unshown[1]) <= accesses
    assert re.search(r"^ksym: cannot write .*: its reader takes no more; ", error, re.MULTILINE)


@pytest.mark.parametrize("verb", ["trace", "stat", "record"])
def test_registers_come_back_before_a_stubborn_command_ends(verb: str, tmp_path: Path) -> None:
    """The summary does not wait for it either."""
    words = (verb, sample().request, "-q", "--duration", "0.2", "--", "sh", "-c", STUBBORN)
    with started(*words, cwd=tmp_path) as process:
        assert process.stderr is not None
        stubborn = int(line(process))
        said = ""
        while "lost" not in said:
            said = process.stderr.readline().decode()
            assert said, "it ended without a summary"
        assert min(free()) == 4
        os.kill(stubborn, 0)
        os.kill(stubborn, signal.SIGKILL)
        ended(process)
    assert process.returncode == 128 + signal.SIGKILL


def test_registers_come_back_when_the_time_is_over_also_while_a_reader_takes_nothing(busy: Path) -> None:
    reading, writing = os.pipe()
    words = ["trace", f"{busy}:level:-w-", "--duration", "0.5", "--guard", "off", "--", str(busy), "20000"]
    with subprocess.Popen(
        command(*words), stdout=writing, stderr=subprocess.PIPE, env=environment()
    ) as process:
        os.close(writing)
        assert process.stderr is not None
        process.stderr.readline()
        while min(free()) < 4:  # the reader takes nothing until it is so
            pass
        assert process.poll() is None
        rows = b""
        while data := os.read(reading, 1 << 16):
            rows += data
        error = process.stderr.read().decode()
    os.close(reading)
    assert process.returncode == 128 + signal.SIGTERM
    assert summary(error).startswith(f"ksym: {len(rows.splitlines()) - 1} accesses ")


def test_a_command_of_on_hit_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """By a second Ctrl-C, for whom its ten seconds are too long."""
    chosen, told = sample(), tmp_path / "told"
    script = f"sleep 1000 & echo $! $$ > {told}.new; mv {told}.new {told}; wait"
    with started("trace", chosen.request, "--limit", "1", "-q", "--on-hit", f"exec {script}") as process:
        while not told.exists():
            touch(chosen.file)
        pids = list(map(int, told.read_text().split()))
        process.send_signal(signal.SIGINT)
        signal.sigtimedwait([], 1.2)  # one that comes sooner may be the first one's
        ended(process, signal.SIGINT)
    for pid in pids:
        assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_command_of_on_hit_that_ends_leaves_what_it_wants_to_leave(tmp_path: Path) -> None:
    chosen, told = sample(), tmp_path / "told"
    script = f"sleep 1000 > /dev/null 2>&1 & echo $! > {told}"
    result = ksym(
        "trace", chosen.request, "--limit", "1", "--on-hit", f"exec {script}", "--", "cat", str(chosen.file)
    )
    assert result.status == 0, result.err
    os.kill(int(told.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize("verb", ["trace", "stat", "record"])
def test_words_of_ksym_that_are_lost_are_not_commands_fault(verb: str, stderr: str, tmp_path: Path) -> None:
    """The status is COMMAND's, 0 included; without COMMAND it is 125, as nobody has seen the counts."""

    def status(*words: str, redirected: str = "") -> int:
        script = f'exec "$0" -m ksym "$@" {stderr} {redirected}'
        return subprocess.run(
            ["sh", "-c", script, *command(verb, sample().request, *words)[:1], verb, sample().request, *words],
            stdout=subprocess.DEVNULL, env=environment(), cwd=tmp_path,
        ).returncode  # fmt: skip

    assert status("--", "true") == 0
    assert status("--", "sh", "-c", "exit 7") == 7
    assert status("--duration", "0.05") == 125
    if verb != "record":
        assert status("--", "cat", str(sample().file), redirected="> /dev/full") == 125


# -- files that are taken away, and disks that are full ----------------------------------------------------

# Writes ``level`` before and after each line of stdin.
STEPS = r"""
#include <stdio.h>
volatile int level;
int main(void) {
    for (int i = 0; i < 50; i++) level = i;
    puts("half"); fflush(stdout); getchar();
    for (int i = 0; i < 50; i++) level = i;
    return 3;
}
"""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("steps"), "steps", STEPS, "-g", "-O1")


@pytest.mark.parametrize("what", ["removed", "replaced", "renamed", "untouched"])
@pytest.mark.parametrize("verb", ["record", "trace"])
def test_a_file_that_is_taken_away(verb: str, what: str, steps: Path, tmp_path: Path) -> None:
    path = tmp_path / "x"
    more = ("--flush-ms", "1") if verb == "record" else ("--format", "json")
    words = command(verb, "-o", "x", *more, f"{steps}:level", "--", str(steps))
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment()
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        if what == "renamed":
            path.rename(tmp_path / "y")
        elif what != "untouched":
            path.unlink()
        if what == "replaced":
            path.write_text("somebody's")
        error = process.communicate(b"\n")[1].decode()
    assert summary(error)
    where = {"renamed": tmp_path / "y", "untouched": path}.get(what, tmp_path / "x.kept")
    kept = ksym("script", str(where), "--format", "json").out if verb == "record" else where.read_text()
    assert len(kept.splitlines()) == 100
    if what == "untouched":
        assert process.returncode == 3
        return
    assert process.returncode == 125
    told = {"removed": "it was removed while it was written", "renamed": "it was renamed"}.get(
        what, "another file was put in its place while it was written"
    )
    assert re.search(
        rf"^ksym: cannot leave the .* in x: {told}; all of it is in .*{where.name}$", error, re.MULTILINE
    )
    assert not path.exists() or path.read_text() == "somebody's"


def test_a_recording_that_is_cut(steps: Path, tmp_path: Path) -> None:
    path = tmp_path / "x"
    words = command("record", "-o", "x", "--flush-ms", "1", f"{steps}:level", "--", str(steps))
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=environment()
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        os.truncate(path, 0)
        error = process.communicate(b"\n")[1].decode()
    assert process.returncode == 125
    assert "ksym: 100 hits caught, but not written\n" in error
    assert (
        "ksym: cannot write x: it was cut to 0 bytes while it was written; nothing that is certain is left"
        in error
    )


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without room for a byte, but for a page."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        (folder / "much").write_bytes(bytes(4096))
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("room", [0, 4096])
@pytest.mark.parametrize("command_", ["record", "record -f", "trace -o", "script", "export"])
def test_a_disk_that_is_full_before_the_first_row(
    command_: str, room: int, full_disk: Path, steps: Path, tmp_path: Path
) -> None:
    """No file is left, nothing is claimed, and what was there is still there."""
    out = full_disk / "out"
    verb, *options = command_.split()
    if verb in ("record", "trace"):
        words = [
            verb,
            *(["-f"] if options == ["-f"] else []),
            "-o",
            str(out),
            f"{steps}:level",
            "--",
            str(steps),
        ]
    else:
        data = tmp_path / "x.data"
        assert ksym("record", "-o", str(data), f"{steps}:level", "--", str(steps), stdin="\n").status == 3
        words = [verb, str(data), "-o", str(out), *(["--to", "csv"] if verb == "export" else [])]
    if not room:
        (full_disk / "more").write_bytes(bytes(4096))
    if verb == "trace" and room:
        pytest.skip("a page has room for rows")
    before = sorted(full_disk.iterdir())
    result = ksym(*words, stdin="\n")
    assert result.status == 125
    told = result.err.splitlines()[-1]
    assert re.fullmatch(rf"ksym: cannot write {out}: No space left on device; .*", told)
    assert "can be read" not in result.err
    assert sorted(full_disk.iterdir()) == before


# -- a time namespace ---------------------------------------------------------------------------------------


@pytest.fixture
def in_time_namespace() -> list[str]:
    """The words that run a command in a time namespace a day ahead."""
    words = ["unshare", "--time", "--fork", "--monotonic", "86400", "--boottime", "86400"]
    if subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("no time namespace can be made here")
    return words


@pytest.mark.parametrize("verb", ["trace", "record"])
def test_rows_have_the_right_time_in_a_time_namespace(
    verb: str, in_time_namespace: list[str], steps: Path, tmp_path: Path
) -> None:
    before = time.time_ns()
    more = ["--format", "json"] if verb == "trace" else ["-o", "x"]
    done = subprocess.run(
        [*in_time_namespace, *command(verb, *more, f"{steps}:level", "--", str(steps))],
        input="\n", capture_output=True, text=True, cwd=tmp_path, env=environment(),
    )  # fmt: skip
    after = time.time_ns()
    assert done.returncode == 3, done.stderr
    out = done.stdout if verb == "trace" else ksym("script", str(tmp_path / "x"), "--format", "json").out
    times = [json.loads(text)["time_ns"] for text in out.splitlines() if text.startswith("{")]
    assert len(times) == 100
    assert before < times[0] <= times[-1] < after


def test_the_tracing_directory_shows_its_entries_in_a_time_namespace(
    in_time_namespace: list[str], tmp_path: Path
) -> None:
    chosen, folder = sample(), tmp_path / "it"
    folder.mkdir()
    words = [*in_time_namespace, "--kill-child", *command("mount", str(folder))]
    with subprocess.Popen(words, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stderr is not None
        assert b"tracing directory on" in process.stderr.readline()
        try:
            (folder / "ksym_trace_filter").write_text(f"{chosen.request}:rw-\n")
            touch(chosen.file)
            assert chosen.request.partition(":")[2] in (folder / "trace").read_text()
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        process.wait()
