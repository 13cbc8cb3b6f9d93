# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksym.symbols.btf import Btf, BtfError
from ksym.symbols.types import (
    Array,
    Encoding,
    Enum,
    Float,
    Function,
    Integer,
    Pointer,
    Struct,
    Type,
    Typedef,
    resolve,
)
from synthetic.btf import BOOL, SIGNED, BtfWriter

ORDERS = pytest.mark.parametrize("order", ["<", ">"])


def shape(kind: Type) -> tuple[str, int]:
    return kind.name, kind.size


def structure(btf: Btf, kind: str, name: str) -> Struct:
    found = btf.find(kind, name)
    assert isinstance(found, Struct)
    return found


@ORDERS
def test_every_kind_is_read(order: str) -> None:
    w = BtfWriter(order)
    integer = w.integer("long unsigned int", 8)
    text = w.array(w.integer("char", 1), 16)
    task = w.struct("task", 32, [("comm", text, 0), ("next", w.count + 2, 128), ("flag", w.count + 3, 192)])
    w.pointer(task)
    w.const(w.integer("_Bool", 1, BOOL))
    w.struct("u", 8, [("a", integer, 0)], union=True)
    w.typedef("u64", w.volatile(w.type_tag("rcu", integer)))
    w.enum("state", 4, [("DEAD", -1), ("ALIVE", 1)], signed=True)
    w.enum("bits", 1, [("TOP", 0x80000000)])
    w.enum64("wide", 8, [("MINUS", -(1 << 40)), ("ONE", 1)], signed=True)
    w.enum64("huge", 8, [("ALL", (1 << 64) - 1)])
    w.real("double", 8)
    w.declaration_tag("tag", task)
    handler = w.pointer(w.prototype(0, [("x", integer)]))
    handlers = w.array(handler, 3)
    w.function("run", handler - 1)
    w.forward("nowhere")
    w.forward("task")
    pid_max = w.variable("pid_max", w.restrict(integer))
    w.section(".data", 64, [(integer, 0, 8), (pid_max, 24, 8)])
    btf = Btf(w.blob())

    made = btf.find("struct", "task")
    assert isinstance(made, Struct)
    assert shape(made) == ("struct task", 32)
    assert [(f.name, f.type.name, f.offset, f.bits) for f in made.fields] == [
        ("comm", "char[16]", 0, None),
        ("next", "struct task *", 16, None),
        ("flag", "_Bool", 24, None),
    ]
    comm, following, flag = (f.type for f in made.fields)
    assert isinstance(comm, Array)
    assert (comm.size, comm.count, comm.element.name) == (16, 16, "char")
    assert isinstance(comm.element, Integer)
    assert comm.element.encoding is Encoding.CHAR
    assert isinstance(following, Pointer)
    assert following.target is made
    assert isinstance(flag, Integer)
    assert flag.encoding is Encoding.BOOL

    union = btf.find("union", "u")
    assert isinstance(union, Struct)
    assert union.union
    u64 = btf.find(None, "u64")
    assert isinstance(u64, Typedef)
    assert (u64.size, resolve(u64).name) == (8, "unsigned long")
    values = {name: btf.find("enum", name) for name in ("state", "bits", "wide", "huge")}
    assert {name: kind.enumerators for name, kind in values.items() if isinstance(kind, Enum)} == {
        "state": (("DEAD", -1), ("ALIVE", 1)),
        "bits": (("TOP", 0x80000000),),
        "wide": (("MINUS", -(1 << 40)), ("ONE", 1)),
        "huge": (("ALL", (1 << 64) - 1),),
    }
    assert isinstance(btf.find("float", "double"), Float)
    assert btf.type_by_id(handler).name == "void (*)(...)"
    assert shape(btf.type_by_id(handlers)) == ("void (*[3])(...)", 24)
    assert isinstance(btf.function("run"), Function)
    assert btf.function("task") is None
    assert btf.variable("pid_max") == (btf.type_by_id(integer), 8, ".data", 24)
    assert btf.variable("task") is None
    assert shape(btf.type_by_id(0)) == ("void", 0)


def test_find_tells_kinds_apart() -> None:
    w = BtfWriter()
    w.forward("page")
    w.struct("page", 64, [])
    w.forward("page", union=True)
    w.function("page", w.prototype(0))
    w.enum("page", 4, [])
    w.enum("page", 4, [("A", 1)])
    w.struct("both", 8, [])
    w.typedef("both", w.integer("unsigned int", 4))
    w.integer("long unsigned int", 8)
    w.integer("long", 8, SIGNED)  # clang's spelling
    btf = Btf(w.blob())
    assert structure(btf, "struct", "page").size == 64
    assert structure(btf, "union", "page").union
    kind = btf.find("enum", "page")
    assert isinstance(kind, Enum)
    assert kind.enumerators
    assert btf.find("typedef", "page") is None
    assert isinstance(btf.find(None, "page"), Struct)
    assert isinstance(btf.find(None, "both"), Typedef)
    assert btf.find(None, "struct both") is btf.find("struct", "both")
    for name in ("unsigned long", "long unsigned int", "long"):
        assert shape(btf.find(None, name) or Type("", 0)) == (
            name.replace("long unsigned int", "unsigned long"),
            8,
        )
    assert btf.find(None, "pag") is None
    assert btf.find(None, "age") is None
    assert btf.find(None, "") is None
    assert sorted(btf.names("struct")) == ["both", "page", "page", "page"]


def test_declared_struct_leads_to_its_definition() -> None:
    w = BtfWriter()
    w.struct("holder", 8, [("p", 2, 0), ("q", 4, 0)])
    w.pointer(w.count + 2)
    w.forward("defined")
    w.pointer(w.count + 2)
    w.forward("opaque")
    w.struct("defined", 24, [])
    p, q = (f.type for f in structure(Btf(w.blob()), "struct", "holder").fields)
    assert isinstance(p, Pointer)
    assert isinstance(q, Pointer)
    assert shape(p.target) == ("struct defined", 24)
    assert shape(q.target) == ("struct opaque", 0)


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        ("p", "char *"),
        ("pp", "char **"),
        ("a", "char[2]"),
        ("aa", "char[2][2]"),
        ("pa", "char *[2]"),
        ("ap", "char (*)[2]"),
        ("pf", "char *(...)"),
        ("f", "char (...)"),
        ("fp", "char (*)(...)"),
        ("fpap", "char (*(*)[2])(...)"),
        ("cpc", "char *"),
    ],
)
def test_spelling_of_derived_types(wrap: str, name: str) -> None:
    w = BtfWriter()
    last = w.integer("char", 1)
    for each in wrap:
        last = {"p": w.pointer, "a": lambda x: w.array(x, 2), "f": w.prototype, "c": w.const}[each](last)
    assert Btf(w.blob()).type_by_id(last).name == name


def test_unnamed_types_have_a_spelling() -> None:
    w = BtfWriter()
    for last in (w.struct("", 4, []), w.struct("", 4, [], union=True), w.enum("", 4, [("A", 0)])):
        w.pointer(last)
    btf = Btf(w.blob())
    assert [btf.type_by_id(n).name for n in (4, 5, 6)] == ["struct {...} *", "union {...} *", "enum {...} *"]
    assert Btf(BtfWriter().blob()).type_by_id(0).name == "void"


@pytest.mark.parametrize(
    ("order", "at", "width", "offset", "bits"),
    [
        ("<", 0, 1, 0, (0, 1)),
        ("<", 37, 3, 4, (5, 3)),
        ("<", 63, 1, 4, (31, 1)),
        ("<", 30, 4, 3, (6, 4)),  # packed, across two ints
        (">", 0, 1, 0, (31, 1)),
        (">", 37, 3, 4, (24, 3)),
        (">", 63, 1, 4, (0, 1)),
    ],
)
def test_bit_fields(order: str, at: int, width: int, offset: int, bits: tuple[int, int]) -> None:
    w = BtfWriter(order)
    integer = w.integer("unsigned int", 4)
    w.struct("new", 8, [("f", integer, at, width), ("plain", integer, 32)])
    narrow = w.typedef("narrow", w.integer("unsigned int", 4, bits=width))
    w.struct("old", 8, [("f", narrow, at), ("plain", integer, 32)], flag=False)
    inside = w.integer("unsigned int", 4, bits=width, start=at % 8)
    w.struct("older", 8, [("f", inside, at - at % 8), ("plain", integer, 32)], flag=False)
    btf = Btf(w.blob())
    for name in ("new", "old", "older"):
        field, plain = structure(btf, "struct", name).fields
        assert (field.offset, field.bits, field.type.size) == (offset, bits, 4), name
        assert (plain.offset, plain.bits) == (4, None)


def module() -> tuple[BtfWriter, BtfWriter]:
    base = BtfWriter()
    base.struct("net", 16, [("n", base.count + 2, 0)])
    base.integer("int", 4, SIGNED)
    base.variable("shared", 2)
    split = BtfWriter(base=base)
    split.struct("mine", 8, [("net", split.count + 2, 0)])
    split.pointer(1)
    split.struct("net", 32, [])
    counter = split.variable("shared", 2)
    split.section(".data..percpu", 4, [(counter, 12, 4)])
    return base, split


def test_split_btf_continues_its_base() -> None:
    base, split = module()
    kernel = Btf(base.blob())
    btf = Btf(split.blob(), kernel, "mod")
    mine = structure(btf, "struct", "mine")
    pointer = mine.fields[0].type
    assert isinstance(pointer, Pointer)
    assert pointer.target is kernel.find("struct", "net")
    assert btf.find(None, "int") is kernel.find(None, "int")
    # Its own come first, under a name that is among the base's strings.
    assert structure(btf, "struct", "net").size == 32
    assert btf.variable("shared") == (kernel.find(None, "int"), 4, ".data..percpu", 12)
    assert kernel.variable("shared") is None
    assert set(btf.names("struct")) == {"mine", "net"}
    with pytest.raises(BtfError, match=r"mod.*continue those of another"):
        Btf(split.blob(), name="mod")


def test_files_of_the_system(tmp_path: Path) -> None:
    base, split = module()
    with pytest.raises(BtfError, match="CONFIG_DEBUG_INFO_BTF"):
        Btf.vmlinux(tmp_path)
    (tmp_path / "vmlinux").write_bytes(base.blob())
    (tmp_path / "my_mod").write_bytes(split.blob())
    assert Btf.vmlinux(tmp_path).find("struct", "mine") is None
    assert Btf.module("my-mod", directory=tmp_path).find("struct", "mine")
    with pytest.raises(BtfError, match="no such module"):
        Btf.module("other", directory=tmp_path)
    with pytest.raises(BtfError):
        Btf.module("../vmlinux", directory=tmp_path)


def test_kinds_yet_to_come_are_stepped_over() -> None:
    w = BtfWriter()
    w.integer("int", 4, SIGNED)
    w.add(42, "future", 0, [1, 2, 3, 4, 5], vlen=2)
    w.struct("after", 4, [("n", 1, 0)])
    layout = bytes(4 * 42) + struct.pack("<BBH", 4, 8, 0)
    assert Btf(w.blob(layout)).find("struct", "after")
    with pytest.raises(BtfError, match="type 2 is of the unknown kind 42"):
        Btf(w.blob()).find("struct", "after")


def test_more_members_than_sixteen_bits_count() -> None:
    w = BtfWriter()
    w.enum("many", 4, [(f"E{number}", number) for number in range(70_000)])
    w.integer("int", 4, SIGNED)
    btf = Btf(w.blob())
    kind = btf.find("enum", "many")
    assert isinstance(kind, Enum)
    assert kind.enumerators[-1] == ("E69999", 69_999)
    assert btf.find(None, "int")


def damaged(what: str) -> bytes:
    w = BtfWriter()
    w.integer("int", 4, SIGNED)
    if what == "ring":
        w.typedef("t", 3)
        w.typedef("s", 2)
    elif what == "self":
        w.const(2)
        w.typedef("t", 2)
    elif what == "array":
        w.array(2, 0xFFFFFFFF)
        w.typedef("t", 2)
    elif what == "pointers":
        w.pointer(2)
        w.typedef("t", 2)
    elif what == "no such type":
        w.typedef("t", 77)
    elif what == "section":
        w.section("t", 4, [])
        w.typedef("t", 2)
    elif what == "bits":
        w.typedef("t", w.integer("i", 4, bits=33))
    elif what == "enum":
        w.typedef("t", w.enum("e", 3, []))
    elif what == "name":
        w.typedef("t", w.raw([1 << 30, 8 << 24, 1]))
    return w.blob()


@pytest.mark.parametrize(
    "what", ["ring", "self", "array", "pointers", "no such type", "section", "bits", "enum", "name"]
)
def test_damage_is_told_apart_from_absence(what: str) -> None:
    with pytest.raises(BtfError, match=r"^cannot read the BTF of vmlinux: .*; it is damaged"):
        Btf(damaged(what)).find("typedef", "t")


@pytest.mark.parametrize(
    ("name", "at", "width", "message"),
    [("wide", 0, 33, "33 bits in a type of 32"), ("odd", 3, 0, "begins at bit 3")],
)
def test_impossible_members(name: str, at: int, width: int, message: str) -> None:
    w = BtfWriter()
    w.struct("s", 8, [(name, w.count + 2, at, width)])
    w.integer("int", 4, SIGNED)
    with pytest.raises(BtfError, match=message):
        _ = structure(Btf(w.blob()), "struct", "s").fields


@pytest.mark.parametrize("cut", [0, 1, 2, 10, 23, 24, 40, -1])
def test_cut_off_blobs(cut: int) -> None:
    with pytest.raises(BtfError):
        everything(Btf(module()[0].blob()[:cut]))


def test_header_lies() -> None:
    good = module()[0].blob()
    for at, value in (
        (2, 2),
        (4, 20),
        (8, 1 << 31),
        (12, len(good)),
        (12, 27),
        (16, 1 << 31),
        (20, 0),
        (20, 5),
    ):
        bad = bytearray(good)
        struct.pack_into("<B" if at == 2 else "<I", bad, at, value)
        with pytest.raises(BtfError):
            everything(Btf(bytes(bad)))


def everything(btf: Btf) -> int:
    """Look at all that there is, one level deep from each type."""
    seen = 0
    for number in range(btf._index.end_id):
        kind = btf.type_by_id(number)
        seen += len(kind.fields) if isinstance(kind, Struct) else 1
        if isinstance(kind, Pointer):
            assert kind.target.size >= 0
    for name in btf.names():
        btf.find(None, name)
        btf.variable(name)
        btf.function(name)
    return seen


def rich() -> bytes:
    w = BtfWriter()
    integer = w.integer("int", 4, SIGNED)
    char = w.integer("char", 1)
    w.struct("s", 16, [("a", integer, 0), ("b", w.count + 2, 32, 3), ("", w.count + 3, 64)])
    w.typedef("t", w.const(integer))
    w.struct("", 8, [("x", w.array(char, 4), 0), ("y", w.pointer(w.count), 32)], union=True)
    w.enum("e", 4, [("A", 1), ("B", 2)])
    w.enum64("f", 8, [("C", 1 << 40)])
    w.function("fn", w.prototype(integer, [("x", char)]))
    w.section(".data", 8, [(w.variable("v", integer), 0, 4)])
    w.forward("g")
    w.real("float", 4)
    w.declaration_tag("d", integer)
    w.struct("old", 4, [("a", w.integer("int", 4, bits=3), 5)], flag=False)
    return w.blob()


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(rich()) - 1), st.integers(0, 255)), max_size=6), st.data())
def test_mutated_blobs_give_types_or_errors(changes: list[tuple[int, int]], data: st.DataObject) -> None:
    blob = bytearray(rich())
    for at, value in changes:
        blob[at] = value
    cut = data.draw(st.integers(len(blob) // 2, 2 * len(blob)))
    try:
        everything(Btf(bytes(blob[:cut])))
    except BtfError:
        return


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 30) | st.integers(1, 19).map(lambda k: k << 24 | 1))
)
def test_random_records_give_types_or_errors(words: list[int]) -> None:
    w = BtfWriter()
    w.string("name")
    w.raw(words)
    with suppress(BtfError):
        everything(Btf(w.blob()))


@given(st.binary(max_size=200))
def test_random_bytes_give_types_or_errors(data: bytes) -> None:
    for start in (b"", b"\x9f\xeb\x01\x00\x18\x00\x00\x00", b"\xeb\x9f\x01\x00\x00\x00\x00\x18"):
        with suppress(BtfError):
            everything(Btf(start + data))


NAME = st.text("abcdefgh_", min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from("<>"), st.data())
def test_round_trip(order: str, data: st.DataObject) -> None:
    """Random types, each built on earlier ones, are read as they were written."""
    w = BtfWriter(order)
    expected: dict[int, tuple[str, int]] = {0: ("void", 0)}
    members: dict[int, list[tuple[str, str, int, tuple[int, int] | None]]] = {}
    names: dict[tuple[str, str], int] = {}

    def add(number: int, name: str, size: int) -> None:
        expected[number] = name, size

    add(w.integer("int", 4, SIGNED), "int", 4)
    for _ in range(data.draw(st.integers(0, 25))):
        target = data.draw(st.sampled_from(sorted(expected)))
        text, size = expected[target]
        name = data.draw(NAME)
        what = data.draw(st.sampled_from(["pointer", "array", "const", "typedef", "struct", "union", "enum"]))
        plain = not text.endswith((")", "]"))
        if what == "pointer" and plain:
            add(w.pointer(target), text + ("*" if text.endswith("*") else " *"), 8)
        elif what == "array" and plain:
            count = data.draw(st.integers(0, 1 << 20))
            add(w.array(target, count), f"{text}[{count or ''}]", size * count)
        elif what == "const":
            add(w.const(target), text, size)
        elif what == "typedef" and ("", name) not in names:
            names["", name] = w.typedef(name, target)
            add(w.count, name, size)
        elif what in ("struct", "union") and (what, name) not in names:
            chosen = data.draw(st.lists(st.tuples(NAME, st.sampled_from(sorted(expected))), max_size=5))
            rows = [(field, kind, 32 * at) for at, (field, kind) in enumerate(chosen)]
            names[what, name] = number = w.struct(
                name, 1024, [*rows, ("bits", 1, 320, 7)], union=what == "union"
            )
            add(number, f"{what} {name}", 1024)
            bits = (0, 7) if order == "<" else (25, 7)
            members[number] = [(field, expected[kind][0], at // 8, None) for field, kind, at in rows]
            members[number].append(("bits", "int", 40, bits))
        elif what == "enum" and ("enum", name) not in names:
            names["enum", name] = w.enum(name, 4, [("A", 1)])
            add(w.count, f"enum {name}", 4)
    btf = Btf(w.blob())
    for number, want in expected.items():
        assert shape(btf.type_by_id(number)) == want
    for number, rows_ in members.items():
        made = btf.type_by_id(number)
        assert isinstance(made, Struct)
        assert [(f.name, f.type.name, f.offset, f.bits) for f in made.fields] == rows_
    fresh = Btf(w.blob())
    for (kind, name), number in names.items():
        found = fresh.find(kind or "typedef", name)
        assert found is fresh.type_by_id(number)


@pytest.mark.parametrize("ask", ["variables", "structs"])
def test_the_first_question_may_need_the_whole_index(ask: str) -> None:
    """Nothing was found before that would have made the index."""
    w = BtfWriter()
    word = w.integer("int", 4)
    there = w.variable("there", word)
    for number in range(10_000):  # more than are indexed at a time
        w.typedef(f"t{number}", word)
    w.section(".data..percpu", 4, [(there, 0, 4)])
    w.struct("last", 4, [("member", word, 0)])
    btf = Btf(w.blob())
    if ask == "variables":
        found = btf.variable("there")
        assert found is not None
        assert found.section == ".data..percpu"
    else:
        assert list(btf.names("struct")) == ["last"]


def test_index_is_built_only_as_far_as_needed() -> None:
    w = BtfWriter()
    w.struct("first", 8, [])
    for number in range(20_000):
        w.typedef(f"t{number}", 1)
    btf = Btf(w.blob())
    assert btf.find("struct", "first")
    assert len(btf._index._infos) < 10_000
    start = time.process_time()
    assert btf._index.end_id == 20_002
    # 2 ms on the machine it was written on.
    assert time.process_time() - start < 0.2
