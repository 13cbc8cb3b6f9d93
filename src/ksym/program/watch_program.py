# SPDX-License-Identifier: BSD-2-Clause
"""The program that runs in the kernel at each hit of a watch, generated from the plan.

In its order: pass over what the other register of a twin has told, ask the guard, take the value, judge the
condition, hold the limit, stop the task if that was asked for, and hand the hit on: as a record into this CPU's
ring, or into a table of counts, or not at all. It returns 0, so that perf makes no sample of its own; 1 lets
the kernel stop the event.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from ksym.linux.bpf_asm import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
    U32,
    Assembler,
    Helper,
    Label,
    Program,
)  # fmt: skip
from ksym.linux.direct_map import HUGE, PRESENT, DirectMap
from ksym.linux.libc import MACHINE
from ksym.program.layout import PIECE_SHIFT, Frame, Hit, Sees
from ksym.program.shared import Cell, Control, Shape, Slot, Window
from ksym.program.wants import Sink
from ksym.watch.plan import Role

# struct bpf_perf_event_data (linux/bpf_perf_event.h): the registers, sample_period, addr.
IP_AT, ADDRESS_AT = (256, 280) if MACHINE == "aarch64" else (128, 176)
_CURRENT_CPU = 0xFFFFFFFF  # BPF_F_CURRENT_CPU
_ANY, _NOEXIST = 0, 1  # BPF_ANY, BPF_NOEXIST
_LOCK_TRIES = 128
"""The lock is held for some 100 ns; a CPU that a hypervisor has taken away may hold it for milliseconds."""
WINDOW_NS = 1_000_000_000
"""What the guard looks at: hits of one CPU in a second."""

COUNT_KEY_BYTES = 24
"""Key of ``counts``: u32 watch, u32 flags, u64 ip, u32 pid, u32 tid."""
COMM_BYTES = 16

Condition = Callable[[Assembler, Label, Label, int], None]
"""Emits a condition: (assembler, where to go if kept, if rejected, scratch)."""


@dataclass(frozen=True)
class Spec:
    """All that decides a program.

    Args:
        watch: Number of the watch.
        piece: Number of the piece, ``offset`` bytes from the variable's start.
        length: Bytes of the variable.
        user: It lies in user space.
        per_cpu: Each CPU has its own.
        role: Whether the register is one of a twin.
        sees: What the watch's records tell.
        reads_only: Writes are not wanted, though the twin's W register sees them.
        frame: Where the hit lies on the stack; without values where nothing needs them.
        condition: Emits the condition.
        sink: Where a kept hit goes.
        guarded: The guard may disarm the watch.
        limited: Only so many hits are kept.
        stop: The task that made the access is stopped.
        atomics: The kernel has BPF_FETCH and BPF_CMPXCHG (5.12).
        address: Of the variable, where that is the same for all; needed for ``walk``.
        walk: Read a user variable through the kernel's mapping of its page (`linux.direct_map`).
    """

    watch: int
    piece: int
    offset: int
    length: int
    user: bool
    per_cpu: bool
    role: Role
    sees: Sees
    reads_only: bool
    frame: Frame
    condition: Condition | None
    sink: Sink
    guarded: bool = False
    limited: bool = False
    stop: bool = False
    atomics: bool = True
    address: int = 0
    walk: DirectMap | None = None


def watch_program(shape: Shape, spec: Spec) -> Program:
    """The program of a watch's own register."""
    return _Generator(shape, spec).program()


def _count(asm: Assembler, field: Cell) -> None:
    asm.load(R1, R7, field)
    asm.add(R1, 1)
    asm.store(R7, field, R1)


class _Generator:
    """r6 context, r7 this CPU's cell of the watch, r8 the watch's slot, r9 this CPU, later the flags."""

    def __init__(self, shape: Shape, spec: Spec) -> None:
        self.shape, self.spec, self.asm = shape, spec, Assembler()
        self.out = self.asm.new_label("out")
        self.stop_event = self.asm.new_label("stop_event")
        self.owned = spec.frame.free - 8
        """u64 on the stack: whether this program holds the lock."""
        self.table = self.owned - 8
        """u64 on the stack: the page table that the walk has come to."""
        self.scratch = self.table

    def program(self) -> Program:
        asm, spec = self.asm, self.spec
        asm.mov(R6, R1)
        self._find_cell()
        if spec.role is not Role.ONLY:
            self._twin()
        if spec.guarded:
            self._guard()
        self._flags()
        if spec.frame.padded:
            self._value()
        else:
            asm.store(R10, spec.frame.flags, R9, U32)
        keeps = not (spec.reads_only and spec.role is Role.WRITES)
        if keeps:
            self._keep()
        else:
            asm.comment("only reads were asked for; the value was taken for the next one's sake")
        asm.place(self.out)
        asm.mov(R0, 0)
        asm.exit()
        if spec.guarded or (keeps and spec.limited and spec.atomics):
            asm.place(self.stop_event)
            asm.mov(R0, 1)
            asm.exit()
        return asm.finish("ksym_hit")

    def _keep(self) -> None:
        """Count the hit, judge it, and hand it on."""
        asm, spec = self.asm, self.spec
        _count(asm, Cell.SEEN)
        if spec.condition is not None:
            self._condition(spec.condition)
        if spec.limited and spec.atomics:
            self._limit()
        if spec.stop:
            asm.comment("stop the task before it returns to user space")
            asm.mov(R1, signal.SIGSTOP)
            asm.call(Helper.SEND_SIGNAL)
        if spec.sink is Sink.RECORD:
            self._record()
        elif spec.sink is Sink.COUNT:
            self._table()

    def _find_cell(self) -> None:
        """r7 = this CPU's cell of the watch; r9 = this CPU."""
        asm, shape = self.asm, self.shape
        asm.call(Helper.GET_SMP_PROCESSOR_ID)
        asm.jump(self.out, R0, ">=", shape.cpus)
        asm.mov(R9, R0)
        asm.alu(R0, "*", shape.cpu_bytes)
        asm.map_value(R7, "cells", shape.cell(self.spec.watch))
        asm.add(R7, R0)

    def _twin(self) -> None:
        """A write fires both registers in one exception, W first: it tells of the write, and RW passes that over."""
        asm, spec = self.asm, self.spec
        mark = self.shape.mark(spec.watch, spec.piece) - self.shape.cell(spec.watch)
        asm.load(R8, R6, IP_AT)
        asm.call(Helper.GET_CURRENT_PID_TGID)
        if spec.role is Role.WRITES:
            fresh = asm.new_label("fresh")
            asm.load(R1, R7, mark)
            asm.jump(fresh, R1, "==", 0)
            _count(asm, Cell.MISORDERED)
            asm.place(fresh)
            asm.comment("leave a mark for the RW register")
            asm.store(R7, mark, R8)
            asm.store(R7, mark + 8, R0)
            return
        read = asm.new_label("is_read")
        asm.comment("has the W register told of it?")
        asm.load(R1, R7, mark)
        asm.jump(read, R1, "==", 0)
        asm.store(R7, mark, 0)
        asm.load(R2, R7, mark + 8)
        asm.jump(read, R1, "!=", R8)
        asm.jump(self.out, R2, "==", R0)
        asm.place(read)

    def _guard(self) -> None:
        """More hits of this CPU in a window than are allowed disarm the watch, on all CPUs."""
        asm, shape = self.asm, self.shape
        window = -shape.cell(self.spec.watch)
        tripped = shape.slot(self.spec.watch)
        armed, same, fine = asm.new_label("armed"), asm.new_label("same_window"), asm.new_label("fine")
        asm.comment("the guard")
        asm.map_value(R8, "state", tripped)
        asm.load(R1, R8, Slot.TRIPPED)
        asm.jump(armed, R1, "==", 0)
        _count(asm, Cell.DISARMED)
        asm.jump(self.stop_event)
        asm.place(armed)
        asm.call(Helper.KTIME_GET_NS)
        asm.mov(R2, R0)
        asm.load(R1, R7, window + Window.START)
        asm.alu(R2, "-", R1)
        asm.load(R3, R7, window + Window.HITS)
        asm.jump(same, R2, "<=", WINDOW_NS)
        asm.store(R7, window + Window.START, R0)
        asm.mov(R2, 0)
        asm.mov(R3, 0)
        asm.place(same)
        asm.add(R3, 1)
        asm.store(R7, window + Window.HITS, R3)
        asm.map_value(R4, "state", Control.WINDOW_HITS)
        asm.load(R4, R4, 0)
        asm.jump(fine, R4, "==", 0)
        asm.jump(fine, R3, "<=", R4)
        asm.store(R8, Slot.TRIPPED_NS, R2)
        asm.store(R8, Slot.TRIPPED_CPU, R9)
        asm.store(R8, Slot.TRIPPED, R3)
        asm.comment("the other watches start anew")
        asm.store(R7, window + Window.HITS, 0)
        _count(asm, Cell.DISARMED)
        asm.jump(self.stop_event)
        asm.place(fine)

    def _flags(self) -> None:
        """r8 = the slot; r9 = what is known of the access."""
        asm, spec = self.asm, self.spec
        if spec.frame.padded:
            self._find_slot()
        flags = spec.piece << PIECE_SHIFT
        if spec.sees.writes_only or spec.role is Role.WRITES:
            flags |= Hit.WROTE
        elif spec.role is Role.READS:
            flags |= Hit.READ
        asm.mov(R9, flags)

    def _find_slot(self) -> None:
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
        asm.load(R1, R8, Slot.KNOWN)
        asm.jump(ours, R1, "==", R0)
        key, blank = self.scratch - 8, self.scratch - 8 - Slot.SIZE
        asm.store(R10, key, spec.watch, U32)
        asm.store(R10, key + 4, R0, U32)
        self._lookup("copies", key)
        asm.jump(found, R0, "!=", 0)
        for at in range(blank, key, 8):
            asm.store(R10, at, 0)
        self._update("copies", key, blank, _NOEXIST)
        self._lookup("copies", key)
        asm.jump(found, R0, "!=", 0)
        asm.comment("there is no room for it")
        _count(asm, Cell.DROPPED)
        asm.jump(self.out)
        asm.place(found)
        asm.mov(R8, R0)
        asm.place(ours)

    def _lookup(self, name: str, key: int) -> None:
        asm = self.asm
        asm.map_descriptor(R1, name)
        asm.mov(R2, R10)
        asm.add(R2, key)
        asm.call(Helper.MAP_LOOKUP_ELEM)

    def _update(self, name: str, key: int, value: int, flags: int) -> None:
        asm = self.asm
        asm.map_descriptor(R1, name)
        asm.mov(R2, R10)
        asm.add(R2, key)
        asm.mov(R3, R10)
        asm.add(R3, value)
        asm.mov(R4, flags)
        asm.call(Helper.MAP_UPDATE_ELEM)

    def _value(self) -> None:
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
            self._walk(spec.walk, unread)
        else:
            asm.load(R3, R6, ADDRESS_AT)
            if spec.offset:
                asm.add(R3, -spec.offset)
        asm.mov(R1, R10)
        asm.add(R1, frame.new)
        asm.mov(R2, spec.length)
        through_kernel = spec.walk is not None or not spec.user
        asm.call(Helper.PROBE_READ_KERNEL if through_kernel else Helper.PROBE_READ_USER)
        asm.jump(unread, R0, "!=", 0)
        asm.alu(R9, "|", Hit.NEW)
        asm.call(Helper.KTIME_GET_NS)
        asm.store(R10, frame.time, R0)
        words = range(0, frame.padded, 8)
        first = asm.new_label("first")
        asm.load(R1, R8, Slot.KNOWN)
        asm.jump(first, R1, "==", 0)
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
        asm.store(R8, Slot.KNOWN, 1)
        asm.jump(compared)
        asm.place(unread)
        asm.call(Helper.KTIME_GET_NS)
        asm.store(R10, frame.time, R0)
        for at in words:
            asm.store(R10, frame.old + at, 0)
            asm.store(R10, frame.new + at, 0)
        asm.place(compared)
        if locks:
            asm.load(R1, R10, self.owned)
            asm.jump(done, R1, "==", 0)
            asm.mov(R1, -1)
            asm.atomic_add(R8, Slot.LOCK, R1)
            asm.place(done)
        asm.store(R10, frame.flags, R9, U32)

    def _walk(self, layout: DirectMap, unread: Label) -> None:
        """r3 = where the kernel has the variable mapped."""
        asm, address = self.asm, self.spec.address
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
        _count(asm, Cell.UNORDERED)
        asm.place(locked)

    def _condition(self, emit: Condition) -> None:
        asm = self.asm
        keep, reject = asm.new_label("keep"), asm.new_label("reject")
        asm.comment("the condition")
        emit(asm, keep, reject, self.scratch)
        asm.place(reject)
        _count(asm, Cell.REJECTED)
        asm.jump(self.out)
        asm.place(keep)

    def _limit(self) -> None:
        asm = self.asm
        within = asm.new_label("within_limit")
        asm.comment("the limit")
        asm.map_value(R2, "state", 0)
        asm.mov(R1, 1)
        asm.atomic_add(R2, Control.TAKEN, R1, fetch=True)
        asm.load(R3, R2, Control.LIMIT)
        asm.jump(within, R1, "<", R3)
        _count(asm, Cell.LIMITED)
        asm.jump(self.stop_event)
        asm.place(within)

    def _record(self) -> None:
        asm, frame = self.asm, self.spec.frame
        asm.comment("the record")
        if not frame.padded:
            asm.call(Helper.KTIME_GET_NS)
            asm.store(R10, frame.time, R0)
        asm.call(Helper.GET_CURRENT_UID_GID)
        asm.store(R10, frame.user, R0)
        asm.mov(R1, R6)
        asm.map_descriptor(R2, f"output{self.spec.watch}")
        asm.mov(R3, _CURRENT_CPU)
        asm.mov(R4, R10)
        asm.add(R4, frame.flags)
        asm.mov(R5, frame.size)
        asm.call(Helper.PERF_EVENT_OUTPUT)
        asm.jump(self.out, R0, "==", 0)
        _count(asm, Cell.DROPPED)

    def _table(self) -> None:
        """Count by watch, what is known of the access, ip, pid and tid; at a thread's first hit keep its name."""
        asm, frame = self.asm, self.spec.frame
        key = self.scratch - COUNT_KEY_BYTES
        value, comm, thread = key - 8, key - 8 - COMM_BYTES, key - 8 - COMM_BYTES - 8
        absent = asm.new_label("absent")
        asm.comment("count it")
        asm.store(R10, key, self.spec.watch, U32)
        asm.load(R1, R10, frame.flags, U32)
        asm.alu(R1, "&", Hit.READ | Hit.WROTE)
        asm.store(R10, key + 4, R1, U32)
        asm.load(R1, R6, IP_AT)
        asm.store(R10, key + 8, R1)
        asm.call(Helper.GET_CURRENT_PID_TGID)
        asm.store(R10, key + 20, R0, U32)
        asm.store(R10, thread, R0)
        asm.alu(R0, ">>", 32)
        asm.store(R10, key + 16, R0, U32)
        self._lookup("counts", key)
        asm.jump(absent, R0, "==", 0)
        asm.load(R1, R0, 0)
        asm.add(R1, 1)
        asm.store(R0, 0, R1)
        asm.jump(self.out)
        asm.place(absent)
        asm.mov(R1, R10)
        asm.add(R1, comm)
        asm.mov(R2, COMM_BYTES)
        asm.call(Helper.GET_CURRENT_COMM)
        self._update("comms", thread, comm, _NOEXIST)
        asm.store(R10, value, 1)
        # The idle tasks of two CPUs are one thread to this table; of an element that is there, this CPU's count is set.
        self._update("counts", key, value, _ANY)
        asm.jump(self.out, R0, "==", 0)
        _count(asm, Cell.DROPPED)
