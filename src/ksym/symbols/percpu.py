# SPDX-License-Identifier: BSD-2-Clause
"""Per-CPU variables: where each CPU's copy lies.

A per-CPU symbol's address is that of a template; the copy of CPU n is ``__per_cpu_offset[n]`` bytes further
(include/linux/percpu-defs.h). Without CONFIG_KALLSYMS_ALL neither the symbol nor that array has a name. Then
BTF still knows the variable's offset in its section, and every task points to a run queue, itself a per-CPU
variable: so its address minus its own offset is where that CPU's section starts.
"""

from __future__ import annotations

import contextlib
import struct

from ksym.errors import KsymError
from ksym.linux.cpus import possible_cpus
from ksym.linux.memory import MemoryFault
from ksym.symbols.kallsyms import KernelSymbol
from ksym.symbols.kernel import Kernel
from ksym.symbols.tasks import TaskList

SECTION = ".data..percpu"


def is_per_cpu(kernel: Kernel, symbol: KernelSymbol) -> bool:
    """Whether the symbol is a per-CPU template: its address is one of the section's.

    Before 6.15 the section started at zero on x86 (commit 9d7de2aa8b41).
    """
    start, end = kernel.kallsyms.find("__per_cpu_start"), kernel.kallsyms.find("__per_cpu_end")
    if symbol.module:
        return symbol.address < 1 << 63 or _in_module_section(kernel, symbol)
    if symbol.name in ("__per_cpu_start", "__per_cpu_end"):
        return False
    if start and end:
        return start[0].address <= symbol.address < end[0].address
    return symbol.address < 1 << 32


def _in_module_section(kernel: Kernel, symbol: KernelSymbol) -> bool:
    """A module's per-CPU symbols are offsets into dynamic per-CPU memory, which BTF of the module names."""
    btf = kernel.module_btf(symbol.module or "")
    known = btf.variable(symbol.name) if btf else None
    return known is not None and known.section == SECTION


def offsets(kernel: Kernel) -> dict[int, int]:
    """``__per_cpu_offset`` of every possible CPU.

    Raises:
        KsymError: the array cannot be found or read.
    """
    array = kernel.kallsyms.find("__per_cpu_offset")
    if not array:
        raise KsymError("cannot find the CPUs' copies", "kallsyms does not have __per_cpu_offset")
    cpus = possible_cpus()
    try:
        data = kernel.memory.read(array[0].address, 8 * (cpus[-1] + 1))
    except MemoryFault as error:
        raise KsymError("cannot find the CPUs' copies", "__per_cpu_offset cannot be read") from error
    values = struct.unpack(f"={cpus[-1] + 1}Q", data)
    return {cpu: values[cpu] for cpu in cpus}


def copies(kernel: Kernel, symbol: KernelSymbol) -> dict[int, int]:
    """Address of each CPU's copy of a per-CPU symbol.

    Raises:
        KsymError: they cannot be found.
    """
    return {cpu: (symbol.address + offset) % 2**64 for cpu, offset in offsets(kernel).items()}


def copies_by_btf(kernel: Kernel, offset: int) -> dict[int, int]:
    """Address of each CPU's copy of the variable at ``offset`` of the per-CPU section, by way of the run queues.

    Raises:
        KsymError: a type or member that leads there is missing in this kernel.
    """
    tasks = TaskList(kernel)
    btf = kernel.btf
    queues = btf.variable("runqueues") if btf else None
    if queues is None:
        raise KsymError("cannot find the CPUs' copies", "BTF does not name the run queues")
    to_cfs = tasks.offset("task_struct", "se", "cfs_rq")
    to_queue = tasks.offset("cfs_rq", "rq")
    to_cpu = tasks.offset("rq", "cpu")
    found: dict[int, int] = {}
    missing = set(possible_cpus())
    for task in tasks.leaders():
        # A task may end while it is looked at.
        with contextlib.suppress(MemoryFault):
            queue = tasks.pointer(tasks.pointer(task + to_cfs) + to_queue)
            cpu = tasks.number(queue + to_cpu)
            if cpu in missing:
                found[cpu] = queue - queues.offset + offset
                missing.discard(cpu)
        if not missing:
            break
    if not found:
        raise KsymError("cannot find the CPUs' copies", "no task leads to a run queue")
    return dict(sorted(found.items()))
