# SPDX-License-Identifier: BSD-2-Clause
"""Programs that follow what becomes of the memory in which watched variables lie: at a fork, an exec, an exit.

They run at the kernel's tracepoints, for every task of the machine, and end at once for those whose memory holds
nothing that is watched. At a fork the child's chains begin with what its copy of the variable holds. The kernel uses
an ``mm_struct`` again after its end, so what is known of one is forgotten when another begins at the same address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ksym.linux.bpf_asm import R0, R1, R2, R3, R4, R6, R7, R8, R9, R10, Assembler, Helper, Label, Program
from ksym.linux.direct_map import DirectMap
from ksym.program.layout import MOST_BYTES, padded
from ksym.program.shared import KEY_SHIFT, PLACES, Chain, Seed, Shape, Slot
from ksym.program.snippets import look_up
from ksym.program.walk import read_kernel, read_value, read_word
from ksym.symbols.task_layout import TaskLayout


class Followed(NamedTuple):
    """A user variable whose values are taken.

    Args:
        watch: Its number.
        address: Of the variable in one of its places.
        length: Its bytes.
        trips: A read of it by its own address makes its register fire.
    """

    watch: int
    address: int
    length: int
    trips: bool


_CHILD, _MEMORY, _COUNT, _ADDRESS, _TABLE = (-8 * number for number in range(1, 6))
_KEY = _TABLE - 16
_VALUE = _KEY - MOST_BYTES
"""Places on the stack, as offsets from r10."""


def lifecycle_programs(
    shape: Shape, tasks: TaskLayout, walk: DirectMap | None, followed: Iterable[Followed]
) -> Iterator[tuple[str, Program]]:
    """The programs, each with the tracepoint that it belongs to."""
    for tracepoint, emit in (
        ("sched_process_fork", _Code.fork), ("sched_process_exec", _Code.exec), ("sched_process_exit", _Code.exit)
    ):  # fmt: skip
        code = _Code(shape, tasks, walk, list(followed))
        emit(code)
        code.asm.place(code.out)
        code.asm.mov(R0, 0)
        code.asm.exit()
        yield tracepoint, code.asm.finish(f"ksym_{emit.__name__}")


class _Code:
    """r6 the keys of an address space, r7 a chain, r8 the end of another, r9 a key."""

    def __init__(
        self, shape: Shape, tasks: TaskLayout, walk: DirectMap | None, followed: list[Followed]
    ) -> None:
        self.shape, self.tasks, self.walk, self.followed = shape, tasks, walk, followed
        self.asm = Assembler()
        self.out = self.asm.new_label("out")

    def fork(self) -> None:
        """``sched_process_fork(parent, child)``: the child has its memory, and has not run yet (kernel_clone)."""
        asm, tasks, out = self.asm, self.tasks, self.out
        asm.load(R6, R1, 8)
        asm.load(R3, R1, 0)
        asm.add(R3, tasks.mm)
        read_word(asm, _MEMORY, out)
        asm.mov(R7, R3)
        asm.mov(R3, R6)
        asm.add(R3, tasks.mm)
        read_word(asm, _CHILD, out)
        asm.comment("a thread, or a child that has its parent's memory")
        asm.jump(out, R3, "==", R7)
        asm.jump(out, R3, "==", 0)
        self._forget(_CHILD)
        look_up(asm, "memories", _MEMORY)
        asm.jump(out, R0, "==", 0)
        asm.mov(R6, R0)
        asm.map_descriptor(R1, "memories")
        asm.mov(R2, R10)
        asm.add(R2, _CHILD)
        asm.mov(R3, R6)
        asm.mov(R4, 0)
        asm.call(Helper.MAP_UPDATE_ELEM)
        asm.jump(out, R0, "!=", 0)
        self._each_key(self._inherit)

    def _inherit(self, following: Label) -> None:
        """Give the child the chain of key r9: a copy of its parent's, with what the child's memory holds."""
        asm = self.asm
        self._look_up_chain(_MEMORY, following)
        asm.load(R1, R10, _CHILD)
        asm.store(R10, _KEY, R1)
        self._begin_chain(R0)
        self._look_up_chain(_CHILD, following)
        asm.mov(R7, R0)
        asm.store(R7, Chain.LOCK, 0)
        for field in (Chain.SHARED, Chain.OVER):
            asm.load(R1, R7, field)
            asm.jump(following, R1, "!=", 0)
        unread, unsure = asm.new_label("unread"), asm.new_label("unsure")
        if self.walk is not None:
            for each in self._variables(unread):
                self._read(each, _CHILD, unread)
                for at in range(0, padded(each.length), 8):
                    asm.load(R1, R10, _VALUE + at)
                    asm.store(R7, Chain.VALUE + at, R1)
                asm.store(R7, Chain.KNOWN, 1)
                asm.jump(following)
        asm.place(unread)
        if self.walk is not None:
            self._share(following)
        asm.comment("where others write in the parent's memory, the copy may be of another moment")
        self._users(_MEMORY, unsure)
        asm.jump(following, R1, "==", 1)
        asm.place(unsure)
        asm.store(R7, Chain.KNOWN, 0)
        asm.store(R7, Chain.SEED, 0)

    def _share(self, following: Label) -> None:
        """Where parent and child have the same memory at key r9, give both one chain; r7 is the child's.

        A fork makes what is private read-only for both, and lets the child map anew what is shared (copy_page_range).
        So the memory is shared if the parent may still write it, and the child has not mapped it.
        """
        asm = self.asm
        private, shared = asm.new_label("private"), asm.new_label("shared")
        for each in self._variables(private):
            self._read(each, _MEMORY, private, writable=True)
            asm.jump(shared)
        asm.place(shared)
        asm.comment("a number that no memory has had")
        asm.call(Helper.KTIME_GET_NS)
        asm.store(R10, _ADDRESS, R0)
        self._look_up_chain(_MEMORY, private)
        asm.mov(R8, R0)
        asm.load(R1, R10, _ADDRESS)
        asm.store(R10, _KEY, R1)
        asm.mov(R1, R9)
        asm.alu(R1, ">>", KEY_SHIFT)
        asm.alu(R1, "<<", KEY_SHIFT)
        asm.store(R10, _KEY + 8, R1)
        self._begin_chain(R8)
        look_up(asm, "chains", _KEY)
        asm.jump(private, R0, "==", 0)
        asm.store(R0, Chain.LOCK, 0)
        asm.store(R0, Chain.PLACE, 0)
        asm.load(R1, R10, _ADDRESS)
        for chain in (R7, R8):
            asm.store(chain, Chain.SHARED, R1)
        asm.jump(following)
        asm.place(private)

    def exec(self) -> None:
        """``sched_process_exec(task, old_pid, bprm)``: the task has new memory."""
        asm = self.asm
        asm.load(R3, R1, 0)
        asm.add(R3, self.tasks.mm)
        read_word(asm, _MEMORY, self.out)
        self._forget(_MEMORY)

    def exit(self) -> None:
        """``sched_process_exit(task)``: hold the memory against its chains, and forget them with the last user.

        The task has its memory still since 6.16 ("exit: move and extend sched_process_exit() tracepoint"); before,
        which one it was is known at most.
        """
        asm, tasks, out = self.asm, self.tasks, self.out
        has, gone = asm.new_label("has_memory"), asm.new_label("gone")
        asm.load(R6, R1, 0)
        asm.mov(R3, R6)
        asm.add(R3, tasks.mm)
        read_word(asm, _MEMORY, out)
        asm.jump(has, R3, "!=", 0)
        asm.mov(R3, R6)
        asm.add(R3, tasks.active_mm)
        read_word(asm, _MEMORY, out)
        asm.jump(out, R3, "==", 0)
        self._users(_MEMORY, out)
        asm.jump(gone, R1, "==", 0)
        asm.jump(out)
        asm.place(has)
        look_up(asm, "memories", _MEMORY)
        asm.jump(out, R0, "==", 0)
        asm.mov(R3, R6)
        asm.mov(R6, R0)
        asm.add(R3, tasks.signal)
        read_word(asm, _TABLE, out)
        asm.add(R3, tasks.live)
        self._read_u32(out)
        asm.comment("other threads go on")
        asm.jump(out, R1, "!=", 0)
        self._each_key(self._compare)
        self._users(_MEMORY, out)
        asm.jump(out, R1, "!=", 1)
        asm.place(gone)
        self._forget(_MEMORY)

    def _compare(self, following: Label) -> None:
        """Tell if the variable of key r9 holds another value than the last access has left."""
        asm, shape = self.asm, self.shape
        self._look_up_chain(_MEMORY, following)
        asm.mov(R7, R0)
        for field in (Chain.SHARED, Chain.OVER):
            asm.load(R1, R7, field)
            asm.jump(following, R1, "!=", 0)
        for each in self._variables(following):
            if self.walk is None and each.trips:
                continue
            asm.map_value(R1, "state", shape.slot(each.watch))
            for off in (Slot.OFF, Slot.TRIPPED):
                asm.load(R2, R1, off)
                asm.jump(following, R2, "!=", 0)
            known, differs = asm.new_label("known"), asm.new_label("differs")
            words = range(0, padded(each.length), 8)
            asm.comment("the end of the chain")
            asm.mov(R8, R7)
            asm.add(R8, Chain.VALUE)
            asm.load(R1, R7, Chain.KNOWN)
            asm.jump(known, R1, "!=", 0)
            asm.load(R1, R7, Chain.SEED)
            asm.jump(following, R1, "==", 0)
            asm.jump(following, R1, ">=", shape.seeds)
            asm.alu(R1, "*", shape.seed_bytes)
            asm.map_value(R8, "state", shape.seed(0))
            asm.add(R8, R1)
            asm.load(R1, R8, Seed.SET)
            asm.jump(following, R1, "==", 0)
            asm.add(R8, Seed.VALUE)
            asm.place(known)
            self._read(each, _MEMORY, following)
            for at in words:
                asm.load(R1, R8, at)
                asm.load(R2, R10, _VALUE + at)
                asm.jump(differs, R1, "!=", R2)
            asm.jump(following)
            asm.place(differs)
            asm.mov(R1, (1 << KEY_SHIFT) - 1)
            asm.alu(R9, "&", R1)
            asm.map_value(R3, "state", shape.slot(each.watch))
            asm.store(R3, Slot.LEFT_BASE, R9)
            for at in words:
                asm.load(R1, R8, at)
                asm.store(R3, Slot.LEFT_OLD + at, R1)
                asm.load(R1, R10, _VALUE + at)
                asm.store(R3, Slot.LEFT_OLD + MOST_BYTES + at, R1)
            asm.mov(R1, 1)
            asm.atomic_add(R3, Slot.LEFT, R1)
            asm.jump(following)

    def _read(self, each: Followed, memory: int, failed: Label, *, writable: bool = False) -> None:
        """Read the variable of key r9; where there is no way to another's memory, it must be the task's own."""
        asm = self.asm
        if each.length % 8:
            asm.store(R10, _VALUE + padded(each.length) - 8, 0)
        asm.mov(R3, (1 << KEY_SHIFT) - 1)
        asm.alu(R3, "&", R9)
        if self.walk is None:
            asm.mov(R1, R10)
            asm.add(R1, _VALUE)
            asm.mov(R2, each.length)
            asm.call(Helper.PROBE_READ_USER)
            asm.jump(failed, R0, "!=", 0)
            return
        asm.store(R10, _ADDRESS, R3)
        read_value(
            asm, self.walk, memory=memory, address=_ADDRESS, expected=each.address, length=each.length, to=_VALUE,
            table=_TABLE, failed=failed, writable=writable,
        )  # fmt: skip

    def _variables(self, none: Label) -> Iterator[Followed]:
        """Yield each variable that key r9 may be of; what is emitted meanwhile runs for that one only."""
        asm = self.asm
        for each in self.followed:
            other = asm.new_label("other")
            asm.mov(R1, R9)
            asm.alu(R1, ">>", KEY_SHIFT)
            asm.jump(other, R1, "!=", each.watch)
            yield each
            asm.place(other)
        asm.jump(none)

    def _each_key(self, emit: Callable[[Label], None]) -> None:
        """Emit code for each of the keys at r6: r9 is the key; r6 is lost."""
        asm = self.asm
        again, following, last = map(asm.new_label, ("key", "next_key", "no_more_keys"))
        asm.store(R10, _COUNT, 0)
        asm.place(again)
        asm.load(R9, R6, 0)
        asm.jump(following, R9, "==", 0)
        emit(following)
        asm.place(following)
        asm.load(R1, R10, _COUNT)
        asm.add(R1, 1)
        asm.jump(last, R1, ">=", PLACES)
        asm.store(R10, _COUNT, R1)
        asm.add(R6, 8)
        asm.jump(again)
        asm.place(last)

    def _look_up_chain(self, memory: int, none: Label) -> None:
        """r0 = the chain of key r9 in a memory."""
        asm = self.asm
        asm.load(R1, R10, memory)
        asm.store(R10, _KEY, R1)
        asm.store(R10, _KEY + 8, R9)
        look_up(asm, "chains", _KEY)
        asm.jump(none, R0, "==", 0)

    def _begin_chain(self, like: int) -> None:
        """Begin a chain with the key on the stack, as a copy of the one that a register points to."""
        asm = self.asm
        asm.mov(R3, like)
        asm.map_descriptor(R1, "chains")
        asm.mov(R2, R10)
        asm.add(R2, _KEY)
        asm.mov(R4, 0)
        asm.call(Helper.MAP_UPDATE_ELEM)

    def _forget(self, memory: int) -> None:
        """Delete all that is known of an address space; r6 to r9 are lost where there is anything."""
        asm = self.asm
        nothing = asm.new_label("nothing_known")
        look_up(asm, "memories", memory)
        asm.jump(nothing, R0, "==", 0)
        asm.mov(R6, R0)
        for place in range(PLACES):
            asm.load(R1, R6, 8 * place)
            asm.store(R10, _KEY + 8, R1)
            asm.load(R1, R10, memory)
            asm.store(R10, _KEY, R1)
            self._delete("chains", _KEY)
        self._delete("memories", memory)
        asm.place(nothing)

    def _delete(self, name: str, key: int) -> None:
        asm = self.asm
        asm.map_descriptor(R1, name)
        asm.mov(R2, R10)
        asm.add(R2, key)
        asm.call(Helper.MAP_DELETE_ELEM)

    def _users(self, memory: int, failed: Label) -> None:
        """r1 = how many use an address space."""
        asm = self.asm
        asm.load(R3, R10, memory)
        asm.add(R3, self.tasks.users)
        self._read_u32(failed)

    def _read_u32(self, failed: Label) -> None:
        """r1 = the 32 bits at r3 in the kernel."""
        asm = self.asm
        asm.store(R10, _TABLE, 0)
        read_kernel(asm, _TABLE, 4, failed)
        asm.load(R1, R10, _TABLE)
