# SPDX-License-Identifier: BSD-2-Clause
"""Conditions at real hits: each keeps, of a variable's accesses, those that Python keeps of the same records.

Several watches lie on one variable of this process at once. The first has no condition, so that it tells of every
access; what the others keep is held against it.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksym.capture.merge import Merge
from ksym.capture.records import SampleRecord
from ksym.language import Condition, parse_condition, parse_request
from ksym.language.condition import FIELDS, PRECEDENCE, AccessName, Binary, Field, InFunction, Text, Unary
from ksym.linux import bpf
from ksym.linux.cpus import online_cpus
from ksym.linux.libc import MACHINE
from ksym.program.bind import bind, leaves
from ksym.program.conditions import decided_in_kernel
from ksym.program.engine import Engine, sees
from ksym.program.layout import PIECE_SHIFT, Hit
from ksym.program.verdict import Seen, could_match
from ksym.program.wants import Sink, Wants
from ksym.runs.engines import wants_for
from ksym.symbols import types
from ksym.symbols.kernel import Kernel
from ksym.symbols.variable import Space, Variable
from ksym.watch.arm import ArmedWatch, Options
from ksym.watch.plan import Place, Scope, make_plan
from support.actors import Memory, Task, Touch, tasks
from support.bpf import need_programs
from support.conditions import MEMBER_VALUES, WHOLE_VALUES, conditions, functions_around, holds_in_c, structs
from support.program import ksym
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="elsewhere no programs run at watchpoints"),
]

REGISTERS = 4


class Kind(NamedTuple):
    """What the variable is, and in what units it is read and written."""

    type: types.Type
    format: str
    bits: tuple[int, int] | None = None


def integer(size: int, signed: bool) -> Kind:
    return Kind(types.Integer("int", size, signed), {1: "B", 2: "H", 4: "I", 8: "Q"}[size])


def member(
    name: str, size: int, offset: int, signed: bool = False, bits: tuple[int, int] | None = None
) -> types.Field:
    return types.Field(name, types.Integer("int", size, signed), offset, bits)


COLORS = types.Enum("enum color", 4, True, (("RED", 0), ("GREEN", 1), ("BLUE", 5), ("NONE", -1)))
BYTES = types.Array("unsigned char [2]", 2, types.Integer("unsigned char", 1, False), 2)
RECORD = types.Struct("struct record", 8, False, lambda: (
    member("a", 2, 0, signed=True), member("b", 4, 2, bits=(3, 7)), member("c", 4, 2, signed=True, bits=(10, 5)),
    types.Field("d", BYTES, 6),
))  # fmt: skip
TRIPLE = types.Struct("struct triple", 12, False, lambda: (
    member("x", 4, 0, signed=True), member("y", 4, 4), member("z", 4, 8, signed=True),
))  # fmt: skip

KINDS = {
    **{f"{'us'[signed]}{8 * size}": integer(size, signed) for size in (1, 2, 4, 8) for signed in (False, True)},
    "color": Kind(COLORS, "I"),
    "record": Kind(RECORD, "Q"),
    "triple": Kind(TRIPLE, "I"),
    "field": Kind(types.Integer("int", 4, True), "I", (5, 6)),
}  # fmt: skip


@dataclass
class Bench:
    """What all tests here use: the variable's memory, who touches it, and what was found out about both."""

    memory: Memory
    tasks: list[Task]
    kernel: Kernel
    ips: dict[tuple[str, bool], int] = field(default_factory=dict)

    def ip(self, kind: Kind, *, write: bool) -> int:
        """Where such an access is made."""
        if (kind.format, write) not in self.ips:
            steps = [(self.tasks[0], Touch(kind.format, 0, value)) for value in (None, 1)]
            read, written = observe(self, kind, "rw-", steps, [])
            self.ips[kind.format, False], self.ips[kind.format, True] = read.record.ip, written.record.ip
        return self.ips[kind.format, write]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    need_programs(bpf.PROG_TYPE_PERF_EVENT)
    memory = Memory()
    with tasks(memory) as those:
        yield Bench(memory, those, Kernel())


Step = tuple[Task, Touch]


@dataclass
class Observed:
    """An access: who made it, what the first watch tells of it, and which others kept it."""

    step: Step
    record: SampleRecord
    kept: set[int] = field(default_factory=set)

    def seen(self, length: int) -> Seen:
        """It, as conditions see it."""
        (task, touch), record = self.step, self.record
        old = record.old[:length] if record.flags & Hit.OLD else None
        new = record.new[:length] if record.flags & Hit.NEW else None
        known = old is not None and new is not None
        assert (record.pid, record.tid, record.cpu, record.uid) == (task.pid, task.tid, task.cpu, task.uid)
        return Seen(
            old, new, bool(record.flags & Hit.CHANGED) if known else None, record.pid, record.tid, record.cpu,
            record.uid, task.comm, "R" if touch.value is None else "W", record.ip, record.ip - 1,
        )  # fmt: skip


def registers(kind: Kind, mode: str, *, twin: bool) -> int:
    """Registers that a watch takes."""
    return -(-kind.type.size // 8) * (2 if twin or mode == "r--" else 1)


def variable_of(kind: Kind, address: int = 0x1000) -> Variable:
    return Variable("v", address, kind.type.size, Space.USER, kind.type, kind.bits)


def observe(
    bench: Bench,
    kind: Kind,
    mode: str,
    steps: Sequence[Step],
    judging: Sequence[Condition],
    *,
    twin: bool = False,
) -> list[Observed]:
    """Let the steps happen under a watch without a condition, and one with each of those, which are bound.

    Returns:
        The accesses of the kind that was asked for, in order.
    """
    variable = variable_of(kind, bench.memory.address)
    found = [(parse_request(f"v{number}:{mode}"), variable) for number in range(1 + len(judging))]
    plan = make_plan(found, twin=twin, conditions=[None, *judging])
    scope = Scope(
        tuple(online_cpus()), (Place(0, tuple(task.tid for task in bench.tasks)),), only_threads=True
    )
    engine = Engine(plan, wants_for(plan, Wants(Sink.RECORD), bench.kernel))
    try:
        with ArmedWatch(plan, lambda: scope, Options(ring_bytes=1 << 16), engine) as armed:
            for watch in plan.watches:
                engine.shared.seed(watch.index, bench.memory.content()[: variable.length])
            armed.enable()
            for task, touch in steps:
                task.touch([touch])
            armed.disable()
            records = Merge(armed.rings, chains=False, raw=True).ready(last=True)
            planned = armed.planned
    finally:
        engine.close()
    asked = [step for step in steps if mode[0 if step[1].value is None else 1] != "-"]
    told: list[Observed] = []
    for record in records:
        if not isinstance(record, SampleRecord):
            continue
        number = planned[record.id, record.flags >> PIECE_SHIFT].watch.index
        if number == 0:  # it has the lowest register, so it is the first to tell
            told.append(Observed(asked[len(told)], record))
            continue
        same = told[-1].record
        assert record == same._replace(time=record.time, id=record.id)
        assert number not in told[-1].kept
        told[-1].kept.add(number)
    assert len(told) == len(asked)
    return told


def judge(
    bench: Bench,
    kind: Kind,
    mode: str,
    steps: Sequence[Step],
    judging: Sequence[Condition],
    *,
    twin: bool = False,
) -> list[list[bool]]:
    """Hold what each condition keeps against Python's word; returns that: for each condition, of each access."""
    length = kind.type.size
    accesses = observe(bench, kind, mode, steps, judging, twin=twin)
    (watch,) = make_plan([(parse_request(f"v:{mode}"), variable_of(kind))], twin=twin).watches
    words = []
    for number, condition in enumerate(judging, 1):
        words.append([could_match(condition, access.seen(length)) for access in accesses])
        known = [access.seen(length) for access in accesses if access.record.flags & Hit.OLD]
        for one in known:
            assert could_match(condition, one) is holds_in_c(condition, one), str(condition)
        kept = [number in access.kept for access in accesses]
        if decided_in_kernel(condition, sees(watch)):
            assert kept == words[-1], str(condition)
        else:  # it is judged again, when the access is known
            assert [a and b for a, b in zip(kept, words[-1], strict=True)] == words[-1], str(condition)
    return words


def bound(bench: Bench, kind: Kind, text: str | Condition, *, ip: int) -> Condition:
    condition = parse_condition(text) if isinstance(text, str) else text
    return bind(condition, variable_of(kind), functions_around(ip).__getitem__)


# Each operator and field, at least once.

NUMBERS = [-5, -1, -1, 0, 1, 7, 8, 6, 2**31 - 1, -(2**31)]


def packed(a: int, b: int, c: int, d: tuple[int, int]) -> int:
    bits = (b & 127) << 3 | (c & 31) << 10
    return int.from_bytes(struct.pack("=hI", a, bits)[:6] + bytes(d), "little")


VALUES = {
    "color": [0, 1, 5, -1, 5, 5, 7],
    "record": [packed(1, 2, 3, (4, 5)), packed(-1, 5, -3, (2, 2)), packed(4, 127, -16, (0, 0)), 0],
    "field": [5 << 5, 5 << 5 | 1, 63 << 5, 0, 1],
    "u64": [2**64 - 16, 2**63, 2**63 - 1, 0, 1, 101, 2**64 - 1, 2**63 + 1, 7],
}

EXPLICIT: dict[tuple[str, str], list[str]] = {
    ("s32", "-w-"): [
        "new == 7", "new != 7", "new < old", "new <= 0", "new > old", "new >= 8",
        "new + 1 == 8", "new - old == 1", "new & 1", "(new | 1) == 7", "(new ^ old) < 0", "new << 1 == 14",
        "new >> 1 == -1", "-new == 1", "~new == 0", "!(new == 7)", "!new", "new > 0 && old <= 0",
        "new == 7 || old == 7", "changed", "!changed",
        "changed == (new > 0)", "changed != (old > 0)",
        "pid == {fork.pid}", "tid == {thread.tid}", "tid - pid", "cpu == {here.cpu}", "uid == 1234", "uid > 5000",
        'comm == "fifteen-letters"', 'comm == "ksym*"', 'comm != "ksym-fork"',
        "new == true", "old == NULL", "new == false",
    ],
    ("s32", "rw-"): ["ip in ends_at_ip", "ip in begins_at_ip || new == 7", "ip in pieces", "ip == {ip}", "ip != {ip}"],
    ("s32", "twin"): [
        "access == R", "access != R", "access == W", "access == W && new > 0",
        "access == RW || pid == {here.pid}",
    ],
    ("s32", "r--"): ["new > 0", "old == new && tid == {thread.tid}", "access == R && cpu == {here.cpu}"],
    ("u32", "-w-"): ["new > 0x7fffffff", "new == 4294967295", "new >> 31 == 1"],
    ("s8", "-w-"): ["new == -1", "old < 0", "new > 7"],
    ("u8", "-w-"): ["new == 255", "old > 127", "new + old > 255"],
    ("s16", "-w-"): ["new == -1", "old < 0", "new > 7"],
    ("u16", "-w-"): ["new == 65535", "old > 32767", "new - old < 0"],
    ("s64", "-w-"): ["new == -1", "old < 0", "new < -0x7fffffff"],
    ("u64", "-w-"): [
        "new == -1", "old == 0xffffffffffffffff", "new >> 63", "new > 100", "new > old", "new >> 63 == 1",
        "new < 0x8000000000000000", "old >= 0x7fffffffffffffff", "new - 8 > old", "-new > 100", "new <= -16",
    ],
    ("color", "-w-"): ["new == BLUE", "old != RED", "new == NONE || old == GREEN"],
    ("record", "-w-"): ["new.a < 0", "new.b > old.b", "new.c == -3", "new.d[1] == 2", "old.d[0] != new.d[0]"],
    ("triple", "-w-"): ["new.x == 8", "new.y > new.x", "old.z != new.z", "changed && new.y == 0xffffffff"],
    ("field", "-w-"): ["new == 5", "changed", "old < 0"],
}  # fmt: skip


def values_of(name: str) -> list[int]:
    kind = KINDS[name]
    width = 8 * struct.calcsize(kind.format)
    return [value & ((1 << width) - 1) for value in VALUES.get(name, NUMBERS)]


def all_steps(bench: Bench, name: str) -> list[Step]:
    """Every task writes every value, and reads it."""
    kind = KINDS[name]
    places = max(1, kind.type.size // struct.calcsize(kind.format))
    return [
        (task, Touch(kind.format, number % places, what))
        for number, value in enumerate(values_of(name))
        for task in bench.tasks
        for what in (value, None)
    ]


def of_explicit(name: str, how: str) -> tuple[Kind, str, bool, int]:
    """The kind, the mode, whether it has twins, and how many conditions there may be at once."""
    kind, mode = KINDS[name], "rw-" if how == "twin" else how
    twin = how == "twin"
    return kind, mode, twin, REGISTERS // registers(kind, mode, twin=twin) - 1


@pytest.mark.parametrize(("name", "how"), EXPLICIT, ids=map(" ".join, EXPLICIT))
def test_each_operator(name: str, how: str, bench: Bench) -> None:
    kind, mode, twin, most = of_explicit(name, how)
    ip = bench.ip(kind, write=True)
    here, thread, fork = bench.tasks
    texts = [text.format(here=here, thread=thread, fork=fork, ip=ip) for text in EXPLICIT[name, how]]
    for at in range(0, len(texts), most):
        some = texts[at : at + most]
        judging = [bound(bench, kind, text, ip=ip) for text in some]
        words = judge(bench, kind, mode, all_steps(bench, name), judging, twin=twin)
        for text, word in zip(some, words, strict=True):
            assert set(word) == {False, True}, f"'{text}' always comes to the same"


def test_no_operator_is_left_out() -> None:
    texts = [text.replace("{", "").replace("}", "") for each in EXPLICIT.values() for text in each]
    conditions = [parse_condition(_without_names(text)) for text in texts]
    operators: set[tuple[int, str]] = set()
    for condition in conditions:
        operators |= _operators(condition)
    found = [leaf for condition in conditions for leaf in leaves(condition)]
    assert operators == {(2, op) for op in PRECEDENCE if op != "in"} | {(1, op) for op in "!-~"}
    assert any(isinstance(leaf, InFunction) for leaf in found)
    assert {leaf.name for leaf in found if isinstance(leaf, Field)} == set(FIELDS)
    assert {leaf.prefix for leaf in found if isinstance(leaf, Text)} == {False, True}
    assert {leaf.name for leaf in found if isinstance(leaf, AccessName)} == {"R", "W", "RW"}


def _without_names(text: str) -> str:
    for name in ("here", "thread", "fork"):
        for what in ("pid", "tid", "cpu"):
            text = text.replace(f"{name}.{what}", "1")
    return text.replace("== ip", "== 1").replace("!= ip", "!= 1")


def _operators(node: Condition) -> set[tuple[int, str]]:
    match node:
        case Unary(op=op, operand=operand):
            return {(1, op)} | _operators(operand)
        case Binary(op=op, left=left, right=right):
            return {(2, op)} | _operators(left) | _operators(right)
    return set()


def test_a_value_that_never_is_below_zero(bench: Bench) -> None:
    kind = KINDS["u64"]
    judging = [bound(bench, kind, "new < 0", ip=0)]
    assert not any(judge(bench, kind, "-w-", all_steps(bench, "u64"), judging)[0])


# Functions as rows name them.

FUNCTIONS = r"""
#include <unistd.h>
volatile unsigned long counter;
void typeless(void); void sizeless(void); void whole(void);
__asm__(".text\n"
        "typeless: movq $1, counter(%rip)\n ret\n"
        ".type sizeless, @function\nsizeless: movq $2, counter(%rip)\n ret\n"
        ".type whole, @function\nwhole: movq $3, counter(%rip)\n ret\n.size whole, .-whole\n"
        ".type whole.cold, @function\nwhole.cold: movq $4, counter(%rip)\n ret\n.size whole.cold, .-whole.cold\n");
void part(void) __asm__("whole.cold");
int main(void) {
    typeless(), sizeless(), whole(), part();
    counter = -16;
    return 0;
}
"""


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("functions"), "prog", FUNCTIONS, "-O1")


@pytest.mark.parametrize("bpf", [[], ["--no-bpf"]], ids=["kernel", "ksym"])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("typeless", ["typeless"]),
        ("sizeless", ["sizeless"]),
        ("whole", ["whole", "whole.cold"]),
        ("whole.cold", ["whole.cold"]),
        ("main", ["main"]),
    ],
)
def test_in_function_agrees_with_the_column(
    name: str, shown: list[str], bpf: list[str], functions: Path
) -> None:
    request = f"{functions}:counter:-w- if ip in {name}"
    done = ksym("trace", "--format", "json", *bpf, request, "--", str(functions))
    assert done.status == 0, done.err
    assert [row["function"] for row in done.rows()] == shown


def test_a_misspelt_function_of_a_program(functions: Path) -> None:
    done = ksym("trace", f"{functions}:counter if pid == 1 || ip in typeles", "--", str(functions))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("ksym: cannot find function typeles: process ")
    assert done.err.endswith(" has none of that name; did you mean typeless?\n")


READING = r"""
#include <unistd.h>
volatile unsigned long counter;
__attribute__((noinline)) void own_name(void) { counter = 1; }
int main(void) {
    int ends[2];
    own_name();
    counter = 2;
    if (pipe(ends) || write(ends[1], "12345678", 8) != 8 || read(ends[0], (void *) &counter, 8) != 8)
        return 1;
    return 0;
}
"""


def _reader_in_kernel(folder: Path) -> str:
    """The function of the kernel that writes what read(2) reads."""
    program = build(folder, "reading", READING, "-O1")
    done = ksym(
        "trace", "--format", "json", "--kernel-accesses", f"{program}:counter:-w-", "--", str(program)
    )
    names = {row["function"] for row in done.rows() if int(row["ip"], 16) >> 63}
    if not names:
        pytest.skip("the kernel's accesses are not seen here")
    return str(min(names)).partition(".")[0]


def test_functions_of_program_and_kernel_of_one_name(tmp_path: Path) -> None:
    """A program's own function hides no function of the kernel."""
    name = _reader_in_kernel(tmp_path)
    source = READING.replace("own_name", name)
    program = build(tmp_path, "same", source, "-O1")
    words = ["trace", "--format", "json", "--kernel-accesses"]
    done = ksym(*words, f"{program}:counter:-w- if ip in {name}", "--", str(program))
    assert done.status == 0, done.err
    found = Counter((row["function"], int(row["ip"], 16) >> 63) for row in done.rows())
    assert found[name, 0] == 1
    assert found[name, 1] >= 1
    assert set(found) == {(name, 0), (name, 1)}


# Random ones.

HOW = ["-w-", "rw-", "twin", "r--"]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_the_kernel_keeps_what_python_keeps(bench: Bench, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([*KINDS, "struct"]))
    kind = Kind(data.draw(structs(8)), "Q") if name == "struct" else KINDS[name]
    how = data.draw(st.sampled_from(HOW[: 2 if kind.type.size > 8 else 4]))
    mode, twin = "rw-" if how == "twin" else how, how == "twin"
    ip = bench.ip(kind, write=data.draw(st.booleans()))
    values = values_of(name) if name in KINDS else [*values_of("record"), *values_of("s64")]
    telling = [number for task in bench.tasks for number in (task.pid, task.tid, task.uid)]
    compared = MEMBER_VALUES if name == "struct" else WHOLE_VALUES
    if name in ("record", "triple"):
        some = [leaf for text in EXPLICIT[name, "-w-"] for leaf in leaves(parse_condition(text))]
        parts = sorted({str(leaf): leaf for leaf in some if isinstance(leaf, Field) and leaf.path}.items())
        compared = st.sampled_from([leaf for _, leaf in parts])
    asked = conditions(
        compared, comms=[task.comm for task in bench.tasks], ip=ip, telling=[*telling, *values]
    )
    places = max(1, kind.type.size // struct.calcsize(kind.format))
    touches = st.builds(
        Touch, st.just(kind.format), st.integers(0, places - 1), st.none() | st.sampled_from(values)
    )
    steps = data.draw(st.lists(st.tuples(st.sampled_from(bench.tasks), touches), min_size=4, max_size=14))
    most = REGISTERS // registers(kind, mode, twin=twin) - 1
    judging = [bound(bench, kind, data.draw(asked), ip=ip) for _ in range(most)]
    judge(bench, kind, mode, steps, judging, twin=twin)
