# SPDX-License-Identifier: BSD-2-Clause
"""What plants watchpoints, under python -OO and under -W error -X dev."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from native.running import sample
from support.program import environment, ksym
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.parametrize("python", [("-OO",), ("-W", "error", "-X", "dev")], ids=" ".join),
]

STEPS = r"""
#include <stdlib.h>
volatile short steps = 4;
int main(int count, char **words) {
    for (int left = 30; left > 0; left--) steps += 3;
    return steps == 94 ? 0 : 1;
}
"""

API = """
import ctypes, gc, os, sys
import ksym
from ksym.linux.perf_event import TYPE_BREAKPOINT, Attr, Flag, PerfEvent

value = ctypes.c_uint64(5)
target = f"*(unsigned long *){ctypes.addressof(value):#x}"

def watched(*requests, **how):
    try:
        with ksym.trace(*requests, **how) as accesses:
            value.value += 1
            found = list(accesses) if "command" in how else accesses.ready()
            accesses.tally.lines()
        found += accesses
        print(len(found), [access.new for access in found][-1:])
    except ksym.KsymError as error:
        print(str(error).partition(":")[0])
    gc.collect()

here = os.getpid()
watched(f"{target}:-w-", pid=here)
watched(f"{target}:-w-", pid=here, stacks=True, bpf=False)
watched("./steps:steps:-w-", command=["./steps"], stacks=True)
watched("./steps:stepss", command=["./steps"])
watched("./steps:steps", command=["true"])
attr = Attr(TYPE_BREAKPOINT, flags=Flag.DISABLED, bp_type=2, bp_address=ctypes.addressof(value), bp_length=8)
taken = [PerfEvent(attr, pid=0, cpu=-1) for _ in range(4)]
watched(f"{target}:-w-", pid=here)
for event in taken:
    event.close()
child = os.fork()
if child == 0:
    watched(f"{target}:-w-", pid=os.getpid())
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    return build(tmp_path, "steps", STEPS, "-g", "-O1")


def test_the_commands(steps: Path, python: tuple[str, ...]) -> None:
    folder = steps.parent
    request, run = "./steps:steps:-w-", ("--", "./steps")

    def said(*arguments: str) -> str:
        result = ksym(*arguments, cwd=folder, python=python)
        assert result.status == 0, result.err
        assert all(line.startswith("ksym: ") for line in result.err.splitlines()), result.err
        return result.out

    assert len(said("trace", request, *run).splitlines()) == 31
    rows = said("trace", "--format", "json", "-g", request, *run).splitlines()
    assert len(rows) == 30
    assert re.search(r"\b30\b", said("stat", request, *run))
    assert "main" in said("stat", "--by", "function", request, *run)
    said("record", "-o", "steps.data", request, *run)
    assert "main" in said("report", "steps.data")
    assert len(said("script", "--format", "json", "steps.data").splitlines()) == 30
    said("export", "steps.data", "--to", "jsonl")
    assert len((folder / "steps.jsonl").read_text().splitlines()) == 30


def test_a_kernel_variable_with_stacks(python: tuple[str, ...]) -> None:
    found = sample()
    result = ksym(
        "trace", found.request, "-g", "--format", "json", "--if", 'comm == "cat"', "--", "cat", str(found.file),
        python=python,
    )  # fmt: skip
    assert (result.status, len(result.rows())) == (0, 1)
    assert re.fullmatch("ksym: 1 access .*\n", result.err)


def test_the_api(steps: Path, python: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, *python, "-c", API],
        cwd=steps.parent,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "1 [6]",
        "1 [None]",
        "30 [94]",
        "cannot watch ./steps",
        "cannot watch ./steps",
        f"cannot watch *(unsigned long *)0x{done.stdout.split('0x')[1][:12]}",
        "1 [9]",
    ]
    assert done.returncode == 0
