# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.errors import KsymError, Place, Span
from ksym.symbols.ctext import FIXED, TypeNameError, c_spelling, parse_type
from ksym.symbols.types import Encoding, Enum, Integer, Pointer, Struct, Type, Typedef, resolve


class Known:
    """A lookup of three types."""

    types: dict[tuple[str, str], Type]

    def __init__(self) -> None:
        self.types = {
            ("struct", "net"): Struct("struct net", 64, False, tuple),
            ("enum", "pid_type"): Enum("enum pid_type", 4, False, (("PIDTYPE_PID", 0),)),
            ("typedef", "pid_t"): Typedef("pid_t", 4, Integer("int", 4, True)),
        }

    def find(self, kind: str | None, name: str, /) -> Type | None:
        return next((made for (k, n), made in self.types.items() if n == name and kind in (None, k)), None)

    def names(self, kind: str | None = None, /) -> Iterable[str]:
        return [name for each, name in self.types if kind in (None, each)]


@pytest.mark.parametrize(
    ("text", "name", "size", "signed"),
    [
        ("char", "char", 1, True),
        ("signed char", "signed char", 1, True),
        ("unsigned char", "unsigned char", 1, False),
        ("short", "short", 2, True),
        ("unsigned short int", "unsigned short", 2, False),
        ("int", "int", 4, True),
        ("signed", "int", 4, True),
        ("unsigned", "unsigned int", 4, False),
        ("const unsigned int", "unsigned int", 4, False),
        ("long", "long", 8, True),
        ("int long unsigned", "unsigned long", 8, False),
        ("long long unsigned int", "unsigned long long", 8, False),
        ("volatile long long", "long long", 8, True),
        ("unsigned __int128", "unsigned __int128", 16, False),
        ("_Bool", "_Bool", 1, False),
    ],
)
def test_types_of_c_need_no_lookup(text: str, name: str, size: int, signed: bool) -> None:
    made = parse_type(text)
    assert isinstance(made, Integer)
    assert (made.name, made.size, made.signed) == (name, size, signed)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_fixed_width_types_are_as_wide_as_they_say(bits: int) -> None:
    for unsigned in (f"u{bits}", f"__u{bits}", f"uint{bits}_t"):
        made = resolve(parse_type(unsigned))
        assert isinstance(made, Integer)
        assert (made.size, made.signed, made.encoding) == (bits // 8, False, Encoding.INTEGER)
    for signed in (f"s{bits}", f"__s{bits}", f"int{bits}_t"):
        made = resolve(parse_type(signed))
        assert isinstance(made, Integer)
        assert (made.size, made.signed, made.encoding) == (bits // 8, True, Encoding.INTEGER)


def test_names_of_the_c_library() -> None:
    assert resolve(parse_type("size_t")).name == "unsigned long"
    assert parse_type("bool") == FIXED["bool"]
    kind = resolve(parse_type("bool"))
    assert isinstance(kind, Integer)
    assert kind.encoding is Encoding.BOOL


def test_pointers() -> None:
    made = parse_type("const char * const *")
    assert isinstance(made, Pointer)
    assert (made.name, made.size, made.target.name) == ("char **", 8, "char *")
    assert parse_type("void*").name == "void *"
    assert parse_type("struct net *", Known()).name == "struct net *"


def test_what_c_does_not_have_is_looked_up() -> None:
    assert parse_type("struct net", Known()).size == 64
    assert parse_type("enum  pid_type", Known()).name == "enum pid_type"
    assert isinstance(parse_type("pid_t", Known()), Typedef)
    assert parse_type("class net", Known()).size == 64
    assert parse_type("net", Known()).size == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("struct nett", "no type 'struct nett': no source of types has it; did you mean net?"),
        ("pidt", "no type 'pidt': no source of types has it; did you mean pid_t?"),
        ("union net", "no type 'union net': it is not a union; write struct net"),
        ("unsigned net", "no type 'unsigned net': 'unsigned net' does not combine to a type of C"),
        ("long char", "no type 'long char': 'long char' does not combine to a type of C"),
        ("struct", "no type 'struct': no source of types has it"),
    ],
)
def test_unknown_types_say_what_is_near(text: str, message: str) -> None:
    with pytest.raises(TypeNameError) as caught:
        parse_type(text, Known())
    assert caught.value.line().startswith(message)


def test_without_a_source_the_error_says_so() -> None:
    place = Place("*(u31 *)0xffff", Span(2, 5))
    with pytest.raises(TypeNameError, match="no BTF and no DWARF") as caught:
        parse_type("u31", place=place)
    assert "u32" in caught.value.todo
    assert caught.value.place == place


@pytest.mark.parametrize("text", ["", "*", "u32 4", "4", "char[4]", "* char", "u32 ; drop", "struct net * x"])
def test_what_is_no_type_name_is_refused(text: str) -> None:
    with pytest.raises(KsymError):
        parse_type(text, Known())


@given(st.text("struct net*unsigedlogc _[]0", max_size=30))
def test_any_text_is_a_type_or_an_error(text: str) -> None:
    try:
        made = parse_type(text, Known())
    except KsymError:
        return
    assert isinstance(made, Type)


def test_spelling_of_compilers() -> None:
    assert c_spelling("long unsigned int") == "unsigned long"
    assert c_spelling("short int") == "short"
    assert c_spelling("__int128 unsigned") == "unsigned __int128"
    assert c_spelling("whatever") == "whatever"
