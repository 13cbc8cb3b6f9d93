# SPDX-License-Identifier: BSD-2-Clause
"""What doctor tries about programs at watchpoints, and about telling reads from writes."""

from __future__ import annotations

import ctypes
import threading
from contextlib import ExitStack

from ksym.commands.findings import LIMITED, OK, Finding, cure_for_secrets, free_them, refused
from ksym.errors import KsymError, NoRegisters
from ksym.language.parser import parse_request
from ksym.linux.kernel_memory import BpfMemory
from ksym.linux.libc import MACHINE
from ksym.linux.lockdown import is_confidential
from ksym.program.engine import Engine, EngineRefused
from ksym.program.wants import Sink, Wants
from ksym.symbols.kernel import Kernel
from ksym.symbols.variable import Space, Variable
from ksym.watch.arm import ArmedWatch, Options
from ksym.watch.plan import READ_REGISTERS, Place, Scope, make_plan
from ksym.watch.refusals import no_privilege
from ksym.watch.registers import both_fire, free_registers

_NOT_TRIED = "not tried: there are no programs at watchpoints"


def reads_and_writes(kernel: Kernel) -> Finding:
    """Whether TYPE is certain, and reads can be watched alone."""
    what = "tell reads from writes"
    if READ_REGISTERS:
        return Finding(
            what, OK, "by the instruction that trapped; the processor has read-only watchpoints (r--)"
        )
    try:
        free = free_registers(pid=0, cpu=-1)
    except OSError:
        return Finding(what, refused(), f"not tried: no watchpoint may be set ({no_privilege()[0]})")
    if free < 2:
        return Finding(
            what, LIMITED, f"for certain, and alone (r--), by two registers; {free} free", free_them()
        )
    if both_fire(system_wide=False):
        return Finding(what, OK, "by two registers at one address, for certain; reads alone (r--), too")
    return Finding(
        what, LIMITED,
        "a write fires only one of two registers at its address, as in an emulator: TYPE is decoded",
        "use a real processor; --twin on and r-- take an instruction that reads and writes for a read here",
    )  # fmt: skip


def programs(kernel: Kernel) -> Finding:
    """Whether values are shown and conditions judged."""
    what = "programs at watchpoints"
    if MACHINE == "aarch64":
        return Finding(
            what, LIMITED, f"not on {MACHINE}: no values, and no conditions on them",
            "rows and counts work, and conditions on pid, tid, cpu, comm, access and ip",
        )  # fmt: skip
    if why := _refusal(Space.USER):
        return Finding(
            what, refused(), f"no values, no conditions on them, no --by: {why}", cure_for_secrets()
        )
    if why := _refusal(Space.KERNEL):
        secret = is_confidential()
        return Finding(
            what, refused(secret=True), f"no values of kernel variables, and no conditions on them: {why}",
            cure_for_secrets() if secret else "",
        )  # fmt: skip
    return Finding(what, OK, "values (OLD -> NEW), conditions, and counts by function, task and CPU")


def order_of_values(kernel: Kernel) -> Finding:
    """Whether the kernel has what keeps values of several CPUs in order."""
    what = "order of values"
    try:
        with ExitStack() as stack:
            engine = _engine(Space.USER, stack)
            if engine.holds_limit:
                return Finding(
                    what, OK, "one unbroken chain over all CPUs, and --limit is held in the kernel"
                )
    except EngineRefused:
        return Finding(what, LIMITED, _NOT_TRIED)
    return Finding(
        what, LIMITED,
        "CPUs that write at once may show each other's value, and stat --limit may count more: no BPF_FETCH (5.12)",
        "a later kernel; within one CPU values are in order here, too",
    )  # fmt: skip


def user_values(kernel: Kernel) -> Finding:
    """Whether a program reads user variables without tripping over the register that watches them."""
    what = "values of user variables"
    if _refusal(Space.USER):
        return Finding(what, LIMITED, _NOT_TRIED)
    if kernel.direct_map is not None:
        return Finding(what, OK, "read through the kernel's mapping of all memory, where no register watches")
    if not isinstance(kernel.memory_or_none, BpfMemory):
        why = "kernel memory cannot be read by BPF"
    elif kernel.btf is None:
        why = "the kernel has no readable BTF"
    else:
        why = "the kernel's mapping of all memory was not found"
    return Finding(
        what, LIMITED, f"read where a rw- watch sees it, so a hit costs several times more: {why}",
        "ask for -w- where writes are enough, or give --no-bpf",
    )  # fmt: skip


def _refusal(space: Space) -> str:
    """Why there are no programs for variables there; empty where they load, and can be attached."""
    with ExitStack() as stack:
        try:
            engine = _engine(space, stack)
        except EngineRefused as refusal:
            return refusal.why
        if space is Space.KERNEL:
            return ""
        scope = Scope((), (Place(0, (threading.get_native_id(),)),), only_threads=True)
        try:
            stack.enter_context(ArmedWatch(engine.plan, lambda: scope, Options(counting=True), engine))
        except NoRegisters:
            return ""  # that is another line's business
        except KsymError as error:
            return error.why
        return ""


def _engine(space: Space, stack: ExitStack) -> Engine:
    target = ctypes.c_uint32()
    stack.callback(lambda: target)  # it lives as long as what is planted on it
    variable = Variable("own variable", ctypes.addressof(target), 4, space)
    plan = make_plan([(parse_request("selftest:-w-"), variable)])
    engine = Engine(plan, Wants(Sink.RECORD, limit=1))
    stack.callback(engine.close)
    return engine
