# SPDX-License-Identifier: BSD-2-Clause
"""BTF, or split BTF on a small base: types, or a BtfError; values of such types decode."""

from __future__ import annotations

import functools
from itertools import islice

from fuzz.contract import Broken
from ksym.capture.values import Values
from ksym.errors import KsymError
from ksym.symbols.btf import Btf, BtfError
from ksym.symbols.types import Array, Pointer, Struct, Type, Typedef
from ksym.symbols.variable import Space, Variable
from synthetic.btf import BtfWriter

LONGEST = 1300
_TYPES = 24
_DEEP = 5


@functools.cache
def _base() -> Btf:
    writer = BtfWriter()
    number = writer.integer("int", 4, 1)
    writer.pointer(writer.struct("list", 8, [("next", 2, 0), ("n", number, 32)]))
    writer.section(".data..percpu", 64, [(writer.variable("x", number), 0, 4)])
    return Btf(writer.blob())


def run(data: bytes) -> None:
    """The first byte says whether it continues another; the rest is the blob."""
    blob = data[1:]
    try:
        btf = Btf(blob, _base() if data[:1] > b"\x7f" else None, "fuzz")
    except BtfError as error:
        _told(error)
        return
    for kind in (None, "struct", "enum", "typedef", "int"):
        _quietly(lambda kind=kind: _named(btf, kind))
    _quietly(lambda: [btf.variable(name) for name in islice(btf.variable_names(), 4)])
    for number in range(_TYPES):
        _quietly(lambda number=number: _walk(btf.type_by_id(number), 0))


def _named(btf: Btf, kind: str | None) -> None:
    for name in islice(btf.names(kind), 6):
        btf.find(kind, name)
        btf.function(name)
        btf.variable(name)


def _walk(kind: Type, depth: int) -> None:
    assert isinstance(kind.name, str)
    if 0 < kind.size <= 64:
        values = Values(Variable("x", 0, kind.size, Space.KERNEL, kind))
        value = values.of(bytes(64))
        assert isinstance(value.json, str)
    if depth > _DEEP:
        return
    match kind:
        case Typedef():
            _walk(kind.target, depth + 1)
        case Array():
            _walk(kind.element, depth + 1)
        case Pointer():
            _quietly(lambda: _walk(kind.target, depth + 1))
        case Struct():
            for field in islice(kind.fields, 6):
                _walk(field.type, depth + 1)


def _quietly(action: object) -> None:
    assert callable(action)
    try:
        action()
    except BtfError as error:
        _told(error)


def _told(error: KsymError) -> None:
    if "\n" in error.line():
        raise Broken("not one line")
