# SPDX-License-Identifier: BSD-2-Clause
"""The numbers of a condition as BPF: computed in r0, with the right operand in r1.

Of two operands that need the registers the one that needs more places on the stack comes first: so a condition of
200 operators never has more than a handful of numbers waiting, however it is nested.
"""

from __future__ import annotations

from ksym.language.condition import (
    AccessName,
    Binary,
    Condition,
    Field,
    Number,
    Text,
    Unary,
    signed,
)
from ksym.linux.bpf_asm import R0, R1, R2, R6, R10, Assembler, Helper, Register, Size
from ksym.program.bind import Part, computes_unsigned
from ksym.program.layout import Frame
from ksym.program.snippets import IP_AT

WORD = 8


def _is_light(node: Condition) -> bool:
    """Whether it takes no call, and no place on the stack."""
    return isinstance(node, Number | Part | Text | AccessName) or (
        isinstance(node, Field) and node.name == "ip"
    )


class Integers:
    """Emits numbers; r0 to r5 are lost, r6 is the program's context.

    Args:
        asm: Takes the code.
        frame: Where the values are.
        top: The stack below is free.
        numbers: Where on the stack the task's numbers are; 0: the helper tells them.
    """

    def __init__(self, asm: Assembler, frame: Frame, top: int, numbers: int = 0) -> None:
        self.asm, self.frame, self.top, self.numbers = asm, frame, top, numbers
        self._slots: dict[int, int] = {}

    def slots(self, node: Condition) -> int:
        """How many numbers wait on the stack at once while ``node`` is computed.

        It must be a node of the condition, and none made for the moment: it is known by its identity.
        """
        if id(node) not in self._slots:
            count = 0
            if isinstance(node, Unary):
                count = self.slots(node.operand)
            elif isinstance(node, Binary):
                less, count = sorted((self.slots(node.left), self.slots(node.right)))
                waits = node.op not in ("&&", "||") and not (_is_light(node.left) or _is_light(node.right))
                count = max(count, less + waits)
            self._slots[id(node)] = count
        return self._slots[id(node)]

    def number(self, node: Condition) -> None:
        """r0 = the number; r1 to r5 are lost."""
        asm = self.asm
        match node:
            case Number() | Part() | Field(name="ip"):
                self._load(R0, node)
            case Field(name=name):
                self._call(name)
            case Unary(op=op, operand=operand):
                self.number(operand)
                if op == "-":
                    asm.negate(R0)
                else:
                    asm.alu(R0, "^", -1)
            case Binary(op=op, left=left, right=right):
                second = self.operands(left, right)
                if op in ("<<", ">>") and not isinstance(second, Register):
                    second &= 63  # in registers the machine does that
                if op == ">>" and not computes_unsigned(op, left, right):
                    op = "s>>"
                asm.alu(R0, op, second)

    def operands(self, left: Condition, right: Condition) -> Register | int:
        """r0 = the left number; returns the right one, which is small, or r1."""
        if isinstance(right, Number) and -(1 << 31) <= signed(right.value) < 1 << 31:
            self.number(left)
            return signed(right.value)
        if _is_light(right):
            self.number(left)
            self._load(R1, right)
        elif _is_light(left):
            self.number(right)
            self.asm.mov(R1, R0)
            self._load(R0, left)
        elif self.slots(left) >= self.slots(right):
            self.number(left)
            waiting = self.push()
            self.number(right)
            self.asm.mov(R1, R0)
            self.pop(R0, waiting)
        else:
            self.number(right)
            waiting = self.push()
            self.number(left)
            self.pop(R1, waiting)
        return R1

    def push(self) -> int:
        """Let r0 wait on the stack; returns where."""
        self.top -= WORD
        self.asm.store(R10, self.top, R0)
        return self.top

    def pop(self, dst: Register, at: int) -> None:
        """``dst`` = what was pushed last."""
        self.asm.load(dst, R10, at)
        self.top = at + WORD

    def _call(self, field: str) -> None:
        asm = self.asm
        if field == "cpu":
            asm.call(Helper.GET_SMP_PROCESSOR_ID)
            return
        if field != "uid" and self.numbers:
            asm.load(R0, R10, self.numbers)
        else:
            asm.call(Helper.GET_CURRENT_UID_GID if field == "uid" else Helper.GET_CURRENT_PID_TGID)
        if field != "pid":
            asm.alu(R0, "<<", 32)
        asm.alu(R0, ">>", 32)

    def _load(self, dst: Register, node: Condition) -> None:
        """``dst`` = a number that takes no call; r2 is lost."""
        match node:
            case Number(value=value):
                self.asm.mov(dst, signed(value))
            case Part():
                self._part(dst, node)
            case _:
                self.asm.load(dst, R6, IP_AT)

    def _part(self, dst: Register, part: Part) -> None:
        # The verifier wants loads from the stack to be aligned, which members of packed structs are not.
        asm = self.asm
        base = self.frame.new if part.name == "new" else self.frame.old
        first, width = part.bits or (0, 8 * part.size)
        at = 0
        while at < part.size:
            length = next(
                each for each in (8, 4, 2, 1) if each <= part.size - at and (part.offset + at) % each == 0
            )
            piece = R2 if at else dst
            asm.load(piece, R10, base + part.offset + at, Size.of(length))
            shift = 8 * at - first
            if shift:
                asm.alu(piece, "<<" if shift > 0 else ">>", abs(shift))
            if at:
                asm.alu(dst, "|", R2)
            at += length
        above = 64 - width
        if above and (part.signed or part.bits):
            asm.alu(dst, "<<", above)
            asm.alu(dst, "s>>" if part.signed else ">>", above)
