# SPDX-License-Identifier: BSD-2-Clause
"""Plant watches on a variable of ksym's own and on one of the kernel, touch each, and check the exact counts.

As ftrace's ksym_tracer did at boot, but for writes and reads apart, and with the registers counted
afterwards. The exit status is 1 where something does not come out as it must.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ksym.capture.merge import Merge
from ksym.capture.records import SampleRecord
from ksym.commands.samples import PARAMETERS, find_sample
from ksym.errors import KsymError
from ksym.language.parser import parse_request
from ksym.language.request import Mode, Request
from ksym.linux.cpus import online_cpus
from ksym.symbols.resolver import Resolver
from ksym.symbols.variable import Space, Variable
from ksym.watch.arm import ArmedWatch, Options
from ksym.watch.plan import Scope, make_plan
from ksym.watch.registers import free_registers


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """There are no options."""


@dataclass(frozen=True)
class Trial:
    """A watch, what is done to it, and how many hits that must make."""

    what: str
    request: Request
    variable: Variable
    touch: Callable[[], None]
    hits: int


def run(args: argparse.Namespace) -> int:
    """Run all trials."""
    failures = 0
    before = _free()
    for title, make in (("own variable", _own_trials), ("kernel variable", _kernel_trials)):
        try:
            trials = make()
        except KsymError as error:
            expected = os.geteuid() != 0 and make is _kernel_trials
            failures += not expected
            print(f"{'skipped' if expected else 'FAILED':<8} {title}: {error}")
            continue
        failures += sum(not _passes(trial) for trial in trials)
    after = _free()
    failures += after != before
    print(f"{'ok' if after == before else 'FAILED':<8} registers given back: {after} of {before} free")
    sys.stdout.flush()
    return 1 if failures else 0


def _free() -> int:
    try:
        return free_registers(pid=0, cpu=-1)
    except OSError:
        return -1


def _passes(trial: Trial) -> bool:
    try:
        records, counted = _hits(trial)
    except KsymError as error:
        print(f"FAILED   {trial.what}: {error}")
        return False
    good = records == counted == trial.hits
    print(
        f"{'ok' if good else 'FAILED':<8} {trial.what}: {trial.hits} expected, {records} seen, {counted} counted"
    )
    return good


def _hits(trial: Trial) -> tuple[int, int]:
    """Hits of this thread: records, and the counter."""
    tid = threading.get_native_id()
    plan = make_plan([(trial.request, trial.variable)])
    scope = Scope(tuple(online_cpus()), (tid,), only_threads=True)
    with ArmedWatch(plan, lambda: scope, Options(ring_bytes=1 << 16)) as armed:
        merge = Merge(armed.rings, chains=False)
        armed.enable()
        trial.touch()
        armed.disable()
        records = [r for r in merge.ready(last=True) if isinstance(r, SampleRecord) and r.tid == tid]
        return len(records), armed.counts()[0]


def _own_trials() -> list[Trial]:
    view = memoryview((ctypes.c_uint32 * 2)()).cast("B").cast("I")
    address = ctypes.addressof(ctypes.c_uint32.from_buffer(view))
    variable = Variable("selftest", address, 4, Space.USER)

    def write() -> None:
        view[0] = 1

    def read() -> None:
        view[0]

    def both() -> None:
        write()
        read()

    name = "own variable"
    return [
        Trial(f"{name}, -w-, one write", _request(Mode.WRITE), variable, write, 1),
        Trial(f"{name}, -w-, one read", _request(Mode.WRITE), variable, read, 0),
        Trial(f"{name}, rw-, one write and one read", _request(Mode.READ_WRITE), variable, both, 2),
    ]


def _request(mode: Mode) -> Request:
    return parse_request(f"selftest:{mode}")


def _kernel_trials() -> list[Trial]:
    sample = find_sample(PARAMETERS)
    resolver = Resolver()
    value = sample.file.read_text().strip()
    # Opened before arming: sysfs reads and writes at each system call.
    file = os.open(sample.file, os.O_RDWR | os.O_CLOEXEC)

    def write() -> None:
        os.pwrite(file, value.encode(), 0)

    def read() -> None:
        os.pread(file, 64, 0)

    def both() -> None:
        read()
        write()

    def trial(what: str, mode: str, touch: Callable[[], None], hits: int) -> Trial:
        request = parse_request(f"{sample.request}:{mode}")
        return Trial(f"{sample.request}, {mode}, {what}", request, resolver.resolve(request), touch, hits)

    return [
        trial("one write", "-w-", write, 1),
        trial("one read", "-w-", read, 0),
        trial("one read and one write", "rw-", both, 2),
    ]
