# SPDX-License-Identifier: BSD-2-Clause
"""The BPF programs that hold a process: at the end of an exec, at the end of mmap(2), at a file's first instruction.

All share three maps. ``members`` has the processes that are watched for; a fork of one is one. ``waiting`` has,
by thread, what ksym has answered. ``events`` is the ring that wakes ksym. A program that holds publishes the thread
and spins until the answer is there, for a bounded time: a dead ksym holds nobody.

The tracepoints' programs run with preemption disabled, so their bound is short: it is the time that it takes to
answer "not this one", or to make the process stop by itself (ptrace) before it returns to user mode. Where the bound is
reached, or another process is held just then, the program sends SIGSTOP. The program at a file's first instruction
may stay for seconds, and no tracer notices it: it holds the processes that somebody else traces already.
"""

from __future__ import annotations

from ksym.linux.bpf_asm import R0, R1, R2, R3, R6, R7, R8, R9, R10, U32, Assembler, Helper, Label, Program
from ksym.linux.libc import MACHINE
from ksym.watch.hold_code import (
    EVENT_AT,
    KEY_AT,
    LONG_COPIES,
    LONG_NS,
    LONG_TURNS,
    VALUE_AT,
    be_the_only_one,
    count_down,
    delete,
    find_member,
    follow,
    hold_shortly,
    leave,
    look_for_answer,
    look_up,
    only_wanted,
    publish,
    read,
    spend_time,
    tail_call,
    update,
)
from ksym.watch.hold_layout import PROGRAM, Answer, Control, Files, Moment, Offsets

# struct pt_regs: arch/x86/include/asm/ptrace.h; arch/arm64/include/asm/ptrace.h (regs[], orig_x0, syscallno).
if MACHINE == "aarch64":
    _PROTECTION, _NUMBER, _MMAPS = 2 * 8, 280, {222: (3 * 8, 4 * 8)}
    _MUNMAPS = {215: (272, 1 * 8)}
else:
    # By number of mmap, where its flags and its descriptor are: r10 and r8 in 64-bit code, esi and edi in 32-bit
    # code (mmap2). ``link`` of 32-bit code and ``lgetxattr`` of 64-bit code have the other's number; what they
    # return is not an address.
    _PROTECTION, _NUMBER, _MMAPS = 96, 120, {9: (56, 72), 192: (104, 112)}
    # By number of munmap, its address and length. ``lchown`` of 64-bit code has the other's: then nothing has changed.
    _MUNMAPS = {11: (112, 104), 91: (40, 88)}
_WRITE_OR_EXECUTE, _ANONYMOUS = 2 | 4, 0x20
_LAST_ERROR = -4095


def at_fork(offsets: Offsets) -> Program:
    """sched_process_fork(parent, child): the child of a member is one, and has the wanted files where that has.

    A thread is a part of a member already.
    """
    asm = Assembler()
    out = asm.new_label("out")
    asm.mov(R6, R1)
    asm.call(Helper.GET_CURRENT_PID_TGID)
    find_member(asm, out)
    asm.load(R3, R6, 8)
    read(asm, offsets.tgid, 4)
    asm.comment("the process itself, for a thread: it runs the same program as before")
    asm.load(R7, R10, KEY_AT, U32)
    asm.alu(R8, ">>", 32)
    asm.jump(out, R7, "==", R8)
    asm.call(Helper.KTIME_GET_NS)
    asm.store(R10, VALUE_AT, R0)
    update(asm, "members")
    asm.store(R10, KEY_AT, 0)
    asm.store(R10, KEY_AT, R8, U32)
    look_up(asm, "ranges")
    asm.jump(out, R0, "==", 0)
    asm.load(R1, R0, 0)
    asm.store(R10, VALUE_AT, R1)
    asm.load(R1, R0, 8)
    asm.store(R10, VALUE_AT + 8, R1)
    asm.store(R10, KEY_AT, R7, U32)
    update(asm, "ranges")
    leave(asm, out)
    return asm.finish("ksym_fork")


def at_exit(offsets: Offsets) -> Program:
    """sched_process_exit(task): forget the thread, and the process with its last thread."""
    asm = Assembler()
    out = asm.new_label("out")
    asm.mov(R6, R1)
    asm.call(Helper.GET_CURRENT_PID_TGID)
    find_member(asm, out)
    asm.store(R10, KEY_AT, R8, U32)
    delete(asm, "waiting")
    asm.load(R3, R6, 0)
    read(asm, offsets.signal, 8)
    asm.load(R3, R10, KEY_AT)
    read(asm, offsets.live, 4)
    asm.load(R1, R10, KEY_AT, U32)
    asm.jump(out, R1, "!=", 0)
    asm.alu(R8, ">>", 32)
    asm.store(R10, KEY_AT, R8, U32)
    delete(asm, "members")
    delete(asm, "ranges")
    leave(asm, out)
    return asm.finish("ksym_exit")


def at_exec(offsets: Offsets, wanted: Files) -> Program:
    """sched_process_exec(task, pid, bprm): the new program is in memory, and none of its instructions has run."""
    asm = Assembler()
    out = asm.new_label("out")
    asm.mov(R6, R1)
    asm.call(Helper.GET_CURRENT_PID_TGID)
    find_member(asm, out)
    asm.comment("it is another program now")
    asm.mov(R7, R0)
    asm.call(Helper.KTIME_GET_NS)
    asm.store(R7, 0, R0)
    asm.store(R10, EVENT_AT + PROGRAM, R0)
    asm.load(R3, R6, 16)
    follow(asm, offsets.bprm_file)
    only_wanted(asm, offsets, wanted, Control.ALL_EXECS, out)
    hold_shortly(asm, offsets, Moment.EXEC)
    leave(asm, out)
    return asm.finish("ksym_exec")


def at_system_call(offsets: Offsets, wanted: Files) -> Program:
    """sys_exit(regs, result): mmap(2) has put a segment of a file into memory that is written or executed.

    Or munmap(2) has taken away what was wanted.
    """
    asm = Assembler()
    out, is_mmap = asm.new_label("out"), asm.new_label("is_mmap")
    asm.load(R9, R1, 8)
    asm.load(R6, R1, 0)
    asm.call(Helper.GET_CURRENT_PID_TGID)
    find_member(asm, out)
    asm.comment("an error?")
    asm.mov(R1, _LAST_ERROR)
    asm.jump(out, R9, ">=", R1)
    asm.mov(R3, R6)
    read(asm, _NUMBER, 4)
    asm.load(R7, R10, KEY_AT, U32)
    for number, (flags, descriptor) in _MMAPS.items():
        following = asm.new_label("not_this")
        asm.jump(following, R7, "!=", number)
        asm.mov(R3, R6)
        read(asm, flags, 4)
        asm.load(R1, R10, KEY_AT, U32)
        asm.alu(R1, "&", _ANONYMOUS)
        asm.jump(out, R1, "!=", 0)
        asm.mov(R3, R6)
        read(asm, descriptor, 4)
        asm.load(R9, R10, KEY_AT, U32)
        asm.jump(is_mmap)
        asm.place(following)
    _unmapped(asm, offsets, out)
    asm.place(is_mmap)
    asm.mov(R3, R6)
    read(asm, _PROTECTION, 4)
    asm.load(R1, R10, KEY_AT, U32)
    asm.alu(R1, "&", _WRITE_OR_EXECUTE)
    asm.jump(out, R1, "==", 0)
    asm.comment("the file of descriptor r9")
    asm.call(Helper.GET_CURRENT_TASK)
    asm.mov(R3, R0)
    for offset in (offsets.files, offsets.fdt, offsets.fd):
        follow(asm, offset)
    asm.alu(R9, "<<", 3)
    asm.add(R3, R9)
    follow(asm, 0)
    only_wanted(asm, offsets, wanted, Control.ALL_MMAPS, out)
    hold_shortly(asm, offsets, Moment.MAPPED)
    leave(asm, out)
    return asm.finish("ksym_mmap")


def _unmapped(asm: Assembler, offsets: Offsets, out: Label) -> None:
    """Hold the process if the system call r7, of registers r6, was a munmap(2) of the wanted files."""
    is_munmap = asm.new_label("is_munmap")
    asm.alu(R8, ">>", 32)
    asm.store(R10, KEY_AT, 0)
    asm.store(R10, KEY_AT, R8, U32)
    look_up(asm, "ranges")
    asm.jump(out, R0, "==", 0)
    asm.mov(R9, R0)
    for number, (address, length) in _MUNMAPS.items():
        following = asm.new_label("not_that")
        asm.jump(following, R7, "!=", number)
        asm.mov(R3, R6)
        read(asm, address, 8)
        asm.load(R1, R10, KEY_AT)
        asm.store(R10, VALUE_AT, R1)
        asm.mov(R3, R6)
        read(asm, length, 8)
        asm.load(R2, R10, KEY_AT)
        asm.jump(is_munmap)
        asm.place(following)
    asm.jump(out)
    asm.place(is_munmap)
    asm.load(R1, R10, VALUE_AT)
    asm.add(R2, R1)
    asm.load(R3, R9, 8)
    asm.jump(out, R1, ">=", R3)
    asm.load(R3, R9, 0)
    asm.jump(out, R2, "<=", R3)
    asm.call(Helper.GET_CURRENT_PID_TGID)
    asm.mov(R8, R0)
    hold_shortly(asm, offsets, Moment.UNMAPPED)
    asm.jump(out)


def at_entry(offsets: Offsets) -> Program:
    """A wanted file's first instruction: publish the thread if it is not watched yet, and go over to `stay`."""
    asm = Assembler()
    out, hold = asm.new_label("out"), asm.new_label("hold")
    asm.mov(R6, R1)
    asm.call(Helper.GET_CURRENT_PID_TGID)
    find_member(asm, out)
    asm.store(R10, KEY_AT, R8, U32)
    look_up(asm, "waiting")
    asm.jump(hold, R0, "==", 0)
    asm.load(R1, R0, 0)
    asm.jump(out, R1, "==", Answer.GO)
    asm.place(hold)
    one_less = asm.new_label("one_less")
    be_the_only_one(asm, offsets, Moment.ENTRY, one_less)
    publish(asm, Moment.ENTRY, one_less)
    asm.map_value(R1, "control", Control.SINCE)
    asm.store(R1, 0, R9)
    asm.mov(R1, R6)
    tail_call(asm)
    asm.place(one_less)
    count_down(asm)
    leave(asm, out)
    return asm.finish("ksym_entry")


def stay() -> Program:
    """Spin for a part of the long hold, then start anew: a tail call has a budget of its own (32 of them follow)."""
    asm = Assembler()
    out, again, late = asm.new_label("out"), asm.new_label("again"), asm.new_label("late")
    asm.mov(R6, R1)
    asm.call(Helper.GET_CURRENT_PID_TGID)
    asm.store(R10, KEY_AT, R0, U32)
    asm.map_value(R1, "control", Control.SINCE)
    asm.load(R8, R1, 0)
    asm.mov(R9, 0)
    asm.place(again)
    look_for_answer(asm, out)
    spend_time(asm, LONG_COPIES)
    asm.add(R9, 1)
    asm.jump(again, R9, "<", LONG_TURNS)
    asm.call(Helper.KTIME_GET_NS)
    asm.alu(R0, "-", R8)
    asm.mov(R1, LONG_NS)
    asm.jump(late, R0, ">", R1)
    asm.mov(R1, R6)
    tail_call(asm)
    asm.place(late)
    asm.store(R10, VALUE_AT, Answer.EXPIRED)
    asm.store(R10, VALUE_AT + 8, R8)
    update(asm, "waiting")
    asm.place(out)
    count_down(asm)
    asm.mov(R0, 0)
    asm.exit()
    return asm.finish("ksym_stay")
