# SPDX-License-Identifier: BSD-2-Clause
r"""An assembler for BPF: instructions as calls, jumps to labels, maps by name.

    >>> asm = Assembler()
    >>> asm.load(R2, R1, 8, U32)
    >>> done = asm.new_label("done")
    >>> asm.jump(done, R2, "==", 0)
    >>> asm.add(R2, 1)
    >>> asm.place(done)
    >>> asm.mov(R0, 0)
    >>> asm.exit()
    >>> print("\n".join(asm.finish("example").listing()))
       0  r2 = *(u32 *)(r1 + 8)
       1  if r2 == 0 goto done
       2  r2 += 1
    done:
       3  r0 = 0
       4  exit

A `Program` is data: it can be printed and tested; descriptors of maps are filled in when it is encoded.
Encoding: Documentation/bpf/standardization/instruction-set.rst and include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Register(enum.IntEnum):
    """r0 result, r1-r5 arguments (lost by a call), r6-r9 kept over calls, r10 the frame's end (read-only)."""

    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Register

STACK_BYTES = 512
"""What a program may use below r10 (MAX_BPF_STACK, linux/filter.h)."""


class Size(enum.IntEnum):
    """Width of a load or store; the value is its code (BPF_B, BPF_H, BPF_W, BPF_DW)."""

    U8, U16, U32, U64 = 0x10, 0x08, 0x00, 0x18

    @property
    def bytes(self) -> int:
        """Bytes."""
        return {Size.U8: 1, Size.U16: 2, Size.U32: 4, Size.U64: 8}[self]

    @classmethod
    def of(cls, length: int) -> Size:
        """The width of ``length`` bytes: 1, 2, 4 or 8."""
        return {1: cls.U8, 2: cls.U16, 4: cls.U32, 8: cls.U64}[length]


U8, U16, U32, U64 = Size.U8, Size.U16, Size.U32, Size.U64


class Helper(enum.IntEnum):
    """Kernel functions that a program may call; numbers from enum bpf_func_id."""

    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    PROBE_READ = 4
    KTIME_GET_NS = 5
    GET_SMP_PROCESSOR_ID = 8
    GET_CURRENT_PID_TGID = 14
    GET_CURRENT_UID_GID = 15
    GET_CURRENT_COMM = 16
    PERF_EVENT_OUTPUT = 25
    GET_CURRENT_TASK = 35
    SEND_SIGNAL = 109
    PROBE_READ_USER = 112
    PROBE_READ_KERNEL = 113


_LDX, _STX, _ST, _MEM, _ATOMIC = 0x61, 0x63, 0x62, 0x60, 0xC3
_ALU64, _JMP, _BY_REGISTER = 0x07, 0x05, 0x08
_ALU = {"+": 0x00, "-": 0x10, "*": 0x20, "|": 0x40, "&": 0x50, "<<": 0x60, ">>": 0x70, "^": 0xA0, "s>>": 0xC0}
_JUMPS = {
    "==": 0x10, ">": 0x20, ">=": 0x30, "&": 0x40, "!=": 0x50, "s>": 0x60, "s>=": 0x70,
    "<": 0xA0, "<=": 0xB0, "s<": 0xC0, "s<=": 0xD0,
}  # fmt: skip
_MOV, _NEG, _JA, _CALL, _EXIT, _LD_IMM64 = 0xB7, 0x87, 0x05, 0x85, 0x95, 0x18
_FETCH, _CMPXCHG = 0x01, 0xF1
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2
_INSTRUCTION = struct.Struct("=BBhi")


@dataclass(eq=False)
class Label:
    """A place to jump to; ``at`` is its instruction's number, -1 until it is placed."""

    name: str
    at: int = -1


class Instruction(NamedTuple):
    """One instruction; ``wide`` takes two slots, its 64-bit ``imm`` being split over them.

    ``map`` names the map whose descriptor goes into ``imm``; then ``offset_in_map`` is the second half.
    """

    text: str
    code: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    imm: int = 0
    target: Label | None = None
    wide: bool = False
    map: str | None = None
    offset_in_map: int = 0


@dataclass(frozen=True)
class Program:
    """A finished program.

    Args:
        name: What the kernel calls it, 15 characters.
        instructions: In order.
        comments: By number of the instruction that each comes before.
        labels: By number of the instruction that each names.
    """

    name: str
    instructions: tuple[Instruction, ...]
    comments: Mapping[int, tuple[str, ...]] = field(repr=False)
    labels: Mapping[int, tuple[str, ...]] = field(repr=False)

    @property
    def maps(self) -> list[str]:
        """Names of the maps that it uses."""
        return list(dict.fromkeys(i.map for i in self.instructions if i.map is not None))

    def encode(self, maps: Mapping[str, int]) -> bytes:
        """The bytes for bpf(2).

        Args:
            maps: Descriptor of each map.

        Raises:
            ValueError: a jump is too long (32767 instructions).
        """
        slots = self._slots()
        code = bytearray()
        for number, (_, opcode, dst, src, offset, imm, target, wide, name, inside) in enumerate(
            self.instructions
        ):
            if target is not None:
                offset = slots[target.at] - slots[number] - 1
                if not -(1 << 15) <= offset < 1 << 15:
                    raise ValueError(f"{self.name}: a jump of {offset} instructions is too long")
            low, high = (maps[name], inside) if name is not None else (imm & 0xFFFFFFFF, imm >> 32)
            code += struct.pack("=BBhI", opcode, dst | src << 4, offset, low & 0xFFFFFFFF)
            if wide:
                code += struct.pack("=BBhI", 0, 0, 0, high & 0xFFFFFFFF)
        return bytes(code)

    def _slots(self) -> list[int]:
        """Slot of each instruction, and of the end."""
        slots, at = [], 0
        for instruction in self.instructions:
            slots.append(at)
            at += 2 if instruction.wide else 1
        return [*slots, at]

    def listing(self) -> list[str]:
        """Lines for people, numbered by slot as the verifier's log has them."""
        lines = []
        for number, (slot, instruction) in enumerate(zip(self._slots(), self.instructions, strict=False)):
            lines += [f"{name}:" for name in self.labels.get(number, ())]
            lines += [f"      ; {comment}" for comment in self.comments.get(number, ())]
            lines.append(f"{slot:4}  {instruction.text}")
        return lines


class Assembler:
    """Collects instructions. An operand that may be a register or a number is a number if it is a plain int."""

    def __init__(self) -> None:
        self._out: list[Instruction] = []
        self._comments: dict[int, tuple[str, ...]] = {}
        self._labels: dict[int, tuple[str, ...]] = {}
        self._names: dict[str, int] = {}

    # -- text and places ------------------------------------------------------------------------

    def comment(self, text: str) -> None:
        """Say in the listing what comes next."""
        at = len(self._out)
        self._comments[at] = (*self._comments.get(at, ()), text)

    def new_label(self, name: str) -> Label:
        """A label to be placed later; a name that is taken gets a number."""
        self._names[name] = count = self._names.get(name, 0) + 1
        return Label(name if count == 1 else f"{name}_{count}")

    def place(self, label: Label) -> None:
        """Let ``label`` name the next instruction."""
        label.at = at = len(self._out)
        self._labels[at] = (*self._labels.get(at, ()), label.name)

    # -- arithmetic -------------------------------------------------------------------------------

    def mov(self, dst: Register, src: Register | int) -> None:
        """``dst = src``; a number of up to 64 bits, signed or unsigned."""
        if isinstance(src, Register):
            self._emit(f"{_r(dst)} = {_r(src)}", _MOV | _BY_REGISTER, dst, src)
        elif -(1 << 31) <= src < 1 << 31:
            self._emit(f"{_r(dst)} = {_n(src)}", _MOV, dst, imm=src)
        else:
            value = src & ((1 << 64) - 1)
            self._out.append(Instruction(f"{_r(dst)} = {value:#x} ll", _LD_IMM64, dst, imm=value, wide=True))

    def alu(self, dst: Register, op: str, src: Register | int) -> None:
        """``dst op= src``, 64 bits wide; ``op`` is C's, ``>>`` without and ``s>>`` with the sign.

        Raises:
            ValueError: a number does not fit 32 bits, signed.
        """
        if isinstance(src, Register):
            self._emit(f"{_r(dst)} {op}= {_r(src)}", _ALU64 | _BY_REGISTER | _ALU[op], dst, src)
        else:
            self._emit(f"{_r(dst)} {op}= {_n(src)}", _ALU64 | _ALU[op], dst, imm=_imm(src))

    def add(self, dst: Register, src: Register | int) -> None:
        """``dst += src``."""
        self.alu(dst, "+", src)

    def negate(self, dst: Register) -> None:
        """``dst = -dst``."""
        self._emit(f"{_r(dst)} = -{_r(dst)}", _NEG, dst)

    # -- memory -----------------------------------------------------------------------------------

    def load(self, dst: Register, base: Register, offset: int, size: Size = U64) -> None:
        """``dst = *(base + offset)``, widened with zeros."""
        self._emit(f"{_r(dst)} = {_at(base, offset, size)}", _LDX | size, dst, base, offset)

    def store(self, base: Register, offset: int, src: Register | int, size: Size = U64) -> None:
        """``*(base + offset) = src``; a number fits 32 bits, signed."""
        if isinstance(src, Register):
            self._emit(f"{_at(base, offset, size)} = {_r(src)}", _STX | size, base, src, offset)
        else:
            self._emit(
                f"{_at(base, offset, size)} = {_n(src)}", _ST | size, base, offset=offset, imm=_imm(src)
            )

    def atomic_add(self, base: Register, offset: int, src: Register, *, fetch: bool = False) -> None:
        """Add to 64 bits in memory; with ``fetch`` (5.12, commit 5ca419f2864a) ``src`` becomes the old value."""
        text = f"lock {_at(base, offset, U64)} += {_r(src)}"
        if fetch:
            text = f"{_r(src)} = fetch_add({_at(base, offset, U64)}, {_r(src)})"
        self._emit(text, _ATOMIC | U64, base, src, offset, _FETCH if fetch else 0)

    def compare_exchange(self, base: Register, offset: int, src: Register) -> None:
        """If the 64 bits in memory are r0, they become ``src``; r0 becomes what they were (5.12, 5ffa25502b5a)."""
        text = f"r0 = cmpxchg({_at(base, offset, U64)}, r0, {_r(src)})"
        self._emit(text, _ATOMIC | U64, base, src, offset, _CMPXCHG)

    def map_descriptor(self, dst: Register, name: str) -> None:
        """``dst`` = the map ``name``, as helpers take it."""
        self._out.append(
            Instruction(f"{_r(dst)} = map {name}", _LD_IMM64, dst, _PSEUDO_MAP_FD, wide=True, map=name)
        )

    def map_value(self, dst: Register, name: str, offset: int = 0) -> None:
        """``dst`` = address of byte ``offset`` of the only element of array map ``name`` (5.2, d8eca5bbb2be)."""
        self._out.append(
            Instruction(
                f"{_r(dst)} = &{name}[{offset}]", _LD_IMM64, dst, _PSEUDO_MAP_VALUE,
                wide=True, map=name, offset_in_map=offset,
            )
        )  # fmt: skip

    # -- control ----------------------------------------------------------------------------------

    def jump(self, to: Label, left: Register | None = None, op: str = "", right: Register | int = 0) -> None:
        """Go to ``to``, always or if ``left op right``; ``s`` before a comparison makes it signed, ``&`` tests bits.

        Raises:
            ValueError: a number does not fit 32 bits, signed.
        """
        if left is None:
            self._out.append(Instruction(f"goto {to.name}", _JA, target=to))
        elif isinstance(right, Register):
            text = f"if {_r(left)} {op} {_r(right)} goto {to.name}"
            self._out.append(Instruction(text, _JMP | _BY_REGISTER | _JUMPS[op], left, right, target=to))
        else:
            text = f"if {_r(left)} {op} {_n(right)} goto {to.name}"
            self._out.append(Instruction(text, _JMP | _JUMPS[op], left, imm=_imm(right), target=to))

    def call(self, helper: Helper) -> None:
        """``r0 = helper(r1, ...)``; r1 to r5 are lost."""
        self._emit(f"r0 = {helper.name.lower()}()", _CALL, imm=helper)

    def exit(self) -> None:
        """Return r0."""
        self._emit("exit", _EXIT)

    def finish(self, name: str) -> Program:
        """The program.

        Raises:
            ValueError: it jumps to a label that was not placed.
        """
        for instruction in self._out:
            if instruction.target is not None and instruction.target.at < 0:
                raise ValueError(f"{name}: label {instruction.target.name} is not placed")
        return Program(name, tuple(self._out), dict(self._comments), dict(self._labels))

    def _emit(self, text: str, code: int, dst: int = 0, src: int = 0, offset: int = 0, imm: int = 0) -> None:
        self._out.append(Instruction(text, code, dst, src, offset, imm))


def _imm(value: int) -> int:
    if not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"{value:#x} does not fit an instruction; move it into a register")
    return value


def _r(register: int) -> str:
    return f"r{int(register)}"


def _n(value: int) -> str:
    return str(value) if -4096 < value < 4096 else hex(value)


def _at(base: int, offset: int, size: Size) -> str:
    sign = "-" if offset < 0 else "+"
    return f"*(u{size.bytes * 8} *)({_r(base)} {sign} {abs(offset)})"
