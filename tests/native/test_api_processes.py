# SPDX-License-Identifier: BSD-2-Clause
"""The Python API in processes that fork, in several threads, and beside children of others."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import ksym
from native.running import free
from support.program import environment
from synthetic.compile import build

pytestmark = pytest.mark.native

TICKS = r"""
#include <stdlib.h>
volatile int ticks = 1;
int main(int count, char **words) {
    for (int times = atoi(words[1]); times > 0; times--) ticks += 2;
    return atoi(words[2]);
}
"""


@pytest.fixture
def value() -> ctypes.c_int64:
    return ctypes.c_int64(100)


def writes(value: ctypes.c_int64) -> str:
    return f"*(long *){ctypes.addressof(value):#x}:-w-"


def news(accesses: Iterable[ksym.Access]) -> list[Any]:
    return [each.new for each in accesses]


@pytest.fixture
def ticks(tmp_path: Path) -> Path:
    """A program that writes ``ticks`` so often, and ends with a status."""
    return build(tmp_path, "ticking", TICKS, "-O1")


def forked(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked child; its exit status (minus the signal's number), 1 if it raised."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def nothing() -> None:
    """What a child does that does nothing."""


# -- forks -----------------------------------------------------------------------------------------------------


def refuses(accesses: ksym.Accesses) -> None:
    """Every way to ask a fork's copy for something is refused, and says whose it is."""
    for ask in (accesses.ready, accesses.stop, lambda: next(accesses), lambda: accesses.tally):
        try:
            ask()
        except ksym.KsymError as error:
            expected = (
                f"this trace belongs to process {os.getppid()}, of which process {os.getpid()} is a fork"
            )
            if expected not in str(error):
                raise
        else:
            raise RuntimeError(f"{ask} was not refused")


def test_a_forks_copy_refuses_and_the_parent_sees_all(value: ctypes.c_int64) -> None:
    with ksym.trace(writes(value), pid=os.getpid()) as accesses:
        value.value = 0
        assert forked(lambda: refuses(accesses)) == 0
        for number in range(1, 101):
            value.value = number
        assert accesses.tally.lost == 0
    assert news(accesses) == list(range(101))


def test_a_fork_leaves_the_block_and_disarms_nobody(value: ctypes.c_int64, tmp_path: Path) -> None:
    """The child goes on after the block, as it does where the fork's two ways are not told apart in it."""
    parent, left = os.getpid(), tmp_path / "left"
    child = 0
    try:
        with ksym.trace(writes(value), pid=parent) as accesses:
            value.value = 0
            child = os.fork()
            if child:
                assert os.waitpid(child, 0)[1] == 0
                for number in range(1, 101):
                    value.value = number
    except BaseException:
        if child == 0 and os.getpid() != parent:
            os._exit(1)
        raise
    if os.getpid() != parent:
        left.write_text(str(accesses.status))
        os._exit(0)
    assert left.read_text() == "None"
    assert news(accesses) == list(range(101))
    assert accesses.tally.lost == 0


def test_a_fork_keeps_no_register(value: ctypes.c_int64) -> None:
    before, others = free(), len(_kernel_objects())
    reading, writing = os.pipe()
    with ksym.trace(writes(value), pid=os.getpid()):
        child = os.fork()
        if child == 0:
            os.close(writing)
            left = len(_kernel_objects())
            os.read(reading, 1)  # until the test has looked
            os._exit(left)
        assert len(_kernel_objects()) > others
    while_it_lives = free()
    os.close(writing)
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == others
    assert while_it_lives == before


def _kernel_objects() -> list[str]:
    """Events, maps and programs of which this process has descriptors or mappings."""
    places = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    names = [os.readlink(place) for place in places if os.path.lexists(place)]
    names += Path("/proc/self/maps").read_text().splitlines()
    return [name for name in names if re.search(r"perf_event|bpf", name)]


def test_the_command_outlives_a_fork(ticks: Path) -> None:
    """A child that leaves the block must not end the command that its parent watches."""
    with ksym.trace(f"{ticks}:ticks:-w-", command=[str(ticks), "50", "7"]) as accesses:
        assert forked(lambda: refuses(accesses)) == 0
        assert len(list(accesses)) == 50
    assert accesses.status == 7


def work_of_another_process(accesses: ksym.Accesses) -> None:
    """For multiprocessing."""
    refuses(accesses)


@pytest.mark.parametrize("how", ["multiprocessing", "preexec_fn", "subprocess"])
def test_other_ways_to_start_processes(value: ctypes.c_int64, how: str) -> None:
    with ksym.trace(writes(value), pid=os.getpid()) as accesses:
        value.value = 1
        if how == "multiprocessing":
            context = multiprocessing.get_context("fork")
            process = context.Process(target=work_of_another_process, args=(accesses,))
            process.start()
            process.join()
            assert process.exitcode == 0
        else:
            prepare = nothing if how == "preexec_fn" else None
            subprocess.run(["true"], check=True, preexec_fn=prepare)
        value.value = 2
    assert news(accesses) == [1, 2]


def test_a_fork_may_watch_for_itself(value: ctypes.c_int64) -> None:
    def work() -> None:
        with ksym.trace(writes(value), pid=os.getpid()) as own:
            value.value = 5
        if news(own) != [5]:
            raise RuntimeError("not its own access")

    with ksym.trace(writes(value), pid=os.getpid()) as accesses:
        assert forked(work) == 0
        value.value = 6
    assert [(each.pid == os.getpid(), each.new) for each in accesses] == [(False, 5), (True, 6)]


def test_what_was_caught_can_be_taken_in_a_fork_after_the_block(value: ctypes.c_int64) -> None:
    with ksym.trace(writes(value), pid=os.getpid()) as accesses:
        value.value = 6

    def work() -> None:
        if news(accesses) != [6] or accesses.tally.accesses != [1]:
            raise RuntimeError("not the access")

    assert forked(work) == 0


# -- threads ---------------------------------------------------------------------------------------------------


def test_each_access_goes_to_one_thread(value: ctypes.c_int64) -> None:
    numbers = list(range(20_000))
    with ksym.trace(writes(value), pid=os.getpid()) as accesses, ThreadPoolExecutor(5) as pool:
        taken = [pool.submit(lambda: news(accesses)) for _ in range(4)]
        asked = pool.submit(lambda: [accesses.ready() for _ in range(20)])
        for number in numbers:
            value.value = number
        found = [each for part in asked.result() for each in news(part)]
        accesses.stop()
        parts = [each.result() for each in taken]
    found += [each for part in parts for each in part] + news(accesses)
    assert all(part == sorted(part) for part in parts)  # to each thread in order
    assert sorted(found) == numbers
    assert (accesses.tally.shown, accesses.tally.lost) == (len(numbers), 0)


def test_the_block_ends_while_a_thread_waits(value: ctypes.c_int64) -> None:
    found: list[object] = []
    with ksym.trace(writes(value), pid=os.getpid()) as accesses:
        thread = threading.Thread(target=lambda: found.extend(news(accesses)))
        thread.start()
        value.value = 3
        assert accesses.tally.lost == 0
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert found + news(accesses) == [3]


def test_an_executor(value: ctypes.c_int64) -> None:
    with ThreadPoolExecutor(3) as pool, ksym.trace(writes(value), pid=os.getpid(), limit=6) as accesses:
        for number in range(6):
            value.value = number
        waiting = [pool.submit(next, accesses, None) for _ in range(8)]
        found = [future.result(timeout=30) for future in waiting]
    assert sorted(news(filter(None, found))) == list(range(6))
    assert found.count(None) == 2


def test_a_signal_handler_that_asks_in_the_midst_is_refused(value: ctypes.c_int64) -> None:
    """It runs in the thread that waits: to wait for that thread would be for ever."""
    told: list[str] = []

    def ask(number: int, frame: object) -> None:
        try:
            accesses.ready()
        except ksym.KsymError as error:
            told.append(str(error))
        accesses.stop()

    before = signal.signal(signal.SIGALRM, ask)
    try:
        with ksym.trace(writes(value), pid=os.getpid()) as accesses:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            assert list(accesses) == []
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(told) == 1
    assert told[0].startswith("cannot take accesses: this thread is just taking some, and was interrupted; ")


COMMANDS = """
import sys
from concurrent.futures import ThreadPoolExecutor
import ksym

def watched(number):
    command = [sys.argv[1], str(number), str(number % 7)]
    with ksym.trace(f"{sys.argv[1]}:ticks:-w-", command=command, twin="off") as accesses:
        found = [access.new for access in accesses]
    return found == [3 + 2 * index for index in range(number)] and accesses.status == number % 7

with ThreadPoolExecutor(4) as pool:
    print(all(pool.map(watched, range(10, 34))))
"""


def test_commands_in_several_threads(ticks: Path) -> None:
    """In a process of their own, as they hung: ptrace goes by threads, and forks copy other threads' locks."""
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, str(ticks)],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.stderr, done.stdout) == ("", "True\n")


# -- children of others ----------------------------------------------------------------------------------------


def test_children_of_others_keep_their_statuses(ticks: Path) -> None:
    """Those that end before, while and after a program's variable is waited for, and while it is watched."""
    jobs = {"before": subprocess.Popen(["sh", "-c", "exit 3"])}
    os.waitid(os.P_PID, jobs["before"].pid, os.WEXITED | os.WNOWAIT)
    reading, writing = os.pipe()
    jobs["after"] = subprocess.Popen(["sh", "-c", "read line; exit 6"], stdin=reading)
    # COMMAND runs other programs first: that takes longer than the job.
    jobs["meanwhile"] = subprocess.Popen(["sh", "-c", "exit 4"])
    script = f"for i in 1 2 3 4 5 6 7 8 9; do /bin/true; done; exec {ticks} 5 0"
    with ksym.trace(f"{ticks}:ticks:-w-", command=["sh", "-c", script], twin="off") as accesses:
        jobs["watched"] = subprocess.Popen(["sh", "-c", "exit 5"])
        assert len(list(accesses)) == 5
    os.write(writing, b"\n")
    try:
        statuses = {name: job.wait(timeout=30) for name, job in jobs.items()}
    finally:
        os.close(reading)
        os.close(writing)
    assert statuses == {"before": 3, "meanwhile": 4, "watched": 5, "after": 6}
    assert accesses.status == 0
