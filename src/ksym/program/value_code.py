# SPDX-License-Identifier: BSD-2-Clause
"""How a program takes the value: the chain that it continues, how the new one is read, and the lock around both."""

from __future__ import annotations

from ksym.linux.bpf_asm import R0, R1, R2, R3, R4, R6, R8, R9, R10, U32, Assembler, Helper, Label
from ksym.linux.libc import MACHINE
from ksym.program.layout import Hit
from ksym.program.numbers import current_numbers
from ksym.program.shared import MEMORY_BYTES, PLACES, Cell, Chain, Seed, Shape, key_of
from ksym.program.snippets import NOEXIST, count, look_up, update
from ksym.program.spec import Spec
from ksym.program.walk import read_value, read_word

# struct bpf_perf_event_data (linux/bpf_perf_event.h): the registers, sample_period, addr.
ADDRESS_AT = 280 if MACHINE == "aarch64" else 176
_LOCK_TRIES = 1024
"""The lock is held for some 100 ns; a CPU that a hypervisor has taken away may hold it for milliseconds."""


class ValueCode:
    """Emits the code; registers as in `watch_program`.

    Args:
        asm: Where to.
        shape: The shared memory.
        spec: The program's.
    """

    def __init__(self, asm: Assembler, shape: Shape, spec: Spec) -> None:
        self.asm, self.shape, self.spec = asm, shape, spec
        self.over = asm.new_label("over")
        """Where a hit goes whose memory has unloaded the variable."""
        self.owned = spec.frame.free - 8
        """u64 on the stack: whether this program holds the lock."""
        self.table = self.owned - 8
        """u64 on the stack: the page table that the walk has come to."""
        self.address = self.table - 8
        """u64 on the stack: where the variable lies."""
        self.key = self.address - 16
        """On the stack, the key of ``chains``: u64 the task's memory, u64 the variable in it."""
        self.scratch = self.key if spec.user else self.table
        """What lies below on the stack is free."""

    def find_chain(self) -> None:
        """r8 = the chain, 0 where there is none for this memory; r9, this CPU, is used up."""
        asm, spec = self.asm, self.spec
        if spec.user:
            self._find_in_memory()
            return
        if spec.per_cpu:
            asm.alu(R9, "*", self.shape.chain_bytes)
        asm.map_value(R8, "state", self.shape.chain(spec.watch))
        if spec.per_cpu:
            asm.add(R8, R9)

    def _find_in_memory(self) -> None:
        asm, spec = self.asm, self.spec
        none, done = asm.new_label("no_memory"), asm.new_label("chain_found")
        asm.comment("a variable's values belong to the memory that it lies in")
        asm.mov(R8, 0)
        self._memory(none)
        asm.load(R1, R6, ADDRESS_AT)
        key = key_of(spec.watch, 0) - spec.offset
        if key:
            asm.mov(R2, key)
            asm.add(R1, R2)
        asm.store(R10, self.key + 8, R1)
        look_up(asm, "chains", self.key)
        asm.mov(R8, R0)
        self._begin_chain()
        asm.jump(none, R8, "==", 0)
        asm.load(R1, R8, Chain.OVER)
        asm.jump(self.over, R1, "!=", 0)
        asm.place(none)
        asm.jump(done, R8, "==", 0)
        asm.load(R1, R8, Chain.SHARED)
        asm.jump(done, R1, "==", 0)
        asm.comment("others have this memory, too")
        asm.load(R9, R10, self.key)
        asm.store(R10, self.key, R1)
        asm.mov(R1, key_of(spec.watch, 0))
        asm.store(R10, self.key + 8, R1)
        look_up(asm, "chains", self.key)
        asm.mov(R8, R0)
        asm.store(R10, self.key, R9)
        asm.place(done)

    def _begin_chain(self) -> None:
        """Where r8 is 0, make a chain for memory that nobody has told of; r8 stays 0 if there is no room for it.

        It goes onto the list of its address space first: what is not on it would outlive that.
        """
        asm, spec = self.asm, self.spec
        found = asm.new_label("chain_known")
        asm.jump(found, R8, "!=", 0)
        if spec.by_memory:
            asm.comment("one that nobody has told of")
            listed, begun = asm.new_label("listed"), asm.new_label("list_begun")
            look_up(asm, "memories", self.key)
            asm.jump(begun, R0, "!=", 0)
            keys = self.scratch - MEMORY_BYTES
            asm.load(R1, R10, self.key + 8)
            asm.store(R10, keys, R1)
            for at in range(keys + 8, self.scratch, 8):
                asm.store(R10, at, 0)
            update(asm, "memories", self.key, keys, NOEXIST)
            asm.jump(listed, R0, "==", 0)
            asm.jump(found)
            asm.place(begun)
            asm.load(R2, R10, self.key + 8)
            for place in range(PLACES):
                other = asm.new_label("other_key")
                asm.load(R1, R0, 8 * place)
                asm.jump(listed, R1, "==", R2)
                asm.jump(other, R1, "!=", 0)
                asm.store(R0, 8 * place, R2)
                asm.jump(listed)
                asm.place(other)
            asm.jump(found)
            asm.place(listed)
        asm.map_descriptor(R1, "chains")
        asm.mov(R2, R10)
        asm.add(R2, self.key)
        asm.map_value(R3, "state", self.shape.chain(spec.watch))
        asm.mov(R4, NOEXIST)
        asm.call(Helper.MAP_UPDATE_ELEM)
        look_up(asm, "chains", self.key)
        asm.mov(R8, R0)
        asm.place(found)

    def _memory(self, none: Label) -> None:
        """Put the task's memory on the stack."""
        asm, spec = self.asm, self.spec
        if spec.by_memory:
            assert spec.tasks is not None
            self._mm(spec.tasks.mm, none)
            return
        current_numbers(asm, spec, self.scratch)
        asm.alu(R0, ">>", 32)
        asm.store(R10, self.key, R0)

    def _mm(self, offset: int, none: Label) -> None:
        """Put the address of the task's mm_struct on the stack."""
        asm = self.asm
        asm.call(Helper.GET_CURRENT_TASK)
        asm.mov(R3, R0)
        asm.add(R3, offset)
        read_word(asm, self.key, none)

    def take(self) -> None:
        """Take value and time together, under the chain's lock: so old -> new is unbroken in order of time."""
        asm, spec, frame = self.asm, self.spec, self.spec.frame
        locks = spec.atomics and not spec.per_cpu
        if locks:
            self._lock()
        if spec.length % 8:
            asm.store(R10, frame.new + frame.padded - 8, 0)
        unread, first, known, compared, done = map(
            asm.new_label, ("unread", "first", "known", "compared", "taken")
        )
        asm.comment("the value")
        self._read(unread)
        asm.alu(R9, "|", Hit.NEW)
        asm.call(Helper.KTIME_GET_NS)
        asm.store(R10, frame.time, R0)
        words = range(0, frame.padded, 8)
        if spec.user:
            lone = asm.new_label("lone")
            asm.jump(lone, R8, "==", 0)
        asm.load(R1, R8, Chain.KNOWN)
        asm.jump(known, R1, "!=", 0)
        asm.store(R8, Chain.KNOWN, 1)
        self._seed(first)
        asm.place(known)
        asm.alu(R9, "|", Hit.OLD)
        asm.mov(R3, 0)
        for at in words:
            asm.load(R1, R8, Chain.VALUE + at)
            asm.store(R10, frame.old + at, R1)
            asm.load(R2, R10, frame.new + at)
            asm.store(R8, Chain.VALUE + at, R2)
            asm.alu(R2, "^", R1)
            asm.alu(R3, "|", R2)
        asm.jump(compared, R3, "==", 0)
        asm.alu(R9, "|", Hit.CHANGED)
        asm.jump(compared)
        asm.place(first)
        for at in words:
            asm.load(R2, R10, frame.new + at)
            asm.store(R8, Chain.VALUE + at, R2)
        if spec.user:
            asm.place(lone)
        for at in words:
            asm.store(R10, frame.old + at, 0)
        asm.jump(compared)
        asm.place(unread)
        asm.call(Helper.KTIME_GET_NS)
        asm.store(R10, frame.time, R0)
        for at in words:
            asm.store(R10, frame.old + at, 0)
            asm.store(R10, frame.new + at, 0)
        asm.comment("what it is now nobody knows")
        if spec.user:
            asm.jump(compared, R8, "==", 0)
        asm.store(R8, Chain.KNOWN, 0)
        asm.store(R8, Chain.SEED, 0)
        asm.place(compared)
        if locks:
            asm.load(R1, R10, self.owned)
            asm.jump(done, R1, "==", 0)
            if spec.user:
                asm.jump(done, R8, "==", 0)
            asm.mov(R1, -1)
            asm.atomic_add(R8, Chain.LOCK, R1)
            asm.place(done)
        asm.store(R10, frame.flags, R9, U32)

    def _seed(self, none: Label) -> None:
        """Begin the chain with its seed, if it has one."""
        asm, shape = self.asm, self.shape
        asm.load(R1, R8, Chain.SEED)
        asm.jump(none, R1, "==", 0)
        asm.jump(none, R1, ">=", shape.seeds)
        asm.alu(R1, "*", shape.seed_bytes)
        asm.map_value(R2, "state", shape.seed(0))
        asm.add(R2, R1)
        asm.load(R1, R2, Seed.SET)
        asm.jump(none, R1, "==", 0)
        for at in range(0, self.spec.frame.padded, 8):
            asm.load(R1, R2, Seed.VALUE + at)
            asm.store(R8, Chain.VALUE + at, R1)

    def _read(self, unread: Label) -> None:
        """Read the value to the stack."""
        asm, spec = self.asm, self.spec
        if spec.walk is not None and not spec.by_memory:
            self._mm(spec.walk.mm, unread)
        asm.load(R3, R6, ADDRESS_AT)
        if spec.offset:
            asm.add(R3, -spec.offset)
        if spec.walk is not None:
            asm.store(R10, self.address, R3)
            read_value(
                asm, spec.walk, memory=self.key, address=self.address, expected=spec.address, length=spec.length,
                to=spec.frame.new, table=self.table, failed=unread,
            )  # fmt: skip
            return
        asm.mov(R1, R10)
        asm.add(R1, spec.frame.new)
        asm.mov(R2, spec.length)
        asm.call(Helper.PROBE_READ_USER if spec.user else Helper.PROBE_READ_KERNEL)
        asm.jump(unread, R0, "!=", 0)

    def _lock(self) -> None:
        asm = self.asm
        again, locked = asm.new_label("again"), asm.new_label("locked")
        asm.comment("one CPU at a time")
        asm.store(R10, self.owned, 1)
        if self.spec.user:
            asm.jump(locked, R8, "==", 0)
        asm.mov(R1, 0)
        asm.mov(R2, 1)
        asm.place(again)
        asm.mov(R0, 0)
        asm.compare_exchange(R8, Chain.LOCK, R2)
        asm.jump(locked, R0, "==", 0)
        asm.add(R1, 1)
        asm.jump(again, R1, "<", _LOCK_TRIES)
        asm.store(R10, self.owned, 0)
        count(asm, Cell.UNORDERED)
        asm.place(locked)
