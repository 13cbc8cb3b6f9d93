# SPDX-License-Identifier: BSD-2-Clause
"""The programs of a run, loaded: a plan's specs, its maps, and who gets which program."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ksym.errors import SHORT_OF
from ksym.language.request import Mode
from ksym.linux import bpf
from ksym.linux.bpf_asm import Assembler, Program
from ksym.linux.cpus import possible_cpus
from ksym.linux.libc import MACHINE
from ksym.linux.namespaces import own_pid_namespace
from ksym.program.chains import Chains
from ksym.program.layout import Frame, Sees, padded
from ksym.program.shared import MEMORY_BYTES, Control, Shape, Shared
from ksym.program.spec import Condition, Spec, Ways
from ksym.program.wants import Sink, Wants
from ksym.program.watch_program import COMM_BYTES, COUNT_KEY_BYTES, watch_program
from ksym.symbols.variable import Space
from ksym.watch.plan import Place, Plan, Role, Watch

if TYPE_CHECKING:
    from ksym.language.condition import Condition as Judgement
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
        self._follow_memory()
        lengths = [watch.variable.length for watch in self.plan.watches]
        spaces = self._spaces if self.by_memory else None
        self.chains = Chains(maps, shape, self.shared, lengths, spaces)
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
        """Delete elements of ``counts`` that no thread can change any more."""
        for key in keys:
            self._maps["counts"].delete(key)

    def forget(self, pid: int) -> None:
        """A process has ended: another one with its number has nothing to do with its values."""
        if not self.by_memory:
            for watch in self.plan.watches:
                self.chains.forget(watch.index, pid, watch.variable.address)

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
