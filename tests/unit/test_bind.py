# SPDX-License-Identifier: BSD-2-Clause
"""What the names of a condition mean for a certain variable, and what is said where they mean nothing."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.errors import Place, RequestError
from ksym.language import parse_condition, parse_request
from ksym.language.condition import Binary, Condition, Number
from ksym.program.bind import InRanges, Part, bind, leaves, needs_program
from ksym.program.verdict import Seen, could_match
from ksym.symbols.types import (
    Array,
    Encoding,
    Enum,
    Field,
    Float,
    Function,
    Integer,
    Pointer,
    Struct,
    Type,
    Typedef,
)
from ksym.symbols.variable import Space, Variable
from support.conditions import (
    ARITHMETIC,
    COMPARISONS,
    MEMBER_VALUES,
    NO,
    conditions,
    functions_around,
    holds_in_c,
    number_in_c,
    structs,
)
from synthetic.compile import build

INT = Integer("int", 4, True)
UINT = Integer("unsigned int", 4, False)
SHORT, ULONG = Integer("short", 2, True), Integer("unsigned long", 8, False)
LONG = Integer("long", 8, True)
CHAR, BOOL = Integer("char", 1, True, Encoding.CHAR), Integer("_Bool", 1, False, Encoding.BOOL)
U16 = Typedef("u16", 2, Typedef("__u16", 2, Integer("unsigned short", 2, False)))
WIDE = Integer("__int128", 16, True)
POINTER = Pointer("struct node *", 8, lambda: INNER)
STATE = Enum("enum state", 4, False, (("IDLE", 0), ("RUNNING", 1), ("STOPPED", 7), ("BROKEN", -1)))
COLOUR = Enum("enum colour", 4, True, (("RED", 0), ("GREEN", 1), ("NONE", 0xFFFFFFFF)))
INNER: Struct = Struct("struct inner", 4, False, lambda: (Field("low", U16, 0), Field("high", SHORT, 2)))
UNNAMED = Struct("", 4, True, lambda: (Field("word", UINT, 0), Field("signed_word", INT, 0)))
NODE = Struct(
    "struct node",
    62,
    False,
    lambda: (
        Field("next", POINTER, 0),
        Field("state", STATE, 8),
        Field("colour", Typedef("colour_t", 4, COLOUR), 12),
        Field("ready", UINT, 16, (0, 1)),
        Field("level", INT, 16, (13, 5)),
        Field("inner", INNER, 20),
        Field("", UNNAMED, 24),
        Field("slots", Array("short [3]", 6, SHORT, 3), 28),
        Field("ratio", Float("double", 8), 34),
        Field("packed", ULONG, 42, (7, 64)),
        Field("letter", CHAR, 51),
        Field("inners", Array("struct inner [2]", 8, INNER, 2), 52),
        Field("rest", Array("char []", 0, CHAR, 0), 60),
    ),
)
FUNCTIONS = {
    "do_sysctl": ((0x2000, 0x2100),),
    "split": ((0x3000, 0x3010), (0x2000, 0x2010), (0x2010, 0x2020), (0x3008, 0x3009)),
    "nowhere": (),
}


CONDITIONS = conditions(MEMBER_VALUES, comms=["sshd", "ssh", "ssh-agent"], ip=0x2100)


def variable(
    kind: Type | None, length: int = 0, bits: tuple[int, int] | None = None, executable: bool = False
) -> Variable:
    size = length or (kind.size if kind else 0)
    return Variable("name", 0x1000, size, Space.KERNEL, kind, bits, executable=executable)


NODE_VARIABLE = variable(NODE)


def bound(text: str, of: Variable = NODE_VARIABLE) -> Condition:
    return bind(parse_condition(text), of, FUNCTIONS.__getitem__)


def part(text: str, of: Variable = NODE_VARIABLE) -> tuple[int, int, tuple[int, int] | None, bool]:
    node = bound(text, of)
    assert isinstance(node, Part)
    assert str(node) == text
    return node.offset, node.size, node.bits, node.signed


@pytest.mark.parametrize(
    ("kind", "size", "signed"),
    [
        (INT, 4, True),
        (UINT, 4, False),
        (CHAR, 1, True),
        (BOOL, 1, False),
        (U16, 2, False),
        (POINTER, 8, False),
        (STATE, 4, False),
        (COLOUR, 4, True),
    ],
)
def test_scalars(kind: Type, size: int, signed: bool) -> None:
    assert part("new", variable(kind)) == (0, size, None, signed)
    assert part("old", variable(kind)) == (0, size, None, signed)


@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_without_a_type_a_value_is_unsigned(length: int) -> None:
    assert part("new", variable(None, length)) == (0, length, None, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("new.next", (0, 8, None, False)),
        ("old.state", (8, 4, None, False)),
        ("new.colour", (12, 4, None, True)),
        ("new.ready", (16, 1, (0, 1), False)),
        ("new.level", (17, 2, (5, 5), True)),
        ("new.inner.low", (20, 2, None, False)),
        ("new.inner.high", (22, 2, None, True)),
        ("new.signed_word", (24, 4, None, True)),
        ("new.slots[0]", (28, 2, None, True)),
        ("new.slots[2]", (32, 2, None, True)),
        ("new.packed", (42, 9, (7, 64), False)),
        ("new.inners[1].high", (58, 2, None, True)),
        ("new.rest[1]", (61, 1, None, True)),
    ],
)
def test_members(text: str, expected: tuple[int, int, tuple[int, int] | None, bool]) -> None:
    assert part(text) == expected


def test_a_bit_field_that_is_watched_itself() -> None:
    """Its bits count in the unit that is watched, whatever size its type has; only they make it ``changed``."""
    narrow = variable(INT, 1, bits=(2, 3))
    assert part("new", narrow) == (0, 1, (2, 3), True)
    assert part("new", variable(UINT, 4, bits=(9, 10))) == (1, 2, (1, 10), False)
    changed = bound("changed", narrow)
    assert isinstance(changed, Binary)
    assert (changed.op, str(changed.left), str(changed.right)) == ("!=", "new", "old")
    assert judge("changed", narrow, b"\x1c", b"\x18")
    assert not judge("changed", narrow, b"\x1c", b"\xff")
    assert judge("new == -1", narrow, b"\0", b"\x1c")


def seen(old: bytes | None, new: bytes | None, access: str = "?", uid: int | None = 0) -> Seen:
    return Seen(old, new, None if old is None else old != new, 1, 2, 0, uid, "sshd", access, 0x2100, 0x20FF)


def judge(text: str, of: Variable, old: bytes | None, new: bytes | None) -> bool:
    return could_match(bound(text, of), seen(old, new))


@pytest.mark.parametrize(
    ("text", "of", "number"),
    [
        ("new == STOPPED", variable(STATE), 7),
        ("STOPPED == new", variable(Typedef("state_t", 4, STATE)), 7),
        ("new == BROKEN", variable(STATE), 0xFFFFFFFF),
        ("new.state == RUNNING", NODE_VARIABLE, 1),
        ("new.colour == NONE", NODE_VARIABLE, -1),
        ("(new.state | old.colour) == GREEN", NODE_VARIABLE, 1),
    ],
)
def test_constants(text: str, of: Variable, number: int) -> None:
    assert number in [leaf.value for leaf in leaves(bound(text, of)) if isinstance(leaf, Number)]


def test_a_constant_is_what_its_type_reads() -> None:
    """Descriptions give an unsigned enum's constants negative, or a signed one's positive."""
    assert judge("new == BROKEN", variable(STATE), b"\0" * 4, b"\xff" * 4)
    assert judge("new == NONE && new < 0", variable(COLOUR), b"\0" * 4, b"\xff" * 4)
    assert judge("new < RED && new <= NONE && !(old <= NONE)", variable(COLOUR), b"\0" * 4, b"\xff" * 4)


@pytest.mark.parametrize(
    ("text", "of", "number", "kept"),
    [
        ("new > 100", ULONG, 2**64 - 16, True),
        ("new < 0", ULONG, 2**64 - 16, False),
        ("new == -1", ULONG, 2**64 - 1, True),
        ("new >> 63 == 1", ULONG, 2**63, True),
        ("new > 100", POINTER, 2**64 - 16, True),
        ("new >= 0x8000000000000000", ULONG, 2**63, True),
        ("new < 0x8000000000000000", ULONG, 2**63 - 1, True),
        ("new > 100", None, 2**64 - 16, True),
        ("new > 100", Typedef("size_t", 8, ULONG), 2**64 - 16, True),
        ("new > 100", Enum("enum wide", 8, False, (("TOP", -1),)), 2**64 - 16, True),
        ("new < TOP", Enum("enum wide", 8, False, (("TOP", -1),)), 2**64 - 16, True),
        ("new > 100", LONG, 2**64 - 16, False),
        ("new < 0", LONG, 2**64 - 16, True),
        ("new >> 63 == -1", LONG, 2**63, True),
        ("new < 0xffffffffffffffff", LONG, 2**63, True),
        ("new < 18446744073709551615 - 1", LONG, 2**64 - 1, False),
    ],
)
def test_unsigned_numbers(text: str, of: Type | None, number: int, kept: bool) -> None:
    assert judge(text, variable(of, 8), b"\0" * 8, number.to_bytes(8, "little")) is kept


def test_a_bit_field_is_unsigned_where_it_fills_64_bits() -> None:
    """C makes one of fewer bits a signed number, as its values all are one."""
    assert judge("new < -1", variable(ULONG, 8, bits=(0, 64)), b"\0" * 8, b"\xf0" + b"\xff" * 7)
    assert not judge("new < -1", variable(ULONG, 8, bits=(0, 63)), b"\0" * 8, b"\xf0" + b"\xff" * 7)


@given(st.data())
def test_conditions_mean_what_they_mean_in_c(data: st.DataObject) -> None:
    kind = data.draw(structs())
    condition = bind(data.draw(CONDITIONS), variable(kind), functions_around(0x2100).__getitem__)
    filled = st.sampled_from([b"\0", b"\xff", b"\x80", b"\x7f"]).map(lambda one: (one * 64)[: kind.size])
    old, new = (data.draw(filled | st.binary(min_size=kind.size, max_size=kind.size)) for _ in "on")
    one = seen(old, new, data.draw(st.sampled_from(["R", "W", "RW", "X"])))
    assert could_match(condition, one) is holds_in_c(condition, one)


def test_the_rules_of_c_are_those_of_a_compiler(tmp_path: Path) -> None:
    """What tests take for C's rules, against gcc."""
    values = [0, 1, 100, 2**31, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 16, 2**64 - 1]
    sides = {"unsigned long": ULONG, "long": LONG, "int": INT, "unsigned int": UINT}
    cases = [
        (op, left, right)
        for op in (*ARITHMETIC, *COMPARISONS)
        for left in sides
        for right in sides
        if op in ("<<", ">>") or {left, right} & {"unsigned long", "long"}
    ]  # narrower than long C computes on int, and conditions do not
    lines = []
    for op, left, right in cases:
        # What is shifted is a number of 64 bits, whatever it was.
        before = f"(({left}) values[i] {'+ 0L' if op in ('<<', '>>') and 'int' in left else ''})"
        behind = f"(({right}) values[j]{' & 63' if op in ('<<', '>>') else ''})"
        lines.append(f'EACH printf("%ld\\n", (long) ({before} {op} {behind}));')
    source = (
        "#include <stdio.h>\n"
        f"#define EACH for (int i = 0; i < {len(values)}; i++) for (int j = 0; j < {len(values)}; j++)\n"
        f"unsigned long values[] = {{{', '.join(f'{value}ul' for value in values)}}};\n"
        + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
    )  # fmt: skip
    program = build(tmp_path, "rules", source, "-fwrapv", "-w")
    told = iter(subprocess.run([program], check=True, capture_output=True, text=True).stdout.split())
    for operation, *two in cases:
        first, second = (bound("new == 0", variable(sides[each], 8)) for each in two)
        assert isinstance(first, Binary)
        assert isinstance(second, Binary)
        assert isinstance(second.left, Part)
        condition = Binary(operation, first.left, replace(second.left, name="old"), NO)
        for new, old in itertools.product(values, values):
            one = seen(old.to_bytes(8, "little"), new.to_bytes(8, "little"))
            assert ctypes.c_int64(number_in_c(condition, one).value).value == int(next(told)), (
                operation,
                two,
                new,
                old,
            )
    assert next(told, None) is None


def test_functions() -> None:
    node = bound("ip in split", variable(INT))
    assert isinstance(node, InRanges)
    assert node.ranges == ((0x2000, 0x2020), (0x3000, 0x3010))
    assert str(node) == "ip in split"
    # The ip is behind the last instruction of do_sysctl.
    assert judge("ip in do_sysctl && ip == 0x2100", variable(INT), None, None)
    assert not judge("ip in split", variable(INT), None, None)
    looked_up: list[str] = []

    def functions(name: str) -> tuple[tuple[int, int], ...]:
        looked_up.append(name)
        return ((1, 2),)

    bind(parse_condition("ip in f || !(ip in f) || ip in g"), NODE_VARIABLE, functions)
    assert looked_up == ["f", "g"]


def test_the_rest_stays_as_it_was() -> None:
    text = '!(new.state == IDLE) == changed && (comm == "ssh*" || access != W) && -new.slots[1] + uid < ~pid'
    assert str(bound(text)) == text.replace("IDLE", "0")


def test_what_needs_a_program() -> None:
    for text, needs in (
        ("new", True),
        ("!changed", True),
        ("uid == 1 || pid", True),
        ("pid && ip in split", False),
    ):
        assert needs_program(parse_condition(text)) is needs
    assert needs_program(bound("new.ready == 1"))


BAD = [
    (
        "new.stat == 1",
        NODE_VARIABLE,
        "struct node has no member 'stat'; did you mean state? it has next, state, colour, ready, level, inner, word, "
        "signed_word, slots, ratio, packed, letter, ...",
        ".stat",
    ),
    ("new.inner.x", NODE_VARIABLE, "struct inner has no member 'x'; it has low, high", ".x"),
    (
        "new == 1",
        variable(INNER),
        "new is a struct inner, no number; compare a member: new.low, new.high",
        "new",
    ),
    (
        "old.inners[0] == 1",
        NODE_VARIABLE,
        "old.inners[0] is a struct inner, no number; compare a member: old.inners[0].low, old.inners[0].high",
        "old.inners[0]",
    ),
    (
        "new.slots == 1",
        NODE_VARIABLE,
        "new.slots is a short [3], no number; compare an element, as in new.slots[0]",
        "new.slots",
    ),
    (
        "new.inners",
        NODE_VARIABLE,
        "new.inners is a struct inner [2], no number; compare an element, as in new.inners[0].low",
        "new.inners",
    ),
    (
        "new",
        NODE_VARIABLE,
        "new is a struct node, no number; compare a member: new.next, new.state, new.colour, new.ready, new.level, "
        "new.inner.low, new.inner.high, new.word, new.signed_word, new.slots[0], new.packed, new.letter, ...",
        "new",
    ),
    (
        "new",
        variable(NODE, 16),
        "new is a struct node, no number; compare a member: new.next, new.state, new.colour",
        "new",
    ),
    (
        "new",
        variable(Array("double [2]", 16, Float("double", 8), 2)),
        "new is a double [2], no number; compare changed instead",
        "new",
    ),
    (
        "new.ratio > 1",
        NODE_VARIABLE,
        "new.ratio is a double, conditions know whole numbers only; compare changed instead",
        "new.ratio",
    ),
    (
        "new",
        variable(WIDE),
        "new has 128 bits (__int128), conditions know numbers of up to 64; compare changed instead",
        "new",
    ),
    ("new.slots[3]", NODE_VARIABLE, "new.slots has 3 elements; they are numbered 0 to 2", "[3]"),
    ("new.rest[2]", NODE_VARIABLE, "new.rest has 2 elements; they are numbered 0 to 1", "[2]"),
    (
        "new.slots.x",
        NODE_VARIABLE,
        "new.slots is an array (short [3]); choose an element, as in new.slots[0]",
        ".x",
    ),
    (
        "new.letter.x",
        NODE_VARIABLE,
        "new.letter is a char, which has no members; compare new.letter itself",
        ".x",
    ),
    (
        "new.letter[0]",
        NODE_VARIABLE,
        "new.letter is a char, which has no elements; compare new.letter itself",
        "[0]",
    ),
    (
        "new.next.state",
        NODE_VARIABLE,
        "new.next is a pointer (struct node *), and the kernel follows none for a condition; "
        "name what it points to in TARGET",
        ".state",
    ),
    (
        "new.x",
        variable(None, 4),
        "the type of new is not known, so neither are its members; give TARGET a type, as in *(struct foo *)0xADDRESS",
        ".x",
    ),
    (
        "new",
        variable(None, 3),
        "new is 3 bytes of unknown type, no number; give TARGET a type, as in *(u32 *)0xADDRESS",
        "new",
    ),
    (
        "pid == 1 && new.state == RUNING",
        NODE_VARIABLE,
        "enum state has no constant 'RUNING'; did you mean RUNNING? it has IDLE, RUNNING, STOPPED, BROKEN",
        "RUNING",
    ),
    (
        "new.state == GREEN",
        NODE_VARIABLE,
        "enum state has no constant 'GREEN'; it has IDLE, RUNNING, STOPPED, BROKEN",
        "GREEN",
    ),
    (
        "new == ENOENT",
        variable(INT),
        "'ENOENT' is no field, and no enum's constant: new is an int; write a number",
        "ENOENT",
    ),
    (
        "new == ENOENT",
        variable(None, 4),
        "'ENOENT' is no field, and no enum's constant: its type is not known; write a number",
        "ENOENT",
    ),
    (
        "ip in nowhere",
        variable(INT),
        "there is no function nowhere; look at the FUNCTION column of a run without it",
        "ip in nowhere",
    ),
    (
        "changed",
        variable(INT, 1, executable=True),
        "what is executed has no value that changed could mean; compare pid, comm, cpu, uid or ip",
        "changed",
    ),
    (
        "new > 1",
        variable(Function("void (void)", 0), 1, executable=True),
        "what is executed has no value that new could mean; compare pid, comm, cpu, uid or ip",
        "new",
    ),
    (
        "old.state",
        variable(NODE, 65),
        "values of up to 64 bytes are taken, it has 65; name one of its members or elements in TARGET",
        "old.state",
    ),
    (
        "changed",
        variable(NODE, 65),
        "values of up to 64 bytes are taken, it has 65; name one of its members or elements in TARGET",
        "changed",
    ),
    (
        "new.packed",
        variable(NODE, 48),
        "new.packed ends behind the 48 bytes that are watched; watch all of it",
        "new.packed",
    ),
]


@pytest.mark.parametrize(
    ("text", "of", "reason", "marked"), BAD, ids=[f"{text}-{n}" for n, (text, *_) in enumerate(BAD)]
)
def test_bad(text: str, of: Variable, reason: str, marked: str) -> None:
    request = parse_request(f"name if {text}")
    assert request.condition is not None
    with pytest.raises(RequestError) as caught:
        bind(request.condition, of, FUNCTIONS.__getitem__, request.place)
    error = caught.value
    assert error.line() == f"cannot use the condition on name: {reason}"
    assert error.status == 2
    assert isinstance(error.place, Place)
    assert error.place.text[error.place.span.start : error.place.span.end] == marked
    with pytest.raises(RequestError) as caught:
        bind(request.condition, of, FUNCTIONS.__getitem__)
    assert caught.value.place is None


def test_damaged_types_contain_themselves() -> None:
    endless: Struct = Struct("struct endless", 4, False, lambda: (Field("a", endless, 0), Field("b", INT, 0)))
    with pytest.raises(RequestError, match=r"compare a member: new\.a\.a"):
        bound("new", variable(endless))


def test_a_function_that_is_missed_is_marked() -> None:
    def none(name: str) -> tuple[tuple[int, int], ...]:
        raise RequestError(f"cannot find function {name}", "the kernel has none of that name")

    request = parse_request("name if pid == 1 || ip in foo")
    assert request.condition is not None
    with pytest.raises(RequestError, match="cannot find function foo") as caught:
        bind(request.condition, NODE_VARIABLE, none, request.place)
    assert caught.value.place is not None
    assert caught.value.place.caret().splitlines()[1].strip() == "^" * len("ip in foo")


def test_too_many_functions() -> None:
    many = tuple((4 * n, 4 * n + 2) for n in range(1200))
    assert bind(parse_condition("ip in f"), NODE_VARIABLE, lambda _: many)
    with pytest.raises(
        RequestError, match="with g it has more than 2000 functions to compare ip with; name fewer"
    ):
        bind(parse_condition("ip in f || ip in g"), NODE_VARIABLE, lambda _: many)


@pytest.mark.parametrize(
    ("text", "access", "uid", "kept"),
    [
        ("access == W", "?", 0, True),
        ("!(access == W)", "?", 0, True),
        ("access == W", "R", 0, False),
        ("access == X", "?", 0, False),
        ("access == W && pid == 2", "?", 0, False),
        ("pid == 2 && access == W", "?", 0, False),
        ("access == W || pid == 2", "?", 0, True),
        ("access == W || pid == 1", "R", 0, True),
        ("!(access == W || pid == 1)", "?", 0, False),
        ("!(access == W && pid == 1)", "?", 0, True),
        ("(access == W) == (pid == 1)", "?", 0, True),
        ("(access == W) == (pid == 1)", "R", 0, False),
        ("(access == W) != (pid == 1)", "R", 0, True),
        ("uid == 0", "R", None, True),
        ("uid == 0", "R", 5, False),
        ("-uid + 1 > 0 && pid == 2", "R", None, False),
    ],
)
def test_what_is_not_known_could_match(text: str, access: str, uid: int | None, kept: bool) -> None:
    assert could_match(bound(text), seen(b"", b"", access, uid)) is kept


def test_values_that_are_not_known_keep() -> None:
    value = variable(INT)
    for text in ("new == 1", "!(new == 1)", "changed", "pid == 2 && new == 1", "old == 1"):
        assert judge(text, value, None, None)
    assert not judge("new == 1", value, None, b"\2\0\0\0")
    assert judge("pid == 2 && old == 1", value, None, b"\2\0\0\0")
