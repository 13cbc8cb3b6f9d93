# SPDX-License-Identifier: BSD-2-Clause
"""Code that finds where the kernel has user memory mapped, and reads a value there (`linux.direct_map`)."""

from __future__ import annotations

from collections.abc import Iterator

from ksym.linux.bpf_asm import R0, R1, R2, R3, R10, Assembler, Helper, Label
from ksym.linux.direct_map import HUGE, PRESENT, WRITABLE, DirectMap

_PAGE = 4096


def read_word(asm: Assembler, at: int, failed: Label) -> None:
    """r3 = the word at r3 in the kernel, by way of the stack; r0 to r5 are lost."""
    read_kernel(asm, at, 8, failed)
    asm.load(R3, R10, at)


def read_kernel(asm: Assembler, to: int, length: int, failed: Label) -> None:
    """Read kernel memory at r3 to the stack; r0 to r5 are lost."""
    asm.mov(R1, R10)
    asm.add(R1, to)
    asm.mov(R2, length)
    asm.call(Helper.PROBE_READ_KERNEL)
    asm.jump(failed, R0, "!=", 0)


def read_value(
    asm: Assembler, layout: DirectMap, *, memory: int, address: int, expected: int, length: int, to: int, table: int,
    failed: Label, writable: bool = False,
) -> None:  # fmt: skip
    """Read a user variable page by page: neighbours in one mapping are none in the other. r0 to r5 are lost.

    Args:
        asm: Takes the code.
        layout: The way to user memory.
        memory: Where on the stack the address of the ``mm_struct`` is.
        address: Where on the stack the variable's address is; lost.
        expected: An address with the same offset into its page, where that decides how many pages there are.
        length: Bytes of the variable.
        to: Where on the stack the value goes.
        table: A word on the stack, lost.
        failed: Where to go if it cannot be read.
        writable: Read it only where its task may write it as it is mapped now.
    """
    parts = list(_parts(expected, length))
    if length & (length - 1) or length > 8 or len(parts) > 1:
        asm.comment("it was laid out for pages that begin here")
        asm.load(R1, R10, address)
        asm.alu(R1, "&", _PAGE - 1)
        asm.jump(failed, R1, "!=", expected % _PAGE)
    at = 0
    for part in parts:
        if part.start > at:
            asm.load(R1, R10, address)
            asm.add(R1, part.start - at)
            asm.store(R10, address, R1)
            at = part.start
        _walk(asm, layout, memory, address, table, failed, PRESENT | WRITABLE if writable else PRESENT)
        read_kernel(asm, to + part.start, len(part), failed)


def _parts(address: int, length: int) -> Iterator[range]:
    """The parts of a value that lie in one page each, as offsets."""
    at = 0
    while at < length:
        size = min(length - at, _PAGE - (address + at) % _PAGE)
        yield range(at, at + size)
        at += size


def _walk(
    asm: Assembler, layout: DirectMap, memory: int, address: int, table: int, failed: Label, needed: int
) -> None:
    """r3 = where the kernel has the byte mapped, if all entries on the way have the ``needed`` bits."""
    asm.comment("mm->pgd")
    asm.load(R3, R10, memory)
    asm.add(R3, layout.pgd)
    read_word(asm, table, failed)
    arrived = asm.new_label("arrived")
    for shift in layout.shifts:
        asm.comment(f"page table, bit {shift}")
        asm.load(R1, R10, address)
        asm.alu(R1, ">>", shift - 3)
        asm.alu(R1, "&", 511 << 3)
        asm.add(R3, R1)
        read_word(asm, table, failed)
        asm.mov(R1, R3)
        asm.alu(R1, "&", needed)
        asm.jump(failed, R1, "!=", needed)
        if shift in (30, 21):
            small = asm.new_label("small_pages")
            asm.mov(R1, R3)
            asm.alu(R1, "&", HUGE)
            asm.jump(small, R1, "==", 0)
            inside = (1 << shift) - 1
            _physical(asm, layout.mask & ~inside, layout.base)
            _inside(asm, address, inside)
            asm.jump(arrived)
            asm.place(small)
        _physical(asm, layout.mask, layout.base)
    _inside(asm, address, _PAGE - 1)
    asm.place(arrived)


def _physical(asm: Assembler, mask: int, base: int) -> None:
    """r3 = (r3 & mask) + base."""
    asm.mov(R1, mask)
    asm.alu(R3, "&", R1)
    asm.mov(R1, base)
    asm.add(R3, R1)


def _inside(asm: Assembler, address: int, mask: int) -> None:
    """Add the address's offset into its page to r3."""
    asm.load(R1, R10, address)
    asm.alu(R1, "&", mask)
    asm.add(R3, R1)
