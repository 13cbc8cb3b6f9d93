# SPDX-License-Identifier: BSD-2-Clause
"""The end of a run: registers are given back first, counts are told, and nothing that ksym has started is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
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
