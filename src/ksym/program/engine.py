# SPDX-License-Identifier: BSD-2-Clause
"""The programs of a run, loaded: a plan's specs, its maps, and who gets which program."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING

from ksym.errors import SHORT_OF
from ksym.language.request import Mode
from ksym.linux import bpf
from ksym.linux.bpf_asm import Assembler, Program
from ksym.linux.cpus import possible_cpus
from ksym.linux.libc import MACHINE
from ksym.linux.namespaces import own_pid_namespace
from ksym.program.layout import Frame, Sees, padded
from ksym.program.shared import MEMORY_BYTES, PLACES, Chain, Control, Shape, Shared, key_of
from ksym.program.spec import Condition, Spec, Ways
from ksym.program.wants import Sink, Wants
from ksym.program.watch_program import COMM_BYTES, COUNT_KEY_BYTES, watch_program
from ksym.symbols.variable import Space
from ksym.watch.plan import Place, Plan, Role, Watch

if TYPE_CHECKING:
    from ksym.language.condition import Condition as Judgement

if TYPE_CHECKING:
    from ksym.symbols.address_spaces import AddressSpaces

_COUNTS, _MEMORIES = 16384, 4096
"""Places and threads that ``counts`` tells apart; processes whose values are told apart."""


class EngineRefused(Exception):
    """There can be no program here; ``why`` says so in a clause, ``log`` is the verifier's."""

    def __init__(self, why: str, log: str = "") -> None:
        super().__init__(why)
        self.why, self.log = why, log


def shape_of(plan: Plan) -> Shape:
    """The shared memory that a plan's programs need."""
    return Shape(
        possible_cpus()[-1] + 1,
        [watch.variable.per_cpu is not None for watch in plan.watches],
        [len(watch.pieces) for watch in plan.watches],
        [watch.variable.space is Space.USER for watch in plan.watches],
        max((padded(watch.variable.length) for watch in plan.watches), default=0),
    )


def sees(watch: Watch) -> Sees:
    """What the records of a watch tell of its accesses."""
    return Sees(execute=watch.mode is Mode.EXECUTE, writes_only=watch.mode is Mode.WRITE, twin=watch.twin)


def trips_itself(watch: Watch) -> bool:
    """Whether a program that reads the variable by its own address makes the register fire (`linux.direct_map`)."""
    return watch.variable.space is Space.USER and Mode.READ in watch.mode


def programs(
    plan: Plan, wants: Wants, *, atomics: bool = True, by_memory: bool = False, place: Place | None = None
) -> Iterator[tuple[int, int, Role, Program]]:
    """Make the programs of a run: (watch, piece, role, program).

    Args:
        plan: What is watched.
        wants: What is to happen at a hit.
        atomics: The kernel has BPF_FETCH and BPF_CMPXCHG.
        by_memory: Chains belong to address spaces; else to processes.
        place: Only those for the user variables of this place; None: all, for where the variables were found first.
    """
    shape, namespace = shape_of(plan), own_pid_namespace()
    for watch in plan.watches:
        if place and (watch.variable.space is not Space.USER or not place.has(watch)):
            continue
        for number, piece in enumerate(watch.pieces):
            for role in watch.roles:
                guarded = bool(wants.guarded) and wants.guarded[watch.index]
                frame = frame_of(watch, wants.sink)
                asks_values, asks_numbers = _asks(watch)
                spec = Spec(
                    watch.index, number, piece.offset, watch.variable.length,
                    user=watch.variable.space is Space.USER,
                    per_cpu=watch.variable.per_cpu is not None,
                    role=role, sees=sees(watch),
                    reads_only=watch.mode is Mode.READ and watch.twin,
                    frame=frame,
                    condition=_emitter(watch, frame, place.condition(watch) if place else watch.condition),
                    asks_values=asks_values, asks_numbers=asks_numbers,
                    sink=wants.sink, guarded=guarded, limited=wants.limit > 0, stop=wants.stop,
                    atomics=atomics, place=place.number if place else 0,
                    address=place.base(watch) if place else watch.variable.address, tasks=wants.tasks,
                    by_memory=by_memory, walk=wants.walk if trips_itself(watch) else None,
                    passes_kernel=sees_kernel(watch, wants) and not wants.kernel_accesses,
                    follows=follows(watch, wants), own_namespace=namespace,
                )  # fmt: skip
                yield watch.index, number, role, watch_program(shape, spec)


def sees_kernel(watch: Watch, wants: Wants) -> bool:
    """True if a user variable's register is to see the kernel's accesses, too: what they leave is the next OLD.

    A program that must read the variable by its own address would then make hits itself.
    """
    if watch.variable.space is not Space.USER or not frame_of(watch, wants.sink).padded:
        return wants.kernel_accesses
    return wants.kernel_accesses or not trips_itself(watch) or wants.walk is not None


def follows(watch: Watch, wants: Wants) -> bool:
    """True if chains follow a user variable through forks and unloading, with values or without."""
    return watch.variable.space is Space.USER and (wants.unloads or frame_of(watch, wants.sink).padded > 0)


def frame_of(watch: Watch, sink: Sink) -> Frame:
    """Values are taken where a record carries them, or a condition asks for them."""
    if watch.mode is Mode.EXECUTE:
        return Frame(0)
    if sink is not Sink.RECORD and not _asks(watch)[0]:
        return Frame(0)
    return Frame(padded(watch.variable.length))


def _asks(watch: Watch) -> tuple[bool, bool]:
    """Whether the condition of a watch needs values, and whether it needs the task's numbers."""
    if watch.condition is None:
        return False, False
    from ksym.program.conditions import uses_numbers, uses_values

    return uses_values(watch.condition), uses_numbers(watch.condition)


def _emitter(watch: Watch, frame: Frame, condition: Judgement | None) -> Condition | None:
    if condition is None:
        return None
    from ksym.program.conditions import compile_condition

    def emit(asm: Assembler, ways: Ways, scratch: int, numbers: int) -> None:
        compile_condition(asm, condition, frame, sees(watch), ways, scratch, numbers=numbers)

    return emit


class Engine:
    """The loaded programs of a run and the memory that they share with ksym.

    Args:
        plan: What is watched.
        wants: What is to happen at a hit.
        spaces: Tells processes' address spaces; closed with the engine. None: processes are told apart instead.

    Raises:
        EngineRefused: This machine allows no such programs.
    """

    def __init__(self, plan: Plan, wants: Wants, spaces: AddressSpaces | None = None) -> None:
        if MACHINE == "aarch64":
            # Before d11a69873d9a (6.6) a program on a watchpoint kept the kernel from stepping over the access, for
            # ever; which kernels have it cannot be asked, and a value read there is the old one.
            raise EngineRefused("programs at watchpoints are not safe on every arm64 kernel")
        if own_pid_namespace() and wants.tasks is None:
            raise EngineRefused(
                "this kernel has no BTF, by which programs learn the numbers of a pid namespace"
            )
        self.plan, self.wants = plan, wants
        self._spaces = spaces if wants.tasks else None
        self._maps: dict[str, bpf.Map] = {}
        self._programs: dict[tuple[int, int, int, Role], int] = {}
        """Descriptors by place, watch, piece and role."""
        self._hooks: list[int] = []
        self._seeds: dict[tuple[int, int, int], int] = {}
        """Numbers of the seeds of placed variables, by watch, process and address."""
        self._numbers: dict[tuple[int, int, int], int | None] = {}
        """Numbers of the places of placed variables, by the same."""
        self._shared: dict[tuple[int, Hashable], int] = {}
        """Keys in ``chains`` of memory that several processes have."""
        try:
            self._make()
        except bpf.VerifierError as error:
            self.close()
            raise EngineRefused(_refusal(error.log), error.log) from error
        except OSError as error:
            self.close()
            raise EngineRefused(_why(error)) from error
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        self.shape = shape = shape_of(self.plan)
        maps = self._maps
        maps["state"] = bpf.Map(bpf.MAP_TYPE_ARRAY, value=shape.state_bytes, mapped=True)
        maps["cells"] = bpf.Map(bpf.MAP_TYPE_ARRAY, value=shape.cells_bytes, mapped=True)
        state, cells = maps["state"].memory, maps["cells"].memory
        assert state is not None
        assert cells is not None
        self.shared = Shared(
            shape, memoryview(state)[: shape.state_bytes], memoryview(cells)[: shape.cells_bytes]
        )
        self.shared.control(Control.LIMIT, self.wants.limit)
        self._cpus = shape.cpus
        self._free_seeds = list(range(shape.first_placed_seed, shape.seeds))
        self._follow_memory()
        try:
            self._load(atomics=True)
        except bpf.VerifierError as error:
            # BPF_FETCH and BPF_CMPXCHG came in 5.12 (5ca419f2864a, 5ffa25502b5a); without them two CPUs that write
            # at once may show each other's value, and a limit is held by ksym instead of in the kernel.
            if "BPF_STX" not in error.log and "unknown opcode" not in error.log:
                raise
            self._close_programs()
            self._load(atomics=False)

    def _follow_memory(self) -> None:
        """Let chains follow address spaces through forks and ends; where the kernel refuses, they go by process."""
        watches = [watch for watch in self.plan.watches if follows(watch, self.wants)]
        self.by_memory = False
        if not watches or self._spaces is None or self.wants.tasks is None:
            return
        from ksym.program.lifecycle import Followed, lifecycle_programs  # late: for user variables alone

        followed = [
            Followed(watch.index, watch.variable.address, watch.variable.length, trips_itself(watch))
            for watch in watches
            if frame_of(watch, self.wants.sink).padded
        ]
        for name in ("chains", "memories"):
            self._maps[name] = self._map(name)
        maps = {name: each.fd for name, each in self._maps.items()}
        programs_ = lifecycle_programs(self.shape, self.wants.tasks, self.wants.walk, followed)
        try:
            for tracepoint, program in programs_:
                fd = bpf.load(bpf.PROG_TYPE_RAW_TRACEPOINT, program.encode(maps), name=program.name)
                try:
                    self._hooks.append(bpf.raw_tracepoint(fd, tracepoint))
                finally:
                    os.close(fd)
        except OSError as error:
            if error.errno in SHORT_OF:
                raise
            self._close_hooks()
            return
        self.by_memory = True

    def _load(self, *, atomics: bool) -> None:
        self.holds_limit = self.wants.limit > 0 and atomics
        """Whether the programs keep not more hits than were asked for."""
        self._atomics = atomics
        self._load_for(None)

    def _load_for(self, place: Place | None) -> None:
        made = programs(self.plan, self.wants, atomics=self._atomics, by_memory=self.by_memory, place=place)
        number = place.number if place else 0
        for watch, piece, role, program in made:
            for name in program.maps:
                if name not in self._maps:
                    self._maps[name] = self._map(name)
            code = program.encode({name: map_.fd for name, map_ in self._maps.items()})
            fd = bpf.load(bpf.PROG_TYPE_PERF_EVENT, code, name=program.name)
            self._programs[number, watch, piece, role] = fd

    def _map(self, name: str) -> bpf.Map:
        if name == "counts":
            return bpf.Map(bpf.MAP_TYPE_PERCPU_HASH, key=COUNT_KEY_BYTES, value=8, entries=_COUNTS)
        if name == "comms":
            return bpf.Map(bpf.MAP_TYPE_HASH, key=8, value=COMM_BYTES, entries=_COUNTS)
        if name == "memories":
            return bpf.Map(bpf.MAP_TYPE_HASH, key=8, value=MEMORY_BYTES, entries=_MEMORIES)
        if name == "chains":
            return bpf.Map(bpf.MAP_TYPE_HASH, key=16, value=self.shape.chain_bytes, entries=_MEMORIES)
        return bpf.Map(bpf.MAP_TYPE_PERF_EVENT_ARRAY, entries=self._cpus)

    def program(self, watch: int, piece: int, role: Role, place: Place | None = None) -> int:
        """Return the descriptor of the program for a register.

        A place has programs of its own: their records tell the place, and their condition knows its code.

        Raises:
            OSError: the kernel refuses the place's programs.
        """
        number = place.number if place else 0
        if (number, watch, piece, role) not in self._programs:
            self._load_for(place)
        return self._programs[number, watch, piece, role]

    def drop(self, place: Place) -> None:
        """Give back the programs of a place that has ended."""
        for key in [key for key in self._programs if key[0] == place.number != 0]:
            os.close(self._programs.pop(key))

    def sees_kernel(self, watch: Watch) -> bool:
        """True if the registers of a watch must see the kernel's accesses to a user variable (`sees_kernel`)."""
        return sees_kernel(watch, self.wants)

    def outputs(self, watch: int) -> bpf.Map | None:
        """The map that tells a watch's programs which event to write to, by CPU; None where they write none."""
        return self._maps.get(f"output{watch}")

    @property
    def takes_values(self) -> list[bool]:
        """For each watch, True if its programs take values."""
        return [frame_of(watch, self.wants.sink).padded > 0 for watch in self.plan.watches]

    def counts(self) -> Iterator[tuple[bytes, bytes]]:
        """Elements of ``counts``: key, and 8 bytes for each possible CPU."""
        return self._maps["counts"].items(8 * self._cpus)

    def comms(self) -> Iterator[tuple[bytes, bytes]]:
        """Elements of ``comms``: pid_tgid, name."""
        return self._maps["comms"].items(COMM_BYTES)

    def drop_counts(self, keys: Iterable[bytes]) -> None:
        """Make room in ``counts``: nobody counts by these keys any more."""
        for key in keys:
            self._maps["counts"].delete(key)

    # -- where values lie ----------------------------------------------------------------------------

    def place(
        self, watch: int, pid: int, base: int, *, shared: Hashable | None = None, place: int | None = None
    ) -> None:
        """Tell of a user variable in a process, before a register watches it there.

        Its values continue what is known of that memory: of the process's address space, or of memory that several
        processes have, wherever each has it mapped.

        Args:
            watch: Number of the watch.
            pid: The process, as ksym's pid namespace has it.
            base: Address of the variable there.
            shared: What the memory is where several have it (`linux.maps.shared_memory`); None: it is private.
            place: Number of the place; None: the same as when the variable was placed before.
        """
        chains, memory = self._maps.get("chains"), self._memory(pid)
        if chains is None or memory is None or (watch, pid, base) in self._seeds:
            return
        seed = self._seeds[watch, pid, base] = self._free_seeds.pop() if self._free_seeds else 0
        place = self._numbers.get((watch, pid, base)) if place is None else place
        self._numbers[watch, pid, base] = place
        own = 0
        if shared is not None:
            own = self._shared.setdefault((watch, shared), len(self._shared) + 1)
            self.shared.offer(watch, own)
            with contextlib.suppress(OSError):  # another place has begun it
                chains.update(_key(own, watch, 0), self._chain(seed), bpf.NOEXIST)
        with contextlib.suppress(OSError):  # no room: the first access has no old value
            self._list(memory, key_of(watch, base))
            chains.update(_key(memory, watch, base), self._chain(seed, own, place), bpf.NOEXIST)

    def _list(self, memory: int, key: int, *, add: bool = True) -> None:
        """Add a key to those of an address space, by which its chains are found when it forks or ends."""
        memories = self._maps.get("memories")
        if memories is None:
            return
        known = memories.get(_word(memory))
        if not add and known is None:
            return
        keys = {each for (each,) in struct.iter_unpack("=Q", known or b"") if each}
        keys = keys | {key} if add else keys - {key}
        memories.update(_word(memory), b"".join(map(_word, sorted(keys)[:PLACES])).ljust(MEMORY_BYTES, b"\0"))

    def places(self) -> list[tuple[int, int, int]]:
        """What is placed: number of the watch, process, address."""
        return list(self._seeds)

    def seed(self, watch: int, pid: int, base: int, value: bytes) -> None:
        """Tell what a placed variable holds, read after a register watches it there: what the first access finds."""
        number = self._seeds.get((watch, pid, base), 0)
        if number:
            self.shared.seed(number, value)

    def unplace(self, watch: int, pid: int, base: int) -> None:
        """A variable's memory is gone from a process, and what comes to its address is another's."""
        chains, memory = self._maps.get("chains"), self._memory(pid)
        if chains is not None and memory is not None:
            chains.delete(_key(memory, watch, base))
            self._list(memory, key_of(watch, base), add=False)
        self._unseed(watch, pid, base)

    def _unseed(self, watch: int, pid: int, base: int) -> None:
        number = self._seeds.pop((watch, pid, base), 0)
        if number:
            self.shared.unseed(number)
            self._free_seeds.append(number)

    def inherited(self, place: int, watch: int, pid: int, base: int) -> bool | None:
        """Return True if the memory of a process is a place's, or was forked from it: it has the place's registers.

        None where that is not known, as chains do not follow forks.
        """
        if not self.by_memory or (memory := self._memory_now(pid)) is None:
            return None
        chain = self._maps["chains"].get(_key(memory, watch, base))
        number = _field(chain, Chain.PLACE) if chain else None
        return None if number == 0 else number == place + 1

    def unload(self, watch: int, pid: int, base: int) -> None:
        """Pass over the hits of a process that has unloaded a variable, while others go on with its registers."""
        self._change(watch, pid, base, over=True)

    def reload(self, watch: int, pid: int, base: int, value: bytes | None) -> None:
        """Take the hits of a process again that has a variable back at its address.

        Args:
            watch: Number of the watch.
            pid: The process; it is held.
            base: Address of the variable there.
            value: What it holds; None: that is not known.
        """
        self._change(watch, pid, base, over=False, value=value)

    def unloaded(self, watch: int, pid: int, base: int) -> bool:
        """Return True if the hits of a process are passed over: it, or one that it was forked from, has unloaded."""
        chains, memory = self._maps.get("chains"), self._memory_now(pid)
        chain = chains.get(_key(memory, watch, base)) if chains and memory else None
        return chain is not None and _field(chain, Chain.OVER) != 0

    def _change(self, watch: int, pid: int, base: int, *, over: bool, value: bytes | None = None) -> None:
        """Begin the chain of a process's variable anew, in the same place."""
        chains, memory = self._maps.get("chains"), self._memory_now(pid)
        if chains is None or memory is None:
            return
        key = _key(memory, watch, base)
        place = _field(chains.get(key) or self._chain(0), Chain.PLACE)
        self._unseed(watch, pid, base)
        known = value is not None and 0 < padded(len(value)) <= self.shape.value_bytes
        head = struct.pack("=QQQQQQ", 0, known, 0, 0, over, place)
        with contextlib.suppress(OSError):
            self._list(memory, key_of(watch, base))
            chains.update(key, (head + (value or b"") * known).ljust(self.shape.chain_bytes, b"\0"))

    def _memory_now(self, pid: int) -> int | None:
        """The memory of a process; that of one without a place is looked up anew, as nobody tells of its exec."""
        placed = self._spaces is None or any(pid == each for _, each, _ in self._seeds)
        if not placed and self._spaces is not None:
            self._spaces.forget(pid)
        memory = self._memory(pid)
        if not placed and self._spaces is not None:
            self._spaces.forget(pid)
        return memory

    def end_chains(self, place: int) -> None:
        """End all chains of a place that has ended, in whichever memory."""
        self._numbers = {spot: number for spot, number in self._numbers.items() if number != place}
        chains = self._maps.get("chains")
        if chains is None or not self.by_memory:
            return
        every = chains.items(self.shape.chain_bytes)
        for key in [key for key, chain in every if _field(chain, Chain.PLACE) == place + 1]:
            chains.delete(key)
            self._list(*struct.unpack("=QQ", key), add=False)

    def left(self, pid: int) -> None:
        """A process has ended or runs another program: what lay in its memory is nobody's any more."""
        for watch, other, base in [place for place in self._seeds if place[1] == pid]:
            self.unplace(watch, other, base)
        if self._spaces is not None:
            self._spaces.forget(pid)

    def last(self, watch: int, pid: int, base: int) -> bytes | None:
        """What the last access has left in a user variable; None where that is not known."""
        chains, memory = self._maps.get("chains"), self._memory(pid)
        chain = chains.get(_key(memory, watch, base)) if chains and memory else None
        if chains is None or chain is None:
            return None
        own = _field(chain, Chain.SHARED)
        if own:
            chain = chains.get(_key(own, watch, 0))
        return self.shared.end_of(chain, self.plan.watches[watch].variable.length) if chain else None

    def _chain(self, seed: int, shared: int = 0, place: int | None = None) -> bytes:
        """A chain without a value yet."""
        number = 0 if place is None else place + 1
        return struct.pack("=QQQQQQ", 0, 0, seed, shared, 0, number).ljust(self.shape.chain_bytes, b"\0")

    def _memory(self, pid: int) -> int | None:
        """The memory of a process, as ``chains`` has it."""
        if not self.by_memory or self._spaces is None:
            return pid
        return self._spaces.of(pid)

    def forget(self, pid: int) -> None:
        """A process has ended: another one with its number has nothing to do with its values."""
        chains = self._maps.get("chains")
        if chains is not None and not self.by_memory:
            for watch in self.plan.watches:
                chains.delete(_key(pid, watch.index, watch.variable.address))

    def close(self) -> None:
        """Give programs and maps back."""
        self._close_hooks()
        self._close_programs()
        if self._spaces is not None:
            self._spaces.close()
        if hasattr(self, "shared"):
            self.shared.close()
        for each in self._maps.values():
            each.close()
        self._maps.clear()

    def _close_hooks(self) -> None:
        for fd in self._hooks:
            os.close(fd)
        self._hooks.clear()

    def _close_programs(self) -> None:
        for fd in self._programs.values():
            os.close(fd)
        self._programs.clear()


def _word(number: int) -> bytes:
    return struct.pack("=Q", number)


def _field(chain: bytes, field: Chain) -> int:
    return int(struct.unpack_from("=Q", chain, field)[0])


def _key(memory: int, watch: int, base: int) -> bytes:
    """The key of a chain."""
    return struct.pack("=QQ", memory, key_of(watch, base))


def _why(error: OSError) -> str:
    if error.errno == errno.EPERM:
        from ksym.linux import privileges

        found = privileges.refusal("bpf", privileges.BPF, privileges.SYS_ADMIN)
        found = found or privileges.refusal("bpf", privileges.PERFMON, privileges.SYS_ADMIN)
        return found[0] if found else "the kernel forbids BPF (lockdown, or a security module)"
    if error.errno == errno.ENOSYS:
        return "this kernel has no BPF"
    return f"BPF refused: {os.strerror(error.errno or 0)}"


def _refusal(log: str) -> str:
    from ksym.linux.lockdown import CONFIDENTIAL, is_confidential

    # It takes helpers away from programs that load otherwise (kernel/trace/bpf_trace.c).
    if is_confidential():
        return CONFIDENTIAL
    return f"the kernel's verifier refused the program: {_reason(log)}"


def _reason(log: str) -> str:
    """The line of the verifier's log that says why: the last one before its statistics."""
    lines = [line for line in log.splitlines() if line.strip()]
    lines = [
        line for line in lines if not line.startswith(("processed ", "verification time", "stack depth"))
    ]
    return lines[-1].strip() if lines else "it did not say why"
