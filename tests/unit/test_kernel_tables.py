# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's symbol table, its parameters and per-CPU copies, without a kernel."""

from __future__ import annotations

import os
import struct
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ksym.errors import NotPermitted
from ksym.symbols import percpu
from ksym.symbols.kallsyms import Kallsyms
from ksym.symbols.kernel import Kernel
from ksym.symbols.params import Parameter, Parameters
from synthetic.kernel import FakeMemory, ParameterWriter, kallsyms

BASE = 0xFFFFFFFF81000000
TABLE = kallsyms(
    [
        (BASE, "T", "_stext"),
        (BASE + 0x10, "T", "first"),
        (BASE + 0x10, "t", "alias"),
        (BASE + 0x50, "T", "first_and_more"),
        (BASE + 0x100, "T", "_etext"),
        (BASE + 0x1000, "D", "counter"),
        (BASE + 0x1008, "d", "same"),
        (BASE + 0x1010, "d", "same"),
        (BASE + 0x1018, "B", "jiffies"),
        (0xFFFFFFFFC0000000, "t", "entry", "mod"),
        (0xFFFFFFFFC0001000, "d", "counter", "mod"),
        (0xFFFFFFFFC0001004, "d", "other", "mod"),
        (0xFFFFFFFFC0009000, "t", "bpf_prog_1", "bpf"),
    ]
)


def test_names_are_found_whole() -> None:
    assert [symbol.address for symbol in TABLE.find("first")] == [BASE + 0x10]
    assert TABLE.find("firs") == TABLE.find("counte") == []
    assert [symbol.module for symbol in TABLE.find("counter")] == [None, "mod"]
    assert [str(symbol) for symbol in TABLE.find("counter", "mod")] == ["mod:counter"]
    assert len(TABLE.find("same")) == 2
    assert TABLE.has_data
    assert not kallsyms([(BASE, "T", "f")]).has_data


def test_code_is_told_from_data_by_address() -> None:
    odd = kallsyms(
        [
            (BASE, "T", "_stext"),
            (BASE + 0x10, "T", "f"),
            (BASE + 0x100, "T", "_etext"),
            (BASE + 0x1000, "T", "v"),
        ]
    )
    assert [odd.find(name)[0].is_text for name in ("f", "v")] == [True, False]
    assert list(odd.names()) == ["_etext", "v"]


@pytest.mark.parametrize(
    ("name", "module", "room"),
    [("counter", None, 8), ("counter", "mod", 4), ("jiffies", None, None), ("other", "mod", None)],
)
def test_room_is_the_distance_to_the_next_symbol(name: str, module: str | None, room: int | None) -> None:
    (symbol, *_) = (each for each in TABLE.find(name, module) if each.module == module)
    assert TABLE.room(symbol) == room


@pytest.mark.parametrize(
    ("address", "name", "module", "start"),
    [
        (BASE + 0x10, "first", None, 0x10), (BASE + 0x4F, "first", None, 0x10),
        (BASE + 0x50, "first_and_more", None, 0x50), (0xFFFFFFFFC0009010, "bpf_prog_1", "bpf", 0x3F008000 + 0x1000),
    ],
)  # fmt: skip
def test_functions_hold_addresses(address: int, name: str, module: str | None, start: int) -> None:
    found = TABLE.function_at(address)
    assert found is not None
    assert (found.name, found.module, found.start - BASE) == (name, module, start)
    assert found.start <= address < found.end
    assert TABLE.function_at(BASE - 1) is None


def test_a_system_map_is_moved() -> None:
    moved = Kallsyms(b"ffffffff81000000 T _text\nffffffff81001000 D v", "System.map", slide=0x2000000)
    assert moved.find("v")[0].address == 0xFFFFFFFF83001000
    assert [symbol.name for symbol in moved.at(0xFFFFFFFF83001000)] == ["v"]
    assert moved.edge("_text") == 0xFFFFFFFF83000000


def test_modules() -> None:
    assert TABLE.modules() == {"mod", "bpf"}


# Few names and addresses, so that they meet; a name may hold what is no letter, as those of modules do.
_NAMES = st.sampled_from(["a", "aa", "b.0", "init_module", "_text", "__ksym_marker", "\udcff\u1234"])
_ROWS = st.lists(
    st.tuples(
        st.integers(BASE, BASE + 24) | st.integers(1, (1 << 64) - 1),
        st.sampled_from("TtDdBbRrAaWwVv"),
        _NAMES.map(lambda name: name.encode(errors="surrogateescape").decode(errors="replace")),
    ),
    max_size=12,
)


@given(_ROWS, st.lists(st.tuples(_ROWS, st.sampled_from(["m", "m2", "bpf"])), max_size=3))
def test_what_is_written_is_read(
    rows: list[tuple[int, str, str]], modules: list[tuple[list[tuple[int, str, str]], str]]
) -> None:
    """The kernel sorts its own symbols by address; those of modules follow as they come."""
    rows = sorted(rows, key=lambda row: row[0])
    theirs = [(*row, module) for found, module in modules for row in found]
    table = kallsyms([*rows, *theirs])
    lines = [(address, kind, name, None) for address, kind, name in rows] + theirs

    def wanted(key: int, value: object) -> list[tuple[object, ...]]:
        return [line for line in lines if line[key] == value]

    def of(symbols: list[Any]) -> list[tuple[object, ...]]:
        return [(each.address, each.kind, each.name, each.module) for each in symbols]

    for name in {line[2] for line in lines} | {"nowhere"}:
        assert of(table.find(name)) == wanted(2, name)
        for module in ("m", "m2"):
            assert of(table.find(name, module)) == [line for line in wanted(2, name) if line[3] == module]
    for address in {line[0] for line in lines} | {0}:
        assert of(table.at(address)) == wanted(0, address)
    assert table.modules() == {line[3] for line in theirs}
    for symbol in table.find("a"):
        peers = theirs if symbol.module else rows
        above = [
            row[0] for row in peers if row[0] > symbol.address and (row[3:] or (None,)) == (symbol.module,)
        ]
        assert table.room(symbol) == (min(above) - symbol.address if above else None)


@given(st.binary(max_size=200) | st.lists(st.sampled_from(
    [b"ffffffff81000000", b"0", b"-1", b" ", b"\t", b"\n", b"\x85", b"\r", b"T", b"t", b"d", b"a", b"[m]", b"]", b"\0"]
), max_size=40).map(b"".join))  # fmt: skip
@example(b"0000000000000000 ")
@example(b"0000000000000000 T a\n")
def test_any_bytes_are_a_table(data: bytes) -> None:
    """Lines that are none are passed over: a System.map may be any file."""
    table = Kallsyms(data, "System.map", slide=1 << 63)
    assert isinstance(table.hidden, bool)
    assert not table.has_data
    names = [*table.names(), *table.names(text_only=True), "", "a"]
    for name in names:
        for symbol in table.find(name):
            assert symbol.name == name
            assert symbol.kind
            assert (table.room(symbol) or 1) > 0
            assert symbol in table.find(name, symbol.module)
        table.edge(name)
    for address in (0, 0xFFFFFFFF81000000, 1 << 64):
        found = table.function_at(address)
        assert found is None or found.start <= address < found.end
        assert all(symbol.address == address for symbol in table.at(address))
    assert all(isinstance(module, str) for module in table.modules())


@pytest.mark.parametrize(
    ("user", "why"),
    [
        (
            0,
            "/proc/kallsyms shows only zeros, as kernel.kptr_restrict hides the addresses; "
            "sysctl kernel.kptr_restrict=1",
        ),
        (1000, "kernel variables may be watched only by root (CAP_SYS_ADMIN); run it with sudo"),
    ],
)  # fmt: skip
def test_hidden_addresses(monkeypatch: pytest.MonkeyPatch, user: int, why: str) -> None:
    hidden = kallsyms([(0, "T", "_text"), (0, "D", "jiffies")])
    assert hidden.hidden
    assert not TABLE.hidden
    monkeypatch.setattr(Kallsyms, "of_this_kernel", classmethod(lambda cls: hidden))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(NotPermitted) as caught:
        _ = Kernel().kallsyms
    assert caught.value.line() == f"cannot find kernel symbols: {why}"


# -- parameters --------------------------------------------------------------------------------------

VARIABLE = 0xFFFFFFFF83000000


def parameters() -> Parameters:
    writer = ParameterWriter()
    writer.add("workqueue.panic_on_stall", "param_get_uint", VARIABLE)
    writer.add("snd-hda.power_save", "param_get_int", VARIABLE + 8)
    writer.add("quiet", "param_get_bool", VARIABLE + 16)
    writer.add("own.accessors", "get_it_my_way", VARIABLE + 24)
    writer.add("no.variable", "param_get_int", 0)
    text, array = 0xFFFFFFFF83100000, 0xFFFFFFFF83100100
    writer.memory.write(text, struct.pack("=I4xQ", 32, VARIABLE + 64))
    writer.add("a.text", "param_get_string", text)
    inner = writer.ops("param_get_ushort")
    writer.memory.write(array, struct.pack("=IIQQQ", 6, 2, 0, inner, VARIABLE + 128))
    writer.add("an.array", "param_array_get", array)
    writer.add("bad.array", "param_array_get", 0x1000)  # nothing is mapped there
    return Parameters(writer.table(), writer.memory)


@pytest.mark.parametrize(
    ("scope", "name", "expected"),
    [
        (
            "workqueue",
            "panic_on_stall",
            Parameter("workqueue", "panic_on_stall", VARIABLE, "unsigned int", 0),
        ),
        ("snd_hda", "power-save", Parameter("snd-hda", "power_save", VARIABLE + 8, "int", 0)),
        ("own", "accessors", Parameter("own", "accessors", VARIABLE + 24, None, 0)),
        ("a", "text", Parameter("a", "text", VARIABLE + 64, "char", 32, 32)),
        ("an", "array", Parameter("an", "array", VARIABLE + 128, "unsigned short", 12, 6)),
        ("no", "variable", None),
        ("bad", "array", None),
        ("workqueue", "panic_on_stal", None),
    ],
)
def test_parameters_are_found(scope: str, name: str, expected: Parameter | None) -> None:
    assert parameters().find(scope, name) == expected


def test_all_parameters_in_their_order() -> None:
    names = ["workqueue:panic_on_stall", "snd-hda:power_save", "quiet", "own:accessors", "a:text", "an:array"]
    assert [str(each) for each in parameters().all()] == names


def test_no_array_no_parameters() -> None:
    assert list(Parameters(TABLE, FakeMemory()).all()) == []
    unreadable = kallsyms([(BASE, "R", "__start___param"), (BASE + 80, "R", "__stop___param")])
    assert list(Parameters(unreadable, FakeMemory()).all()) == []


# -- per-CPU copies ----------------------------------------------------------------------------------


class FakeKernel:
    def __init__(self, table: Kallsyms, memory: FakeMemory) -> None:
        self.kallsyms, self.memory = table, memory


@pytest.mark.parametrize("section", [0, 0xFFFFFFFF82800000], ids=["from zero", "since 6.15"])
def test_each_cpu_has_its_copy(monkeypatch: pytest.MonkeyPatch, section: int) -> None:
    monkeypatch.setattr(percpu, "possible_cpus", lambda: [0, 2])
    memory = FakeMemory()
    memory.write(
        VARIABLE, struct.pack("=3Q", 0xFFFF888000000000, 0xDEAD, (0xFFFF888000100000 - section) % 2**64)
    )
    table = kallsyms(
        [
            (section, "A", "__per_cpu_start"),
            (section + 0x40, "A", "mine"),
            (section + 0x1000, "A", "__per_cpu_end"),
            (section + 0x1000, "D", "behind"),
            (VARIABLE, "R", "__per_cpu_offset"),
        ]
    )
    kernel = cast(Any, FakeKernel(table, memory))
    mine, behind = table.find("mine")[0], table.find("behind")[0]
    assert percpu.is_per_cpu(kernel, mine)
    assert not percpu.is_per_cpu(kernel, behind)
    copies = percpu.copies(kernel, mine)
    assert list(copies) == [0, 2]
    assert copies[2] == 0xFFFF888000100040
