# SPDX-License-Identifier: BSD-2-Clause
"""Code that several parts of a program have in common."""

from __future__ import annotations

from ksym.linux.bpf_asm import R1, R2, R3, R4, R7, R10, Assembler, Helper
from ksym.linux.libc import MACHINE
from ksym.program.shared import Cell

IP_AT = 256 if MACHINE == "aarch64" else 128
"""Where the context has ip. struct bpf_perf_event_data (linux/bpf_perf_event.h) begins with the registers: struct
pt_regs (arch/x86/include/asm/ptrace.h), struct user_pt_regs (arch/arm64/include/uapi/asm/ptrace.h)."""
NOEXIST = 1
"""BPF_NOEXIST: an element that is there stays as it is."""


def count(asm: Assembler, field: Cell) -> None:
    """Add one to a counter of the cell at r7; r1 is lost. No other CPU writes it, so nothing needs a lock."""
    asm.load(R1, R7, field)
    asm.add(R1, 1)
    asm.store(R7, field, R1)


def look_up(asm: Assembler, name: str, key: int) -> None:
    """r0 = the element of a map whose key is at ``key`` on the stack, or 0."""
    asm.map_descriptor(R1, name)
    asm.mov(R2, R10)
    asm.add(R2, key)
    asm.call(Helper.MAP_LOOKUP_ELEM)


def update(asm: Assembler, name: str, key: int, value: int, flags: int = 0) -> None:
    """Set an element of a map from the stack; r0 is 0 if it could be set."""
    asm.map_descriptor(R1, name)
    asm.mov(R2, R10)
    asm.add(R2, key)
    asm.mov(R3, R10)
    asm.add(R3, value)
    asm.mov(R4, flags)
    asm.call(Helper.MAP_UPDATE_ELEM)
