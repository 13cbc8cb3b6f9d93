# SPDX-License-Identifier: BSD-2-Clause
"""C type names as text: ``u32``, ``unsigned long``, ``struct net``, ``const char *``.

The standard integer types are known by themselves, with the sizes of 64-bit Linux (LP64), so that
``*(u32 *)0xff...`` works on a kernel that has neither BTF nor DWARF. Everything else is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Protocol

from ksym.errors import KsymError, Place
from ksym.symbols.nearest import suggestion
from ksym.symbols.types import Encoding, Float, Integer, Pointer, Type, Typedef

POINTER_SIZE = 8
VOID = Type("void", 0)


class TypeNameError(KsymError):
    """No source of knowledge has the type."""


class TypeLookup(Protocol):
    """Where types that C itself does not have are looked up; `Btf` is one."""

    def find(self, kind: str | None, name: str, /) -> Type | None:
        """The type of that name; ``kind`` is ``struct``, ``union``, ``enum``, or None for any."""
        ...

    def names(self, kind: str | None = None, /) -> Iterable[str]:
        """Names that `find` knows, for suggestions."""
        ...


def _words(text: str) -> tuple[str, ...]:
    return tuple(sorted(text.split()))


def _standard() -> dict[tuple[str, ...], Type]:
    """The arithmetic types of C, by their words in any order (C11, 6.7.2)."""
    types: dict[tuple[str, ...], Type] = {(): VOID}
    sizes = {"short": 2, "int": 4, "long": 8, "long long": 8, "__int128": 16}
    for word, size in sizes.items():
        for sign in ("", "signed", "unsigned"):
            name = f"unsigned {word}" if sign == "unsigned" else word
            made = Integer(name, size, sign != "unsigned")
            types[_words(f"{sign} {word}")] = made
            if word not in ("int", "__int128"):
                types[_words(f"{sign} {word} int")] = made
    types[("signed",)] = types[("int",)]
    types[("unsigned",)] = types[_words("unsigned int")]
    # Plain char is text wherever it stands; its sign, the machine's own affair, is that of x86.
    types[("char",)] = Integer("char", 1, True, Encoding.CHAR)
    types[_words("signed char")] = Integer("signed char", 1, True)
    types[_words("unsigned char")] = Integer("unsigned char", 1, False)
    types[("_Bool",)] = Integer("_Bool", 1, False, Encoding.BOOL)
    types[("float",)] = Float("float", 4)
    types[("double",)] = Float("double", 8)
    types[_words("long double")] = Float("long double", 16)
    types[("void",)] = VOID
    del types[()]
    return types


_STANDARD = _standard()
_KEYWORDS = frozenset(word for words in _STANDARD for word in words)


def _fixed() -> dict[str, Type]:
    """The integer types that kernel and C library give names to."""
    names = {
        "bool": "_Bool",
        "size_t": "unsigned long",
        "ssize_t": "long",
        "ptrdiff_t": "long",
        "uintptr_t": "unsigned long",
        "intptr_t": "long",
    }
    integers = {8: "char", 16: "short", 32: "int", 64: "long long"}
    for bits, plain in integers.items():
        signed = "signed char" if bits == 8 else plain
        names |= {f"{mark}u{bits}": f"unsigned {plain}" for mark in ("", "__")}
        names |= {f"{mark}s{bits}": signed for mark in ("", "__")}
        # The C library makes its 64-bit ones of long.
        exact = "long" if bits == 64 else plain
        names[f"uint{bits}_t"] = f"unsigned {exact}"
        names[f"int{bits}_t"] = "signed char" if bits == 8 else exact
    return {name: Typedef(name, _STANDARD[_words(c)].size, _STANDARD[_words(c)]) for name, c in names.items()}


FIXED: Mapping[str, Type] = MappingProxyType(_fixed())
"""Types that are known with no source at all, by their one-word names."""

_TOKEN = re.compile(r"\s*([A-Za-z_]\w*(?:::\w+)*|\S)")
# C's own, and the kernel's marks of address spaces.
_QUALIFIERS = frozenset(
    ("const", "volatile", "restrict", "_Atomic", "__user", "__percpu", "__rcu", "__iomem")
)
_TAGS = ("struct", "union", "enum", "class")


def c_spelling(name: str) -> str:
    """An arithmetic type's name as people write it; compilers say ``long unsigned int``.

    >>> c_spelling("long unsigned int")
    'unsigned long'
    """
    standard = _STANDARD.get(_words(name))
    return standard.name if standard else name


def pointer_to(target: Type) -> Pointer:
    """A pointer to a type that is at hand."""
    return Pointer(pointer_name(target.name), POINTER_SIZE, partial(_same, target))


def pointer_name(target: str) -> str:
    """C spelling of a pointer to the type spelled ``target``, which is no array or function."""
    return target + ("*" if target.endswith("*") else " *")


def parse_type(text: str, lookup: TypeLookup | None = None, place: Place | None = None) -> Type:
    """The type that ``text`` names; qualifiers are dropped.

    Args:
        text: A C type name of the forms ``u32``, ``unsigned long``, ``struct net``, ``char **``.
        lookup: Where names are looked up that C does not have.
        place: Where the text stands in the request, for errors.

    Raises:
        TypeNameError: Nothing knows the type.
        KsymError: ``text`` is not of these forms.
    """
    tokens = [word for word in _TOKEN.findall(text) if word not in _QUALIFIERS]
    stars = 0
    while tokens and tokens[-1] == "*":
        tokens.pop()
        stars += 1
    if not tokens or not all(word[0].isalpha() or word[0] == "_" for word in tokens):
        raise KsymError(
            f"cannot read the type '{text}'",
            "it is not the name of a type",
            "write it as in u32, unsigned long, struct net or struct page *",
            place=place,
        )
    found = _named(tokens, lookup)
    if found is None:
        raise _unknown(text, tokens, lookup, place)
    for _ in range(stars):
        found = pointer_to(found)
    return found


def _named(words: list[str], lookup: TypeLookup | None) -> Type | None:
    if _KEYWORDS.issuperset(words):
        return _STANDARD.get(tuple(sorted(words)))
    if len(words) == 2 and words[0] in _TAGS:
        # C++ says class for what DWARF and BTF call a struct.
        return lookup.find("struct" if words[0] == "class" else words[0], words[1]) if lookup else None
    if len(words) != 1:
        return None
    return FIXED.get(words[0]) or (lookup.find(None, words[0]) if lookup else None)


def _unknown(text: str, words: list[str], lookup: TypeLookup | None, place: Place | None) -> TypeNameError:
    what = f"no type '{text}'"
    tag = words[0] if words[0] in _TAGS and len(words) == 2 else None
    if tag is None and len(words) > 1:
        return TypeNameError(what, f"'{' '.join(words)}' does not combine to a type of C", place=place)
    if lookup is None:
        known = sorted(FIXED)
        todo = suggestion(words[-1], known) or "without them only the standard types are known"
        return TypeNameError(what, "there is no BTF and no DWARF to look it up in", todo, place=place)
    for other in _TAGS[:3]:
        if tag and other != tag and lookup.find(other, words[-1]):
            return TypeNameError(what, f"it is not a {tag}", f"write {other} {words[-1]}", place=place)
    todo = suggestion(words[-1], [*lookup.names(tag), *(FIXED if tag is None else ())])
    return TypeNameError(what, "no source of types has it", todo, place=place)


def _same(kind: Type) -> Type:
    return kind
