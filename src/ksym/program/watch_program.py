# SPDX-License-Identifier: BSD-2-Clause
"""The program that runs in the kernel at each hit of a watch, generated from the plan.

In its order: pass over what the other register of a twin has told, ask the guard, take the value, judge the
condition, hold the limit, stop the task if that was asked for, and hand the hit on: as a record into this CPU's
ring, or into a table of counts, or not at all. It returns 0, so that perf makes no sample of its own; 1 lets
the kernel stop the event.
"""

from __future__ import annotations

import signal

from ksym.linux.bpf_asm import R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10, U32, Assembler, Helper, Program
from ksym.program.execution_code import ExecutionCode, flag_bitness
from ksym.program.layout import PIECE_SHIFT, Hit, origin
from ksym.program.numbers import current_numbers, task_numbers
from ksym.program.shared import Cell, Control, Shape, Slot, Window
from ksym.program.snippets import IP_AT, NOEXIST, count, look_up, update
from ksym.program.spec import Condition, Spec, Ways
from ksym.program.value_code import ValueCode
from ksym.program.wants import Sink
from ksym.watch.plan import Role

_CURRENT_CPU = 0xFFFFFFFF  # BPF_F_CURRENT_CPU
WINDOW_NS = 1_000_000_000
"""What the guard looks at: hits of one CPU in a second."""

COUNT_KEY_BYTES = 24
"""Key of ``counts``: u32 watch, u32 flags, u64 ip, u32 pid, u32 tid."""
COMM_BYTES = 16


def watch_program(shape: Shape, spec: Spec) -> Program:
    """The program of a watch's own register."""
    return _Generator(shape, spec).program()


class _Generator:
    """r6 context, r7 this CPU's cell of the watch, r8 the value's chain, r9 this CPU, later the flags."""

    def __init__(self, shape: Shape, spec: Spec) -> None:
        self.shape, self.spec, self.asm = shape, spec, Assembler()
        self.out = self.asm.new_label("out")
        self.stop_event = self.asm.new_label("stop_event")
        self.value = ValueCode(self.asm, shape, spec)
        self.numbers = self.scratch = self.value.scratch
        """Where on the stack the task's numbers are, once they were asked for; what lies below is free."""
        self.execution = ExecutionCode(asm=self.asm, shape=shape, spec=spec, scratch=self.scratch)

    def program(self) -> Program:
        asm, spec = self.asm, self.spec
        asm.mov(R6, R1)
        self._find_cell()
        self._not_own()
        if spec.role is not Role.ONLY:
            self._twin()
        if spec.guarded:
            self._guard()
        self._flags()
        flag_bitness(asm)
        if spec.sink is Sink.RECORD:
            self.execution.flag()
        if spec.frame.padded:
            self.value.take()
            if spec.role is Role.READS:
                self._count_stale()
        else:
            asm.store(R10, spec.frame.flags, R9, U32)
        keeps = not (spec.reads_only and spec.role is Role.WRITES)
        if keeps:
            if spec.passes_kernel:
                self._pass_kernel()
            self._keep()
        else:
            asm.comment("only reads were asked for; the value was taken for the next one's sake")
        if spec.follows:
            self._pass_over(counted=keeps)
        asm.place(self.out)
        asm.mov(R0, 0)
        asm.exit()
        if spec.guarded or (keeps and spec.limited and spec.atomics):
            asm.place(self.stop_event)
            asm.mov(R0, 1)
            asm.exit()
        return asm.finish("ksym_hit")

    def _count_stale(self) -> None:
        """Of what is known to be a read: somebody has written unseen if it finds another value than was left."""
        asm, same = self.asm, self.asm.new_label("as_it_was_left")
        asm.load(R1, R10, self.spec.frame.flags, U32)
        asm.alu(R1, "&", int(Hit.CHANGED))
        asm.jump(same, R1, "==", 0)
        count(asm, Cell.STALE)
        asm.place(same)

    def _pass_kernel(self) -> None:
        """Pass over what the kernel did, by read(2) or the like, once the value that it left is in the chain."""
        asm, ours = self.asm, self.asm.new_label("of_the_program")
        asm.comment("in the kernel's half of the addresses")
        asm.load(R1, R6, IP_AT)
        asm.jump(ours, R1, "s>=", 0)
        count(asm, Cell.KERNEL)
        asm.jump(self.out)
        asm.place(ours)

    def _pass_over(self, *, counted: bool) -> None:
        """Pass over a hit of a memory that has unloaded the variable."""
        asm = self.asm
        asm.jump(self.out)
        asm.place(self.value.over)
        if counted:
            count(asm, Cell.FOREIGN)

    def _keep(self) -> None:
        """Count the hit, judge it, and hand it on."""
        asm, spec = self.asm, self.spec
        count(asm, Cell.SEEN)
        if spec.own_namespace and (spec.asks_numbers or spec.sink is Sink.COUNT):
            assert spec.tasks is not None
            self.numbers = task_numbers(asm, spec.tasks, spec.own_namespace, self.scratch)
            self.scratch = self.numbers
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

    def _not_own(self) -> None:
        """Pass over what ksym reads by the watched address itself, once, when it is watched already."""
        asm = self.asm
        other = asm.new_label("other")
        asm.map_value(R1, "state", Control.READER)
        asm.load(R8, R1, 0)
        asm.jump(other, R8, "==", 0)
        current_numbers(asm, self.spec, self.scratch)
        asm.jump(other, R0, "!=", R8)
        count(asm, Cell.OWN)
        asm.jump(self.out)
        asm.place(other)

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
            count(asm, Cell.MISORDERED)
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
        count(asm, Cell.DISARMED)
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
        count(asm, Cell.DISARMED)
        asm.jump(self.stop_event)
        asm.place(fine)

    def _flags(self) -> None:
        """r8 = the chain; r9 = what is known of the access."""
        asm, spec = self.asm, self.spec
        if spec.frame.padded or spec.follows:
            self.value.find_chain()
        flags = origin(spec.piece, spec.place) << PIECE_SHIFT
        if spec.sees.writes_only or spec.role is Role.WRITES:
            flags |= Hit.WROTE
        elif spec.role is Role.READS:
            flags |= Hit.READ
        asm.mov(R9, flags)

    def _condition(self, emit: Condition) -> None:
        asm, spec = self.asm, self.spec
        keep, reject, unknown = asm.new_label("keep"), asm.new_label("reject"), asm.new_label("unknown")
        asm.comment("the condition")
        numbers = self.numbers if spec.own_namespace and spec.asks_numbers else 0
        emit(asm, Ways(keep, reject, unknown), self.scratch, numbers)
        asm.place(reject)
        count(asm, Cell.REJECTED)
        asm.jump(self.out)
        if spec.frame.padded and spec.asks_values:
            asm.place(unknown)
            count(asm, Cell.UNJUDGED)
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
        count(asm, Cell.LIMITED)
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
        dropped = asm.new_label("dropped")
        asm.jump(dropped, R0, "!=", 0)
        self.execution.recorded()
        asm.jump(self.out)
        asm.place(dropped)
        count(asm, Cell.DROPPED)

    def _table(self) -> None:
        """Count by watch, what is known of the access, ip, pid and tid; at a thread's first hit keep its name."""
        asm, frame = self.asm, self.spec.frame
        key = self.scratch - COUNT_KEY_BYTES
        value, comm, thread = key - 8, key - 8 - COMM_BYTES, key - 8 - COMM_BYTES - 8
        absent = asm.new_label("absent")
        asm.comment("count it")
        asm.store(R10, key, self.spec.watch, U32)
        asm.load(R1, R10, frame.flags, U32)
        asm.alu(R1, "&", Hit.READ | Hit.WROTE | Hit.CODE32)
        asm.store(R10, key + 4, R1, U32)
        asm.load(R1, R6, IP_AT)
        asm.store(R10, key + 8, R1)
        if self.spec.own_namespace:
            asm.load(R0, R10, self.numbers)
        else:
            asm.call(Helper.GET_CURRENT_PID_TGID)
        asm.store(R10, key + 20, R0, U32)
        asm.store(R10, thread, R0)
        asm.alu(R0, ">>", 32)
        asm.store(R10, key + 16, R0, U32)
        look_up(asm, "counts", key)
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
        if self.spec.own_namespace:
            named = asm.new_label("named")
            asm.load(R1, R10, thread)
            asm.jump(named, R1, "!=", 0)
            asm.comment("0 is every task outside of the namespace")
            asm.store(R10, comm, ord("?"))
            asm.place(named)
        update(asm, "comms", thread, comm, NOEXIST)
        asm.store(R10, value, 1)
        # The idle tasks of two CPUs are one thread to this table; of an element that is there, this CPU's count is set.
        update(asm, "counts", key, value)
        asm.jump(self.out, R0, "==", 0)
        count(asm, Cell.DROPPED)
