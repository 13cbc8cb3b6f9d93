# SPDX-License-Identifier: BSD-2-Clause
"""What the programs do besides telling: they stop tasks, hold limits, and guard the machine; and ``--on-hit exec``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ksym.linux.libc import MACHINE
from native.running import ended, line, readable, sample, started, summary, touch
from support.program import ksym
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="elsewhere no programs run at watchpoints"),
]

# For each line of stdin: one instruction that writes the watched variable, and the next one writes another; for
# lines with an r, read(2) writes it, and then the other one is written.
STOPPING = r"""
#include <stdio.h>
#include <unistd.h>
volatile long watched, after;
int main(void) {
    char c;
    setvbuf(stdout, 0, _IONBF, 0);
    printf("%p\n", (void *)&after);
    while (read(0, &c, 1) == 1) {
        if (c == 'r') {
            if (read(0, (void *)&watched, 8) != 8) return 1;
            after++;
        } else
            __asm__ volatile("incq %0\n incq %1" : "+m"(watched), "+m"(after));
        puts("done");
    }
    return 3;
}
"""
BURST = "volatile long shared; int main(void) { for (long n = 1; n <= 200; n++) shared = n; return 3; }"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("engine")
    build(where, "stopping", STOPPING, "-g", "-O1", "-w")
    build(where, "burst", BURST, "-g", "-O1")
    return where


class Target:
    """STOPPING, as it runs."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.pid = process, process.pid
        self.address = int(line(process), 16)

    def order(self, text: bytes) -> None:
        """Let it make its accesses."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)

    def is_stopped(self, options: int = 0) -> bool:
        """Wait until a signal has stopped it; with WNOHANG, whether one has."""
        pid, status = os.waitpid(self.pid, os.WUNTRACED | options)
        assert not pid or (os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP)
        return pid == self.pid

    @property
    def after(self) -> int:
        """What it has written behind the watched variable, so far."""
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            return int.from_bytes(os.pread(memory.fileno(), 8, self.address), "little")

    def goes_on(self) -> bool:
        """Let it go on; whether it does."""
        os.kill(self.pid, signal.SIGCONT)
        return line(self.process) == "done\n"


@contextmanager
def target(folder: Path) -> Iterator[Target]:
    with subprocess.Popen(
        ["./stopping"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            yield Target(process)
        finally:
            process.kill()


def armed(process: subprocess.Popen[bytes], one: Target) -> None:
    """Returns when the target has been stopped by its watch, which is armed just after the header comes."""
    assert line(process).startswith("time_ns")
    while True:
        one.order(b"x")
        while not readable(one.process):
            if one.is_stopped(os.WNOHANG):
                return
        assert line(one.process) == "done\n"


# -- stop --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "options"), [(b"x", ()), (b"r" + b"." * 8, ("--kernel-accesses",))], ids=["user", "kernel"]
)
def test_a_task_is_stopped_before_its_next_instruction(
    order: bytes, options: tuple[str, ...], folder: Path
) -> None:
    with target(folder) as one:
        words = (
            "./stopping:watched:-w-",
            "-p",
            str(one.pid),
            "--on-hit",
            "stop",
            "--format",
            "csv",
            *options,
        )
        with started("trace", *words, cwd=folder) as process:
            armed(process, one)
            before = one.after
            assert one.goes_on()
            for number in range(1, 5):
                assert one.after == before + number
                one.order(order)
                assert one.is_stopped()
                assert one.after == before + number
                assert one.goes_on()
            out, error = ended(process, signal.SIGINT)
    rows = out.splitlines()
    assert len(rows) == 5
    # The kernel copies by words or by bytes, as the processor does best.
    assert re.fullmatch(
        r"ksym: 5 accesses \((5|33) hits\), 0 lost, 0 disarmed; \./stopping:watched 5", summary(error)
    )
    told = (
        f"ksym: stopped stopping (pid {one.pid}); look: gdb -p {one.pid}; let it go on: kill -CONT {one.pid}"
    )
    assert told in error.splitlines()
    assert process.returncode == 0


def test_with_a_limit_it_is_left_stopped(folder: Path) -> None:
    with target(folder) as one:
        words = (
            "./stopping:watched:-w-",
            "-p",
            str(one.pid),
            "--on-hit",
            "stop",
            "--limit",
            "1",
            "--format",
            "csv",
        )
        with started("trace", *words, cwd=folder) as process:
            armed(process, one)
            out, error = ended(process)
        assert len(out.splitlines()) == 1
        assert process.returncode == 0
        assert summary(error) == "ksym: 1 access (1 hit), 0 lost, 0 disarmed; ./stopping:watched 1"
        assert Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        before = one.after
        assert one.goes_on()
        one.order(b"x")
        assert line(one.process) == "done\n"
        assert one.after == before + 2


def test_a_command_is_left_stopped_at_the_limit(folder: Path) -> None:
    """Ksym waits for it, for it would end with ksym."""
    words = ("trace", "./burst:shared:-w-", "--on-hit", "stop", "--limit", "1", "-q", "--", "./burst")
    with started(*words, cwd=folder) as process:
        assert " W     0 -> 1 " in line(process)
        assert process.stderr is not None
        match = re.search(rb"stopped burst \(pid (\d+)\)", process.stderr.readline())
        assert match
        os.kill(int(match[1]), signal.SIGCONT)
        out, error = ended(process)
    assert (process.returncode, out) == (3, "")
    assert summary(error) == "ksym: 1 access (1 hit), 0 lost, 0 disarmed; ./burst:shared 1"


def test_the_condition_decides_who_is_stopped(folder: Path) -> None:
    words = ("trace", "./burst:shared:-w- if new == 150", "--on-hit", "stop", "-q", "--", "./burst")
    with started(*words, cwd=folder) as process:
        assert " W     149 -> 150 " in line(process)
        assert process.stderr is not None
        match = re.search(rb"stopped burst \(pid (\d+)\)", process.stderr.readline())
        assert match
        os.kill(int(match[1]), signal.SIGCONT)
        _, error = ended(process)
    assert process.returncode == 3
    assert summary(error).startswith("ksym: 1 access (1 hit), 0 lost, 0 disarmed")


def test_reads_alone_have_a_limit(folder: Path) -> None:
    """Of its two registers, the one for writes knows of no limit."""
    words = ("./burst:shared:r--", "--on-hit", "stop", "--limit", "1")
    result = ksym("trace", *words, "--", "./burst", cwd=folder)
    assert result.status == 3
    assert summary(result.err).startswith("ksym: 0 accesses (0 hits), 0 lost, 0 disarmed")


# -- exec --------------------------------------------------------------------------------------------


def test_a_command_gets_the_row(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "row"
    words = ("./burst:shared:-w- if new == 7", "--on-hit", f"exec cat > {kept}", "--format", "json")
    result = ksym("trace", *words, "--", "./burst", cwd=folder)
    assert result.status == 3
    (row,) = result.rows()
    assert (row["access"], row["old"], row["new"], row["function"]) == ("W", 6, 7, "main")
    given = json.loads(kept.read_text())
    assert {**given, "time_ns": 0} == {**row, "time_ns": 0}
    assert abs(given["time_ns"] - row["time_ns"]) < 1_000_000_000  # each has set its clock by itself


def test_what_a_command_says_goes_to_stderr(folder: Path) -> None:
    words = ("./burst:shared:-w- if new == 7", "--on-hit", "exec echo said", "--format", "json")
    result = ksym("trace", *words, "--", "./burst", cwd=folder)
    assert len(result.out.splitlines()) == 1
    assert result.err.splitlines()[:2] == ["said", summary(result.err)]


@pytest.mark.parametrize(
    ("command", "status"), [("exit 3", 3), ("kill -KILL $$", 137), ("nosuchcommand", 127)]
)
def test_commands_that_fail_are_counted(folder: Path, command: str, status: int) -> None:
    words = ("./burst:shared:-w- if new <= 4", "-q", "--on-hit", f"exec {command}")
    result = ksym("trace", *words, "--", "./burst", cwd=folder)
    failed = f"ksym: --on-hit: the command failed for 4 accesses (last with exit status {status})"
    assert result.err.splitlines()[-1] == failed
    succeeded = ksym("trace", *words[:-1], "exec true", "--", "./burst", cwd=folder)
    assert "--on-hit" not in succeeded.err


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_burst_of_commands_is_held_back_and_that_is_told(
    folder: Path, tmp_path: Path, quiet: tuple[str, ...]
) -> None:
    ran = tmp_path / "ran"
    words = (*quiet, "--on-hit", f"exec echo >> {ran}")
    result = ksym("trace", "./burst:shared:-w-", *words, "--", "./burst", cwd=folder)
    assert summary(result.err).startswith("ksym: 200 accesses (200 hits), 0 lost")
    told = re.search(
        r"(?m)^ksym: --on-hit: the command was not run for (\d+) accesses \(at most 10 a second, 4 at once\)$",
        result.err,
    )
    assert told
    assert len(ran.read_text().splitlines()) + int(told[1]) == 200


@pytest.mark.parametrize("text", ["", "exec", "exec  ", "halt", "execute x"])
def test_actions_that_there_are_not(text: str) -> None:
    result = ksym("trace", "x", "--on-hit", text)
    assert result.status == 2
    assert result.err == (
        "ksym: cannot read the command line: argument --on-hit: "
        f"'{text.strip()}' is neither stop nor 'exec CMD'; see ksym trace --help\n"
    )


# -- the guard ---------------------------------------------------------------------------------------

GUARD = (
    r"ksym: guard: {name} disarmed: ([\d,]+) hits/s on CPU \d+ took \d+ % of a CPU \(limit 1 %\); "
    r"watch less \(-C CPUS, -p PID, a member\), or give --guard off"
)
READER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
for _ in range(20000): os.pread(fd, 64, 0)
sys.exit(7)
"""


def told(error: str, name: str) -> re.Match[str]:
    """The one line that tells of the guard."""
    (text,) = [each for each in error.splitlines() if "guard:" in each]
    match = re.fullmatch(GUARD.format(name=re.escape(name)), text)
    assert match, text
    return match


@pytest.mark.parametrize("verb", ["trace", "stat"])
@pytest.mark.parametrize(
    "options", [(), ("--no-bpf",), ("--twin", "off")], ids=["bpf", "plain", "one register"]
)
def test_the_guard_takes_a_hot_watch_off(verb: str, options: tuple[str, ...], tmp_path: Path) -> None:
    chosen = sample()
    output = ("-o", str(tmp_path / "rows"), "--format", "csv") if verb == "trace" else ()
    with started(verb, chosen.request, "--guard", "1", *options, *output) as process:
        while process.poll() is None:  # nothing is left to watch, so the run ends
            touch(chosen.file)
        _, error = ended(process)
    assert process.returncode == 0
    told(error, chosen.request)
    match = re.fullmatch(r"ksym: (?:\d+ accesses \()?(\d+) hits\)?, 0 lost, 1 disarmed; .*", summary(error))
    assert match
    if verb == "trace":
        rows = (tmp_path / "rows").read_text().splitlines()[1:]
        assert len(rows) == int(match[1])
    touch(chosen.file)  # which goes on as before


def test_command_goes_on_when_its_watch_is_taken_off(tmp_path: Path) -> None:
    chosen = sample()
    reader = ("--", sys.executable, "-c", READER, str(chosen.file))
    result = ksym("trace", chosen.request, "--guard", "1", "-o", str(tmp_path / "rows"), *reader)
    assert result.status == 7
    told(result.err, chosen.request)
    assert re.search(r", 0 lost, 1 disarmed; ", summary(result.err))


def test_without_the_guard_every_hit_is_counted() -> None:
    chosen = sample()
    result = ksym(
        "stat",
        chosen.request,
        "--guard",
        "off",
        "--json",
        "--",
        sys.executable,
        "-c",
        READER,
        str(chosen.file),
    )
    assert result.status == 7
    assert json.loads(result.out)["hits"] == 20000
    assert "guard" not in result.err


def test_other_watches_stay(tmp_path: Path) -> None:
    chosen = sample()
    own = f"task({os.getpid()}).comm[0]"
    comm = Path(f"/proc/{os.getpid()}/comm")
    name = comm.read_text().removesuffix("\n")
    words = (
        "trace",
        chosen.request,
        f"{own}:-w-",
        "--guard",
        "1",
        "-v",
        "--format",
        "csv",
        "-o",
        str(tmp_path / "rows"),
    )
    with started(*words) as process:
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        seen = b""
        while b"guard: " not in seen:
            touch(chosen.file)
            seen += process.stderr.read() or b""
        os.set_blocking(process.stderr.fileno(), True)
        comm.write_text(name)
        _, error = ended(process, signal.SIGINT)
    told(seen.decode(), chosen.request)
    match = re.fullmatch(
        rf"ksym: \d+ accesses \(\d+ hits\), 0 lost, 1 disarmed; {re.escape(chosen.request)} \d+, {re.escape(own)} 1",
        summary(error),
    )
    assert match, error


def test_the_guard_does_not_wait_for_a_reader() -> None:
    """Ksym is held up writing rows into a full pipe, while the variable stays hot."""
    chosen = sample()
    with started("trace", chosen.request, "--guard", "1", "--no-bpf", "-v") as process:
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        seen = b""
        while b"guard: " not in seen:
            touch(chosen.file)
            seen += process.stderr.read() or b""
        _, error = ended(process)
    told(seen.decode(), chosen.request)
    assert ", 1 disarmed; " in summary(error)
    assert process.returncode == 0
