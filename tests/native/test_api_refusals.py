# SPDX-License-Identifier: BSD-2-Clause
"""What the Python API refuses leaves nothing behind: no descriptor, no mapping, no process."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ksym
from ksym.linux.perf_event import TYPE_BREAKPOINT, Attr, Flag, PerfEvent
from native.running import as_nobody, sample
from synthetic.compile import build

pytestmark = pytest.mark.native

_WORD = ctypes.c_uint64()
_SELF = f"*(unsigned long *){ctypes.addressof(_WORD):#x}"


class Kind(NamedTuple):
    """Requests that are refused.

    Args:
        text: Part of what is said.
        requests: What is asked for.
        more: The other arguments.
        times: How often; what takes long is asked for less often. All of them are 1,000 together.
    """

    text: str
    requests: tuple[str, ...]
    more: dict[str, Any]
    times: int


def kinds(folder: Path) -> Iterator[Kind]:
    """Every kind of refusal that needs no preparation."""
    script, here, prog = folder / "script", os.getpid(), build(folder, "prog", "int it; int main(){}", "-O1")
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    parameter = sample().request
    yield Kind("is not a character of ACCESS", ("pid_max:-z-",), {}, 150)
    yield Kind("nothing follows '>'", ("pid_max:-w-",), {"condition": "new >"}, 100)
    yield Kind("only comm is compared with a text", (_SELF,), {"condition": 'new == "x"', "pid": here}, 100)
    yield Kind("limit is 0", (_SELF,), {"limit": 0}, 50)
    yield Kind("there is no such process", ("*(int *)0x1000",), {"pid": 2**22 + 1}, 150)
    yield Kind("there is no such file", (parameter,), {"command": ["/no/such/program"]}, 100)
    yield Kind("it is in no directory of PATH", (parameter,), {"command": ["no-such-program"]}, 100)
    yield Kind("it is a directory", (parameter,), {"command": [str(folder)]}, 100)
    yield Kind("cannot use", (parameter,), {"vmlinux": "/etc/passwd"}, 5)
    yield Kind("it is offline or does not exist", (parameter,), {"cpus": [4095]}, 20)
    yield Kind("its first line names an interpreter", (parameter,), {"command": [str(script)]}, 10)
    yield Kind("cannot watch", (f"{prog}:itt",), {"command": [str(prog)]}, 20)
    yield Kind("cannot watch", (f"{prog}:it",), {"command": ["true"]}, 10)
    yield Kind("cannot watch no_such_variable", ("no_such_variable",), {}, 5)
    yield Kind("twin", (_SELF,), {"pid": here, "twin": "maybe"}, 80)


def held() -> dict[str, int]:
    """Descriptors of this process, mappings that have a name, and children, each counted.

    Mappings without a name are the allocator's own.
    """
    places = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    mappings = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return {
        "descriptors": sum(map(os.path.lexists, places)),
        "mappings": sum(len(fields) > 5 for fields in mappings),
        "children": len(children),
    }


def refuse(kind: Kind, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ksym.KsymError) as raised, ksym.trace(*kind.requests, **kind.more):
            pass
        assert kind.text in str(raised.value)


def test_a_thousand_refusals_leave_nothing(tmp_path: Path) -> None:
    everything = [kind for kind in kinds(tmp_path) if kind.times]
    assert sum(kind.times for kind in everything) == 1000
    gc.collect()  # what other tests have left
    for kind in everything:
        refuse(kind, 2)  # what is loaded and kept once
    for kind in everything:
        before = held()
        refuse(kind, kind.times)
        assert held() == before, kind


@contextmanager
def all_taken() -> Iterator[None]:
    """Take all registers of this thread."""
    word = ctypes.c_uint64()
    attr = Attr(
        TYPE_BREAKPOINT, flags=Flag.DISABLED | Flag.EXCLUDE_KERNEL, bp_type=2, bp_address=ctypes.addressof(word),
        bp_length=8,
    )  # fmt: skip
    with ExitStack() as stack:
        for _ in range(4):
            stack.callback(PerfEvent(attr, pid=0, cpu=-1).close)
        yield


def test_refusals_for_want_of_registers_leave_nothing() -> None:
    """They come late, when programs are loaded and rings are mapped."""
    kind = Kind("register", (f"{_SELF}:-w-",), {"pid": os.getpid()}, 0)
    gc.collect()
    with all_taken():
        refuse(kind, 2)
        before = held()
        refuse(kind, 20)
        assert held() == before


UNPRIVILEGED = """
import json, os, sys
import ksym

def held():
    places = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    with open("/proc/self/maps") as file:
        mappings = sum(len(line.split(maxsplit=5)) > 5 for line in file)
    return [sum(map(os.path.lexists, places)), mappings]

told = set()
for times in range(12):
    if times == 2:
        before = held()
    try:
        with ksym.trace(sys.argv[1]):
            pass
    except ksym.KsymError as error:
        told.add(str(error))
print(json.dumps([before, held(), sorted(told)]))
"""


def test_refusals_for_want_of_privileges_leave_nothing() -> None:
    prefix, names = as_nobody()
    done = subprocess.run(
        [*prefix, "/usr/bin/python3", "-c", UNPRIVILEGED, sample().request],
        env=names, capture_output=True, text=True, check=True,
    )  # fmt: skip
    before, after, told = json.loads(done.stdout)
    assert before == after
    assert len(told) == 1
    assert "root" in told[0]
