# SPDX-License-Identifier: BSD-2-Clause
"""Four registers, and many who want them: the kernel's book-keeping, gdb, perf, other ksyms, and what ksym says then.

The kernel counts when an event is opened: what is pinned to a CPU, plus the most that any one task has there, must not
exceed what there is (kernel/events/hw_breakpoint.c).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.linux.cpus import online_cpus
from ksym.linux.libc import MACHINE
from ksym.linux.perf_event import Flag, PerfEvent, Sample
from ksym.linux.ring import Ring
from ksym.symbols.kallsyms import Kallsyms
from ksym.watch.registers import free_registers
from native.mounting import until, write_back
from native.programs import debugged
from native.programs.debugged import Debugged
from native.running import ONE_LINE, ended, free, line, readable, sample, started, summary
from support.apart import apart
from support.program import environment, ksym
from support.registers import RW, USER, Area, W, X, attr, opened, refusal
from synthetic.compile import need

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="four registers for data and code together are x86's"),
]

REGISTERS = 4
AREA = Area()


def held(pid: int, cpu: int, number: int) -> contextlib.AbstractContextManager[list[PerfEvent]]:
    """So many registers of a task or a CPU."""
    return opened(*(attr(W, AREA.start, 8),) * number, pid=pid, cpu=cpu)


@contextlib.contextmanager
def sleeping(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for its stdin to close."""
    with subprocess.Popen(words or ("cat",), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def two_cpus() -> Iterator[tuple[int, int]]:
    cpus = online_cpus()
    if len(cpus) < 2:
        pytest.skip("there is one CPU alone")
    yield cpus[0], cpus[1]


# -- the kernel's book-keeping ---------------------------------------------------------------------------


def test_what_is_pinned_to_a_cpu_and_the_most_of_any_task_add_up() -> None:
    cpu, *others = online_cpus()
    with sleeping() as one, sleeping() as two:
        for wide, first, second in itertools.product(range(REGISTERS + 1), repeat=3):
            if wide + max(first, second) > REGISTERS:
                continue
            with held(-1, cpu, wide), held(one.pid, -1, first), held(two.pid, -1, second):
                assert free_registers(cpu=cpu) == REGISTERS - wide - max(first, second)
                for other in others:
                    assert free_registers(cpu=other) == REGISTERS - max(first, second)
                for pid, taken in ((one.pid, first), (two.pid, second), (os.getpid(), 0)):
                    assert free_registers(pid=pid, cpu=-1) == REGISTERS - wide - taken
                    assert free_registers(pid=pid, cpu=cpu) == REGISTERS - wide - taken


def test_one_more_is_refused_whoever_asks() -> None:
    cpu = online_cpus()[0]
    with sleeping() as one:
        for wide in range(REGISTERS + 1):
            with held(-1, cpu, wide), held(one.pid, -1, REGISTERS - wide):
                assert refusal(attr(W, AREA.start, 8), pid=-1, cpu=cpu) == "ENOSPC"
                assert refusal(attr(W, AREA.start, 8), pid=one.pid) == "ENOSPC"
                assert refusal(attr(X, AREA.start, 8), pid=one.pid) == "ENOSPC"


def test_what_a_task_has_on_one_cpu_counts_there_alone() -> None:
    with two_cpus() as (cpu, other), sleeping() as one:
        for number in range(REGISTERS + 1):
            with held(one.pid, cpu, number):
                assert (free_registers(cpu=cpu), free_registers(cpu=other)) == (REGISTERS - number, REGISTERS)
                assert free_registers(pid=one.pid, cpu=other) == REGISTERS
                assert free_registers(pid=one.pid, cpu=cpu) == REGISTERS - number
                assert free_registers(pid=one.pid, cpu=-1) == REGISTERS - number


def test_a_task_has_what_the_fullest_of_its_cpus_has() -> None:
    with two_cpus() as (cpu, other), sleeping() as one:
        for here, there in itertools.product(range(REGISTERS + 1), repeat=2):
            with held(-1, cpu, here), held(-1, other, there):
                assert free_registers(pid=one.pid, cpu=-1) == REGISTERS - max(here, there)
                assert free_registers(pid=one.pid, cpu=cpu) == REGISTERS - here


def test_data_and_code_share_them() -> None:
    for kinds in itertools.product((W, RW, X), repeat=REGISTERS):
        with opened(*(attr(kind, AREA.start, 8) for kind in kinds)):
            assert [refusal(attr(kind, AREA.start, 8)) for kind in (W, RW, X)] == ["ENOSPC"] * 3


def test_disabled_it_still_has_its_register() -> None:
    with held(0, -1, REGISTERS) as events:
        for event in events:
            event.disable()
        assert refusal(attr(W, AREA.start, 8)) == "ENOSPC"


def test_a_wrong_address_is_told_of_when_there_is_a_register_for_it_alone() -> None:
    """The slot is reserved before the address is looked at, and given back when that is refused."""
    wrong = attr(W, AREA.start + 4, 8)
    for number in range(REGISTERS + 1):
        with held(0, -1, number):
            refused = {refusal(wrong) for _ in range(20)}
        assert refused == {"ENOSPC" if number == REGISTERS else "EINVAL"}
    assert free_registers(pid=0, cpu=-1) == REGISTERS


def test_each_thread_and_each_child_has_its_own() -> None:
    """A child inherits watches whatever is held: the most of any task stays what it was."""

    def work() -> tuple[int, int, int]:
        cpu = online_cpus()[0]
        with (
            held(-1, cpu, 2),
            opened(*(attr(W, AREA.start, 8, flags=USER | Flag.INHERIT),) * 2) as events,
        ):
            reading, writing = os.pipe()
            closed, closing = os.pipe()
            pid = os.fork()
            if not pid:
                try:
                    os.close(writing)
                    for event in events:
                        event.close()  # a copy of the descriptor would keep it
                    os.write(closing, b"x")
                    os.read(reading, 1)
                finally:
                    os._exit(0)
            os.read(closed, 1)
            taken = free_registers(pid=pid, cpu=-1)
            for event in events:
                event.close()
            left = free_registers(pid=pid, cpu=-1)
            os.close(writing)
            os.waitpid(pid, 0)
        return taken, left, free_registers(cpu=cpu)

    assert apart(work) == (0, 2, REGISTERS)


# -- all of it comes back --------------------------------------------------------------------------------


def test_a_ring_keeps_the_register_of_a_closed_event() -> None:
    cpu = online_cpus()[0]
    with opened(attr(W, AREA.start, 8, sample_period=1, sample_type=Sample.IP), cpu=cpu) as (event,):
        ring = Ring(event, 4096)
        event.close()
        assert free_registers(cpu=cpu) == REGISTERS - 1
        ring.close()
        assert free_registers(cpu=cpu) == REGISTERS


def test_a_copy_of_the_descriptor_keeps_the_register() -> None:
    cpu = online_cpus()[0]
    with held(-1, cpu, 1) as (event,):
        copy = os.dup(event.fd)
        event.close()
        assert free_registers(cpu=cpu) == REGISTERS - 1
        os.close(copy)
        assert free_registers(cpu=cpu) == REGISTERS


def test_an_event_whose_task_has_ended_keeps_its_register_until_it_is_closed() -> None:
    cpu = online_cpus()[0]
    with sleeping() as one, held(one.pid, -1, 3) as events:
        one.kill()
        one.wait()
        assert free_registers(cpu=cpu) == 1
        events[0].close()
        assert free_registers(cpu=cpu) == 2
    assert free_registers(cpu=cpu) == REGISTERS


@pytest.mark.parametrize("flags", [USER, USER | Flag.REMOVE_ON_EXEC], ids=["stays", "remove_on_exec"])
def test_an_exec_of_the_watched_gives_nothing_back(flags: Flag) -> None:
    cpu = online_cpus()[0]
    with sleeping("sh", "-c", "read line; echo; exec cat") as one:
        assert one.stdin is not None
        with opened(*(attr(W, AREA.start, 8, flags=flags),) * 3, pid=one.pid):
            one.stdin.write(b"\n")
            one.stdin.flush()
            until(lambda: Path(f"/proc/{one.pid}/comm").read_text() == "cat\n")
            assert free_registers(cpu=cpu) == 1
    assert free_registers(cpu=cpu) == REGISTERS


def test_an_exec_of_the_holder_closes_what_it_holds() -> None:
    """Events are opened close-on-exec, so that no COMMAND goes on holding registers."""
    cpu = online_cpus()[0]
    with holder(3, after="import os; os.execvp('sh', ['sh', '-c', 'echo run; exec cat'])") as process:
        assert free_registers(cpu=cpu) == 1
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        # The name changes before the files are closed, which is work of the task on its way to user space.
        assert process.stdout.readline() == "run\n"
        assert free_registers(cpu=cpu) == REGISTERS


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_holder_that_is_killed_holds_nothing(how: signal.Signals) -> None:
    with holder(REGISTERS) as process:
        assert set(free()) == {0}
        process.send_signal(how)
        process.wait()
        assert set(free()) == {REGISTERS}


# -- gdb, perf and other ksyms ---------------------------------------------------------------------------


HOLDER = """
import sys
from ksym.linux.cpus import online_cpus
from ksym.linux.perf_event import PerfEvent
from support.registers import W, Area, attr
area = Area()
held = [PerfEvent(attr(W, area.start, 8), pid=-1, cpu=cpu) for cpu in online_cpus() for _ in range(int(sys.argv[1]))]
print("held", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def holder(number: int, *, after: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that holds so many registers of each CPU, until it gets a line; then it does something else."""
    names = environment()
    names["PYTHONPATH"] += f":{Path(__file__).parents[1]}"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER + after, str(number)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=names,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("taken", range(1, REGISTERS + 1))
def test_what_is_left_is_used_and_the_rest_is_named(taken: int) -> None:
    """Of three requests that take 1, 2 and 4 registers those go that fit; a refusal tells needed, free, and who."""
    chosen = sample()
    wants = {chosen.request: 1, f"{chosen.request}:r--": 2, "task(1).comm:-w-": 2, "task(1).comm:r--": 4}
    with holder(taken) as process:
        for request, needed in wants.items():
            result = ksym("stat", request, "--json", "--", "cat", str(chosen.file))
            if needed <= REGISTERS - taken:
                assert result.status == 0, result.err
                if request.startswith(chosen.request):
                    assert json.loads(result.out.splitlines()[-1])["hits"] == 1
                continue
            assert (result.status, result.out) == (125, "")
            assert ONE_LINE.fullmatch(result.err)
            target = request.removesuffix(":r--").removesuffix(":-w-")
            assert result.err.startswith(
                f"ksym: cannot watch {target}: it takes {needed} debug register{'s' * (needed > 1)} and CPU "
                f"{online_cpus()[0]} has {REGISTERS - taken} free"
                + " (16 bytes, at most 8 a register)"
                * ("comm" in target)
            )
            assert re.search(
                rf"; held perhaps by .*\bpython[^ ]* \(pid {process.pid}, perf events\)", result.err
            )
        assert process.poll() is None


def test_one_object_alone_can_take_too_many() -> None:
    address = Kallsyms.of_this_kernel().find("_text")[0].address
    result = ksym("trace", f"{address:#x}/40")
    assert result.status == 125
    why = "it takes 5 debug registers and CPU 0 has 4 free (40 bytes, at most 8 a register)"
    assert result.err.startswith(f"ksym: cannot watch {address:#x}/40: {why}")
    assert ONE_LINE.fullmatch(result.err)


def test_two_runs_at_once_share_what_there_is() -> None:
    """The first one watches writes alone: the second one reads the variable, to know what it holds."""
    chosen = sample()
    more = ("--limit", "1", "--format", "csv")
    requests = (f"{chosen.request}:-w-", "task(1).comm:-w-")
    with started("trace", *requests, *more) as first:
        assert line(first).startswith("time_ns")  # planted: 3
        with started("trace", chosen.request, *more) as second:
            assert line(second).startswith("time_ns")  # 1, as there is no room for a twin
            third = ksym("trace", chosen.request, "--duration", "1")
            while first.poll() is None or second.poll() is None:
                write_back(chosen.file)
            for process in (first, second):
                out, error = ended(process)
                assert process.returncode == 0
                assert len(out.splitlines()) == 1
                assert summary(error).startswith("ksym: 1 access (1 hit), 0 lost")
    assert third.status == 125
    assert "it takes 1 debug register and CPU 0 has 0 free" in third.err


def test_a_task_that_has_all_its_registers_blocks_every_cpu() -> None:
    with held(0, -1, REGISTERS):
        result = ksym("trace", sample().request)
    assert result.status == 125
    assert f"CPU {online_cpus()[0]} has 0 free" in result.err
    assert f"(pid {os.getpid()}, perf events)" in result.err


def test_perf_is_named_and_perf_is_refused(tmp_path: Path) -> None:
    need("perf")
    chosen = sample()
    perf = ["perf", "stat", "-a", "-x,", "-o", str(tmp_path / "counts"), "-e", f"mem:{AREA.start:#x}/8:w"]
    # Counting the free ones takes them all for a moment, and perf would be refused: so it is asked when it has its own.
    words = [*perf, "--", "sh", "-c", "echo counting; exec cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"counting\n"
        assert set(free()) == {REGISTERS - 1}
        refused = ksym(
            "trace", chosen.request + ":-w-", "task(1).comm:-w-", f"task({os.getpid()}).comm[0]:-w-"
        )
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait() == 0
    assert refused.status == 125
    assert "they take 4 debug registers and CPU 0 has 3 free" in refused.err
    assert re.search(rf"; held perhaps by .*\bperf \(pid {process.pid}, perf events\)", refused.err)
    assert ONE_LINE.fullmatch(refused.err)
    with started("stat", chosen.request, "task(1).comm:-w-", "--twin", "off", "-I", "1") as counting:
        line(counting)
        assert set(free()) == {1}
        two = ["-e", f"mem:{AREA.start + 8:#x}/8:w", "--", "true"]
        assert subprocess.run([*perf, *two[2:]], capture_output=True).returncode == 0
        assert "not counted" not in (tmp_path / "counts").read_text()
        done = subprocess.run([*perf, *two], capture_output=True, text=True)
        assert (done.returncode, (tmp_path / "counts").read_text().count("<not")) != (0, 0), done.stderr
        ended(counting, signal.SIGINT)


# -- gdb -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return debugged.build_target(tmp_path_factory.mktemp("target"))


def test_gdb_cannot_watch_while_ksym_has_all_registers(target: Path) -> None:
    chosen = sample()
    requests = (chosen.request, "task(1).comm:-w-", f"task({os.getpid()}).comm[0]:-w-")
    with started("stat", *requests, "--twin", "off", "-I", "1") as counting:
        line(counting)
        assert set(free()) == {0}
        with Debugged(target, "a") as gdb:
            said = gdb.end()
        assert "Couldn't write debug register: No space left on device." in said
        ended(counting, signal.SIGINT)
    assert counting.returncode == 0
    with Debugged(target, "a") as gdb:
        gdb.touch()
        assert gdb.changes() == ["a 1"]


@pytest.mark.parametrize("variables", ["abcd", "abc"])
def test_gdb_has_registers_of_one_task(target: Path, variables: str) -> None:
    """They are missing on every CPU, and in that task; any other task has all of its own."""
    left = REGISTERS - len(variables)
    with Debugged(target, variables) as gdb, sleeping(str(target)) as other:
        assert set(free()) == {left}
        assert free_registers(pid=gdb.pid, cpu=-1) == left
        assert free_registers(pid=other.pid, cpu=-1) == REGISTERS
        name = str(target)
        wide = ksym("stat", "task(1).comm:-w-", "--duration", "1")
        inside = ksym(
            "stat", f"{name}:d", f"{name}:e", "--twin", "off", "-p", str(gdb.pid), "--duration", "1"
        )
        for result, takes, place in (
            (wide, "it takes", f"CPU {online_cpus()[0]}"),
            (inside, "they take", f"thread {gdb.pid}"),
        ):
            assert result.status == 125
            assert f"{takes} 2 debug registers and {place} has {left} free" in result.err
            assert f"gdb (pid {gdb.gdb_pid}, debugs pid {gdb.pid})" in result.err
            assert ONE_LINE.fullmatch(result.err)
        four = [f"{name}:{each}:-w-" for each in "abcd"]
        with started("stat", *four, "--json", "-p", str(other.pid), "-I", "1") as counting:
            line(counting)
            assert free_registers(pid=other.pid, cpu=-1) == 0
            assert other.stdin is not None
            other.stdin.write(b"1\n2\n3\n")
            other.stdin.close()
            out, _ = ended(counting)
        counts = [json.loads(each) for each in out.splitlines()]
        totals = {
            each: sum(row["hits"] for row in counts if row["symbol"].endswith(f":{each}")) for each in "abcd"
        }
        assert totals == dict.fromkeys("abcd", 3)
        gdb.touch()
        assert sorted(gdb.changes()) == [f"{each} 1" for each in variables]
    assert set(free()) == {REGISTERS}


@pytest.mark.parametrize("watched", ["b", "a"], ids=["another variable", "the same variable"])
def test_ksym_and_gdb_watch_one_program_side_by_side(target: Path, watched: str) -> None:
    """Both see all of it, and gdb's own steps and stops are no accesses."""
    with Debugged(target, "a") as gdb:
        words = ("trace", f"{target}:{watched}", "--format", "json", "-p", str(gdb.pid))
        with started(*words) as process:
            rows = 0
            while not rows:  # until it is armed, which comes after it has its registers
                gdb.touch()
                rows = readable(process, 0.3)
            before = gdb.touched
            for _ in range(20):
                gdb.touch()
            changes = gdb.changes()
            said = gdb.end()
            out, error = ended(process)
    assert process.returncode == 0
    assert "exited normally" in said
    found = [json.loads(each) for each in out.splitlines()]
    assert changes == [f"a {number}" for number in range(1, before + 21)]
    last = found[-20:]
    assert [(row["access"], row["new"], row["function"]) for row in last] == [
        ("RW", number, "touch") for number in range(before + 1, before + 21)
    ]
    numbers = [row["new"] for row in found]
    assert numbers == list(range(numbers[0], before + 21))
    assert summary(error).startswith(f"ksym: {len(found)} accesses ({len(found)} hits), 0 lost, 0 disarmed")
