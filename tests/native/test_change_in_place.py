# SPDX-License-Identifier: BSD-2-Clause
"""The tracing directory changes a watch in place, also where no register is free beside it."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.linux.cpus import online_cpus
from ksym.linux.libc import MACHINE
from native.mounting import FILTER, Mounted, mounted, write_back
from native.running import free, sample, touch
from support.registers import Area, W, attr, opened, refusal

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="it is for the four registers of x86"),
]

REGISTERS = 4
AREA = Area()
GAVE_WAY = "no register was free beside it: for a moment nothing was seen"


@contextlib.contextmanager
def others_hold(number: int) -> Iterator[None]:
    """So many registers of each CPU."""
    with contextlib.ExitStack() as stack:
        for cpu in online_cpus():
            stack.enter_context(opened(*(attr(W, AREA.start, 8),) * number, pid=-1, cpu=cpu))
        yield


@contextlib.contextmanager
def somebody_who_wants_one() -> Iterator[list[str]]:
    """Asks for a register all the time; gives what the answers were, other than that there is none."""
    over, got = threading.Event(), []

    def run() -> None:
        while not over.is_set():
            for cpu in online_cpus():
                answer = refusal(attr(W, AREA.start, 8), pid=-1, cpu=cpu)
                if answer != "ENOSPC":
                    got.append(answer)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield got
    finally:
        over.set()
        thread.join()


def counted(it: Mounted) -> int:
    """What ``ksym_profile`` says of the only watch."""
    (line,) = it.read("ksym_profile").splitlines()[2:]
    return int(line.split()[-1])


@pytest.mark.parametrize("options", [(), ("--no-bpf",)], ids=["program", "no program"])
def test_nobody_gets_its_register(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Its kind and its condition change, its count goes on, and each of the others stays refused all the while."""
    chosen = sample()
    name = chosen.request
    with mounted(tmp_path / "it", *options) as it:
        it.write("trace_options", "notwin")
        it.write(FILTER, f"{name}:rw-\n")
        with others_hold(REGISTERS - 1), somebody_who_wants_one() as got:
            expected = 0
            asked = [f"{name}:rw-", f"{name}:-w-", f"{name}:rw- if tid == {os.getpid()}", f"{name}:rw-"]
            for number, request in enumerate(asked):
                if number:
                    it.write(FILTER, f"{request}\n")
                assert it.read(FILTER) == f"{request}\n"
                it.write("trace", "")
                touch(chosen.file)
                write_back(chosen.file)  # reads it once, too
                reads = 0 if ":-w-" in request else 2
                expected += 1 + reads
                assert counted(it) == expected
                assert [kind for kind, _ in it.rows()] == ["R"] * reads + ["W"]
            assert it.read("error_log").count(GAVE_WAY) == 3
            with pytest.raises(OSError) as raised:
                it.write(FILTER, f"{name}:r--\n")  # which takes two
            assert raised.value.errno == errno.ENOSPC
            assert it.read(FILTER) == f"{name}:rw-\n"
            touch(chosen.file)
            assert counted(it) == expected + 1
            it.write("tracing_on", "0")
            it.write(FILTER, f"{name}:-w-\n")
            write_back(chosen.file)
            it.write("tracing_on", "1")
            write_back(chosen.file)
            assert counted(it) == expected + 2
        assert got == []
    assert set(free()) == {REGISTERS}


def test_twins_stay_in_their_order(tmp_path: Path) -> None:
    """The W register still fires first, so that no write is taken for a read."""
    chosen = sample()
    name = chosen.request
    with mounted(tmp_path / "it") as it:
        with others_hold(2):
            it.write(FILTER, f"{name}:rw-\n")
            assert set(free()) == {0}
            for access, kinds in (("r--", "RR"), ("rw-", "RRW"), ("r--", "RR")):
                it.write(FILTER, f"{name}:{access}\n")
                it.write("trace", "")
                touch(chosen.file)
                write_back(chosen.file)
                assert [kind for kind, _ in it.rows()] == list(kinds)
                assert set(free()) == {0}
            it.write(FILTER, f"{name}:-w-\n")
            assert set(free()) == {1}
        assert "wrong order" not in it.read("error_log")
    assert set(free()) == {REGISTERS}


def test_two_of_one_write_take_over_or_stay_both(tmp_path: Path) -> None:
    chosen = sample()
    task = f"task({os.getpid()}).signal->rlim[7].rlim_max"
    with mounted(tmp_path / "it") as it:
        it.write("trace_options", "notwin")
        it.write(FILTER, f"{chosen.request}:rw-\n{task}:rw-\n")
        with others_hold(2):
            it.write(FILTER, f"{chosen.request}:-w-\n{task}:-w-\n")
            both = f"{task}:-w-\n{chosen.request}:-w-\n"
            assert it.read(FILTER) == both
            with pytest.raises(OSError) as raised:
                it.write(FILTER, f"{chosen.request}:rw-\n{task}:r--\n")
            assert raised.value.errno == errno.ENOSPC
            assert it.read(FILTER) == both
            it.write("trace", "")
            write_back(chosen.file)
            assert [kind for kind, _ in it.rows()] == ["W"]
    assert set(free()) == {REGISTERS}


def test_what_the_guard_took_off_works_again(tmp_path: Path) -> None:
    """The kernel's own limit has stopped it; a register that was stopped so is not taken over."""
    chosen = sample()
    with mounted(tmp_path / "it", "--guard", "1") as it:
        it.write("trace_options", "notwin")
        it.write(FILTER, f"{chosen.request}:rw-\n")
        with others_hold(REGISTERS - 1):
            while "guard:" not in it.read("error_log"):
                for _ in range(2000):
                    touch(chosen.file)
            it.write(FILTER, f"{chosen.request}:-w-\n")
            it.write("trace", "")
            before = counted(it)
            write_back(chosen.file)
            assert counted(it) == before + 1
            assert [kind for kind, _ in it.rows()] == ["W"]
            assert re.search(r"1/1 ", it.read("trace"))
    assert set(free()) == {REGISTERS}
