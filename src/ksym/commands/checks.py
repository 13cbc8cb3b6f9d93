# SPDX-License-Identifier: BSD-2-Clause
"""What doctor tries, one function a question."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Callable
from pathlib import Path

from ksym.capture.instructions import available
from ksym.commands.findings import BROKEN, LIMITED, OK, Finding, cure_for_secrets, free_them, refused
from ksym.commands.program_checks import order_of_values, programs, reads_and_writes, user_values
from ksym.errors import KsymError, NotPermitted
from ksym.linux import perf_event
from ksym.linux.cpus import online_cpus
from ksym.linux.kernel_memory import BpfMemory, CoreMemory
from ksym.linux.libc import MACHINE
from ksym.linux.perf_event import Attr, Flag, PerfEvent, understands
from ksym.linux.privileges import paranoid
from ksym.symbols.dwarf import readable as dwarf_readable
from ksym.symbols.kernel import Kernel, memory_refusal
from ksym.watch.refusals import no_privilege
from ksym.watch.registers import free_registers, holders


def machine() -> str:
    """One line: kernel, architecture, CPUs, user."""
    cpus = online_cpus()
    who = "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"
    return f"Linux {platform.release()}, {MACHINE}, {len(cpus)} CPUs online, as {who}"


def examine(kernel: Kernel) -> list[Finding]:
    """Try everything."""
    questions: list[Callable[[Kernel], Finding]] = [
        _own_watch, _registers, _system_wide, _kernel_addresses, _execute, reads_and_writes,
        programs, order_of_values, user_values, _perf_limits, _lost_counts,
        _kallsyms, _memory, _parameters, _btf, _per_cpu, _image, _decoder, _dwarf,
    ]  # fmt: skip
    return [question(kernel) for question in questions]


def _try(mode: int, address: int, length: int, *, pid: int, cpu: int, user: bool) -> OSError | None:
    flags = Flag.DISABLED | Flag.EXCLUDE_HV | (Flag.EXCLUDE_KERNEL if user else 0)
    attr = Attr(perf_event.TYPE_BREAKPOINT, flags=flags, bp_type=mode, bp_address=address, bp_length=length)
    try:
        PerfEvent(attr, pid=pid, cpu=cpu).close()
    except OSError as error:
        return error
    return None


_REFUSALS = (errno.EACCES, errno.EPERM, errno.ENOSYS)


def _why(error: OSError, *, kernel: bool = False, system_wide: bool = False) -> tuple[str, str]:
    """Return why perf_event_open(2) refused, and what to do."""
    if error.errno in _REFUSALS:
        return no_privilege(kernel=kernel, system_wide=system_wide)
    return os.strerror(error.errno or 0), ""


def _own_watch(kernel: Kernel) -> Finding:
    what = "watch own processes"
    target = ctypes.c_uint64()
    error = _try(3, ctypes.addressof(target), 8, pid=0, cpu=-1, user=True)
    if error is None:
        return Finding(what, OK, "user variables of one's own processes can be watched")
    if error.errno == errno.ENOSPC:
        return Finding(what, LIMITED, "all debug registers are taken", free_them())
    if paranoid() is None:
        return Finding(what, BROKEN, "this kernel has no perf events", "use one with CONFIG_PERF_EVENTS")
    if error.errno in _REFUSALS:
        return Finding(what, refused(), *no_privilege())
    return Finding(
        what, BROKEN, f"no hardware breakpoints ({os.strerror(error.errno or 0)})",
        "a virtual machine may hide the debug registers: use another host or setting",
    )  # fmt: skip


def _registers(kernel: Kernel) -> Finding:
    what = "debug registers"
    try:
        each = {cpu: free_registers(cpu=cpu) for cpu in online_cpus()}
        least = min(each.values())
        where = "on every CPU"
    except OSError:
        try:
            least, where = free_registers(pid=0, cpu=-1), "in an own thread"
        except OSError as error:
            return Finding(what, refused(), f"cannot be counted: {_why(error)[0]}")
    usual = 4
    others = holders() if least < usual else []
    found = f"{least} free {where}, each covers up to 8 bytes"
    if least >= usual:
        return Finding(what, OK, found)
    held = f"; held perhaps by {', '.join(map(str, others[:4]))}" if others else ""
    return Finding(what, LIMITED, found + held, "end other watches to have more" if others else "")


def _system_wide(kernel: Kernel) -> Finding:
    what = "watch system-wide"
    target = ctypes.c_uint64()
    error = _try(3, ctypes.addressof(target), 8, pid=-1, cpu=online_cpus()[0], user=True)
    if error is None or error.errno == errno.ENOSPC:
        return Finding(what, OK, "all tasks of a CPU can be watched")
    return Finding(what, refused(), *_why(error, system_wide=True))


def _kernel_addresses(kernel: Kernel) -> Finding:
    what = "watch kernel variables"
    address = _some_kernel_address(kernel)
    error = _try(3, address, 4, pid=-1, cpu=online_cpus()[0], user=False)
    if error is None or error.errno == errno.ENOSPC:
        return Finding(what, OK, "kernel addresses can be watched")
    return Finding(what, refused(), *_why(error, kernel=True))


def _some_kernel_address(kernel: Kernel) -> int:
    try:
        symbols = kernel.kallsyms.find("_text")
    except NotPermitted:
        symbols = []
    return symbols[0].address if symbols else 0xFFFF888000000000


def _execute(kernel: Kernel) -> Finding:
    what = "watch execution (--x)"
    try:
        symbols = kernel.kallsyms.find("param_get_uint")
    except NotPermitted as refusal:
        return Finding(what, LIMITED, f"not tried: {refusal.why}", refusal.todo)
    if not symbols:
        return Finding(what, LIMITED, "not tried: /proc/kallsyms lacks the function to try it on")
    error = _try(
        4, symbols[0].address, 4 if MACHINE == "aarch64" else 8, pid=-1, cpu=online_cpus()[0], user=False
    )
    if error is None or error.errno == errno.ENOSPC:
        return Finding(what, OK, "kernel functions can be watched")
    if error.errno == errno.EINVAL:
        return Finding(
            what, LIMITED, "the kernel refuses it (no CONFIG_KPROBES?)", "use a kernel with kprobes"
        )
    return Finding(what, refused(), *_why(error, kernel=True))


def _perf_limits(kernel: Kernel) -> Finding:
    what = "ring buffers"
    try:
        kilobytes = int(Path("/proc/sys/kernel/perf_event_mlock_kb").read_text())
    except (OSError, ValueError):
        return Finding(what, LIMITED, "kernel.perf_event_mlock_kb cannot be read")
    if os.geteuid() == 0:
        return Finding(what, OK, "as large as wanted")
    return Finding(what, LIMITED, f"{kilobytes} kB a CPU without privileges (kernel.perf_event_mlock_kb)")


def _lost_counts(kernel: Kernel) -> Finding:
    what = "exact counts of losses"
    try:
        if understands(read_format=perf_event.FORMAT_LOST):
            return Finding(what, OK, "the kernel counts lost records, besides the hits")
    except OSError as error:
        return Finding(what, LIMITED, f"not tried: {_why(error)[0]}")
    return Finding(what, OK, "hits minus records (this kernel has no PERF_FORMAT_LOST)")


def _kallsyms(kernel: Kernel) -> Finding:
    what = "names of variables"
    try:
        table = kernel.kallsyms
    except NotPermitted as error:
        return Finding(what, refused(), error.why, error.todo)
    if table.has_data:
        return Finding(what, OK, "/proc/kallsyms has variables")
    return Finding(
        what, LIMITED, "/proc/kallsyms has functions only (CONFIG_KALLSYMS_ALL is off)",
        "parameters, per-CPU variables, tasks and casts work; --vmlinux FILE brings all names",
    )  # fmt: skip


def _memory(kernel: Kernel) -> Finding:
    what = "read kernel memory"
    try:
        BpfMemory().close()
    except OSError as error:
        try:
            CoreMemory().close()
        except OSError:
            why, cure = memory_refusal(error)
            return Finding(what, refused(secret=True), why, cure)
        return Finding(what, OK, "by /proc/kcore (BPF system call programs are not available)")
    return Finding(what, OK, "by a BPF program")


def _parameters(kernel: Kernel) -> Finding:
    what = "module parameters"
    try:
        count = len(list(kernel.parameters.all())) if kernel.parameters else 0
    except KsymError as error:
        return Finding(what, refused(), error.why, error.todo)
    if count:
        return Finding(what, OK, f"{count} built-in ones can be named as MODULE:NAME")
    return Finding(what, LIMITED, "none found: kernel memory cannot be read", cure_for_secrets())


def _btf(kernel: Kernel) -> Finding:
    what = "types (BTF)"
    if kernel.btf is None:
        return Finding(
            what, LIMITED, "the kernel has no readable BTF (CONFIG_DEBUG_INFO_BTF)",
            "members need casts of standard types, or --vmlinux FILE with DWARF",
        )  # fmt: skip
    globals_too = kernel.btf.variable("init_task") is not None
    extra = (
        "variables, too"
        if globals_too
        else "per-CPU variables; other globals by ksym's table, DWARF or a cast"
    )
    return Finding(what, OK, f"structs and {extra}")


def _per_cpu(kernel: Kernel) -> Finding:
    what = "per-CPU variables"
    from ksym.symbols import percpu

    try:
        if kernel.kallsyms.find("__per_cpu_offset"):
            count = len(percpu.offsets(kernel))
            return Finding(what, OK, f"{count} copies of each, by __per_cpu_offset")
        count = len(percpu.copies_by_btf(kernel, 0))
    except KsymError as error:
        return Finding(what, refused(secret=True), f"{error.what}: {error.why}", error.todo)
    return Finding(what, OK, f"{count} copies of each, by BTF and the run queues")


def _image(kernel: Kernel) -> Finding:
    what = "vmlinux or System.map"
    try:
        image, table = kernel.image, kernel.system_map
    except KsymError as error:
        return Finding(what, BROKEN, f"{error.what}: {error.why}", error.todo)
    if image is not None:
        return Finding(what, OK, str(image.path))
    if table is not None:
        return Finding(what, OK, table.source)
    return Finding(
        what, OK, "none installed, sizes and types come from BTF and kallsyms; -dbg packages have one"
    )


def _decoder(kernel: Kernel) -> Finding:
    what = "decode instructions"
    if MACHINE == "aarch64":
        return Finding(what, OK, "loads, stores and atomic instructions are told apart")
    if available():
        return Finding(what, OK, "iced-x86 tells reads from writes")
    return Finding(
        what, LIMITED, "iced-x86 is not installed: TYPE of a rw- watch is ?", "pip install iced-x86"
    )


def _dwarf(kernel: Kernel) -> Finding:
    what = "types of user variables"
    if not dwarf_readable():
        return Finding(
            what,
            LIMITED,
            "pyelftools is not installed: symbols work, members do not",
            "pip install pyelftools",
        )
    return Finding(what, OK, "DWARF, by pyelftools")
