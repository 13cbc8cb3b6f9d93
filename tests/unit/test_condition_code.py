# SPDX-License-Identifier: BSD-2-Clause
"""Conditions as BPF, run by the kernel itself: they mean what Python makes of them, and the verifier takes them all.

A program of a perf event cannot be run at will. So the code is wrapped in one of type SYSCALL, whose context is
ours: it has the ip at the same place, and behind it what the program of a watch would have put on its stack.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import random
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksym.errors import RequestError
from ksym.language import Condition, check, parse_condition
from ksym.language.condition import Binary, Number, signed
from ksym.linux import bpf
from ksym.linux.bpf_asm import R0, R1, R6, R7, R10, U32, Assembler, Program
from ksym.program.bind import Part, bind
from ksym.program.conditions import compile_condition, decided_in_kernel, uses_values
from ksym.program.layout import Frame, Hit, Sees, padded
from ksym.program.snippets import IP_AT
from ksym.program.spec import Ways
from ksym.program.verdict import Seen, could_match, part_value
from ksym.symbols import types
from ksym.symbols.variable import Space, Variable
from support.bpf import need_programs
from support.conditions import (
    ARITHMETIC,
    COMPARISONS,
    MEMBER_VALUES,
    NO,
    conditions,
    functions_around,
    holds_in_c,
    structs,
)

IP = 0xFFFFFFFF8110BEEF
FUNCTIONS = functions_around(IP)
DATA, TWIN, WRITES, EXECUTE = Sees(), Sees(twin=True), Sees(writes_only=True), Sees(execute=True)
FLAGS_AT, OLD_AT, NEW_AT, CONTEXT_BYTES = 512, 576, 640, 704
SENTINEL = 0x5EA1


class Wrapped(NamedTuple):
    """A condition and how it was compiled."""

    condition: Condition
    length: int
    sees: Sees


def wrap(wrapped: Wrapped) -> Program:
    """A SYSCALL program that returns 1 if the condition keeps, 0 if it rejects, 2 if it broke r7."""
    asm, frame = Assembler(), Frame(padded(wrapped.length))
    asm.mov(R6, R1)
    asm.mov(R7, SENTINEL)
    for at in range(0, frame.padded, 8):
        for source, target in ((OLD_AT, frame.old), (NEW_AT, frame.new)):
            asm.load(R0, R6, source + at)
            asm.store(R10, target + at, R0)
    asm.load(R0, R6, FLAGS_AT, U32)
    asm.store(R10, frame.flags, R0, U32)
    keep, reject, broken = asm.new_label("keep"), asm.new_label("reject"), asm.new_label("broken")
    emit(asm, wrapped, Ways(keep, reject, keep))
    asm.place(reject)
    asm.jump(broken, R7, "!=", SENTINEL)
    asm.mov(R0, 0)
    asm.exit()
    asm.place(keep)
    asm.jump(broken, R7, "!=", SENTINEL)
    asm.mov(R0, 1)
    asm.exit()
    asm.place(broken)
    asm.mov(R0, 2)
    asm.exit()
    return asm.finish("condition")


def emit(asm: Assembler, wrapped: Wrapped, ways: Ways) -> None:
    frame = Frame(padded(wrapped.length))
    compile_condition(asm, wrapped.condition, frame, wrapped.sees, ways, frame.free - 8)


def as_perf_event(wrapped: Wrapped) -> Program:
    """The condition as a perf event's program has it, the values being whatever."""
    asm, frame = Assembler(), Frame(padded(wrapped.length))
    asm.mov(R6, R1)
    for at in range(frame.free, 0, 8):
        asm.load(R0, R6, IP_AT)
        asm.store(R10, at, R0)
    keep, reject = asm.new_label("keep"), asm.new_label("reject")
    emit(asm, wrapped, Ways(keep, reject, keep))
    asm.place(keep)
    asm.mov(R0, 1)
    asm.exit()
    asm.place(reject)
    asm.mov(R0, 0)
    asm.exit()
    return asm.finish("condition")


@contextmanager
def loaded(kind: int, program: Program) -> Iterator[int]:
    flags = bpf.F_SLEEPABLE if kind == bpf.PROG_TYPE_SYSCALL else 0
    try:
        fd = bpf.load(kind, program.encode({}), flags=flags)
    except bpf.VerifierError as error:
        raise AssertionError("\n".join([*program.listing(), error.log])) from None
    try:
        yield fd
    finally:
        os.close(fd)


def run(fd: int, seen: Seen, flags: Hit) -> bool:
    context = ctypes.create_string_buffer(CONTEXT_BYTES)
    struct.pack_into("=Q", context, IP_AT, seen.ip)
    struct.pack_into("=I", context, FLAGS_AT, flags)
    struct.pack_into("=64s", context, OLD_AT, seen.old or b"")
    struct.pack_into("=64s", context, NEW_AT, seen.new or b"")
    result = bpf.run(fd, context)
    assert result in (0, 1)
    return bool(result)


@pytest.fixture(scope="module", autouse=True)
def _one_cpu() -> Iterator[None]:
    """Skip where BPF is not allowed, and stay on one CPU: its number is compared."""
    need_programs(bpf.PROG_TYPE_SYSCALL, bpf.PROG_TYPE_PERF_EVENT)
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    yield
    os.sched_setaffinity(0, cpus)


def seen(
    old: bytes | None = None,
    new: bytes | None = None,
    *,
    access: str = "?",
    execute: bool = False,
    ip: int = IP,
) -> Seen:
    """An access that this thread makes now."""
    return Seen(
        old, new, None if old is None or new is None else old != new, os.getpid(), threading.get_native_id(),
        max(os.sched_getaffinity(0)), os.getuid(), Path("/proc/thread-self/comm").read_text().removesuffix("\n"),
        access, ip, ip if execute else ip - 1,
    )  # fmt: skip


def flags_of(seen: Seen, access: Hit) -> Hit:
    flags = access | (Hit.NEW if seen.new is not None else 0) | (Hit.OLD if seen.old is not None else 0)
    return flags | (Hit.CHANGED if seen.changed else 0) | 3 << 24


# Random conditions on random structs.

OWN = Path("/proc/thread-self/comm").read_text().removesuffix("\n")
CONDITIONS = conditions(MEMBER_VALUES, comms=[OWN, OWN[:3], (OWN + "x")[:15]], ip=IP)


def values(length: int) -> st.SearchStrategy[bytes]:
    patterns = st.sampled_from([b"\0", b"\xff", b"\x80", b"\x7f", b"\x01\0"]).map(
        lambda one: (one * 64)[:length]
    )
    return patterns | st.binary(min_size=length, max_size=length)


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_the_kernel_judges_as_python_does(data: st.DataObject) -> None:
    kind = data.draw(structs())
    condition = data.draw(CONDITIONS)
    sees = data.draw(st.sampled_from([DATA, TWIN, WRITES, EXECUTE]))
    variable = Variable("s", 0x1000, kind.size, Space.KERNEL, kind)
    check(condition)
    bound = bind(condition, variable, FUNCTIONS.__getitem__)
    decided = decided_in_kernel(bound, sees)
    with loaded(bpf.PROG_TYPE_SYSCALL, wrap(Wrapped(bound, kind.size, sees))) as fd:
        for _ in range(3):
            old, new = data.draw(values(kind.size)), data.draw(values(kind.size))
            known = data.draw(st.sampled_from([(True, True)] * 4 + [(False, True), (False, False)]))
            access, possible = data.draw(st.sampled_from(accesses(sees)))
            one = seen(old if known[0] else None, new if known[1] else None, execute=sees.execute)
            kept = run(fd, one, flags_of(one, access))
            for name in possible:
                expected = could_match(bound, one._replace(access=name))
                assert kept == expected if decided else kept >= expected
                if one.changed is not None and name != "?":
                    assert expected is holds_in_c(bound, one._replace(access=name))


def accesses(sees: Sees) -> list[tuple[Hit, tuple[str, ...]]]:
    """What a record may say of an access, and what the access may be then."""
    wrote, read = (Hit.WROTE, ("W", "RW")), (Hit.READ, ("R",))
    if sees.execute:
        return [(Hit(0), ("X",))]
    if sees.writes_only:
        return [wrote]
    return [wrote, read] if sees.twin else [(Hit(0), ("R", "W", "RW", "?"))]


LONG_VARIABLE = Variable("v", 0x1000, 8, Space.KERNEL, types.Integer("long", 8, True))
ULONG_VARIABLE = Variable("v", 0x1000, 8, Space.KERNEL, types.Integer("unsigned long", 8, False))
EXTREMES = [0, 1, 100, 2**31, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2**31 - 1, 2**64 - 16, 2**64 - 1]


@pytest.mark.parametrize("op", COMPARISONS)
@pytest.mark.parametrize(
    "form", ["{}", "!({})", "({}) && 1", "({}) || 0", "!(({}) && 1)", "({}) == (pid != 0)"]
)
@pytest.mark.parametrize("variable", [LONG_VARIABLE, ULONG_VARIABLE], ids=["signed", "unsigned"])
def test_comparisons(op: str, form: str, variable: Variable) -> None:
    """Whichever of its two ways comes next, so that its jump is the inverted one."""
    rights = ("old", "-1", "1", "old + uid - uid", "0x8000000000000000", "~0x7fffffffffffffff")
    for text in [form.format(f"new {op} {right}") for right in rights]:
        agree(text, variable)


@pytest.mark.parametrize("variable", [LONG_VARIABLE, ULONG_VARIABLE], ids=["signed", "unsigned"])
@pytest.mark.parametrize(
    "text",
    [
        "new >> 63 == 1", "new >> 63 == -1", "new >> 1 < old", "new >> old == 1", "7 >> new == 0", "~new >> 60 == 15",
        "-new > 0", "new - old < 0", "new + old > new", "(new & old) > 100", "(new | 1) < 0", "(new ^ old) >> 1 < 0",
        "new << 1 < 0", "1 << new < 0", "(pid << new) >> 63 == -1", "tid - tid + new < 0",
        "0xffffffffffffffff >> 1 == 0x7fffffffffffffff", "0x8000000000000000 < new",
        "-(new - new) - 1 < 0", "pid - pid - 1 < 0 && new != 1",
    ],
)  # fmt: skip
def test_operators_of_unsigned_numbers(text: str, variable: Variable) -> None:
    agree(text, variable)


def agree(text: str, variable: Variable) -> None:
    """Hold the kernel, Python and C's rules against each other."""
    condition = bound(text, variable)
    with loaded(bpf.PROG_TYPE_SYSCALL, wrap(Wrapped(condition, 8, DATA))) as fd:
        for old, new in itertools.product(EXTREMES, EXTREMES):
            one = seen(*(number.to_bytes(8, "little") for number in (old, new)))
            wanted = holds_in_c(condition, one)
            assert run(fd, one, flags_of(one, Hit(0))) is wanted, (text, old, new)
            assert could_match(condition, one) is wanted, (text, old, new)


def test_pid_and_tid_of_a_thread() -> None:
    def judge() -> None:
        pid, tid = os.getpid(), threading.get_native_id()
        assert pid != tid
        results.append(kept(f"pid == {pid} && tid == {tid} && tid - pid == {tid - pid}", DATA, Hit(0)))

    results: list[bool] = []
    thread = threading.Thread(target=judge)
    thread.start()
    thread.join()
    assert results == [True]


def test_uid_is_the_real_one_without_the_group(root_only: None) -> None:
    with loaded(bpf.PROG_TYPE_SYSCALL, wrap(Wrapped(bound("uid == 4294967294"), 4, DATA))) as fd:
        child = os.fork()
        if not child:
            try:
                os.setresgid(5678, -1, -1)
                os.setresuid(2**32 - 2, -1, -1)
                os._exit(run(fd, seen(), Hit(0)))
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        assert not run(fd, seen(), Hit(0))


def test_parts_of_every_size_at_every_place() -> None:
    """Every aligned and unaligned integer of a 16-byte value, and its bits."""
    value = bytes(range(0x79, 0x89))
    parts = [
        Part("new", NO, offset=offset, size=size, bits=bits, signed=sign)
        for size in (1, 2, 4, 8)
        for offset in range(17 - size)
        for sign in (False, True)
        for bits in (None, (1, 3), (0, 8 * size), (7, 8 * size - 7))
    ] + [
        Part("new", NO, offset=offset, size=9, bits=(first, 64), signed=sign)
        for offset in range(8)
        for first in range(1, 8)
        for sign in (False, True)
    ]  # fmt: skip
    here = seen(value, value)
    for some in (parts[at : at + 60] for at in range(0, len(parts), 60)):
        condition: Condition = Number(1, NO)
        for part in some:
            same = Binary("==", part, Number(part_value(part, here) & (1 << 64) - 1, NO), NO)
            condition = Binary("&&", condition, same, NO)
        with loaded(bpf.PROG_TYPE_SYSCALL, wrap(Wrapped(condition, 16, DATA))) as fd:
            assert run(fd, here, flags_of(here, Hit(0)))


# What the kernel cannot know.

U32_VARIABLE = Variable("v", 0x1000, 4, Space.KERNEL, types.Integer("unsigned int", 4, False))


def bound(text: str, variable: Variable = U32_VARIABLE) -> Condition:
    return bind(parse_condition(text), variable, FUNCTIONS.__getitem__)


def kept(text: str, sees: Sees, flags: Hit, new: int = 5, old: int = 4) -> bool:
    one = seen(old.to_bytes(4, "little"), new.to_bytes(4, "little"), execute=sees.execute)
    with loaded(bpf.PROG_TYPE_SYSCALL, wrap(Wrapped(bound(text), 4, sees))) as fd:
        return run(fd, one, flags)


BOTH = Hit.NEW | Hit.OLD


@pytest.mark.parametrize(
    ("text", "sees", "access", "expected", "decided"),
    [
        ("access == R", DATA, Hit(0), True, False),
        ("access != R", DATA, Hit(0), True, False),
        ("!(access == R)", DATA, Hit(0), True, False),
        ("!!(access != W)", DATA, Hit(0), True, False),
        ("access == X", DATA, Hit(0), False, True),
        ("access == R", TWIN, Hit.READ, True, True),
        ("access == R", TWIN, Hit.WROTE, False, True),
        ("access != R", TWIN, Hit.READ, False, True),
        ("access != R", TWIN, Hit.WROTE, True, True),
        ("access == W", TWIN, Hit.READ, False, False),
        ("access == W", TWIN, Hit.WROTE, True, False),
        ("access != W", TWIN, Hit.WROTE, True, False),
        ("access != W", TWIN, Hit.READ, True, False),
        ("access == RW", WRITES, Hit.WROTE, True, False),
        ("access == R", WRITES, Hit.WROTE, False, True),
        ("access == X", EXECUTE, Hit(0), True, True),
        ("access == R", EXECUTE, Hit(0), False, True),
        ("access == W && pid == 0", DATA, Hit(0), False, False),
        ("access == W || pid == 0", DATA, Hit(0), True, False),
        ("!(access == W || new == 5)", DATA, Hit(0), False, False),
        ("!(access == W && new == 5)", DATA, Hit(0), True, False),
        ("(access == W) == changed", DATA, Hit(0), True, False),
        ("!((access == W) == changed)", DATA, Hit(0), True, False),
        ("(access == R) == changed", TWIN, Hit.READ | Hit.CHANGED, True, True),
        ("(access == R) == changed", TWIN, Hit.WROTE | Hit.CHANGED, False, True),
    ],
)  # fmt: skip
def test_access(text: str, sees: Sees, access: Hit, expected: bool, decided: bool) -> None:
    assert kept(text, sees, BOTH | access) is expected
    assert decided_in_kernel(bound(text), sees) is decided


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ("new == 9", Hit(0), True),
        ("new == 9", Hit.OLD, True),
        ("new == 9", Hit.NEW, False),
        ("!(new == 5)", Hit(0), True),
        ("old == 9", Hit.NEW, True),
        ("old == 9", Hit.OLD, False),
        ("changed", Hit.NEW, True),
        ("changed", BOTH, False),
        ("changed", BOTH | Hit.CHANGED, True),
        ("pid == 0 && new == 5", Hit(0), True),
        ("pid == 0", Hit(0), False),
    ],
)
def test_values_that_are_not_known(text: str, flags: Hit, expected: bool) -> None:
    assert kept(text, DATA, flags) is expected
    assert uses_values(bound(text)) is (text != "pid == 0")


def test_without_values_a_condition_on_them_keeps() -> None:
    with loaded(bpf.PROG_TYPE_SYSCALL, wrap(Wrapped(bound("new == 9 && pid == 0"), 0, DATA))) as fd:
        assert run(fd, seen(), Hit(0))


def test_ip_lies_behind_a_data_access() -> None:
    assert kept("ip in ends_at_ip", DATA, Hit(0))
    assert not kept("ip in begins_at_ip", DATA, Hit(0))
    assert kept("ip in begins_at_ip", EXECUTE, Hit(0))
    assert not kept("ip in ends_at_ip", EXECUTE, Hit(0))


# What the verifier takes.

BIG = Variable(
    "big", 0x1000, 61, Space.KERNEL,
    types.Struct("struct big", 61, False, lambda: (
        types.Field("a", types.Integer("long", 8, True), 3),
        types.Field("b", types.Integer("unsigned int", 4, False), 21, (5, 31)),
        types.Field("c", types.Integer("unsigned long", 8, False), 40, (7, 64)),
    )),
)  # fmt: skip
PARTS = ["new.a", "old.a", "new.b", "old.c"]
ATOMS = [*PARTS, "pid", "tid", "cpu", "uid", "7", "0x123456789abcdef"]
TRUTHS = [
    "changed", 'comm == "fifteen-letters"', 'comm != "py*"', "access == R", "access != W", "access == X",
    "ip in pieces", "ip == 0xffffffff8110beef", "ip in everything",
]  # fmt: skip


class Writer:
    """Writes conditions of many operators as the language allows them."""

    def __init__(self, seed: int, operators: int, accesses: bool) -> None:
        self.random, self.left = random.Random(seed), operators
        self.truths = TRUTHS if accesses else [text for text in TRUTHS if "access" not in text]

    def take(self, operators: int) -> bool:
        self.left -= operators
        return self.left >= 0

    def number(self, nesting: int) -> str:
        choice = self.random.random()
        if nesting <= 0 or choice < 0.2 or not self.take(1):
            return self.random.choice(ATOMS)
        if choice < 0.3:
            return f"{self.random.choice('-~')}({self.number(nesting - 2)})"
        left, right = self.number(nesting - 1), self.number(nesting - 1)
        return f"({left}) {self.random.choice(ARITHMETIC)} ({right})"

    def truth(self, nesting: int) -> str:
        choice = self.random.random()
        if nesting <= 0 or choice < 0.1 or not self.take(2):
            return self.random.choice(self.truths)
        if choice < 0.2:
            return f"!({self.truth(nesting - 2)})"
        if choice < 0.5:
            left, right = self.number(nesting - 1), self.number(nesting - 1)
            return f"({left}) {self.random.choice(COMPARISONS)} ({right})"
        left, right = self.truth(nesting - 1), self.truth(nesting - 1)
        return f"({left}) {self.random.choice(['&&', '||', '==', '!='])} ({right})"


def verify(text: str, sees: Sees = DATA, variable: Variable = BIG) -> None:
    condition = bind(parse_condition(text), variable, FUNCTIONS.__getitem__)
    with loaded(bpf.PROG_TYPE_PERF_EVENT, as_perf_event(Wrapped(condition, variable.length, sees))):
        pass


@given(
    st.integers(0, 2**32), st.integers(1, 190), st.booleans(), st.sampled_from([DATA, TWIN, WRITES, EXECUTE])
)
@settings(max_examples=120, deadline=None)
def test_the_verifier_takes_what_can_be_written(
    seed: int, operators: int, accesses: bool, sees: Sees
) -> None:
    text = Writer(seed, operators, accesses).truth(38)
    try:
        parse_condition(text)
    except RequestError as error:
        assert "operators" in error.why  # noqa: PT017 - the writer may go a little over the limit
        return
    verify(text, sees)


def deep(opening: str, inner: str, closing: str) -> str:
    return opening * 40 + inner + closing * 40


@pytest.mark.parametrize(
    "text",
    [
        deep("(changed) == (", "pid == 1", ")"),
        deep("(pid == 1) != (cpu == 0 && ", "changed", ")"),
        deep("uid + pid - (", "tid", ")") + " == 0",
        deep("pid < tid && (", "changed", ")"),
        deep("pid | pid ^ pid & pid << pid + (", "new.a", ")"),
        "!(" * 20 + "changed" + ")" * 20,
        "changed == changed" + " == changed" * 199,
        "(pid < 1)" + " != (new.a > old.a)" * 99,
        " && ".join(['comm != "fifteen-letters"'] * 100),
        " || ".join(['comm == "py*"'] * 100),
        " || ".join(["ip in pieces"] * 100),
        " && ".join(["old.c != new.a"] * 100),
        "pid" + " + old.c" * 200,
        "pid" + " + uid" * 200,
        "!" * 40 + "new.a",
        "access == R || access == W || access == RW",
        "!(access == R)",
        "access == X",
        "1",
        'comm == "*"',
        'comm != "*"',
    ],
    ids=lambda text: text[:40],
)
def test_the_verifier_takes_the_largest(text: str) -> None:
    for sees in (DATA, TWIN, WRITES, EXECUTE):
        verify(text, sees)


def test_a_function_of_many_places() -> None:
    many = tuple((0x1000 * n, 0x1000 * n + 16) for n in range(1, 2000))
    condition = bind(parse_condition("ip in many && changed"), U32_VARIABLE, lambda _: many)
    for ip, expected in ((0x1000 * 1999 + 16, True), (0x1000 * 1999, False), (0x1000 + 1, True)):
        one = seen(b"\0" * 4, b"\1" * 4, ip=ip)
        with loaded(bpf.PROG_TYPE_SYSCALL, wrap(Wrapped(condition, 4, DATA))) as fd:
            assert run(fd, one, flags_of(one, Hit(0))) is expected
            assert could_match(condition, one) is expected


def test_a_stack_that_does_not_suffice_is_refused() -> None:
    asm, frame = Assembler(), Frame(64)
    keep, reject = asm.new_label("keep"), asm.new_label("reject")
    condition = bound("(uid + pid == tid + cpu) == (uid + cpu == pid + tid)")
    with pytest.raises(RequestError, match="nested too deep for a BPF program's stack"):
        compile_condition(asm, condition, frame, DATA, Ways(keep, reject, keep), -496)
    compile_condition(asm, condition, frame, DATA, Ways(keep, reject, keep), -480)


def test_signed_wraps_as_numbers_do() -> None:
    assert kept("0xffffffffffffffff + 1 == 0 && new - 6 == -1 && 1 << 65 == 2", DATA, BOTH)
    assert signed(2**64 - 1) == -1
