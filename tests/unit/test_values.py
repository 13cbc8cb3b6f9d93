# SPDX-License-Identifier: BSD-2-Clause
"""Values by type, against struct and ctypes; and names of kernel pointers."""

from __future__ import annotations

import ctypes
import json
import math
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ksym.capture.pointers import pointer_names
from ksym.capture.values import VALUES_KEPT, Names, Value, Values
from ksym.errors import KsymError
from ksym.linux.libc import MACHINE
from ksym.program.layout import MOST_BYTES, padded
from ksym.symbols.btf import Btf
from ksym.symbols.ctext import VOID, parse_type, pointer_to
from ksym.symbols.kallsyms import Kallsyms
from ksym.symbols.types import (
    Array,
    Encoding,
    Enum,
    Field,
    Float,
    Integer,
    Struct,
    Type,
    Typedef,
)
from ksym.symbols.variable import Space, Variable
from ksym.views.text import as_json
from synthetic.btf import BtfWriter
from synthetic.kernel import kallsyms

CHAR, INT, U8 = parse_type("char"), parse_type("int"), parse_type("u8")
STATE = Enum("enum state", 4, True, (("DEAD", -1), ("RUNNING", 5), ("FIVE", 5), ("ASLEEP", 6)))
FLAGS = Enum("enum flags", 1, False, (("READ", 1), ("WRITE", 2), ("EXEC", 0x80)))
WITH_NONE = Enum("enum flags", 1, False, (("NONE", 0), ("ONE", 1)))


def variable(kind: Type | None, length: int | None = None, bits: tuple[int, int] | None = None) -> Variable:
    if length is None:
        assert kind is not None
        length = kind.size
    return Variable("v", 0x1000, length, Space.KERNEL, kind, bits)


def decoded(kind: Type | None, data: bytes, names: Names | None = None, **more: Any) -> Value:
    """The value of ``data``, which is padded as the kernel pads it; checked on the way."""
    more.setdefault("length", len(data))
    value = Values(variable(kind, **more), names).of(data.ljust(padded(len(data)), b"\0"))
    assert json.loads(value.json) == json.loads(as_json(value.plain))
    assert value.json.isascii()
    assert value.text.isprintable()
    return value


def shown(kind: Type | None, data: bytes, **more: Any) -> tuple[str, object]:
    value = decoded(kind, data, **more)
    return value.text, value.plain


def array(element: Type, count: int) -> Array:
    return Array(f"{element.name}[{count}]", element.size * count, element, count)


def made(*fields: Field, size: int, union: bool = False) -> Struct:
    return Struct("struct s", size, union, lambda: fields)


def same(plain: object, expected: object) -> bool:
    """Equality, of type too: 1 is neither True nor 1.0."""
    return (plain == expected or repr(plain) == repr(expected) == "nan") and type(plain) is type(expected)


# -- one type after the other ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "text", "plain"),
    [
        (INT, "00800000", "32768", 32768),
        (INT, "feffffff", "-2", -2),
        (parse_type("u32"), "feffffff", "4294967294", 0xFFFFFFFE),
        (parse_type("u64"), "ffffffffffffffff", str(2**64 - 1), 2**64 - 1),
        (parse_type("s8"), "80", "-128", -128),
        (U8, "41", "65", 65),
        (parse_type("unsigned __int128"), "01" + 14 * "00" + "80", str(2**127 + 1), 2**127 + 1),
        (parse_type("__int128"), 16 * "ff", "-1", -1),
        (Integer("odd", 3, True), "ffffff", "-1", -1),
        (parse_type("bool"), "00", "false", False),
        (parse_type("bool"), "01", "true", True),
        (parse_type("bool"), "2a", "42", 42),
        (CHAR, "41", "65 'A'", 65),
        (CHAR, "00", r"0 '\0'", 0),
        (CHAR, "27", r"39 '\''", 39),
        (CHAR, "22", "34 '\"'", 34),
        (CHAR, "5c", r"92 '\\'", 92),
        (CHAR, "0a", r"10 '\n'", 10),
        (CHAR, "1b", r"27 '\x1b'", 27),
        (CHAR, "ff", r"-1 '\xff'", -1),
        # DWARF's u8 and s8.
        (Integer("unsigned char", 1, False, Encoding.CHAR), "41", "65", 65),
        (array(Integer("unsigned char", 1, False, Encoding.CHAR), 2), "4142", "{65, 66}", [65, 66]),
        (Float("float", 4), struct.pack("<f", 0.1).hex(), "0.1", 0.1),
        (Float("float", 4), struct.pack("<f", 16777216).hex(), "16777216.0", 16777216.0),
        (Float("float", 4), struct.pack("<f", 1e20).hex(), "1e+20", 1e20),
        (Float("float", 4), "ffff7f7f", "3.4028235e+38", 3.4028235e38),
        (Float("_Float16", 2), "ff7b", "65504.0", 65504.0),
        (Float("double", 8), struct.pack("<d", 0.1).hex(), "0.1", 0.1),
        (Float("double", 8), struct.pack("<d", -math.inf).hex(), "-inf", -math.inf),
        (Float("double", 8), struct.pack("<d", math.nan).hex(), "nan", math.nan),
        (Float("_Float16", 2), struct.pack("<e", 0.1).hex(), "0.1", 0.1),
        (Float("_Float128", 16), "00" * 13 + "80ff3f", "1.5", 1.5),
        (Float("__bf16", 3), "010203", "01 02 03", "01 02 03"),
        (pointer_to(INT), "00" * 8, "0x0", "0x0"),
        (pointer_to(INT), "10000000feffffff", "0xfffffffe00000010", "0xfffffffe00000010"),
        (STATE, "05000000", "RUNNING", "RUNNING"),
        (STATE, "ffffffff", "DEAD", "DEAD"),
        (STATE, "07000000", "7", 7),
        (FLAGS, "83", "READ | WRITE | EXEC", "READ | WRITE | EXEC"),
        (FLAGS, "80", "EXEC", "EXEC"),
        (FLAGS, "00", "0", 0),
        (FLAGS, "05", "5", 5),
        (WITH_NONE, "00", "NONE", "NONE"),
        (array(INT, 2), "01000000feffffff", "{1, -2}", [1, -2]),
        (array(array(U8, 2), 2), "01020304", "{{1, 2}, {3, 4}}", [[1, 2], [3, 4]]),
        (array(CHAR, 8), b"sshd\0abc".hex(), '"sshd"', "sshd"),
        (array(CHAR, 4), b"sshd".hex(), '"sshd"', "sshd"),
        (array(CHAR, 4), "00" * 4, '""', ""),
        (array(array(CHAR, 2), 2), b"abc\0".hex(), '{"ab", "c"}', ["ab", "c"]),
        (array(CHAR, 8), b'a"\\\n\x1b\0'.ljust(8).hex(), r'"a\"\\\n\x1b"', 'a"\\\n\x1b'),
        (array(CHAR, 8), "näh".encode().ljust(8, b"\0").hex(), '"näh"', "näh"),
        (array(CHAR, 4), "61ff8000", r'"a\xff\x80"', r"a\xff\x80"),
        (array(CHAR, 4), "\u202e".encode().ljust(4, b"\0").hex(), r'"\u202e"', "\u202e"),
        (array(CHAR, 4), "\U000e0001".encode().hex(), r'"\U000e0001"', "\U000e0001"),
        (Typedef("pid_t", 4, Typedef("kpid_t", 4, INT)), "01000000", "1", 1),
        (VOID, "0102", "513", 513),
        (None, "01", "1", 1),
        (None, "0102", "513", 513),
        (None, "ffffffff", "4294967295", 0xFFFFFFFF),
        (None, "00" * 7 + "80", str(2**63), 2**63),
        (None, "01020a", "01 02 0a", "01 02 0a"),
        (Type("int (T::*)", 16), "01" * 16, "01 " * 15 + "01", "01 " * 15 + "01"),
    ],
)
def test_types(kind: Type | None, data: str, text: str, plain: object) -> None:
    found = shown(kind, bytes.fromhex(data))
    assert found[0] == text
    assert same(found[1], plain)


def test_names_that_are_not_utf_8() -> None:
    """DWARF's names are bytes."""
    kind = made(Field("a\udcff", Enum("enum e", 4, False, (("B\udc80", 1),)), 0), size=4)
    found = decoded(kind, bytes.fromhex("01000000"))
    assert found == ("{a\ufffd = B\ufffd}", {"a\ufffd": "B\ufffd"}, r'{"a\ufffd": "B\ufffd"}')


def test_structs() -> None:
    inner = made(Field("x", U8, 0), Field("y", U8, 1), size=2)
    unnamed = made(Field("c", U8, 0), Field("d", parse_type("u16"), 0), size=2, union=True)
    kind = made(
        Field("a", INT, 0), Field("%s", inner, 4), Field("", unnamed, 6), Field("", INT, 8, (0, 3)),
        Field("low", parse_type("unsigned"), 8, (3, 5)), Field("minus", INT, 8, (8, 4)),
        Field("on", parse_type("bool"), 8, (12, 1)), Field("how", FLAGS, 9, (5, 2)),
        Field("rest", array(INT, 0), 12), Field("text", array(CHAR, 0), 12), size=12,
    )  # fmt: skip
    data = struct.pack("<iBBHI", -1, 2, 3, 0x0405, 17 << 3 | 0b1110 << 8 | 1 << 12 | 3 << 13)
    assert shown(kind, data) == (
        "{a = -1, %s = {x = 2, y = 3}, c = 5, d = 1029, low = 17, minus = -2, on = true, how = READ | WRITE, "
        'rest = {}, text = ""}',
        {
            "a": -1, "%s": {"x": 2, "y": 3}, "c": 5, "d": 1029, "low": 17, "minus": -2, "on": True,
            "how": "READ | WRITE", "rest": [], "text": "",
        },
    )  # fmt: skip
    assert shown(made(size=4), b"abcd") == ("{}", {})


def test_a_member_hides_the_base_classes() -> None:
    base = made(Field("x", U8, 0), Field("y", U8, 1), size=2)
    assert shown(made(Field("", base, 0), Field("x", U8, 2), size=3), b"\1\2\3") == (
        "{x = 3, y = 2}",
        {"x": 3, "y": 2},
    )


@pytest.mark.parametrize(
    ("kind", "bits", "data", "plain"),
    [
        (parse_type("unsigned"), (4, 3), "d0", 5),
        (INT, (4, 3), "d0", -3),
        (INT, (0, 1), "01", -1),
        (parse_type("unsigned"), (6, 4), "c003", 15),
        (parse_type("bool"), (7, 1), "80", True),
        (FLAGS, (1, 2), "06", "READ | WRITE"),
        (Typedef("gfp_t", 4, parse_type("unsigned")), (8, 8), "00ff", 255),
        (parse_type("u64"), (1, 63), "ff" * 8, 2**63 - 1),
    ],
)
def test_bit_fields_by_themselves(kind: Type, bits: tuple[int, int], data: str, plain: object) -> None:
    # The unit is as small as the hardware can watch it, so smaller than the type may be.
    assert same(shown(kind, bytes.fromhex(data), bits=bits)[1], plain)


def test_pointers_are_named() -> None:
    names = {0x10: "jiffies", 0x18: 'a"\x1b'}.get
    assert shown(pointer_to(INT), struct.pack("<Q", 0x10), names=names) == ("jiffies", "jiffies")
    assert shown(pointer_to(INT), struct.pack("<Q", 0x20), names=names) == ("0x20", "0x20")
    kind = array(pointer_to(VOID), 2)
    assert shown(kind, struct.pack("<QQ", 0x10, 0), names=names) == ("{jiffies, 0x0}", ["jiffies", "0x0"])
    # NULL is never asked for.
    assert shown(pointer_to(INT), bytes(8), names=lambda _: "nothing") == ("0x0", "0x0")
    assert Values(variable(pointer_to(INT)), names).of(struct.pack("<Q", 0x18)).json == '"a\\"\\u001b"'


@pytest.mark.skipif(MACHINE != "x86_64", reason="x86's own format")
@pytest.mark.parametrize("number", [0.0, -0.0, 1.0, -1.5, 0.1, 1e300, 5e-324, math.inf, -math.inf, math.nan])
def test_long_double(number: float) -> None:
    data = bytes(ctypes.c_longdouble(number))
    assert decoded(parse_type("long double"), data).text == repr(number)


def test_a_long_double_that_is_too_large_is_bytes() -> None:
    data = "00000000000000800070000000000000" if MACHINE == "x86_64" else "00" * 14 + "ff70"
    assert len(str(decoded(parse_type("long double"), bytes.fromhex(data)).plain)) == 47


def test_types_of_btf() -> None:
    w = BtfWriter()
    text = w.array(w.integer("char", 1), 8)
    word = w.integer("unsigned int", 4)
    state = w.enum("state", 4, [("IDLE", 0), ("BUSY", 1)])
    either = w.struct("", 4, [("whole", word, 0), ("state", state, 0)], union=True)
    nothing = w.pointer(0)
    w.struct("t", 24, [("comm", text, 0), ("", either, 64), ("next", nothing, 128)])
    kind = Btf(w.blob()).find("struct", "t")
    assert kind is not None
    data = struct.pack("<8sI4xQ", b"cat", 1, 0xFFFFFFFF82A594B0)
    assert decoded(kind, data, names=lambda _: "pid_max") == Value(
        '{comm = "cat", whole = 1, state = BUSY, next = pid_max}',
        {"comm": "cat", "whole": 1, "state": "BUSY", "next": "pid_max"},
        '{"comm": "cat", "whole": 1, "state": "BUSY", "next": "pid_max"}',
    )


# -- properties --------------------------------------------------------------------------------------------


@given(st.sampled_from([1, 2, 4, 8, 16]), st.booleans(), st.data())
def test_integers(size: int, signed: bool, data: st.DataObject) -> None:
    least, most = (-(1 << (8 * size - 1)), (1 << (8 * size - 1)) - 1) if signed else (0, (1 << 8 * size) - 1)
    number = data.draw(st.integers(least, most))
    packed = number.to_bytes(size, "little", signed=signed)
    assert decoded(Integer("i", size, signed), packed) == Value(str(number), number, str(number))


@given(st.sampled_from([("e", 16), ("f", 32), ("d", 64)]), st.data())
def test_floats_are_the_same_in_their_type(form: tuple[str, int], data: st.DataObject) -> None:
    layout = struct.Struct("<" + form[0])
    number = data.draw(st.floats(width=form[1]))  # type: ignore[arg-type]
    value = decoded(Float("f", layout.size), layout.pack(number))
    assert value.text == str(value.plain)
    assert isinstance(value.plain, float)
    assert layout.pack(value.plain) == layout.pack(number) or math.isnan(number)
    assert value.plain == number or math.isnan(number) == math.isnan(value.plain)
    if not math.isfinite(number):
        assert json.loads(value.json) == repr(number)


class Twin(NamedTuple):
    """A type, the same for ctypes, and what makes a plain value of ctypes'."""

    kind: Type
    ctype: Any
    plain: Callable[[Any], object]


_NUMBERS = [
    Twin(Integer(ctype.__name__, ctypes.sizeof(ctype), signed), ctype, lambda value: value)
    for signed, ctypes_of in (
        (True, (ctypes.c_int8, ctypes.c_int16, ctypes.c_int32, ctypes.c_int64)),
        (False, (ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64)),
    )
    for ctype in ctypes_of
]
_TEXTS = [
    Twin(
        array(CHAR, count),
        ctypes.c_char * count,
        lambda text: bytes(text).partition(b"\0")[0].decode(errors="backslashreplace"),
    )
    for count in (1, 5, 16)
]
_POINTER = Twin(pointer_to(VOID), ctypes.c_void_p, lambda value: hex(value or 0))


def _array_of(twin: Twin, count: int) -> Twin:
    return Twin(
        array(twin.kind, count), twin.ctype * count, lambda values: [twin.plain(value) for value in values]
    )


def _struct_of(members: list[tuple[Twin, int | None]], union: bool, packed: bool) -> Twin:
    """A struct as ctypes lays it out; numbers with a width are bit fields."""
    declared: list[tuple[Any, ...]] = []
    for index, (twin, width) in enumerate(members):
        # ctypes goes on counting bits from one member of a union to the next.
        bits = () if width is None or union else (min(width, 8 * twin.kind.size),)
        declared.append((f"m{index}", twin.ctype, *bits))
    base = ctypes.Union if union else ctypes.Structure
    body: dict[str, Any] = {"_pack_": 1} if packed else {}
    ctype: Any = type("Made", (base,), {**body, "_fields_": declared})

    fields = []
    for (name, _, *bit_field), (twin, _) in zip(declared, members, strict=True):
        place = getattr(ctype, name)
        first, width = place.size & 0xFFFF, place.size >> 16
        # Where bit fields of several types meet, ctypes takes some for bits that their type does not have.
        assume(not bit_field or first + width <= 8 * twin.kind.size)
        fields.append(Field(name, twin.kind, place.offset, (first, width) if bit_field else None))

    def plain(value: Any) -> object:
        return {
            field.name: twin.plain(getattr(value, field.name))
            for field, (twin, _) in zip(fields, members, strict=True)
        }

    return Twin(Struct("struct made", ctypes.sizeof(ctype), union, lambda: tuple(fields)), ctype, plain)


_leaves = st.sampled_from([*_NUMBERS, *_TEXTS, _POINTER])
_bit_fields = st.tuples(st.sampled_from(_NUMBERS), st.integers(1, 64))
_twins = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.builds(_array_of, inner, st.integers(1, 4)),
        st.builds(
            _struct_of,
            st.lists(st.one_of(st.tuples(inner, st.none()), _bit_fields), min_size=1, max_size=5),
            st.booleans(),
            st.booleans(),
        ),
    ),
    max_leaves=6,
).filter(lambda twin: twin.kind.size <= MOST_BYTES)


@given(_twins, st.data())
def test_what_ctypes_sees(twin: Twin, data: st.DataObject) -> None:
    size = twin.kind.size
    raw = data.draw(st.binary(min_size=size, max_size=size))
    held = made(Field("held", twin.kind, 0), size=size)  # a bare number of ctypes is no object with bytes
    holder: Any = type("Holder", (ctypes.Structure,), {"_fields_": [("held", twin.ctype)]})
    assert decoded(held, raw).plain == {"held": twin.plain(holder.from_buffer_copy(raw).held)}


_names = st.text(max_size=4)


def _random_struct(fields: list[Field], size: int, union: bool) -> Struct:
    return Struct("struct r", size, union, lambda: tuple(fields))


def _types(inner: st.SearchStrategy[Type]) -> st.SearchStrategy[Type]:
    bits = st.none() | st.tuples(st.integers(-1, 70), st.integers(-1, 70))
    fields = st.lists(st.builds(Field, _names, inner, st.integers(-1, 70), bits), max_size=5)
    return st.one_of(
        st.builds(_random_struct, fields, st.integers(0, 70), st.booleans()),
        st.builds(Array, _names, st.integers(0, 70), inner, st.integers(0, 70)),
        st.builds(lambda kind: Typedef("t", kind.size, kind), inner),
    )


_sizes = st.integers(0, 17)
_any_type = st.recursive(
    st.one_of(
        st.builds(Integer, _names, _sizes, st.booleans(), st.sampled_from(Encoding)),
        st.builds(Float, st.sampled_from(["float", "long double"]), _sizes),
        st.builds(Enum, _names, _sizes, st.booleans(), st.lists(st.tuples(_names, st.integers())).map(tuple)),
        st.builds(Type, _names, _sizes),
        st.just(pointer_to(VOID)),
    ),
    _types,
    max_leaves=8,
)


@given(
    st.none() | _any_type,
    st.integers(0, 80),
    st.none() | st.tuples(st.integers(-1, 70), st.integers(-1, 70)),
    st.binary(max_size=80),
    st.none() | _names,
)
def test_no_type_and_no_bytes_are_too_odd(
    kind: Type | None, length: int, bits: tuple[int, int] | None, data: bytes, name: str | None
) -> None:
    value = Values(variable(kind, length, bits), lambda _: name).of(data)
    assert json.loads(value.json) == json.loads(as_json(value.plain))


# -- trouble -----------------------------------------------------------------------------------------------


def _damaged() -> tuple[Field, ...]:
    raise KsymError("cannot read the types", "the DWARF is damaged")


def _endless(depth: int) -> Type:
    """Unions in unions, two and two: a few lines that stand for 2 to the power of ``depth`` parts."""
    inner = INT
    for _ in range(depth):
        fields = Field("a", inner, 0), Field("b", inner, 0)
        inner = Struct("union u", 4, True, partial(tuple[Field, ...], fields))
    return inner


_SELF: Struct = Struct("struct self", 4, False, lambda: (Field("me", _SELF, 0),))


@pytest.mark.parametrize(
    "kind",
    [
        Struct("struct damaged", 4, False, _damaged),
        _SELF,
        Struct("struct too_far", 4, False, lambda: (Field("x", INT, 2),)),
        Struct("struct too_far", 4, False, lambda: (Field("x", INT, 2, (30, 4)),)),
        Array("int[4]", 4, INT, 4),
        _endless(60),
        _endless(5000),
        parse_type("u64"),
        Enum("enum declared", 0, True, ()),
    ],
    ids=lambda kind: kind.name,
)
def test_a_type_that_does_not_fit_counts_as_none(kind: Type) -> None:
    assert shown(kind, b"\1\2\0\0") == ("513", 513)


def test_missing_bytes_are_not_taken_for_zeros() -> None:
    of = Values(variable(INT)).of
    assert of(b"\1\2") == Value("01 02", "01 02", '"01 02"')
    assert of(b"") == Value("", "", '""')
    assert of(b"\1\2\0\0") == Value("513", 513, "513")


def test_arrays_of_nothing_have_no_elements() -> None:
    empty = made(size=0)
    kind = made(Field("none", Array("struct s[1000000000]", 0, empty, 10**9), 0), size=1)
    assert shown(kind, b"\0") == ("{none = {}}", {"none": []})


def test_values_are_remembered_but_not_all() -> None:
    asked: list[int] = []
    values = Values(variable(pointer_to(INT)), lambda number: asked.append(number) or "it")  # type: ignore[func-returns-value]
    for number in (1, 1, 2, 1, 2):
        values.of(struct.pack("<Q", number))
    assert asked == [1, 2]
    known = values.of.__self__  # type: ignore[attr-defined]
    for number in range(3 * VALUES_KEPT):
        values.of(struct.pack("<Q", number))
        assert len(known) <= VALUES_KEPT


@given(st.sampled_from([INT, parse_type("u8"), CHAR, None]), st.lists(st.integers(0, 4)))
def test_what_is_remembered_is_right(kind: Type | None, numbers: list[int]) -> None:
    values = Values(variable(kind, 4 if kind is None else kind.size))
    for number in numbers:
        assert values.of(struct.pack("<Q", number)).plain == number


def test_a_counter_is_quick() -> None:
    of = Values(variable(parse_type("u64"))).of
    fresh = [number.to_bytes(8, "little") for number in range(50_000)]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        for data in fresh:
            of(data)
        times.append((time.perf_counter() - start) / len(fresh))
    assert min(times) < 3e-6  # 0.6 us on a machine with nothing else to do


# -- pointers ----------------------------------------------------------------------------------------------

BASE, DATA, MODULE = 0xFFFFFFFF81000000, 0xFFFFFFFF82000000, 0xFFFFFFFFC0000000
TABLE = kallsyms(
    [
        (0, "A", "fixed_percpu_data"),
        (0x30000, "A", "__per_cpu_end"),
        (BASE, "T", "_stext"),
        (BASE, "T", "_text"),
        (BASE + 0x100, "T", "do_exit"),
        (BASE + 0x400, "T", "_etext"),
        (DATA, "D", "__start_init_task"),
        (DATA, "D", "init_task"),
        (DATA + 0x2000, "D", "jiffies"),
        (DATA + 0x2008, "B", "large"),
        (DATA + 0x40000, "B", "_end"),
        (MODULE + 0x4000, "d", "fops", "ext4"),
        (MODULE + 0x4000, "d", "$d", "ext4"),
        (MODULE, "t", "ext4_read", "ext4"),
        (MODULE + 0x9010, "t", "fuse_read", "fuse"),
    ]
)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (BASE + 0x100, "do_exit"),
        (BASE + 0x3FF, "do_exit+0x2ff"),
        (DATA, "init_task"),
        (DATA + 0x1FFF, "init_task+0x1fff"),
        (DATA + 0x2000, "jiffies"),
        (DATA + 0x12007, "large+0xffff"),
        (DATA + 0x12008, None),  # more than 64 KiB behind it
        (DATA + 0x40000, None),  # a mark of the end
        (DATA + 0x40010, None),
        (BASE - 1, None),
        (MODULE, "ext4_read [ext4]"),
        (MODULE + 0x3FFF, "ext4_read+0x3fff [ext4]"),
        (MODULE + 0x4FFF, "fops+0xfff [ext4]"),
        (MODULE + 0x5000, None),  # the last of its module, behind the page
        (MODULE + 0x9FFF, "fuse_read+0xfef [fuse]"),
        (MODULE + 0xA000, None),
        (MODULE - 1, None),
        (0xFFFF888001234560, None),
        (2**64 - 22, None),  # ERR_PTR(-EINVAL)
        (0x10, None),  # a small number is no per-CPU variable
        (0x7FFF12345678, None),
    ],
)
def test_kernel_pointers(address: int, name: str | None) -> None:
    assert pointer_names(lambda: TABLE)(address) == name


def test_without_data_symbols_code_alone_is_named() -> None:
    table = kallsyms(
        [
            (BASE, "T", "_stext"), (BASE + 0x100, "T", "do_exit"), (BASE + 0x400, "T", "_etext"),
            (DATA, "D", "__start_rodata"), (DATA + 0x4000, "t", "late"),
            (MODULE, "t", "read", "ext4"), (MODULE + 0x10, "d", "fops", "ext4"),
        ]
    )  # fmt: skip
    name = pointer_names(lambda: table)
    assert [name(BASE + 0x101), name(BASE + 0x400), name(DATA + 8), name(MODULE + 0x18)] == [
        "do_exit+0x1", None, None, "read+0x18 [ext4]",
    ]  # fmt: skip


def test_a_table_that_slid() -> None:
    table = Kallsyms(TABLE.data, "System.map", slide=0x1000)
    assert pointer_names(lambda: table)(DATA + 0x3004) == "jiffies+0x4"


def test_the_table_is_asked_for_once_and_late() -> None:
    asked: list[int] = []
    name = pointer_names(lambda: asked.append(1))
    assert name(0x1000) is None
    assert not asked
    assert name(DATA) is None
    assert name(DATA) is None
    assert len(asked) == 1
    assert pointer_names(lambda: Kallsyms(b""))(DATA) is None
