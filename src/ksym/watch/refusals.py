# SPDX-License-Identifier: BSD-2-Clause
"""Why the kernel refused a watch, in words: the cause, and the cure.

Each errno of perf_event_open(2) has several causes; what is known of the plan and of the machine tells
them apart (kernel/events/core.c, kernel/events/hw_breakpoint.c, arch/*/kernel/hw_breakpoint.c).
"""

from __future__ import annotations

import errno
import os
import resource

from ksym.errors import KsymError, NoRegisters, NotPermitted, NotWatchable
from ksym.language.request import Address, Cast, Mode
from ksym.linux import privileges
from ksym.linux.privileges import paranoid
from ksym.symbols.variable import Space
from ksym.watch.plan import KERNEL_IN_TASKS, Plan, PlannedEvent, Watch
from ksym.watch.registers import free_registers, holders

# Memory on which the trap itself works; a watch there would recurse (within_cpu_entry() in
# arch/x86/kernel/hw_breakpoint.c).
_TRAP_PATH = "cpu_entry_area, __per_cpu_offset, the GDT, cpu_tss_rw, cpu_tlbstate and cpu_dr7"

_REGISTER = 8
"""Bytes that one debug register covers."""
_SEE_LOG = "see `dmesg` and the audit log for who refused it"


def explain(
    error: OSError, planned: PlannedEvent | None, plan: Plan, *, kernel_accesses: bool = False
) -> KsymError:
    """Turn a refusal to open ``planned`` (None: a ring) into the error that a user reads.

    Args:
        error: The refusal.
        planned: What was refused.
        plan: All that was to be planted.
        kernel_accesses: A user variable was to be watched for accesses by the kernel, too.
    """
    names = ", ".join(watch.name for watch in plan.watches)
    what = f"cannot watch {planned.watch.name if planned else names}"
    number = error.errno
    if number == errno.ENOSPC and planned:
        return _no_registers(f"cannot watch {names}", planned, plan)
    if number in (errno.EACCES, errno.EPERM) or (
        number == errno.ENOSYS and privileges.is_filtered("perf_event_open")
    ):
        return _no_privilege(what, planned, kernel_accesses)
    if number in (errno.ENOENT, errno.ENOSYS, errno.EOPNOTSUPP):
        if paranoid() is None:
            return NotPermitted(what, "this kernel has no perf events", "use one with CONFIG_PERF_EVENTS")
        return NotWatchable(
            what, "this kernel or machine has no hardware breakpoints for that",
            "ask `ksym doctor` what works here; virtual machines may hide the debug registers",
        )  # fmt: skip
    if number == errno.ESRCH:
        pid = f"process {planned.pid}" if planned else "the process"
        return KsymError(
            what, f"{pid} ended while the watch was being planted", "start the program with -- COMMAND"
        )
    if number == errno.ENODEV and planned:
        return KsymError(what, f"CPU {planned.cpu} is offline", "leave it out of -C")
    if number in (errno.EMFILE, errno.ENFILE):
        return KsymError(
            what, "it needs more open files than are allowed (one for each CPU, thread and register)",
            "raise the limit with `ulimit -n`, or name fewer CPUs with -C",
        )  # fmt: skip
    if number == errno.EINVAL and planned:
        return _invalid(what, planned)
    if number == errno.ENOMEM:
        if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
            why = "the limit of its memory (ulimit -v) leaves no room for the ring buffers"
            return KsymError(what, why, "raise the limit with `ulimit -v`, or name fewer CPUs with -C")
        return KsymError(what, "the kernel has no memory for the ring buffers", "name fewer CPUs with -C")
    return KsymError(what, os.strerror(number or 0), "`ksym doctor` shows what works here")


def _no_registers(what: str, planned: PlannedEvent, plan: Plan) -> KsymError:
    # Counted on the CPU and thread that refused: others may have more.
    try:
        free = free_registers(pid=planned.pid, cpu=planned.cpu)
    except OSError:
        free = 0
    needed = plan.registers
    where = f"CPU {planned.cpu}" if planned.cpu >= 0 else f"thread {planned.pid}"
    they = "it takes" if len(plan.watches) == 1 else "they take"
    why = f"{they} {needed} debug register{'' if needed == 1 else 's'} and {where} has {free} free"
    if len(plan.watches) == 1 and len(plan.watches[0].pieces) > 1:
        why += f" ({plan.watches[0].variable.length} bytes, at most 8 a register)"
    elif len(plan.watches) > 1:
        why += f" (requests: {', '.join(f'{watch.name} {watch.registers}' for watch in plan.watches)})"
    others = holders()
    if others:
        why += "; held perhaps by " + ", ".join(map(str, others[:4]))
    less = "ask for fewer at a time" if len(plan.watches) > 1 else _less(plan.watches[0], free)
    todo = f"end one of them, or {less}" if others else less
    return NoRegisters(what, why, todo)


def _less(watch: Watch, free: int) -> str:
    """Return what to watch of a variable that takes more registers than are free."""
    each = watch.registers // len(watch.pieces)
    length = free // each * _REGISTER - watch.variable.address % _REGISTER
    if not 0 < length < watch.variable.length:
        return "wait until other watches have ended"
    text, at, cpu = watch.request.target.text.partition("@")
    if isinstance(watch.request.target.root, Cast) and not watch.request.target.path:
        text = f"{watch.variable.address:#x}"
    elif watch.request.target.length or isinstance(watch.request.target.root, Address):
        text = text.rpartition("/")[0]
    part = f"watch its first bytes with {text}/{length}{at}{cpu}:{watch.mode}"
    return part if watch.variable.type is None else f"{part}, or a member or an element of it"


def _no_privilege(what: str, planned: PlannedEvent | None, kernel_accesses: bool) -> KsymError:
    kernel = planned is not None and planned.watch.variable.space is Space.KERNEL
    return NotPermitted(
        what, *no_privilege(kernel=kernel, kernel_accesses=kernel_accesses and planned is not None)
    )


def no_privilege(
    *, kernel: bool = False, system_wide: bool = False, kernel_accesses: bool = False
) -> tuple[str, str]:
    """Explain why perf_event_open(2) refused a watch with EPERM or EACCES: the cause, and what to do.

    Args:
        kernel: The watch was on a kernel address, which takes CAP_SYS_ADMIN (hw_breakpoint_parse()).
        system_wide: It was for all tasks of a CPU.
        kernel_accesses: It was to see accesses by the kernel to a user variable.
    """
    blocked, root = privileges.is_filtered("perf_event_open"), os.geteuid() == 0
    if blocked or root:
        capability = privileges.SYS_ADMIN if kernel else privileges.PERFMON
        found = privileges.refusal("perf_event_open", capability, privileges.SYS_ADMIN)
        return found or ("the kernel forbids it even to root (a security module, or lockdown)", _SEE_LOG)
    if kernel:
        return "kernel addresses may be watched only by root (CAP_SYS_ADMIN)", "run it with sudo"
    # Up to this value of the sysctl it takes no capability.
    allowed = 0 if system_wide else 1 if kernel_accesses else 2
    level = paranoid()
    if level is None or level <= allowed:
        return "that process belongs to another user, or it may not be traced", "run it with sudo"
    hidden = ("other tasks from", "accesses by the kernel from", "perf events from")[allowed]
    todo = f"run it with sudo, or: sysctl kernel.perf_event_paranoid={allowed}"
    return (
        f"kernel.perf_event_paranoid is {level}, which keeps {hidden} all but root (CAP_PERFMON)",
        f"leave out --kernel-accesses, {todo}" if kernel_accesses else todo,
    )


def _invalid(what: str, planned: PlannedEvent) -> KsymError:
    watch = planned.watch
    if watch.mode is Mode.READ:
        return NotWatchable(
            what, "this processor has no read-only watchpoints, only write and read-write",
            f"ask for {watch.name}:rw- and look at the R rows",
        )  # fmt: skip
    if watch.mode is Mode.EXECUTE:
        return NotWatchable(
            what, "the kernel lets no breakpoint be set there (not probed text, or no CONFIG_KPROBES)",
            "see /sys/kernel/debug/kprobes/blacklist",
        )  # fmt: skip
    if watch.variable.space is Space.KERNEL and planned.pid > 0 and not KERNEL_IN_TASKS:
        return NotWatchable(
            what, "this machine watches kernel variables on whole CPUs, not in a process",
            "leave out -p, and give --if 'pid == PID'",
        )  # fmt: skip
    if watch.variable.space is Space.KERNEL:
        return NotWatchable(
            what, f"the kernel refuses watches on what its own trap handler uses ({_TRAP_PATH})",
            "watch another variable",
        )  # fmt: skip
    return NotWatchable(
        what, f"the kernel refuses {planned.piece.length} bytes at {planned.address:#x}",
        "check the address with `ksym resolve`",
    )  # fmt: skip
