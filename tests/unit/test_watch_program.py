# SPDX-License-Identifier: BSD-2-Clause
"""The programs of a run: whatever is asked for, the kernel's verifier takes what is generated."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksym.language import Condition, parse_condition, parse_request
from ksym.language.request import Mode, Request
from ksym.linux import bpf
from ksym.linux.bpf_asm import Helper
from ksym.linux.cpus import possible_cpus
from ksym.linux.direct_map import DirectMap
from ksym.linux.libc import MACHINE
from ksym.program import engine
from ksym.program.bind import bind
from ksym.program.engine import Engine, EngineRefused, programs
from ksym.program.wants import Sink, Wants
from ksym.symbols import types
from ksym.symbols.address_spaces import AddressSpaces
from ksym.symbols.task_layout import TaskLayout
from ksym.symbols.variable import Space, Variable
from ksym.watch.plan import Plan, Role, make_plan
from support.bpf import need_programs
from support.conditions import MEMBER_VALUES, WHOLE_VALUES, conditions, functions_around, structs
from support.descriptors import leaves_open

IP = 0xFFFFFFFF8110BEEF
FUNCTIONS = functions_around(IP)
WALKS = [
    DirectMap(0xFFFF888000000000, (1 << 46) - 4096, shifts, 0x9C8, 0x48)
    for shifts in ((39, 30, 21, 12), (48, 39, 30, 21, 12))
]
FOUR_LEVELS, FIVE_LEVELS = WALKS
TASKS = TaskLayout(
    1136, 72, 1144, 1328, 1368, 1848, 4, 4, 144, 16, 0, 8, 136, 132, (1824, 32, 8), 24
)  # of some kernel
NAMESPACE = 0xF0000123
COMMS = ["python", "py"]
Asked = tuple[Request, Variable, Condition | None]


@pytest.fixture(scope="module")
def _programs() -> None:
    if MACHINE != "x86_64":
        pytest.skip("no programs run at watchpoints here")
    need_programs(bpf.PROG_TYPE_PERF_EVENT)


# Random runs.

LENGTHS = st.sampled_from([1, 2, 4, 8, 3, 5, 12, 33, 64, 65]) | st.integers(1, 64)


@st.composite
def asked(draw: st.DrawFn, number: int) -> Asked:
    """A request, what it means, and its condition."""
    mode = draw(st.sampled_from([mode for mode in Mode if mode.value]))
    request = parse_request(f"v{number}:{mode}")
    if mode is Mode.EXECUTE:
        function = Variable(f"v{number}", 0xFFFFFFFF81000000, 1, Space.KERNEL, executable=True)
        return request, function, draw(st.none() | ON_TASKS)
    space = draw(st.sampled_from(Space))
    length = draw(LENGTHS)
    if space is Space.USER:
        address = 0x555555556000 + draw(
            st.sampled_from([0, 1, 7, 4095, 4096 - length]) | st.integers(0, 4095)
        )
    else:
        address = 0xFFFFFFFF82000000 + draw(st.integers(0, 63))
    per_cpu = None
    if space is Space.KERNEL and draw(st.booleans()):
        per_cpu = {cpu: address + cpu * 0x10000 for cpu in possible_cpus()}
    kind: types.Type | None = draw(structs(length))
    values = MEMBER_VALUES
    if length in (1, 2, 4, 8) and draw(st.booleans()):
        kind, values = None, WHOLE_VALUES
    variable = Variable(f"v{number}", address, length, space, kind, per_cpu=per_cpu)
    if length > 64:
        return request, variable, draw(st.none() | ON_TASKS)
    condition = draw(st.none() | conditions(values, comms=COMMS, ip=IP))
    return request, variable, condition and bind(condition, variable, FUNCTIONS.__getitem__)


NO_VALUES: list[str] = [
    "pid == 1 && tid != 2 || uid > 3 && cpu >= 0", 'comm == "py*"', "ip in pieces", "access == X || access == R",
    "!(access == W) == (pid == 1)",
]  # fmt: skip
ON_TASKS = st.sampled_from(NO_VALUES).map(
    lambda text: bind(
        parse_condition(text), Variable("f", 0, 1, Space.KERNEL, executable=True), FUNCTIONS.__getitem__
    )
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    all_asked = [draw(asked(number)) for number in range(draw(st.integers(1, 4)))]
    return make_plan(
        [(request, variable) for request, variable, _ in all_asked],
        twin=draw(st.booleans()),
        conditions=[condition for _, _, condition in all_asked],
    )


WANTS = st.builds(
    Wants,
    st.sampled_from(Sink),
    limit=st.sampled_from([0, 1, 2**40]),
    stop=st.booleans(),
    guarded=st.just(()) | st.tuples(*[st.booleans()] * 4),
    walk=st.sampled_from([None, *WALKS]),
    tasks=st.sampled_from([None, TASKS]),
    kernel_accesses=st.booleans(),
)


def has_fetch(code: bytes) -> bool:
    """Whether a program has atomic operations besides plain addition, which came in 5.12."""
    at = 0
    while at < len(code):
        op, _, _, imm = struct.unpack_from("=BBhi", code, at)
        if op == 0xDB and imm:
            return True
        at += 16 if op == 0x18 else 8
    return False


@contextmanager
def kernel_without_fetch() -> Iterator[None]:
    """bpf(2) as it was before 5.12, as far as the refusal of such operations goes."""
    load = bpf.load

    def old_load(kind: int, code: bytes, *, flags: int = 0, name: str = "ksym") -> int:
        if has_fetch(code):
            raise bpf.VerifierError(
                errno.EINVAL, "0: (db) ...\nBPF_STX uses reserved fields\nprocessed 9 insns"
            )
        return load(kind, code, flags=flags, name=name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bpf, "load", old_load)
        yield


class Spaces(AddressSpaces):
    """Processes whose memory has the number that the process has."""

    def __init__(self) -> None:
        pass

    def of(self, pid: int) -> int | None:
        return pid if pid > 0 else None

    def forget(self, pid: int) -> None:
        pass

    def close(self) -> None:
        pass


def verify(plan: Plan, wants: Wants) -> list[tuple[int, int, Role]]:
    """Load a run's programs and close them again; which ones there were."""
    with leaves_open():
        try:
            loaded = Engine(plan, wants, Spaces() if wants.tasks else None)
        except EngineRefused as refused:
            raise AssertionError("\n".join([refused.why, *refused.log.splitlines()[-60:]])) from None
        kinds = [(watch, piece, role) for watch, piece, role, _ in programs(plan, wants)]
        assert len({loaded.program(*kind) for kind in kinds}) == len(kinds)
        loaded.close()
    return kinds


@pytest.mark.usefixtures("_programs")
@given(plans(), WANTS, st.booleans(), st.booleans())
@settings(max_examples=70, deadline=None)
def test_the_verifier_takes_every_program(plan: Plan, wants: Wants, fetch: bool, namespace: bool) -> None:
    with ExitStack() as stack:
        if not fetch:
            stack.enter_context(kernel_without_fetch())
        if namespace and wants.tasks:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr(engine, "own_pid_namespace", lambda: NAMESPACE)
        kinds = verify(plan, wants)
    assert len(kinds) == plan.registers


# The largest ones.

BIG = Variable(
    "big", 0x555555556000, 64, Space.USER,
    types.Struct("struct big", 64, False, lambda: (
        types.Field("a", types.Integer("long", 8, True), 3),
        types.Field("b", types.Integer("unsigned int", 4, False), 21, (5, 31)),
    )),
)  # fmt: skip


def deep(opening: str, inner: str, closing: str) -> str:
    return opening * 40 + inner + closing * 40


@pytest.mark.usefixtures("_programs")
@pytest.mark.parametrize("space", Space)
@pytest.mark.parametrize(
    "text",
    [
        deep("uid + pid - (", "new.a", ")") + " == 0",
        deep("(pid == 1) != (cpu == 0 && ", "changed", ")"),
        deep("pid < tid && (", "changed", ")"),
        "(pid < 1)" + " != (new.a > old.a)" * 99,
        "pid" + " + old.b" * 200,
        " && ".join(['comm != "fifteen-letters"'] * 100),
        " || ".join(['comm == "py*"', "ip in pieces"] * 50),
        " || ".join(["new.b != old.a", "changed"] * 50),
    ],
    ids=lambda text: text[:30],
)
def test_the_verifier_takes_the_largest(text: str, space: Space) -> None:
    """All that a program can have, at once: the verifier's patience and the stack suffice."""
    variable = replace(BIG, space=space)
    condition = bind(parse_condition(text), variable, FUNCTIONS.__getitem__)
    for mode in ("rw-", "-w-", "r--"):
        plan = make_plan([(parse_request(f"big:{mode}"), variable)], twin=True, conditions=[condition])
        (watch,) = plan.watches
        one = Plan(
            (replace(watch, pieces=watch.pieces[-1:]),)
        )  # those of the other pieces differ by a number
        for sink in Sink:
            verify(one, Wants(sink, limit=7, stop=True, guarded=(True,), walk=FIVE_LEVELS))
        if mode == "rw-":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(engine, "own_pid_namespace", lambda: NAMESPACE)
                verify(one, Wants(Sink.COUNT, walk=FIVE_LEVELS, tasks=TASKS, kernel_accesses=False))


@pytest.mark.usefixtures("_programs")
@pytest.mark.parametrize("walk", [None, FOUR_LEVELS, FIVE_LEVELS])
def test_the_verifier_takes_what_follows_address_spaces(walk: DirectMap | None) -> None:
    """As many variables as there are registers, the longest, across pages, some read by their own address."""
    variables = [replace(BIG, name=f"v{n}", address=0x555555556FE1 + 0x1000 * n) for n in range(4)]
    modes = ("-w-", "rw-", "rw-", "-w-")
    found = [
        (parse_request(f"./a:v{n}:{mode}"), v)
        for n, (mode, v) in enumerate(zip(modes, variables, strict=True))
    ]
    loaded = Engine(make_plan(found, twin=False), Wants(Sink.RECORD, walk=walk, tasks=TASKS), Spaces())
    assert loaded.by_memory
    loaded.close()


@pytest.mark.usefixtures("_programs")
def test_where_the_kernel_refuses_tracepoints_values_go_by_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(name: str, program: int) -> int:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(bpf, "raw_tracepoint", refused)
    plan = make_plan([(parse_request("./a:v"), replace(BIG, length=8, type=None))])
    with leaves_open():
        loaded = Engine(plan, Wants(Sink.RECORD, walk=FOUR_LEVELS, tasks=TASKS), Spaces())
        assert not loaded.by_memory
        loaded.close()


# Where values lie.

LONG = Variable("v", 0x555555556000, 8, Space.USER)


@pytest.mark.usefixtures("_programs")
def test_values_of_places() -> None:
    plan = make_plan(
        [(parse_request("./a:v:-w-"), LONG), (parse_request("./a:w:-w-"), replace(LONG, name="w"))]
    )
    loaded = Engine(plan, Wants(Sink.RECORD, walk=FOUR_LEVELS, tasks=TASKS), Spaces())
    one, other = b"one.....", b"other..."
    loaded.chains.place(0, 10, 0x1000)
    loaded.chains.place(1, 10, 0x1000)
    loaded.chains.place(0, 10, 0x3000)
    loaded.chains.place(0, 11, 0x1000, shared="page")
    loaded.chains.place(0, 12, 0x2000, shared="page")
    assert loaded.chains.last(0, 10, 0x1000) is None
    loaded.chains.seed(0, 10, 0x1000, one)
    loaded.chains.seed(0, 11, 0x1000, other)
    assert loaded.chains.last(0, 10, 0x1000) == one
    assert loaded.chains.last(1, 10, 0x1000) is None
    assert loaded.chains.last(0, 10, 0x3000) is None
    # One memory, wherever it is mapped; the same address of another process is none.
    assert loaded.chains.last(0, 11, 0x1000) == loaded.chains.last(0, 12, 0x2000) == other
    assert loaded.chains.last(0, 12, 0x1000) is None
    # What comes to the same address later begins anew.
    loaded.chains.unplace(0, 10, 0x1000)
    assert loaded.chains.last(0, 10, 0x1000) is None
    loaded.chains.place(0, 10, 0x1000)
    assert loaded.chains.last(0, 10, 0x1000) is None
    loaded.chains.left(10)
    assert [place for place in loaded.chains.places() if place[1] == 10] == []
    # Those that have ended make room for others, of which there may be any number.
    for pid in range(100, 1000):
        loaded.chains.place(0, pid, 0x1000)
        loaded.chains.seed(0, pid, 0x1000, one)
        assert loaded.chains.last(0, pid, 0x1000) == one
        loaded.chains.left(pid)
    loaded.chains.place(0, -1, 0x1000)
    loaded.close()


# What programs there are, and what is in them.


def plan_of(*requests: str, length: int = 8, twin: bool = True, space: Space = Space.KERNEL) -> Plan:
    found = []
    for number, text in enumerate(requests):
        request = parse_request(text)
        executed = request.mode is Mode.EXECUTE
        found.append(
            (
                request,
                Variable(
                    f"v{number}", 0xFFFFFFFF82000000, 1 if executed else length, space, executable=executed
                ),
            )
        )
    return make_plan(found, twin=twin)


def test_a_program_for_each_register() -> None:
    plan = plan_of("a:rw-", "b:-w-", "c:r--", "d:--x", length=12)
    kinds = [(watch, piece, role) for watch, piece, role, _ in programs(plan, Wants(Sink.RECORD))]
    both = [Role.WRITES, Role.READS]
    assert kinds == (
        [(0, piece, role) for piece in (0, 1) for role in both]
        + [(1, piece, Role.ONLY) for piece in (0, 1)]
        + [(2, piece, role) for piece in (0, 1) for role in both]
        + [(3, 0, Role.ONLY)]
    )
    assert len(kinds) == plan.registers


@pytest.mark.parametrize(
    ("sink", "expected"),
    [(Sink.RECORD, {"output0"}), (Sink.COUNT, {"counts", "comms"}), (Sink.NOTHING, set())],
)
def test_a_program_uses_the_maps_of_its_sink(sink: Sink, expected: set[str]) -> None:
    for *_, program in programs(plan_of("a:rw-"), Wants(sink)):
        assert {*program.maps} - {"state", "cells"} == expected


def calls(plan: Plan, wants: Wants) -> list[set[Helper]]:
    """The helpers that each program calls."""
    return [
        {Helper(i.imm) for i in program.instructions if i.code == 0x85}
        for *_, program in programs(plan, wants)
    ]


def test_values_are_taken_where_somebody_needs_them() -> None:
    reads = {Helper.PROBE_READ_KERNEL, Helper.PROBE_READ_USER}
    assert all(helpers & reads for helpers in calls(plan_of("a"), Wants(Sink.RECORD)))
    assert not any(helpers & reads for helpers in calls(plan_of("a"), Wants(Sink.COUNT)))
    assert not any(helpers & reads for helpers in calls(plan_of("a:--x"), Wants(Sink.RECORD)))
    assert not any(helpers & reads for helpers in calls(plan_of("a", length=65), Wants(Sink.RECORD)))
    plan = plan_of("a")
    for text, expected in (("changed", True), ("pid == 1", False)):
        condition = bind(parse_condition(text), plan.watches[0].variable, FUNCTIONS.__getitem__)
        judged = Plan((replace(plan.watches[0], condition=condition),))
        assert all(bool(helpers & reads) is expected for helpers in calls(judged, Wants(Sink.COUNT)))


def test_user_memory_is_reached_without_tripping_over_its_register() -> None:
    wants = Wants(Sink.RECORD, walk=FOUR_LEVELS)
    assert all(
        Helper.PROBE_READ_USER not in helpers
        for helpers in calls(plan_of("./a:v:rw-", space=Space.USER), wants)
    )
    for plan in (plan_of("./a:v:-w-", space=Space.USER), plan_of("./a:v:rw-", space=Space.USER)):
        walked = any(watch.mode is Mode.READ_WRITE for watch in plan.watches)
        for helpers in calls(plan, wants):
            assert (Helper.GET_CURRENT_TASK in helpers) is walked


def test_tasks_are_stopped_where_that_was_asked_for() -> None:
    for stop in (True, False):
        for helpers in calls(plan_of("a"), Wants(Sink.RECORD, stop=stop)):
            assert (Helper.SEND_SIGNAL in helpers) is stop
    # Of a watch on reads alone, the W register's hits are none that were asked for.
    assert [
        Helper.SEND_SIGNAL in each for each in calls(plan_of("a:r--"), Wants(Sink.RECORD, stop=True))
    ] == [
        False,
        True,
    ]


def has_atomics(plan: Plan, wants: Wants, *, atomics: bool) -> bool:
    maps = dict.fromkeys(("state", "cells", "output0", "copies"), 1)
    return any(has_fetch(program.encode(maps)) for *_, program in programs(plan, wants, atomics=atomics))


def test_only_new_kernels_get_new_instructions() -> None:
    plan, wants = plan_of("a"), Wants(Sink.RECORD, limit=1)
    assert has_atomics(plan, wants, atomics=True)
    assert not has_atomics(plan, wants, atomics=False)


# The engine.


@pytest.mark.usefixtures("_programs")
def test_an_older_kernel_gets_programs_without_fetch() -> None:
    """Those that were loaded before one was refused are given back."""
    variable = Variable(
        "v", 0xFFFFFFFF82000000, 8, Space.KERNEL, per_cpu=dict.fromkeys(possible_cpus(), 0x1000)
    )
    plan = make_plan([(parse_request("a"), variable), (parse_request("b"), replace(variable, per_cpu=None))])
    with kernel_without_fetch():
        verify(plan, Wants(Sink.RECORD))
        loaded = Engine(plan, Wants(Sink.RECORD, limit=3))
        assert not loaded.holds_limit
        loaded.close()
    loaded = Engine(plan, Wants(Sink.RECORD, limit=3))
    assert loaded.holds_limit
    loaded.close()


@pytest.mark.usefixtures("_programs")
@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.EPERM, "no"), "(the kernel forbids BPF|it takes CAP_BPF|root lacks CAP_BPF|a seccomp filter).*"),
        (OSError(errno.ENOSYS, "no"), "this kernel has no BPF"),
        (OSError(errno.ENOMEM, "no"), "BPF refused: Cannot allocate memory"),
        (
            bpf.VerifierError(errno.EACCES, "0: R1=ctx\nR3 invalid mem access 'scalar'\nprocessed 3 insns (limit 9)\n"),
            "the kernel's verifier refused the program: R3 invalid mem access 'scalar'",
        ),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_a_clause(error: OSError, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(bpf, "load", load)
    with leaves_open(), pytest.raises(EngineRefused, match=f"^{why}$"):
        Engine(plan_of("a"), Wants(Sink.RECORD))


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", "it did not say why"),
        ("\n \nprocessed 0 insns (limit 1000000)\n", "it did not say why"),
        (
            "unreachable insn 12\nprocessed 0 insns (limit 1000000) max_states_per_insn 0\n",
            "unreachable insn 12",
        ),
        (
            "0: (b7) r0 = 0\nR0 !read_ok\nverification time 12 usec\nstack depth 0\nprocessed 1 insns\n",
            "R0 !read_ok",
        ),
        (
            "1: R1=ctx()\n  invalid bpf_context access off=400 size=8  \nprocessed 2 insns",
            "invalid bpf_context access off=400 size=8",
        ),
        (
            "BPF program is too large. Processed 1000001 insn",
            "BPF program is too large. Processed 1000001 insn",
        ),
    ],
)
def test_the_line_of_a_verifiers_log_that_says_why(log: str, reason: str) -> None:
    assert engine._reason(log) == reason
