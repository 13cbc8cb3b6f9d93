# SPDX-License-Identifier: BSD-2-Clause
"""Plant watches on a variable of ksym's own and on one of the kernel, touch each, check exact counts and values.

As ftrace's ksym_tracer did at boot, but for writes and reads apart, and with the registers counted
afterwards; with values, and with two registers that tell reads from writes, where there are such. The exit
status is 1 where something does not come out as it must.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections.abc import Callable

from ksym.capture.values import Values
from ksym.commands.samples import PARAMETERS, SYSCTLS, find_sample
from ksym.commands.trials import (
    COUNTED,
    FAILED,
    OK,
    SKIPPED,
    TOLD_APART,
    TOLD_APART_VALUES,
    VALUES,
    Outcome,
    Trial,
    Way,
    try_it,
)
from ksym.errors import KsymError
from ksym.language.parser import parse_request
from ksym.linux.memory import MemoryFault
from ksym.symbols.ctext import parse_type
from ksym.symbols.resolver import Resolver
from ksym.symbols.variable import Space, Variable
from ksym.views.text import printable
from ksym.watch.registers import free_registers


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """There are no options."""


def run(args: argparse.Namespace) -> int:
    """Run all trials."""
    failures = 0

    def tell(outcome: Outcome) -> None:
        nonlocal failures
        failures += outcome.state == FAILED
        print(f"{outcome.state:<8} {printable(outcome.text)}")

    before = _free()
    resolver = Resolver()
    for trial in _own_trials():
        tell(try_it(trial, resolver))
    try:
        trials = _kernel_trials(resolver)
    except KsymError as error:
        expected = os.geteuid() != 0
        tell(Outcome(SKIPPED if expected else FAILED, f"kernel variable: {error}"))
    else:
        for trial in trials:
            tell(try_it(trial, resolver))
    after = _free()
    tell(Outcome(OK if after == before else FAILED, f"registers given back: {after} of {before} free"))
    sys.stdout.flush()
    return 1 if failures else 0


def _free() -> int:
    try:
        return free_registers(pid=0, cpu=-1)
    except OSError:
        return -1


def _own_trials() -> list[Trial]:
    view = memoryview((ctypes.c_int32 * 2)()).cast("B").cast("i")
    address = ctypes.addressof(ctypes.c_int32.from_buffer(view))
    variable = Variable("own variable", address, 4, Space.USER, parse_type("int"))

    def reset() -> None:
        view[0] = 0

    def write() -> None:
        view[0] = -7

    def read() -> None:
        view[0]

    def both() -> None:
        write()
        read()

    def trial(
        what: str, mode: str, touch: Callable[[], None], rows: tuple[str, ...], way: Way = COUNTED
    ) -> Trial:
        return Trial(what, parse_request(f"selftest:{mode}"), variable, touch, rows, way, reset)

    return [
        trial("one write", "-w-", write, ("W",)),
        trial("one read", "-w-", read, ()),
        trial("one write and one read", "rw-", both, ("W", "R")),
        trial("one write and one read", "rw-", both, ("W", "R"), TOLD_APART),
        trial("one write", "-w-", write, ("W 0 -> -7",), VALUES),
        trial("one write and one read", "rw-", both, ("W 0 -> -7", "R -7"), TOLD_APART_VALUES),
        trial("one write and one read", "r--", both, ("R -7",), TOLD_APART_VALUES),
    ]


def _kernel_trials(resolver: Resolver) -> list[Trial]:
    sample = find_sample((*PARAMETERS, *SYSCTLS))
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

    variable = resolver.resolve(parse_request(sample.request))
    shown = _value(variable, resolver)

    def trial(
        what: str, mode: str, touch: Callable[[], None], rows: tuple[str, ...], way: Way = COUNTED
    ) -> Trial:
        return Trial(what, parse_request(f"{sample.request}:{mode}"), variable, touch, rows, way)

    return [
        trial("one write", "-w-", write, ("W",)),
        trial("one read", "-w-", read, ()),
        trial("one read and one write", "rw-", both, ("R", "W")),
        trial("one read and one write", "rw-", both, ("R", "W"), TOLD_APART),
        trial(
            "one read and one write", "rw-", both, (f"R {shown}", f"W {shown} -> {shown}"), TOLD_APART_VALUES
        ),
    ]


def _value(variable: Variable, resolver: Resolver) -> str:
    """What a kernel variable holds, read in another way than by the programs at its watchpoints."""
    memory = resolver.kernel.memory_or_none
    try:
        return Values(variable).of(memory.read(variable.address, variable.length)).text if memory else "?"
    except MemoryFault:
        return "?"
