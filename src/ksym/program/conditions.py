# SPDX-License-Identifier: BSD-2-Clause
"""A bound condition as BPF: truth values become jumps (numbers: `integers`).

Truth values have no register: ``&&``, ``||`` and ``!`` decide where a comparison jumps to. Behind each jump nothing
is left of what was compared, so the verifier finds that it has been there before and its work grows with the length
of the program only. It refuses code that nothing can reach; so even what is decided here becomes a jump on a number.

What of the access only user space can tell (`decided_in_kernel`) lets a hit through: such a comparison counts as
true, under an odd number of ``!`` as false. `verdict` evaluates the condition again then.
"""

from __future__ import annotations

from dataclasses import dataclass

from ksym.errors import RequestError
from ksym.language.condition import (
    AccessName,
    Binary,
    Condition,
    Field,
    Text,
    Unary,
    has_literal,
    literal_first,
)
from ksym.linux.bpf_asm import R0, R1, R2, R3, R6, R10, STACK_BYTES, U32, Assembler, Helper, Label, Register
from ksym.linux.libc import MACHINE
from ksym.program.bind import InRanges, computes_unsigned, is_truth, leaves
from ksym.program.integers import WORD, Integers
from ksym.program.layout import Frame, Hit, Sees
from ksym.program.snippets import IP_AT
from ksym.program.spec import Ways

_COMM_BYTES = 16

_SIGNED = {"==": "==", "!=": "!=", "<": "s<", "<=": "s<=", ">": "s>", ">=": "s>="}
"""How BPF calls a comparison of signed numbers; of unsigned ones it is called as in C."""
_INVERSE = {
    "==": "!=", "!=": "==", "s<": "s>=", "s>=": "s<", "s>": "s<=", "s<=": "s>",
    "<": ">=", ">=": "<", ">": "<=", "<=": ">",
}  # fmt: skip
_NEEDS = {"new": Hit.NEW, "old": Hit.OLD, "changed": Hit.NEW | Hit.OLD}
_CERTAIN = {"R": (Hit.READ, Hit.WROTE), "W": (Hit(0), Hit.READ), "RW": (Hit(0), Hit.READ)}
"""For each access the flags of a record that prove it, and those that disprove it."""


def uses_values(condition: Condition) -> bool:
    """Whether the values before or after an access are needed to judge it."""
    return bool(_needed(condition))


def uses_numbers(condition: Condition) -> bool:
    """True if the numbers of the process or thread are needed to judge it."""
    return any(isinstance(leaf, Field) and leaf.name in ("pid", "tid") for leaf in leaves(condition))


def decided_in_kernel(condition: Condition, sees: Sees) -> bool:
    """Whether the program's word is final; else a hit that it keeps is to be judged again when its access is known."""
    for leaf in leaves(condition):
        if isinstance(leaf, AccessName) and leaf.name != "X" and not sees.execute:
            told = leaf.name == "R" and (sees.twin or sees.writes_only)
            if not told:
                return False
    return True


def compile_condition(
    asm: Assembler,
    condition: Condition,
    frame: Frame,
    sees: Sees,
    ways: Ways,
    scratch: int,
    *,
    numbers: int = 0,
) -> None:
    """Emit code that goes one of the ways.

    It wants the program's context in r6, changes r0 to r3 and loses r4 and r5, and leaves the rest alone.

    Args:
        asm: Takes the code.
        condition: One that ``bind`` made.
        frame: Where the hit lies on the stack, its flags and values written.
        sees: What the register tells.
        ways: Where to go.
        scratch: The stack below is free; a multiple of 8, negative.
        numbers: Where on the stack the task's numbers are; 0: the helper tells them.

    Raises:
        RequestError: it needs more than is left of the stack.
    """
    compiler = _Compiler(asm, condition, frame, sees, scratch, numbers)
    both = _Ways(ways.keep, ways.reject)
    needed = _needed(condition)
    if needed and not frame.padded:
        compiler.constant(True, both)
        return
    if needed:
        asm.comment("values that are not known could match")
        asm.load(R1, R10, frame.flags, U32)
        asm.alu(R1, "&", int(needed))
        asm.jump(ways.unknown, R1, "!=", int(needed))
    compiler.branch(condition, both)


def _needed(condition: Condition) -> Hit:
    flags = Hit(0)
    for leaf in leaves(condition):
        if isinstance(leaf, Field):
            flags |= _NEEDS.get(leaf.name, Hit(0))
    return flags


@dataclass(frozen=True)
class _Ways:
    """Where to go if true and if false.

    ``following`` is the one of them that comes right behind. ``positive``: true is what may let the hit through.
    """

    yes: Label
    no: Label
    following: Label | None = None
    positive: bool = True

    def inverted(self) -> _Ways:
        return _Ways(self.no, self.yes, self.following, not self.positive)


class _Compiler:
    """Emits truth values as jumps.

    On the stack, from ``scratch`` down: comm, a 0 (see `truth`), numbers that wait for others.
    """

    def __init__(
        self, asm: Assembler, condition: Condition, frame: Frame, sees: Sees, scratch: int, numbers: int
    ) -> None:
        self.asm, self.frame, self.sees = asm, frame, sees
        self.comm = scratch
        if any(isinstance(leaf, Text) for leaf in leaves(condition)):
            self.comm -= _COMM_BYTES
        self.zero = self.comm - WORD
        self.integers = Integers(asm, frame, self.zero, numbers)
        if self.zero - WORD * self.integers.slots(condition) < -STACK_BYTES:
            raise RequestError(
                "cannot judge the condition in the kernel",
                "it is nested too deep for a BPF program's stack",
                "write it flatter, or compare fewer things",
            )
        if _compares_truths(condition):
            asm.comment("0, but the verifier must not know")
            asm.load(R1, R6, IP_AT)
            asm.load(R2, R6, IP_AT)
            asm.alu(R1, "-", R2)
            asm.store(R10, self.zero, R1)

    # Truth values.

    def branch(self, node: Condition, ways: _Ways) -> None:
        """Go one of the ways."""
        match node:
            case Unary(op="!", operand=operand):
                self.branch(operand, ways.inverted())
            case Binary(op="&&", left=left, right=right):
                both = self.asm.new_label("and")
                self.branch(left, _Ways(both, ways.no, both, ways.positive))
                self.asm.place(both)
                self.branch(right, ways)
            case Binary(op="||", left=left, right=right):
                other = self.asm.new_label("or")
                self.branch(left, _Ways(ways.yes, other, other, ways.positive))
                self.asm.place(other)
                self.branch(right, ways)
            case _:
                self.asm.comment(str(node))
                self.leaf(node, ways)

    def leaf(self, node: Condition, ways: _Ways) -> None:
        match node:
            case InRanges(ranges=ranges):
                self.in_ranges(ranges, ways)
            case Field(name="changed"):
                self.flag(Hit.CHANGED, ways)
            case Binary(op="==" | "!=" as op, left=left, right=right) if has_literal(left, right):
                literal, _ = literal_first(left, right)
                equal = ways if op == "==" else ways.inverted()
                if isinstance(literal, Text):
                    self.same_comm(literal, equal)
                else:
                    self.access(literal.name, equal)
            case Binary(op="==" | "!=" as op, left=left, right=right) if is_truth(left):
                self.same_truth(node, left, right, ways if op == "==" else ways.inverted())
            case Binary(op=op, left=left, right=right) if op in _SIGNED:
                jump = op if computes_unsigned(op, left, right) else _SIGNED[op]
                self.decide(R0, jump, self.integers.operands(left, right), ways)
            case _:
                self.integers.number(node)
                self.decide(R0, "!=", 0, ways)

    def decide(self, left: Register, op: str, right: Register | int, ways: _Ways) -> None:
        if ways.following is ways.yes:
            self.asm.jump(ways.no, left, _INVERSE[op], right)
            return
        self.asm.jump(ways.yes, left, op, right)
        if ways.following is not ways.no:
            self.asm.jump(ways.no)

    def constant(self, value: bool, ways: _Ways) -> None:
        self.asm.mov(R0, int(value))
        self.decide(R0, "!=", 0, ways)

    def flag(self, flag: Hit, ways: _Ways) -> None:
        self.asm.load(R0, R10, self.frame.flags, U32)
        self.asm.alu(R0, "&", int(flag))
        self.decide(R0, "!=", 0, ways)

    def access(self, name: str, ways: _Ways) -> None:
        if self.sees.execute or name == "X":
            self.constant(self.sees.execute and name == "X", ways)
            return
        proof, disproof = _CERTAIN[name]
        if ways.positive:
            self.flag(disproof, ways.inverted())
        else:
            self.flag(proof, ways)

    def same_truth(self, node: Condition, left: Condition, right: Condition, ways: _Ways) -> None:
        if not decided_in_kernel(node, self.sees):
            self.constant(ways.positive, ways)
            return
        slots = self.integers.slots
        first, second = (left, right) if slots(left) >= slots(right) else (right, left)
        self.truth(first)
        waiting = self.integers.push()
        self.truth(second)
        self.integers.pop(R1, waiting)
        self.decide(R0, "==", R1, ways)

    def truth(self, node: Condition) -> None:
        """r0 = 1 or 0.

        For as long as the verifier knows which of them, it follows both apart, and each combination of those that
        wait: 90,000 instructions where now it takes 5,000. So they are sums with a number that it does not know.
        """
        asm = self.asm
        one, zero, done = asm.new_label("true"), asm.new_label("false"), asm.new_label("done")
        self.branch(node, _Ways(one, zero, one))
        asm.place(one)
        asm.load(R0, R10, self.zero)
        asm.add(R0, 1)
        asm.jump(done)
        asm.place(zero)
        asm.load(R0, R10, self.zero)
        asm.place(done)

    def in_ranges(self, ranges: tuple[tuple[int, int], ...], ways: _Ways) -> None:
        asm = self.asm
        asm.load(R1, R6, IP_AT)
        if MACHINE != "aarch64" and not self.sees.execute:
            # x86 traps behind the access, which may be the function's last instruction.
            asm.add(R1, -1)
        for start, end in ranges:
            asm.mov(R2, R1)
            asm.mov(R3, start)
            asm.alu(R2, "-", R3)
            length: Register | int = end - start
            if length >= 1 << 31:
                asm.mov(R3, length)
                length = R3
            if (start, end) == ranges[-1]:
                self.decide(R2, "<", length, ways)
            else:
                asm.jump(ways.yes, R2, "<", length)

    def same_comm(self, literal: Text, ways: _Ways) -> None:
        wanted = literal.value.encode("utf-8", "surrogateescape") + (b"" if literal.prefix else b"\0")
        if not wanted:
            self.constant(True, ways)
            return
        asm = self.asm
        for at in range(0, _COMM_BYTES, WORD):
            asm.store(R10, self.comm + at, 0)
        asm.mov(R1, R10)
        asm.add(R1, self.comm)
        asm.mov(R2, _COMM_BYTES)
        asm.call(Helper.GET_CURRENT_COMM)
        for at in range(0, len(wanted), WORD):
            word = wanted[at : at + WORD]
            asm.load(R1, R10, self.comm + at)
            if len(word) < WORD:
                asm.mov(R2, (1 << 8 * len(word)) - 1)
                asm.alu(R1, "&", R2)
            asm.mov(R2, int.from_bytes(word, "little"))
            if at + WORD >= len(wanted):
                self.decide(R1, "==", R2, ways)
            else:
                asm.jump(ways.no, R1, "!=", R2)


def _compares_truths(node: Condition) -> bool:
    match node:
        case Unary(operand=operand):
            return _compares_truths(operand)
        case Binary(op=op, left=left, right=right):
            here = op in ("==", "!=") and is_truth(left)
            return here or _compares_truths(left) or _compares_truths(right)
    return False
