# SPDX-License-Identifier: BSD-2-Clause
"""The Python API on this machine, and what record and export leave, read again."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import ksym
from ksym.commands import export, record
from ksym.commands.parser import parse
from ksym.views.fields import NAMES
from native.running import free, sample, touch
from support.docs import fenced, shown
from support.program import SOURCES
from synthetic.compile import build

pytestmark = pytest.mark.native

(COUNTS,) = fenced("api.md", "c")


@pytest.fixture
def counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``./prog``, which writes ``counter`` so often and reads it once; the current folder is its own."""
    monkeypatch.chdir(tmp_path)
    return build(tmp_path, "prog", COUNTS, "-O1", "-no-pie")


@pytest.fixture
def variable() -> tuple[ctypes.c_uint64, str]:
    """A variable of this process, and the target that names it."""
    value = ctypes.c_uint64(5)
    return value, f"*(unsigned long *){ctypes.addressof(value):#x}"


def recorded(*words: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()):
        assert record.run(parse("record", record, ["-o", "ksym.data", *words])) == 0


# -- watching ----------------------------------------------------------------------------------------------


def test_a_command(counts: Path) -> None:
    with ksym.trace("./prog:counter:rw-", command=["./prog", "3"]) as accesses:
        found = list(accesses)
    assert [(each.access, each.old, each.new) for each in found] == [
        ("W", 5, 0), ("W", 0, 3), ("W", 3, 6), ("R", 6, 6),
    ]  # fmt: skip
    assert {(each.comm, each.symbol, each.function, each.module) for each in found} == {
        ("prog", "./prog:counter", "main", "prog")
    }
    assert [each.time_ns for each in found] == sorted(each.time_ns for each in found)
    assert accesses.status == 0
    assert accesses.tally.lines() == ["ksym: 4 accesses (4 hits), 0 lost, 0 disarmed; ./prog:counter 4"]


def test_registers_come_back_whatever_happens(variable: tuple[ctypes.c_uint64, str]) -> None:
    before = free()
    with contextlib.suppress(ZeroDivisionError), ksym.trace(f"{variable[1]}:-w-", pid=os.getpid()):
        raise ZeroDivisionError
    with pytest.raises(ksym.KsymError), ksym.trace(f"{variable[1]}:-w-", command=["/no/such/program"]):
        pass
    assert free() == before


def test_what_was_caught_can_be_taken_later(variable: tuple[ctypes.c_uint64, str]) -> None:
    value, target = variable
    with ksym.trace(f"{target}:-w-", pid=os.getpid()) as accesses:
        value.value = 6
        assert [(each.old, each.new) for each in accesses.ready()] == [(5, 6)]
        assert accesses.ready() == []
        value.value = 7
        value.value = 7
    value.value = 8
    assert [(each.old, each.new) for each in accesses] == [(6, 7), (7, 7)]
    assert accesses.tally.accesses == [3]
    assert accesses.ready() == []


@pytest.mark.parametrize("how", ["behind the block", "without waiting"])
def test_what_is_left_of_many_that_came_at_once(variable: tuple[ctypes.c_uint64, str], how: str) -> None:
    """They are given some at a time; who takes one alone, and then asks in another way, misses none."""
    value, target = variable
    numbers = list(range(10_000))
    with ksym.trace(f"{target}:-w-", pid=os.getpid()) as accesses:
        for number in numbers:
            value.value = number
        found = [next(accesses)]
        if how == "without waiting":
            found += accesses.ready()
    found += accesses
    assert [each.new for each in found] == numbers
    assert (accesses.tally.shown, accesses.tally.lost) == (len(numbers), 0)


def test_limit_condition_and_stop(variable: tuple[ctypes.c_uint64, str]) -> None:
    value, target = variable
    with ksym.trace(f"{target}:-w-", pid=os.getpid(), condition="new > 7", limit=2) as accesses:
        for number in (6, 7, 8, 9, 10):
            value.value = number
        assert [each.new for each in accesses] == [8, 9]
    assert (accesses.tally.rejected, accesses.tally.hidden) == (2, 1)
    with ksym.trace(f"{target}:-w-", pid=os.getpid()) as accesses:
        value.value = 11
        accesses.stop()
        assert [each.new for each in accesses] == [11]


def test_a_kernel_variable_with_stacks() -> None:
    found = sample()
    with ksym.trace(
        found.request, stacks=True, limit=1, condition=f"tid == {threading.get_native_id()}"
    ) as accesses:
        touch(found.file)
        (access,) = accesses
    assert access.access == "R"
    assert access.symbol == found.request
    assert access.function is not None
    assert access.stack is not None
    assert access.stack[0].startswith(f"{access.function}+")
    assert len(access.stack) > 3
    assert access.pid == os.getpid()


def test_without_bpf(counts: Path) -> None:
    with ksym.trace("./prog:counter:-w-", command=["./prog", "3"], bpf=False) as accesses:
        assert [(each.access, each.old, each.new) for each in accesses] == [("W", None, None)] * 3


def test_in_a_thread_that_is_not_the_main_one(variable: tuple[ctypes.c_uint64, str]) -> None:
    value, target = variable
    found: list[object] = []

    def work() -> None:
        with ksym.trace(f"{target}:-w-", pid=os.getpid()) as accesses:
            value.value = 6
            found.extend(each.new for each in accesses.ready())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [6]


def test_signals_stay_the_callers(variable: tuple[ctypes.c_uint64, str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    with ksym.trace(f"{variable[1]}:-w-", pid=os.getpid()) as accesses:
        assert [
            signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
        ] == before
        signal.raise_signal(signal.SIGWINCH)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert accesses.ready() == []


def test_children_of_others_stay_theirs(variable: tuple[ctypes.c_uint64, str]) -> None:
    other = subprocess.Popen(["sh", "-c", "exit 7"])
    with ksym.trace(sample().request, command=["sleep", "0.2"]) as accesses:
        list(accesses)
    assert accesses.status == 0
    assert other.wait(timeout=30) == 7


def test_a_command_that_still_runs_is_ended(counts: Path) -> None:
    with ksym.trace(sample().request, command=["sleep", "1000"]) as accesses:
        pass
    assert accesses.status == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("requests", "more", "text"),
    [
        ((), {}, "cannot watch: there is no request; "),
        (("x",), {"twin": "maybe"}, "cannot watch: twin is 'maybe'; "),
        (("x",), {"command": "ls -l"}, "cannot run the command: it is a string; "),
        (("a b",), {}, "a b"),
        (("*(int *)0x10",), {"pid": 2**22 + 1}, "there is no such process"),
        ((3,), {}, "cannot watch: the request 3 is no string; "),
        (("x",), {"limit": 0}, "cannot watch: limit is 0; give a whole number from 1 on"),
        (("x",), {"limit": "3"}, "cannot watch: limit is '3'; "),
        (("x",), {"limit": True}, "cannot watch: limit is True; "),
        (("x",), {"duration": -1}, "cannot watch: duration is -1; "),
        (("x",), {"duration": 0}, "cannot watch: duration is 0; give a number above 0"),
        (("x",), {"duration": math.nan}, "cannot watch: duration is nan; "),
        (("x",), {"duration": "1"}, "cannot watch: duration is '1'; "),
        (("x",), {"guard": -5}, "cannot watch: guard is -5; give a number from 0 to 100"),
        (("x",), {"pid": "self"}, "cannot watch: pid is 'self'; "),
        (("x",), {"cpus": "0"}, "cannot watch: cpus is '0'; give numbers, as in [0, 1]"),
        (("x",), {"cpus": []}, "cannot watch: cpus is []; "),
        (("x",), {"cpus": [-1]}, "cannot watch: cpus is [-1]; "),
        (("x",), {"cpus": 1}, "cannot watch: cpus is 1; "),
        (("x",), {"condition": 3}, "cannot watch: condition is 3; give a string"),
        (("x",), {"vmlinux": 3}, "cannot watch: vmlinux is 3; give a path"),
        (("x",), {"command": []}, "cannot run the command: it is []; "),
        (("x",), {"command": ["ls", 3]}, "cannot run the command: it is ['ls', 3]; "),
        (("x",), {"command": 3}, "cannot run the command: it is 3; "),
    ],
)
def test_refusals(requests: tuple[Any, ...], more: dict[str, object], text: str) -> None:
    with pytest.raises(ksym.KsymError) as raised, ksym.trace(*requests, **more):  # type: ignore[arg-type]
        pass
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_recording_is_named_by_its_path() -> None:
    with pytest.raises(ksym.KsymError, match=r"cannot read a recording: its path is 3; give a path"):
        ksym.open(3)  # type: ignore[arg-type]


def test_the_package_loads_little() -> None:
    code = (
        "import ksym, sys; ksym.trace; ksym.KsymError\n"
        "print([name for name in ('numpy', 'pyarrow', 'argparse', 'ksym.api.recording') if name in sys.modules])\n"
        "print(ksym.open.__module__, 'trace' in dir(ksym))\n"
        "try: ksym.nothing\nexcept AttributeError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(SOURCES)},
    )
    assert done.stdout.splitlines()[1:] == [
        "ksym.api.opening True",
        "module 'ksym' has no attribute 'nothing'",
    ]
    assert "numpy" not in done.stdout
    assert "recording" not in done.stdout


# -- recordings ------------------------------------------------------------------------------------------------


def test_a_recording(counts: Path) -> None:
    recorded("-g", "./prog:counter", "--", "./prog", "100")
    recording = ksym.open("ksym.data")
    found = list(recording)
    assert len(recording) == len(found) == 101
    assert (recording.symbols, recording.cut, recording.counts["hits"]) == (("./prog:counter",), None, [101])
    assert recording.host == os.uname().nodename
    assert [each.new for each in found] == [*range(0, 300, 3), 297]
    assert [each.access for each in found] == ["W"] * 100 + ["R"]
    assert recording.columns["new"].tolist() == [each.new for each in found]
    assert repr(recording) == "<ksym.Recording 'ksym.data': 101 accesses to ./prog:counter>"
    shown_there = recording._repr_html_()
    assert shown_there.count("<tr>") == 21
    assert "81 more accesses" in shown_there
    # The same rows as the export's, in the same types.
    export.run(parse("export", export, ["ksym.data", "--to", "jsonl"]))
    lines = [json.loads(line) for line in Path("ksym.jsonl").read_text().splitlines()]
    for access, line in zip(found, lines, strict=True):
        for name in NAMES:
            value = getattr(access, name)
            if name in ("ip", "address", "instruction_address"):
                value = hex(value)
            assert (list(value) if isinstance(value, tuple) else value) == line[name], name


def test_an_arrow_table_and_a_data_frame(counts: Path) -> None:
    pytest.importorskip("pyarrow")
    recorded("./prog:counter", "--", "./prog", "10")
    recording = ksym.open(Path("ksym.data"))
    table = recording.to_arrow()
    assert table.column("new").to_pylist() == [each.new for each in recording]
    pytest.importorskip("pandas")
    frame = recording.to_pandas()
    assert frame["time"].astype("int64").tolist() == recording.columns["time_ns"].tolist()
    assert frame["comm"].tolist() == ["prog"] * 11


MIXED = r"""
#include <math.h>
#include <stdint.h>
volatile uint64_t most;
volatile float real;
volatile struct { signed char low; unsigned short high; } pair __attribute__((aligned(4)));
void *volatile link;
int main(void) {
    most = UINT64_MAX;
    most = (1ull << 53) + 1;
    real = 0.1f;
    real = INFINITY;
    real = NAN;
    pair.low = -128;
    pair.high = 65535;
    link = (void *)0xdeadbeefcafef00d;
    return 0;
}
"""


def test_every_value_is_the_same_live_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And in a data frame, where variables of several types share a column."""
    monkeypatch.chdir(tmp_path)
    build(tmp_path, "mixed", MIXED, "-g", "-O0", "-no-pie")
    requests = [f"./mixed:{name}:-w-" for name in ("most", "real", "pair", "link")]
    with ksym.trace(*requests, command=["./mixed"], twin="off") as accesses:
        live = [(each.symbol.partition(":")[2], repr(each.old), repr(each.new)) for each in accesses]
    recorded(*requests, "--twin", "off", "--", "./mixed")
    recording = ksym.open("ksym.data")
    assert live == [
        ("most", "0", str(2**64 - 1)), ("most", str(2**64 - 1), str(2**53 + 1)),
        ("real", "0.0", "0.1"), ("real", "0.1", "inf"), ("real", "inf", "nan"),
        ("pair", "{'low': 0, 'high': 0}", "{'low': -128, 'high': 0}"),
        ("pair", "{'low': -128, 'high': 0}", "{'low': -128, 'high': 65535}"),
        ("link", "'0x0'", "'0xdeadbeefcafef00d'"),
    ]  # fmt: skip
    assert [(each.symbol.partition(":")[2], repr(each.old), repr(each.new)) for each in recording] == live
    pytest.importorskip("pandas")
    frame = recording.to_pandas()
    new = frame["new"].tolist()
    assert new[:2] + new[3:4] + new[5:] == [2**64 - 1, 2**53 + 1, math.inf, None, None, 0xDEADBEEFCAFEF00D]
    assert math.isnan(new[4])
    assert frame["new_text"].tolist()[5:] == [
        "{low = -128, high = 0}", "{low = -128, high = 65535}", "0xdeadbeefcafef00d",
    ]  # fmt: skip
    assert frame["ip"].tolist() == [each.ip for each in recording]


def test_no_recording(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no recording")
    for name in ("x", "missing"):
        with pytest.raises(ksym.KsymError, match="cannot read "):
            ksym.open(tmp_path / name)


# -- the docs ----------------------------------------------------------------------------------------------------


def test_examples_of_the_docs(counts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The examples of docs/api.md, one after the other, print what stands under them."""
    pytest.importorskip("duckdb")
    pytest.importorskip("pyarrow")
    if sample().request != "workqueue:panic_on_stall":
        pytest.skip("there is no workqueue:panic_on_stall here")
    recorded("./prog:counter", "--", "./prog", "1000")
    names: dict[str, object] = {}
    examples = shown("api.md", "python")
    assert len(examples) == len(fenced("api.md", "python")) >= 8
    for code, expected in examples:
        exec(code, names)
        assert capsys.readouterr().out == expected, code
