# SPDX-License-Identifier: BSD-2-Clause
"""The programs of a run, loaded: a plan's specs, its maps, and who gets which program."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator

from ksym.language.request import Mode
from ksym.linux import bpf
from ksym.linux.bpf_asm import Assembler, Label, Program
from ksym.linux.cpus import possible_cpus
from ksym.linux.libc import MACHINE
from ksym.program.layout import MOST_BYTES, Frame, Sees, padded
from ksym.program.shared import Control, Shape, Shared, Slot
from ksym.program.spec import Spec
from ksym.program.wants import Sink, Wants
from ksym.program.watch_program import COMM_BYTES, COUNT_KEY_BYTES, watch_program
from ksym.symbols.variable import Space
from ksym.watch.plan import Plan, Role, Watch

_COUNTS, _COPIES = 16384, 4096
"""Places and threads that ``counts`` tells apart; forked processes whose copies are told apart."""


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
    )


def sees(watch: Watch) -> Sees:
    """What the records of a watch tell of its accesses."""
    return Sees(execute=watch.mode is Mode.EXECUTE, writes_only=watch.mode is Mode.WRITE, twin=watch.twin)


def trips_itself(watch: Watch) -> bool:
    """Whether a program that reads the variable by its own address makes the register fire (`linux.direct_map`)."""
    return watch.variable.space is Space.USER and Mode.READ in watch.mode


def programs(plan: Plan, wants: Wants, *, atomics: bool = True) -> Iterator[tuple[int, int, Role, Program]]:
    """Every program of a run: (watch, piece, role, program)."""
    shape = shape_of(plan)
    for watch in plan.watches:
        for number, piece in enumerate(watch.pieces):
            for role in watch.roles:
                guarded = bool(wants.guarded) and wants.guarded[watch.index]
                frame = _frame(watch, wants.sink)
                spec = Spec(
                    watch.index, number, piece.offset, watch.variable.length,
                    user=watch.variable.space is Space.USER,
                    per_cpu=watch.variable.per_cpu is not None,
                    role=role, sees=sees(watch),
                    reads_only=watch.mode is Mode.READ and watch.twin,
                    frame=frame,
                    condition=_emitter(watch, frame),
                    sink=wants.sink, guarded=guarded, limited=wants.limit > 0, stop=wants.stop,
                    atomics=atomics, address=watch.variable.address, walk=wants.walk if trips_itself(watch) else None,
                )  # fmt: skip
                yield watch.index, number, role, watch_program(shape, spec)


def _frame(watch: Watch, sink: Sink) -> Frame:
    """Values are taken where a record carries them, or a condition asks for them."""
    if watch.mode is Mode.EXECUTE:
        return Frame(0)
    if sink is not Sink.RECORD:
        from ksym.program.conditions import uses_values

        if watch.condition is None or not uses_values(watch.condition):
            return Frame(0)
    return Frame(padded(watch.variable.length))


def _emitter(watch: Watch, frame: Frame) -> Callable[[Assembler, Label, Label, int], None] | None:
    condition = watch.condition
    if condition is None:
        return None
    from ksym.program.conditions import compile_condition

    def emit(asm: Assembler, keep: Label, reject: Label, scratch: int) -> None:
        compile_condition(asm, condition, frame, sees(watch), keep=keep, reject=reject, scratch=scratch)

    return emit


class Engine:
    """The loaded programs of a run and the memory that they share with ksym.

    Args:
        plan: What is watched.
        wants: What is to happen at a hit.

    Raises:
        EngineRefused: This machine allows no such programs.
    """

    def __init__(self, plan: Plan, wants: Wants) -> None:
        if MACHINE == "aarch64":
            # Before d11a69873d9a (6.6) a program on a watchpoint kept the kernel from stepping over the access, for
            # ever; which kernels have it cannot be asked, and a value read there is the old one.
            raise EngineRefused("programs at watchpoints are not safe on every arm64 kernel")
        self.plan, self.wants = plan, wants
        self._maps: dict[str, bpf.Map] = {}
        self._programs: dict[tuple[int, int, Role], int] = {}
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
        shape = shape_of(self.plan)
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
        try:
            self._load(atomics=True)
        except bpf.VerifierError as error:
            # BPF_FETCH and BPF_CMPXCHG came in 5.12 (5ca419f2864a, 5ffa25502b5a); without them two CPUs that write
            # at once may show each other's value, and a limit is held by ksym instead of in the kernel.
            if "BPF_STX" not in error.log and "unknown opcode" not in error.log:
                raise
            self._close_programs()
            self._load(atomics=False)

    def _load(self, *, atomics: bool) -> None:
        self.holds_limit = self.wants.limit > 0 and atomics
        """Whether the programs keep not more hits than were asked for."""
        for watch, piece, role, program in programs(self.plan, self.wants, atomics=atomics):
            for name in program.maps:
                if name not in self._maps:
                    self._maps[name] = self._map(name)
            code = program.encode({name: map_.fd for name, map_ in self._maps.items()})
            self._programs[watch, piece, role] = bpf.load(bpf.PROG_TYPE_PERF_EVENT, code, name=program.name)

    def _map(self, name: str) -> bpf.Map:
        if name == "counts":
            return bpf.Map(bpf.MAP_TYPE_PERCPU_HASH, key=COUNT_KEY_BYTES, value=8, entries=_COUNTS)
        if name == "comms":
            return bpf.Map(bpf.MAP_TYPE_HASH, key=8, value=COMM_BYTES, entries=_COUNTS)
        if name == "copies":
            return bpf.Map(bpf.MAP_TYPE_LRU_HASH, key=8, value=Slot.SIZE, entries=_COPIES)
        return bpf.Map(bpf.MAP_TYPE_PERF_EVENT_ARRAY, entries=self._cpus)

    def program(self, watch: int, piece: int, role: Role) -> int:
        """Descriptor of the program for a register."""
        return self._programs[watch, piece, role]

    def outputs(self, watch: int) -> bpf.Map | None:
        """The map that tells a watch's programs which event to write to, by CPU; None where they write none."""
        return self._maps.get(f"output{watch}")

    @property
    def takes_values(self) -> list[bool]:
        """For each watch, whether its records carry values."""
        return [
            watch.mode is not Mode.EXECUTE and watch.variable.length <= MOST_BYTES
            for watch in self.plan.watches
        ]

    def counts(self) -> Iterator[tuple[bytes, bytes]]:
        """Elements of ``counts``: key, and 8 bytes for each possible CPU."""
        return self._maps["counts"].items(8 * self._cpus)

    def comms(self) -> Iterator[tuple[bytes, bytes]]:
        """Elements of ``comms``: pid_tgid, name."""
        return self._maps["comms"].items(COMM_BYTES)

    def forget(self, pid: int) -> None:
        """A process has ended: another one with its number has nothing to do with its copies."""
        copies = self._maps.get("copies")
        if copies is not None:
            for watch in self.plan.watches:
                copies.delete(struct.pack("=II", watch.index, pid))

    def close(self) -> None:
        """Give programs and maps back."""
        self._close_programs()
        if hasattr(self, "shared"):
            self.shared.close()
        for each in self._maps.values():
            each.close()
        self._maps.clear()

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
