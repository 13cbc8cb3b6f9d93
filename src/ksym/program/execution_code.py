# SPDX-License-Identifier: BSD-2-Clause
"""Emits the part of a program that tells one execution of an instruction from two.

One access is one execution of one instruction, but may take several hits: in one trap, where it touches several of the
watch's pieces, or in many, where it is a string instruction that repeats itself. In both cases the trapped code's
registers tell. Between two hits of one trap none of them changes. Between two steps of a string instruction its count
goes down while its pointers go on by 1, 2, 4 or 8 bytes for each count. Two executions that hit different pieces
without the one or the other differ in the registers that their addresses come from.

So each CPU keeps the registers of its last hit of the watch. All of them matter, but as a hash of 64 bits will do.
"""

from __future__ import annotations

from ksym.linux.bpf_asm import R0, R1, R2, R3, R4, R5, R6, R7, R9, R10, Assembler, Helper, Label
from ksym.program.layout import Hit
from ksym.program.shared import Shape, Trap
from ksym.program.snippets import IP_AT
from ksym.program.spec import Spec

# struct pt_regs, arch/x86/include/uapi/asm/ptrace.h; programs run at watchpoints of x86 only (program.engine).
_COUNT_AT, _SOURCE_AT, _DESTINATION_AT, _CODE_SEGMENT_AT = 88, 104, 112, 136
_REGISTERS_AT = (*range(0, 120, 8), 144, 152)
"""r15 to rdi, the flags and the stack pointer; orig_rax, ip and the segments are left out."""
_FACTOR = 0x5BD1E995
_USER_CS = 0x33
"""Selector of 64-bit user code (arch/x86/include/asm/segment.h), 0xE033 on Xen PV; all others are of less bits."""
_LONGEST_INSTRUCTION = 15
_TRAP, _EXECUTION = 1, 2


def flag_bitness(asm: Assembler) -> None:
    """Add `Hit.CODE32` to r9 where it holds; r6 is the context, and r1 is lost."""
    known = asm.new_label("bitness_known")
    asm.comment("32-bit code?")
    asm.load(R1, R6, _CODE_SEGMENT_AT)
    asm.alu(R1, "&", 0xFF)
    asm.jump(known, R1, "==", _USER_CS)
    asm.alu(R1, "&", 3)
    asm.jump(known, R1, "!=", 3)
    asm.alu(R9, "|", Hit.CODE32)
    asm.place(known)


class ExecutionCode:
    """Emits the code; registers as in `watch_program`.

    Args:
        asm: Where to.
        shape: The shared memory.
        spec: The program's.
        scratch: The stack is free below this offset from r10.
    """

    def __init__(self, asm: Assembler, shape: Shape, spec: Spec, scratch: int) -> None:
        self.asm, self.pieces = asm, shape.pieces[spec.watch]
        self._trap = shape.trap(spec.watch) - shape.cell(spec.watch)
        self._changed = scratch - 8
        """u64 on the stack: 0 if no register has changed."""

    def flag(self) -> None:
        """Add `Hit.SAME`, `Hit.LATER` or `Hit.ANEW` to r9; r0 to r5 are lost."""
        asm, trap = self.asm, self._trap
        later, anew, done = asm.new_label("later"), asm.new_label("anew"), asm.new_label("execution_known")
        asm.comment("the same execution as this CPU's hit before?")
        asm.call(Helper.GET_CURRENT_PID_TGID)
        if self.pieces > 1:
            self._hash()
        # r0 other thread, r2 bytes from ip to ip, r3 counted down, r4 and r5 what the pointers have moved
        asm.load(R1, R7, trap + Trap.TASK)
        asm.store(R7, trap + Trap.TASK, R0)
        asm.alu(R0, "^", R1)
        asm.load(R4, R6, _COUNT_AT)
        asm.load(R3, R7, trap + Trap.COUNT)
        asm.store(R7, trap + Trap.COUNT, R4)
        asm.alu(R3, "-", R4)
        for register, at, field in (
            (R2, IP_AT, Trap.IP),
            (R4, _SOURCE_AT, Trap.SOURCE),
            (R5, _DESTINATION_AT, Trap.DESTINATION),
        ):
            asm.load(register, R6, at)
            asm.load(R1, R7, trap + field)
            asm.store(R7, trap + field, register)
            asm.alu(register, "-", R1)
        ours = asm.new_label("same_thread")
        asm.jump(ours, R0, "==", 0)
        asm.comment(
            "another thread ran in between: this one may have been interrupted in a string instruction"
        )
        asm.store(R7, trap + Trap.RECORDED, _EXECUTION)
        asm.alu(R9, "|", Hit.LATER)
        asm.jump(done)
        asm.place(ours)
        if self.pieces > 1:
            self._same(done)
        asm.jump(anew, R2, ">", _LONGEST_INSTRUCTION)
        asm.jump(anew, R3, "s<=", 0)
        pointer, forward = asm.new_label("pointer"), asm.new_label("forward")
        asm.jump(pointer, R5, "!=", 0)
        asm.mov(R5, R4)
        asm.place(pointer)
        asm.jump(forward, R5, "s>", 0)
        asm.negate(R5)
        asm.place(forward)
        for step in range(4):
            if step:
                asm.alu(R3, "<<", 1)
            asm.jump(later, R5, "==", R3)
        asm.place(anew)
        asm.store(R7, trap + Trap.RECORDED, 0)
        asm.alu(R9, "|", Hit.ANEW)
        asm.jump(done)
        asm.place(later)
        asm.load(R1, R7, trap + Trap.RECORDED)
        asm.alu(R1, "&", _EXECUTION)
        asm.jump(anew, R1, "==", 0)
        asm.store(R7, trap + Trap.RECORDED, R1)
        asm.alu(R9, "|", Hit.LATER)
        asm.place(done)

    def _hash(self) -> None:
        """Keep a hash of the registers, and whether it has changed; r1 and r2 are lost."""
        asm, at = self.asm, self._trap + Trap.REGISTERS
        asm.mov(R1, 0)
        for register in _REGISTERS_AT:
            asm.load(R2, R6, register)
            asm.alu(R1, "*", _FACTOR)
            asm.add(R1, R2)
        asm.load(R2, R7, at)
        asm.store(R7, at, R1)
        asm.alu(R1, "^", R2)
        asm.store(R10, self._changed, R1)

    def _same(self, done: Label) -> None:
        """Pass over what follows if the trap is the same."""
        asm, at = self.asm, self._trap + Trap.RECORDED
        other, unrecorded = asm.new_label("other_trap"), asm.new_label("first_of_trap")
        asm.jump(other, R2, "!=", 0)
        asm.load(R1, R10, self._changed)
        asm.jump(other, R1, "!=", 0)
        asm.comment("a hit that was not recorded is not what others belong to")
        asm.load(R1, R7, at)
        asm.alu(R1, "&", _TRAP)
        asm.jump(unrecorded, R1, "==", 0)
        asm.alu(R9, "|", Hit.SAME)
        asm.jump(done)
        asm.place(unrecorded)
        asm.load(R1, R7, at)
        anew = asm.new_label("first_of_execution")
        asm.jump(anew, R1, "==", 0)
        asm.alu(R9, "|", Hit.LATER)
        asm.jump(done)
        asm.place(anew)
        asm.alu(R9, "|", Hit.ANEW)
        asm.jump(done)
        asm.place(other)

    def recorded(self) -> None:
        """Note that the hit was recorded."""
        self.asm.store(R7, self._trap + Trap.RECORDED, _TRAP | _EXECUTION)
