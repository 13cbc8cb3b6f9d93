# SPDX-License-Identifier: BSD-2-Clause
"""How a program takes the value: where the last one is kept, how the new one is read, and the lock around both."""

from __future__ import annotations

from ksym.linux.bpf_asm import R0, R1, R2, R3, R6, R8, R9, R10, U32, Assembler, Helper, Label
from ksym.linux.direct_map import HUGE, PRESENT, DirectMap
from ksym.linux.libc import MACHINE
from ksym.program.layout import Hit
from ksym.program.shared import Cell, Shape, Slot
from ksym.program.snippets import NOEXIST, count, look_up, update
from ksym.program.spec import Spec

# struct bpf_perf_event_data (linux/bpf_perf_event.h): the registers, sample_period, addr.
ADDRESS_AT = 280 if MACHINE == "aarch64" else 176
_PAGE = 4096
_LOCK_TRIES = 1024
"""The lock is held for some 100 ns; a CPU that a hypervisor has taken away may hold it for milliseconds."""


class ValueCode:
    """Emits the code; registers as in `watch_program`.

    Args:
        asm: Where to.
        shape: The shared memory.
        spec: The program's.
        out: Where to go if the hit cannot be kept.
    """

    def __init__(self, asm: Assembler, shape: Shape, spec: Spec, out: Label) -> None:
        self.asm, self.shape, self.spec, self.out = asm, shape, spec, out
        self.owned = spec.frame.free - 8
        """u64 on the stack: whether this program holds the lock."""
        self.table = self.owned - 8
        """u64 on the stack: the page table that the walk has come to."""
        self.scratch = self.table
        """What lies below on the stack is free."""

    def find_slot(self) -> None:
        """r8 = where the last value is kept; r9, this CPU, is used up."""
        asm, spec = self.asm, self.spec
        slot = self.shape.slot(spec.watch)
        if not spec.per_cpu:
            asm.map_value(R8, "state", slot)
        else:
            asm.alu(R9, "*", Slot.SIZE)
            asm.map_value(R8, "state", slot)
            asm.add(R8, R9)
        if not spec.user:
            return
        asm.comment("a process that was forked has a copy of its own")
        ours, found = asm.new_label("original"), asm.new_label("found")
        asm.call(Helper.GET_CURRENT_PID_TGID)
        asm.alu(R0, ">>", 32)
        asm.load(R1, R8, Slot.OWNER)
        asm.jump(ours, R1, "==", R0)
        key, blank = self.scratch - 8, self.scratch - 8 - Slot.SIZE
        asm.store(R10, key, spec.watch, U32)
        asm.store(R10, key + 4, R0, U32)
        look_up(asm, "copies", key)
        asm.jump(found, R0, "!=", 0)
        for at in range(blank, key, 8):
            asm.store(R10, at, 0)
        update(asm, "copies", key, blank, NOEXIST)
        look_up(asm, "copies", key)
        asm.jump(found, R0, "!=", 0)
        asm.comment("there is no room for it")
        count(asm, Cell.DROPPED)
        asm.jump(self.out)
        asm.place(found)
        asm.mov(R8, R0)
        asm.place(ours)

    def take(self) -> None:
        """Take value and time together, under the slot's lock: so old -> new is an unbroken chain in order of time."""
        asm, spec, frame = self.asm, self.spec, self.spec.frame
        locks = spec.atomics and not spec.per_cpu
        if locks:
            self._lock()
        if spec.length % 8:
            asm.store(R10, frame.new + frame.padded - 8, 0)
        unread, compared, done = asm.new_label("unread"), asm.new_label("compared"), asm.new_label("taken")
        asm.comment("the value")
        if spec.walk is not None:
            self._read_by_walk(spec.walk, unread)
        else:
            asm.load(R3, R6, ADDRESS_AT)
            if spec.offset:
                asm.add(R3, -spec.offset)
            self._read(
                0, spec.length, Helper.PROBE_READ_USER if spec.user else Helper.PROBE_READ_KERNEL, unread
            )
        asm.alu(R9, "|", Hit.NEW)
        asm.call(Helper.KTIME_GET_NS)
        asm.store(R10, frame.time, R0)
        words = range(0, frame.padded, 8)
        first, known = asm.new_label("first"), asm.new_label("known")
        asm.load(R1, R8, Slot.KNOWN)
        asm.jump(known, R1, "!=", 0)
        asm.store(R8, Slot.KNOWN, 1)
        asm.load(R1, R8, Slot.SEEDED)
        asm.jump(first, R1, "==", 0)
        for at in words:
            asm.load(R1, R8, Slot.SEED + at)
            asm.store(R8, Slot.VALUE + at, R1)
        asm.place(known)
        asm.alu(R9, "|", Hit.OLD)
        asm.mov(R3, 0)
        for at in words:
            asm.load(R1, R8, Slot.VALUE + at)
            asm.store(R10, frame.old + at, R1)
            asm.load(R2, R10, frame.new + at)
            asm.store(R8, Slot.VALUE + at, R2)
            asm.alu(R2, "^", R1)
            asm.alu(R3, "|", R2)
        asm.jump(compared, R3, "==", 0)
        asm.alu(R9, "|", Hit.CHANGED)
        asm.jump(compared)
        asm.place(first)
        for at in words:
            asm.store(R10, frame.old + at, 0)
            asm.load(R2, R10, frame.new + at)
            asm.store(R8, Slot.VALUE + at, R2)
        asm.jump(compared)
        asm.place(unread)
        asm.call(Helper.KTIME_GET_NS)
        asm.store(R10, frame.time, R0)
        for at in words:
            asm.store(R10, frame.old + at, 0)
            asm.store(R10, frame.new + at, 0)
        asm.comment("what it is now nobody knows")
        asm.store(R8, Slot.KNOWN, 0)
        asm.store(R8, Slot.SEEDED, 0)
        asm.place(compared)
        if locks:
            asm.load(R1, R10, self.owned)
            asm.jump(done, R1, "==", 0)
            asm.mov(R1, -1)
            asm.atomic_add(R8, Slot.LOCK, R1)
            asm.place(done)
        asm.store(R10, frame.flags, R9, U32)

    def _read(self, offset: int, length: int, helper: Helper, unread: Label) -> None:
        """Read a part of the value from r3."""
        asm = self.asm
        asm.mov(R1, R10)
        asm.add(R1, self.spec.frame.new + offset)
        asm.mov(R2, length)
        asm.call(helper)
        asm.jump(unread, R0, "!=", 0)

    def _read_by_walk(self, layout: DirectMap, unread: Label) -> None:
        """Read the value page by page: neighbours in one mapping are none in the other."""
        offset = 0
        while offset < self.spec.length:
            address = self.spec.address + offset
            length = min(self.spec.length - offset, _PAGE - address % _PAGE)
            self._walk(layout, address, unread)
            self._read(offset, length, Helper.PROBE_READ_KERNEL, unread)
            offset += length

    def _walk(self, layout: DirectMap, address: int, unread: Label) -> None:
        """r3 = where the kernel has the byte at ``address`` of the process mapped."""
        asm = self.asm
        asm.comment("current->mm->pgd")
        asm.call(Helper.GET_CURRENT_TASK)
        asm.mov(R3, R0)
        asm.add(R3, layout.mm)
        self._read_word(unread)
        asm.add(R3, layout.pgd)
        self._read_word(unread)
        arrived = asm.new_label("arrived")
        for shift in layout.shifts:
            asm.comment(f"page table, bit {shift}")
            asm.add(R3, (address >> shift & 511) * 8)
            self._read_word(unread)
            asm.mov(R1, R3)
            asm.alu(R1, "&", PRESENT)
            asm.jump(unread, R1, "==", 0)
            if shift in (30, 21):
                small = asm.new_label("small_pages")
                asm.mov(R1, R3)
                asm.alu(R1, "&", HUGE)
                asm.jump(small, R1, "==", 0)
                inside = (1 << shift) - 1
                self._physical(layout.mask & ~inside, layout.base + (address & inside))
                asm.jump(arrived)
                asm.place(small)
            last = address & ((1 << shift) - 1) if shift == layout.shifts[-1] else 0
            self._physical(layout.mask, layout.base + last)
        asm.place(arrived)

    def _physical(self, mask: int, base: int) -> None:
        """r3 = (r3 & mask) + base."""
        asm = self.asm
        asm.mov(R1, mask)
        asm.alu(R3, "&", R1)
        asm.mov(R1, base)
        asm.add(R3, R1)

    def _read_word(self, unread: Label) -> None:
        """r3 = the word at r3 in the kernel."""
        asm = self.asm
        asm.mov(R1, R10)
        asm.add(R1, self.table)
        asm.mov(R2, 8)
        asm.call(Helper.PROBE_READ_KERNEL)
        asm.jump(unread, R0, "!=", 0)
        asm.load(R3, R10, self.table)

    def _lock(self) -> None:
        asm = self.asm
        again, locked = asm.new_label("again"), asm.new_label("locked")
        asm.comment("one CPU at a time")
        asm.store(R10, self.owned, 1)
        asm.mov(R1, 0)
        asm.mov(R2, 1)
        asm.place(again)
        asm.mov(R0, 0)
        asm.compare_exchange(R8, Slot.LOCK, R2)
        asm.jump(locked, R0, "==", 0)
        asm.add(R1, 1)
        asm.jump(again, R1, "<", _LOCK_TRIES)
        asm.store(R10, self.owned, 0)
        count(asm, Cell.UNORDERED)
        asm.place(locked)
