# SPDX-License-Identifier: BSD-2-Clause
"""Code that finds the numbers of the current task, as ksym's own pid namespace gives them.

bpf_get_current_pid_tgid() tells those of the initial namespace, and bpf_get_ns_current_pid_tgid() (5.7) answers only
for tasks of exactly the namespace that it is asked for, not for those of namespaces inside it.
"""

from __future__ import annotations

from ksym.linux.bpf_asm import R0, R1, R2, R3, R10, U32, Assembler, Helper, Label
from ksym.program.spec import Spec
from ksym.program.walk import read_kernel, read_word
from ksym.symbols.task_layout import TaskLayout

_MOST_LEVELS = 32  # MAX_PID_NS_LEVEL, include/linux/pid_namespace.h
_WORDS = 4
NUMBERS_BYTES = 8 * (1 + _WORDS)
"""Bytes of the stack that the code takes below where it begins; the first word is the result."""


def current_numbers(asm: Assembler, spec: Spec, top: int) -> None:
    """r0 = the task's numbers in ksym's namespace, as bpf_get_current_pid_tgid() has them; r1 to r5 are lost."""
    if spec.own_namespace:
        assert spec.tasks is not None
        asm.load(R0, R10, task_numbers(asm, spec.tasks, spec.own_namespace, top))
    else:
        asm.call(Helper.GET_CURRENT_PID_TGID)


def task_numbers(asm: Assembler, tasks: TaskLayout, namespace: int, top: int) -> int:
    """Put the task's numbers on the stack, as bpf_get_current_pid_tgid() returns them; 0 for a task outside.

    r0 to r5 are lost.

    Args:
        asm: Takes the code.
        tasks: How tasks are laid out.
        namespace: Inode number of ksym's pid namespace.
        top: The stack below is free; a multiple of 8.

    Returns:
        Where on the stack the result is.
    """
    result = top - 8
    for leader in (True, False):
        _one(asm, tasks, namespace, result, leader=leader)
    return result


def _one(asm: Assembler, tasks: TaskLayout, namespace: int, result: int, *, leader: bool) -> None:
    pid, level, index, word = (result - 8 * (1 + number) for number in range(_WORDS))
    to = result + 4 if leader else result
    again, found, absent, done = map(asm.new_label, ("next_level", "in_namespace", "outside", "numbered"))
    asm.comment("the process's number in ksym's namespace" if leader else "the thread's")
    asm.call(Helper.GET_CURRENT_TASK)
    asm.mov(R3, R0)
    if leader:
        asm.add(R3, tasks.group_leader)
        read_word(asm, word, absent)
    asm.add(R3, tasks.thread_pid)
    read_word(asm, pid, absent)
    asm.jump(absent, R3, "==", 0)
    asm.add(R3, tasks.level)
    _read_u32(asm, level, absent)
    # Level 0 is the initial namespace, which ksym's is not.
    asm.store(R10, index, 1)
    asm.place(again)
    asm.load(R1, R10, index)
    asm.load(R2, R10, level)
    asm.jump(absent, R1, ">", R2)
    asm.jump(absent, R1, ">", _MOST_LEVELS)
    _entry(asm, tasks, pid, index)
    asm.add(R3, tasks.namespace)
    read_word(asm, word, absent)
    asm.add(R3, tasks.inode)
    _read_u32(asm, word, absent)
    asm.load(R1, R10, word)
    asm.mov(R2, namespace)
    asm.jump(found, R1, "==", R2)
    asm.load(R1, R10, index)
    asm.add(R1, 1)
    asm.store(R10, index, R1)
    asm.jump(again)
    asm.place(found)
    _entry(asm, tasks, pid, index)
    asm.add(R3, tasks.number)
    _read_u32(asm, word, absent)
    asm.load(R1, R10, word)
    asm.store(R10, to, R1, U32)
    asm.jump(done)
    asm.place(absent)
    asm.store(R10, to, 0, U32)
    asm.place(done)


def _entry(asm: Assembler, tasks: TaskLayout, pid: int, index: int) -> None:
    """r3 = address of the task's number at a level."""
    asm.load(R3, R10, pid)
    asm.load(R1, R10, index)
    asm.alu(R1, "*", tasks.number_bytes)
    asm.add(R3, R1)
    asm.add(R3, tasks.numbers)


def _read_u32(asm: Assembler, to: int, failed: Label) -> None:
    asm.store(R10, to, 0)
    read_kernel(asm, to, 4, failed)
