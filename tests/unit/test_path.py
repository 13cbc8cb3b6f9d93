# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.errors import KsymError, Place, Span
from ksym.language.request import Index, Member, Step
from ksym.linux.memory import MemoryFault
from ksym.symbols.btf import Btf
from ksym.symbols.ctext import parse_type
from ksym.symbols.path import Location, MemberError, find_member, member_names, walk
from ksym.symbols.types import Field, Integer, Struct, Type, describe
from synthetic.btf import SIGNED, BtfWriter

TASK, OTHER, UNREADABLE = 0xFFFF_8880_1000_0000, 0xFFFF_8880_2000_0000, 0xFFFF_8880_3000_0000


class Words:
    """Memory that holds eight-byte words and says what was read of it."""

    def __init__(self, words: dict[int, int]) -> None:
        self.words = words
        self.reads: list[int] = []

    def read(self, address: int, length: int) -> bytes:
        assert length == 8
        self.reads.append(address)
        if address not in self.words:
            raise MemoryFault(address)
        return self.words[address].to_bytes(8, "little")


def types() -> Btf:
    """A task as the kernel might have it, with one of everything that a path can meet."""
    w = BtfWriter()
    integer = w.integer("int", 4, SIGNED)
    long = w.integer("long unsigned int", 8)
    comm = w.array(w.integer("char", 1), 16)
    limit = w.struct("rlimit", 16, [("rlim_cur", long, 0), ("rlim_max", long, 64)])
    signal = w.struct("signal", 64, [("nr", integer, 0), ("rlim", w.array(limit, 3), 64)])
    inner = w.struct("", 16, [("deep", integer, 0), ("deeper", long, 64)])
    unnamed = w.struct("", 16, [("shallow", long, 0), ("", inner, 0)], union=True)
    opaque = w.pointer(w.forward("opaque"))
    members = [
        ("pid", integer, 0),
        ("comm", comm, 64),
        ("signal", w.pointer(w.typedef("signal_t", w.const(signal))), 192),
        ("", unnamed, 256),
        ("limits", w.pointer(limit), 384),
        ("opaque", opaque, 448),
        ("void", w.pointer(0), 512),
        ("twice", w.pointer(w.pointer(limit)), 576),
        ("grid", w.array(w.array(integer, 2), 2), 640),
        ("one", w.array(integer, 1), 768),
        ("first", integer, 800, 1),
        ("rest", integer, 801, 31),
        ("odd", long, 832 + 20, 8),
        ("tail", w.array(limit, 0), 896),
    ]
    w.struct("task", 112, members)  # type: ignore[arg-type]
    return Btf(w.blob())


BTF = types()
_TASK_TYPE = BTF.find("struct", "task")
assert isinstance(_TASK_TYPE, Struct)
TASK_TYPE: Struct = _TASK_TYPE


def step(text: str) -> tuple[Step, ...]:
    """Steps written ``a.b[3]``; spans count in ``t.`` and the text."""
    steps: list[Step] = []
    at = 1
    for part in text.split("."):
        name, *indexes = part.split("[")
        steps.append(Member(name, Span(at, at + 1 + len(name))))
        at += 1 + len(name)
        for index in indexes:
            steps.append(Index(int(index[:-1]), Span(at, at + 1 + len(index))))
            at += 1 + len(index)
    return tuple(steps)


def reach(text: str, memory: dict[int, int] | None = None, kind: Type = TASK_TYPE) -> Location:
    return walk(Location(TASK, kind), step(text), Words(memory or {}), lambda s: Place(f"t.{text}:rw-", s))


@pytest.mark.parametrize(
    ("text", "offset", "name"),
    [
        ("pid", 0, "int"),
        ("comm", 8, "char[16]"),
        ("comm[15]", 23, "char"),
        ("signal", 24, "signal_t *"),
        ("shallow", 32, "unsigned long"),
        ("deep", 32, "int"),
        ("deeper", 40, "unsigned long"),
        ("grid[1][1]", 92, "int"),
        ("one[0]", 96, "int"),
        ("tail[7].rlim_max", 112 + 7 * 16 + 8, "unsigned long"),
    ],
)
def test_inside_one_object_nothing_is_read(text: str, offset: int, name: str) -> None:
    found = reach(text)
    assert (found.address, found.type.name, found.bits, found.length) == (
        TASK + offset,
        name,
        None,
        found.type.size,
    )


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("signal.nr", 0),
        ("signal.rlim[2].rlim_max", 8 + 2 * 16 + 8),
        ("signal[1].nr", 64),
        ("limits.rlim_cur", 0),
        ("limits[0].rlim_cur", 0),
        ("limits[-1].rlim_max", -8),
        ("twice[3]", 24),
    ],
)
def test_pointers_are_followed(text: str, offset: int) -> None:
    memory = {TASK + at: OTHER for at in (24, 48, 72)}
    assert reach(text, memory).address == OTHER + offset


def test_two_pointers_in_a_row() -> None:
    assert reach("twice[1].rlim_max", {TASK + 72: OTHER, OTHER + 8: UNREADABLE}).address == UNREADABLE + 8
    with pytest.raises(KsymError, match=r"member of a struct rlimit \*, which has none"):
        reach("twice.rlim_max", {TASK + 72: OTHER})


def test_one_read_for_each_pointer_of_eight_bytes_where_it_lies() -> None:
    memory = Words({TASK + 24: OTHER})
    walk(Location(TASK, TASK_TYPE), step("signal.rlim[1].rlim_cur"), memory)
    assert memory.reads == [TASK + 24]


@pytest.mark.parametrize(
    ("text", "memory", "message", "caret"),
    [
        (
            "pidd",
            {},
            "cannot reach t.pidd: struct task has no member 'pidd'; did you mean pid?",
            (1, 6),
        ),
        (
            "deepr",
            {},
            "cannot reach t.deepr: struct task has no member 'deepr'; did you mean deeper or deep?",
            (1, 7),
        ),
        (
            "signal.nr",
            {TASK + 24: 0},
            "cannot reach t.signal.nr: the pointer (signal_t *) before this step is NULL; "
            "choose an object in which it points to something",
            (8, 11),
        ),
        (
            "signal.nr",
            {TASK + 24: 2**64 - 12},
            "cannot reach t.signal.nr: the pointer (signal_t *) before this step holds the error -12",
            (8, 11),
        ),
        (
            "signal.nr",
            {TASK + 24: 0x10},
            "cannot reach t.signal.nr: "
            "the pointer (signal_t *) before this step is 0x10, which is no address; "
            "choose an object in which it points to something",
            (8, 11),
        ),
        (
            "signal.nr",
            {},
            "cannot reach t.signal.nr: the pointer (signal_t *) at 0xffff888010000018 cannot be read",
            (8, 11),
        ),
        (
            "comm[16]",
            {},
            "cannot reach t.comm[16]: the array has 16 elements; number them 0 to 15",
            (6, 10),
        ),
        (
            "one[1]",
            {},
            "cannot reach t.one[1]: the array has 1 element; number them 0 to 0",
            (5, 8),
        ),
        (
            "tail[-1]",
            {},
            "cannot reach t.tail[-1]: the array has no negative elements; number them 0 and up",
            (6, 10),
        ),
        (
            "grid.x",
            {},
            "cannot reach t.grid.x: "
            "it is a member of an array (int[2][2]); choose one of its 2 elements, as in t.grid[0]",
            (6, 8),
        ),
        (
            "pid.x",
            {},
            "cannot reach t.pid.x: it is a member of an int, which has none; write t.pid",
            (5, 7),
        ),
        (
            "pid[0]",
            {},
            "cannot reach t.pid[0]: it is an element of an int, which has none; write t.pid",
            (5, 8),
        ),
        (
            "opaque.x",
            {TASK + 56: OTHER},
            "cannot reach t.opaque.x: struct opaque is only declared, its members are not known",
            (8, 10),
        ),
        (
            "opaque[1]",
            {TASK + 56: OTHER},
            "cannot reach t.opaque[1]: elements of struct opaque have no known size",
            (8, 11),
        ),
        (
            "void.x",
            {TASK + 64: OTHER},
            "cannot reach t.void.x: it is a member of a void, which has none; write t.void",
            (6, 8),
        ),
        (
            "first.x",
            {},
            "cannot reach t.first.x: it is a member of a bit field, which has none; write t.first",
            (7, 9),
        ),
    ],
)
def test_errors_name_the_step(
    text: str, memory: dict[int, int], message: str, caret: tuple[int, int]
) -> None:
    with pytest.raises(KsymError) as caught:
        reach(text, memory)
    assert caught.value.line() == message
    assert caught.value.place == Place(f"t.{text}:rw-", Span(*caret))


def test_without_a_place_the_step_itself_is_named() -> None:
    with pytest.raises(MemberError, match=r"^cannot reach nope: struct task has no member 'nope'$"):
        walk(Location(TASK, TASK_TYPE), step("nope"), Words({}))


@pytest.mark.parametrize(
    ("text", "offset", "bits", "length"),
    [
        ("first", 100, (0, 1), 1),
        ("rest", 100, (1, 31), 4),
        # Bits 20 to 27 of the long at 104 lie in bytes 106 and 107.
        ("odd", 106, (4, 8), 2),
    ],
)
def test_bit_fields_take_the_smallest_unit(
    text: str, offset: int, bits: tuple[int, int], length: int
) -> None:
    found = reach(text)
    assert (found.address, found.bits, found.length) == (TASK + offset, bits, length)
    assert found.type.size in (4, 8)


@given(st.integers(0, 64), st.sampled_from([1, 2, 4, 8]), st.data(), st.sampled_from(["little", "big"]))
def test_bits_of_the_unit_are_the_bits_of_the_field(
    at: int, size: int, data: st.DataObject, order: str
) -> None:
    """Whatever lies in memory, both ways of counting must read the same value."""
    first = data.draw(st.integers(0, 8 * size - 1))
    width = data.draw(st.integers(1, 8 * size - first))
    kind = Struct(
        "struct s", 128, False, lambda: (Field("f", Integer("n", size, False), at, (first, width)),)
    )
    memory = data.draw(st.binary(min_size=256, max_size=256))
    mask = (1 << width) - 1
    declared = (
        int.from_bytes(memory[128 + at :][:size], "big" if order == "big" else "little") >> first & mask
    )
    try:
        found = walk(Location(128, kind), [Member("f", Span(0, 1))], Words({}), byteorder=order)
    except KsymError as error:
        assert "boundary of 8" in error.line()  # noqa: PT017
        assert at % size
        return
    assert found.bits is not None
    assert found.length in (1, 2, 4, 8)
    assert found.address % found.length == 0
    unit = int.from_bytes(memory[found.address :][: found.length], "big" if order == "big" else "little")
    assert unit >> found.bits[0] & mask == declared
    assert found.bits[1] == width


def test_members_of_unnamed_members_count_as_own() -> None:
    names = member_names(TASK_TYPE)
    assert names[:6] == ["pid", "comm", "signal", "shallow", "deep", "deeper"]
    assert find_member(TASK_TYPE, "deeper") == Field("deeper", parse_type("unsigned long"), 40)


def test_a_type_that_contains_itself_does_not_trap_the_search() -> None:
    w = BtfWriter()
    w.struct("loop", 8, [("", 1, 0), ("", 1, 0), ("x", w.count + 2, 0)])
    w.integer("int", 4)
    loop = Btf(w.blob()).find("struct", "loop")
    assert isinstance(loop, Struct)
    assert member_names(loop) == ["x"]
    assert find_member(loop, "y") is None


def test_describe() -> None:
    w = BtfWriter()
    w.enum("state", 4, [("A", 0), ("B", 1)])
    state = Btf(w.blob()).find("enum", "state")
    assert state
    assert describe(state) == "enum state, 2 constants"
    assert describe(TASK_TYPE) == "struct task, 112 bytes"
    assert describe(Struct("struct x", 0, False, tuple)) == "struct x, incomplete"
    assert describe(parse_type("u32")) == "u32 (unsigned int)"
    assert describe(parse_type("char *")) == "char *"


class Mapped(Words):
    """Memory of a process: where no word is held, nothing is mapped."""

    def read(self, address: int, length: int) -> bytes:
        return super().read(address, 8)[:length]


def test_a_pointer_that_its_program_has_not_set_yet_leads_nowhere() -> None:
    """What stands in its place is where its object would be in a program that nobody moved."""
    location = Location(0x5555_0000, TASK_TYPE)
    set_already = Mapped({0x5555_0018: 0x5555_1000, 0x5555_1000: 1})
    assert walk(location, step("signal.nr"), set_already).address == 0x5555_1000
    with pytest.raises(KsymError) as caught:
        walk(location, step("signal.nr"), Mapped({0x5555_0018: 0x4010}))
    assert (
        caught.value.why == "the pointer (signal_t *) before this step holds 0x4010, where there is nothing"
    )
    assert "-p PID" in caught.value.todo
