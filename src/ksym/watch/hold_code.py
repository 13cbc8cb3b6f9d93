# SPDX-License-Identifier: BSD-2-Clause
"""Pieces of the programs that hold processes; see hold_program."""

from __future__ import annotations

import signal

from ksym.linux.bpf_asm import R0, R1, R2, R3, R4, R7, R8, R9, R10, U32, Assembler, Helper, Label
from ksym.watch.hold_layout import (
    COPY_BYTES,
    CPU,
    EVENT,
    KEPT,
    MOMENT,
    NAME_BYTES,
    PROGRAM,
    SINCE,
    TID_PID,
    Answer,
    Control,
    Files,
    Moment,
    Offsets,
)

_SHORT_NS = 100_000_000
"""Bound of a hold with preemption disabled; so long the CPU does nothing else."""
LONG_NS = 8_000_000_000
"""Bound of a hold at a file's first instruction: resolving names in large files takes seconds. The kernel complains of
a CPU that does nothing else for 20 s (kernel.watchdog_thresh)."""
_SHORT_HOLD = ((12, 1, COPY_BYTES // 4), (12, 1, COPY_BYTES), (12, 3, COPY_BYTES), (30, 16, COPY_BYTES))
LONG_TURNS, LONG_COPIES = 400, 6
"""Turns of the loops, and copies in each. A turn is as long as an answer may have to wait; most come in the first few.
All turns together bound the hold, where the clock does not. The verifier goes through every turn, and ksym waits for
it: so there are few, and they get longer. It follows no more than 8,192 branches (BPF_COMPLEXITY_LIMIT_JMP_SEQ)."""

KEY_AT, VALUE_AT, EVENT_AT, _NAME_AT = -8, -24, -64, -80  # places on the stack
_FORCE_WAKEUP = 2  # BPF_RB_FORCE_WAKEUP


def find_member(asm: Assembler, out: Label) -> None:
    """r8 = pid_tgid from r0, r0 = the process's element of ``members``; to ``out`` unless it has one."""
    asm.mov(R8, R0)
    asm.alu(R0, ">>", 32)
    asm.store(R10, KEY_AT, 0)
    asm.store(R10, KEY_AT, R0, U32)
    look_up(asm, "members")
    asm.jump(out, R0, "==", 0)
    asm.load(R1, R0, 0)
    asm.store(R10, EVENT_AT + PROGRAM, R1)


def only_wanted(asm: Assembler, offsets: Offsets, wanted: Files, every: Control, out: Label) -> None:
    """To ``out`` unless the struct file at r3 has a wanted number or name, or ``every`` one is; r7 and r9 are lost."""
    hold = asm.new_label("wanted")
    asm.map_value(R1, "control", every)
    asm.load(R1, R1, 0)
    asm.jump(hold, R1, "!=", 0)
    asm.mov(R7, R3)
    follow(asm, offsets.f_inode)
    follow(asm, offsets.i_ino)
    for number in wanted.numbers:
        asm.mov(R1, number)
        asm.jump(hold, R3, "==", R1)
    asm.mov(R3, R7)
    follow(asm, offsets.f_dentry)
    follow(asm, offsets.d_name)
    asm.store(R10, _NAME_AT, 0)
    asm.store(R10, _NAME_AT + 8, 0)
    asm.mov(R1, R10)
    asm.add(R1, _NAME_AT)
    asm.mov(R2, NAME_BYTES)
    asm.call(Helper.PROBE_READ_KERNEL_STR)
    for name in wanted.names:
        following = asm.new_label("not_this")
        for at in range(0, len(name), 8):
            part = name[at : at + 8]
            asm.load(R1, R10, _NAME_AT + at)
            if len(part) < 8:
                asm.mov(R2, (1 << 8 * len(part)) - 1)
                asm.alu(R1, "&", R2)
            asm.mov(R2, int.from_bytes(part, "little"))
            asm.jump(following, R1, "!=", R2)
        asm.jump(hold)
        asm.place(following)
    asm.jump(out)
    asm.place(hold)


def follow(asm: Assembler, offset: int) -> None:
    """r3 = the 64 bits at ``r3 + offset`` in the kernel; 0 if they cannot be read."""
    read(asm, offset, 8)
    asm.load(R3, R10, KEY_AT)


def publish(asm: Assembler, moment: Moment, out: Label) -> None:
    """r7 = the thread's element of ``waiting``, r9 = the time; ksym is woken."""
    asm.store(R10, KEY_AT, R8, U32)
    asm.store(R10, VALUE_AT, Answer.WAITS)
    take_time(asm)
    update(asm, "waiting")
    look_up(asm, "waiting")
    asm.jump(out, R0, "==", 0)
    asm.mov(R7, R0)
    asm.store(R10, EVENT_AT + TID_PID, R8)
    asm.store(R10, EVENT_AT + MOMENT, moment, U32)
    asm.store(R10, EVENT_AT + KEPT, Answer.WAITS, U32)
    send(asm, "events")
    asm.jump(out, R0, "!=", 0)
    elsewhere = asm.new_label("elsewhere")
    asm.load(R0, R10, EVENT_AT + CPU, U32)
    asm.map_value(R1, "control", Control.KEEPER_CPU)
    asm.load(R1, R1, 0)
    asm.jump(elsewhere, R0, "!=", R1)
    send(asm, "bell")
    asm.place(elsewhere)


def hold_shortly(asm: Assembler, offsets: Offsets, moment: Moment) -> None:
    """Spin with preemption disabled."""
    one_less, late = asm.new_label("one_less"), asm.new_label("late")
    be_the_only_one(asm, offsets, moment, one_less)
    publish(asm, moment, one_less)
    asm.mov(R8, R9)
    for turns, copies, size in _SHORT_HOLD:
        again = asm.new_label("again")
        asm.mov(R9, 0)
        asm.place(again)
        look_for_answer(asm, one_less)
        spend_time(asm, copies, size)
        asm.call(Helper.KTIME_GET_NS)
        asm.alu(R0, "-", R8)
        asm.jump(late, R0, ">", _SHORT_NS)
        asm.add(R9, 1)
        asm.jump(again, R9, "<", turns)
    asm.place(late)
    look_for_answer(asm, one_less)
    stop(asm, offsets, one_less)
    asm.comment("an answer may have come meanwhile: ksym is told in any case, and sends SIGCONT")
    asm.load(R1, R10, EVENT_AT + TID_PID, U32)
    asm.store(R10, KEY_AT, R1, U32)
    asm.store(R10, VALUE_AT, Answer.STOPPED)
    asm.store(R10, VALUE_AT + 8, R8)
    update(asm, "waiting")
    asm.store(R10, EVENT_AT + KEPT, Answer.STOPPED, U32)
    send(asm, "events")
    asm.place(one_less)
    count_down(asm)


def stop(asm: Assembler, offsets: Offsets, traced: Label) -> None:
    """Stop the thread's process before it returns to user mode; to ``traced`` if a tracer would notice that."""
    asm.call(Helper.GET_CURRENT_TASK)
    asm.mov(R3, R0)
    read(asm, offsets.ptrace, 4)
    asm.load(R1, R10, KEY_AT, U32)
    asm.jump(traced, R1, "!=", 0)
    asm.mov(R1, signal.SIGSTOP)
    asm.call(Helper.SEND_SIGNAL)
    asm.jump(traced, R0, "!=", 0)


def be_the_only_one(asm: Assembler, offsets: Offsets, moment: Moment, one_less: Label) -> None:
    """Count the hold; if there is one already, stop the process instead, tell ksym and go to ``one_less``."""
    alone = asm.new_label("alone")
    asm.map_value(R7, "control", Control.SPINNING)
    asm.mov(R1, 1)
    asm.atomic_add(R7, 0, R1)
    asm.load(R1, R7, 0)
    asm.jump(alone, R1, "==", 1)
    traced = asm.new_label("traced")
    asm.store(R10, EVENT_AT + TID_PID, R8)
    asm.store(R10, EVENT_AT + MOMENT, moment, U32)
    asm.store(R10, EVENT_AT + KEPT, Answer.RUNS, U32)
    asm.store(R10, VALUE_AT, Answer.RUNS)
    take_time(asm)
    stop(asm, offsets, traced)
    asm.store(R10, EVENT_AT + KEPT, Answer.STOPPED, U32)
    asm.store(R10, VALUE_AT, Answer.STOPPED)
    asm.place(traced)
    asm.store(R10, KEY_AT, R8, U32)
    update(asm, "waiting")
    send(asm, "events")
    asm.jump(one_less)
    asm.place(alone)


def count_down(asm: Assembler) -> None:
    """Count the end of a hold; r1 and r2 are lost."""
    asm.map_value(R1, "control", Control.SPINNING)
    asm.mov(R2, -1)
    asm.atomic_add(R1, 0, R2)


def take_time(asm: Assembler) -> None:
    """r9 = the time: it tells ksym's answer to this event from one that came too late for the event before."""
    asm.call(Helper.KTIME_GET_NS)
    asm.mov(R9, R0)
    asm.store(R10, VALUE_AT + 8, R9)
    asm.store(R10, EVENT_AT + SINCE, R9)


def send(asm: Assembler, ring: str) -> None:
    """Send the event into a ring, and wake its reader; r0 is 0 if there was room."""
    asm.call(Helper.GET_SMP_PROCESSOR_ID)
    asm.store(R10, EVENT_AT + CPU, R0)
    asm.map_descriptor(R1, ring)
    asm.mov(R2, R10)
    asm.add(R2, EVENT_AT)
    asm.mov(R3, EVENT.size)
    asm.mov(R4, _FORCE_WAKEUP)
    asm.call(Helper.RINGBUF_OUTPUT)


def spend_time(asm: Assembler, copies: int, size: int = COPY_BYTES) -> None:
    """Copy memory to itself: without a branch, which the verifier would have to follow, and without a lock."""
    for _ in range(copies):
        asm.map_value(R1, "control", Control.COPIED)
        asm.mov(R2, size)
        asm.map_value(R3, "control", Control.COPIED)
        asm.call(Helper.PROBE_READ_KERNEL)


def look_for_answer(asm: Assembler, out: Label) -> None:
    """r7 = the thread's element; to ``out`` if that answers the event of time r8. An update by ksym replaces it."""
    wait = asm.new_label("wait")
    look_up(asm, "waiting")
    asm.jump(out, R0, "==", 0)
    asm.mov(R7, R0)
    asm.load(R1, R7, 8)
    asm.jump(wait, R1, "!=", R8)
    asm.load(R1, R7, 0)
    asm.jump(out, R1, "!=", Answer.WAITS)
    asm.place(wait)


def read(asm: Assembler, offset: int, size: int) -> None:
    """Copy kernel memory at ``r3 + offset`` to the place of the key; what is beyond ``size`` becomes 0."""
    asm.store(R10, KEY_AT, 0)
    asm.mov(R1, R10)
    asm.add(R1, KEY_AT)
    asm.mov(R2, size)
    asm.add(R3, offset)
    asm.call(Helper.PROBE_READ_KERNEL)


def _key(asm: Assembler, name: str) -> None:
    asm.map_descriptor(R1, name)
    asm.mov(R2, R10)
    asm.add(R2, KEY_AT)


def look_up(asm: Assembler, name: str) -> None:
    """r0 = the element of a map whose key is at its place on the stack, or 0."""
    _key(asm, name)
    asm.call(Helper.MAP_LOOKUP_ELEM)


def update(asm: Assembler, name: str) -> None:
    """Set that element from the value on the stack."""
    _key(asm, name)
    asm.mov(R3, R10)
    asm.add(R3, VALUE_AT)
    asm.mov(R4, 0)
    asm.call(Helper.MAP_UPDATE_ELEM)


def delete(asm: Assembler, name: str) -> None:
    """Drop that element."""
    _key(asm, name)
    asm.call(Helper.MAP_DELETE_ELEM)


def tail_call(asm: Assembler) -> None:
    """Go over to `stay` with the context in r1; falls through when the limit of tail calls is reached."""
    asm.map_descriptor(R2, "programs")
    asm.mov(R3, 0)
    asm.call(Helper.TAIL_CALL)


def leave(asm: Assembler, out: Label) -> None:
    """Place ``out`` and return 0."""
    asm.place(out)
    asm.mov(R0, 0)
    asm.exit()
