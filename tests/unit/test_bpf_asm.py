# SPDX-License-Identifier: BSD-2-Clause
"""The assembler's bytes, held against a decoder of their own: what is listed is what the kernel gets."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.linux.bpf_asm import R0, R1, R2, R10, U8, Assembler, Helper, Label, Program, Register, Size

MAPS = {"state": 17, "counts": 2**31 - 1}

# From Documentation/bpf/standardization/instruction-set.rst, by the opcode's upper four bits.
ALU = {0: "+", 1: "-", 2: "*", 4: "|", 5: "&", 6: "<<", 7: ">>", 10: "^", 11: "", 12: "s>>"}
JUMPS = {
    1: "==", 2: ">", 3: ">=", 4: "&", 5: "!=", 6: "s>", 7: "s>=", 10: "<", 11: "<=", 12: "s<", 13: "s<=",
}  # fmt: skip
WIDTHS = {0: 32, 1: 16, 2: 8, 3: 64}


def number(value: int) -> str:
    return str(value) if -4096 < value < 4096 else hex(value)


def decode(code: bytes) -> dict[int, str]:
    """The text of each instruction by its slot; a jump's target is a slot, too."""
    words = list(struct.iter_unpack("<BBhi", code))
    names = {fd: name for name, fd in MAPS.items()}
    found, slot = {}, 0
    while slot < len(words):
        op, registers, offset, imm = words[slot]
        dst, src = f"r{registers & 15}", f"r{registers >> 4}"
        kind, by_register, upper = op & 7, op & 8, op >> 4
        operand = src if by_register else number(imm)
        base = dst if kind != 1 else src
        place = f"*(u{WIDTHS[op >> 3 & 3]} *)({base} {'-' if offset < 0 else '+'} {abs(offset)})"
        text, next_slot = "", slot + 1
        if op == 0x18:
            second_op, second_registers, second_offset, high = words[slot + 1]
            assert (second_op, second_registers, second_offset, offset) == (0, 0, 0, 0)
            next_slot = slot + 2
            source = registers >> 4
            if source == 0:
                text = f"{dst} = {(imm & 0xFFFFFFFF) | (high & 0xFFFFFFFF) << 32:#x} ll"
            elif source == 1:
                assert high == 0
                text = f"{dst} = map {names[imm]}"
            else:
                assert source == 2
                text = f"{dst} = &{names[imm]}[{high}]"
        elif kind == 7:
            assert offset == 0
            text = f"{dst} = -{dst}" if upper == 8 else f"{dst} {ALU[upper]}= {operand}"
        elif op == 0x95:
            text = "exit"
        elif op == 0x85:
            text = f"r0 = {Helper(imm).name.lower()}()"
        elif op == 0x05:
            text = f"goto {next_slot + offset}"
        elif kind == 5:
            text = f"if {dst} {JUMPS[upper]} {operand} goto {next_slot + offset}"
        elif kind == 1 and op >> 5 == 3:
            text = f"{dst} = {place}"
        elif kind == 3 and op >> 5 == 3:
            text = f"{place} = {src}"
        elif kind == 2 and op >> 5 == 3:
            text = f"{place} = {number(imm)}"
        elif op == 0xDB:
            text = {
                0x00: f"lock {place} += {src}",
                0x01: f"{src} = fetch_add({place}, {src})",
                0xF1: f"r0 = cmpxchg({place}, r0, {src})",
            }[imm]
        found[slot], slot = text, next_slot
    return found


def listed(program: Program) -> dict[int, str]:
    """What the listing says, its labels replaced by their slots."""
    texts: dict[int, str] = {}
    labels: dict[str, int] = {}
    waiting: list[str] = []
    for line in program.listing():
        if match := re.fullmatch(r" *(\d+)  (.*)", line):
            slot = int(match[1])
            texts[slot] = match[2]
            labels |= dict.fromkeys(waiting, slot)
            waiting = []
        elif not line.lstrip().startswith(";"):
            waiting.append(line.removesuffix(":"))
    return {slot: re.sub(r"goto (\w+)", lambda m: f"goto {labels[m[1]]}", t) for slot, t in texts.items()}


REGISTERS = st.sampled_from(Register)
SMALL = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-(2**31), -4096, -1, 0, 1, 4096, 2**31 - 1])
WIDE = st.integers(-(2**63), 2**64 - 1) | st.sampled_from([-(2**31) - 1, 2**31, 2**32, 2**63, 2**64 - 1])
OFFSETS = st.integers(-(2**15), 2**15 - 1)
OPERANDS = REGISTERS | SMALL
SIZES = st.sampled_from(Size)
Emit = Callable[[Assembler, list[Label]], None]


def emits(
    name: str, *arguments: st.SearchStrategy[object], **named: st.SearchStrategy[object]
) -> st.SearchStrategy[Emit]:
    """A call of the assembler's method."""
    return st.builds(
        lambda a, n: lambda asm, _: getattr(asm, name)(*a, **n),
        st.tuples(*arguments),
        st.fixed_dictionaries(named),
    )


def jump(number: int, condition: tuple[Register, str, Register | int] | tuple[()]) -> Emit:
    return lambda asm, labels: asm.jump(labels[number % len(labels)], *condition)


INSTRUCTIONS: st.SearchStrategy[Emit] = st.one_of(
    emits("mov", REGISTERS, OPERANDS | WIDE),
    emits("alu", REGISTERS, st.sampled_from(sorted(set(ALU.values()) - {""})), OPERANDS),
    emits("add", REGISTERS, OPERANDS),
    emits("negate", REGISTERS),
    emits("load", REGISTERS, REGISTERS, OFFSETS, SIZES),
    emits("store", REGISTERS, OFFSETS, OPERANDS, SIZES),
    emits("atomic_add", REGISTERS, OFFSETS, REGISTERS, fetch=st.booleans()),
    emits("compare_exchange", REGISTERS, OFFSETS, REGISTERS),
    emits("map_descriptor", REGISTERS, st.sampled_from(sorted(MAPS))),
    emits("map_value", REGISTERS, st.sampled_from(sorted(MAPS)), st.integers(0, 2**31 - 1)),
    emits("call", st.sampled_from(Helper)),
    emits("comment", st.just("why")),
    emits("exit"),
    st.builds(jump, st.integers(0, 9), st.just(())),
    st.builds(
        jump, st.integers(0, 9), st.tuples(REGISTERS, st.sampled_from(sorted(JUMPS.values())), OPERANDS)
    ),
)


@given(st.lists(INSTRUCTIONS, min_size=1, max_size=30), st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_the_bytes_are_what_the_listing_says(instructions: list[Emit], places: list[int]) -> None:
    asm = Assembler()
    labels = [asm.new_label("here") for _ in places]
    for at, emit in enumerate(instructions):
        for label, place in zip(labels, places, strict=True):
            if place == at:
                asm.place(label)
        emit(asm, labels)
    for label in labels:
        if label.at < 0:
            asm.place(label)
    asm.exit()
    program = asm.finish("example")
    assert decode(program.encode(MAPS)) == listed(program)


def test_every_instruction() -> None:
    asm = Assembler()
    there = asm.new_label("there")
    for right in (R1, R10, -1, 2**31 - 1):
        for op in sorted(set(ALU.values()) - {""}):
            asm.alu(R2, op, right)
        for op in JUMPS.values():
            asm.jump(there, R2, op, right)
        for size in Size:
            asm.store(R10, -8, right, size)
    for size in Size:
        asm.load(R1, R10, 8, size)
    asm.place(there)
    asm.atomic_add(R1, 8, R2)
    asm.atomic_add(R1, -8, R2, fetch=True)
    asm.compare_exchange(R1, 16, R2)
    asm.negate(R10)
    for helper in Helper:
        asm.call(helper)
    asm.exit()
    program = asm.finish("every")
    assert decode(program.encode(MAPS)) == listed(program)


@pytest.mark.parametrize(
    ("value", "slots"),
    [(-(2**31) - 1, 2), (-(2**31), 1), (-1, 1), (2**31 - 1, 1), (2**31, 2), (2**64 - 1, 2), (-(2**63), 2)],
)
def test_a_number_takes_what_it_needs(value: int, slots: int) -> None:
    asm = Assembler()
    asm.mov(R0, value)
    code = asm.finish("number").encode({})
    assert len(code) == 8 * slots
    low, high = struct.unpack_from("<i", code, 4)[0], struct.unpack_from("<i", code, len(code) - 4)[0]
    assert (low if slots == 1 else (low & 0xFFFFFFFF) | high << 32) % 2**64 == value % 2**64


def over(slots: int, *, backward: bool) -> bytes:
    """A jump over so many slots, wide instructions among them."""
    asm = Assembler()
    target = asm.new_label("target")
    if backward:
        asm.place(target)
    else:
        asm.jump(target)
    asm.mov(R0, 2**40)
    for _ in range(slots - 2):
        asm.mov(R0, R1)
    if backward:
        asm.jump(target)
    else:
        asm.place(target)
    asm.exit()
    return asm.finish("far").encode({})


@pytest.mark.parametrize(("slots", "backward"), [(32767, False), (32767, True)])
def test_the_longest_jump(slots: int, backward: bool) -> None:
    code = over(slots, backward=backward)
    (offset,) = struct.unpack_from("<h", code, 8 * slots + 2 if backward else 2)
    assert offset == (-slots - 1 if backward else slots)


@pytest.mark.parametrize("backward", [False, True])
def test_a_jump_that_is_too_long(backward: bool) -> None:
    distance = -32769 if backward else 32768
    with pytest.raises(ValueError, match=f"far: a jump of {distance} instructions is too long"):
        over(32768, backward=backward)


def test_a_label_that_is_not_placed() -> None:
    asm = Assembler()
    asm.jump(asm.new_label("nowhere"))
    with pytest.raises(ValueError, match="example: label nowhere is not placed"):
        asm.finish("example")


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_numbers_that_do_not_fit_an_instruction(value: int) -> None:
    asm = Assembler()
    refusal = "does not fit an instruction; move it into a register"
    with pytest.raises(ValueError, match=refusal):
        asm.alu(R0, "+", value)
    with pytest.raises(ValueError, match=refusal):
        asm.store(R10, -8, value)
    with pytest.raises(ValueError, match=refusal):
        asm.jump(asm.new_label("there"), R0, "==", value)


def test_maps_in_order_of_use_and_once_each() -> None:
    asm = Assembler()
    for name in ("state", "counts", "state"):
        asm.map_value(R2, name, 8)
    asm.map_descriptor(R1, "counts")
    assert asm.finish("maps").maps == ["state", "counts"]


def test_names_of_labels_are_made_different() -> None:
    asm = Assembler()
    assert [asm.new_label("out").name for _ in range(3)] == ["out", "out_2", "out_3"]
    assert [Size.of(size.bytes) for size in Size] == list(Size)
    assert U8.bytes == 1
