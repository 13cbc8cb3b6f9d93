# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import lzma
import os
import struct
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksym.symbols.debugfile import find_debug_file
from ksym.symbols.elf import ET_DYN, ET_EXEC, ElfError, ElfFile
from synthetic.compile import build, need, nm
from synthetic.elf import Image, Sec, Sym

SOURCE = """
#include <stdio.h>
int counter = 5; static int hidden = 7; __thread int per_thread = 3; char buffer[100];
int bump(void) { static int calls; return ++calls + counter + hidden + per_thread; }
int main(void) { return bump() + buffer[0]; }
"""
CXX = """
namespace ns { int counter = 1; static int inner = 2; int both() { return inner; } }
namespace { int anon = 3; }
struct Box { static int shared; static const int *get() { static int once = 4; return &once; } };
int Box::shared = 5;
template <typename T> struct Tmpl { static T count; };
template <typename T> T Tmpl<T>::count = 6;
template struct Tmpl<int>;
static int lone = 7;
int main() { return ns::counter + ns::both() + anon + *Box::get() + Box::shared + lone; }
"""


def image(**keywords: object) -> Image:
    symbols = [
        Sym("counter", 0x2000, 4, section=2),
        Sym("xcounter", 0x2010, 4, section=2),
        Sym("counter.3", 0x2018, 4, bind=0, section=2),
        Sym("local.0", 0x2020, 4, bind=0, section=2),
        Sym("tls", 0, 4, type=6, section=3),
        Sym("f", 0x1000, 0x10, type=2),
        Sym("f_alias", 0x1000, 0x10, type=2, bind=2),
        Sym("g", 0x1020, 0, type=0),
        Sym("elsewhere", 0, 0, section=0),
    ]
    return Image(symbols=symbols, **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_written_files_read_back(bits: int, order: str) -> None:
    data = image(bits=bits, order=order, build_id=bytes(range(20)), loads=[(0, 0x1000, 0x200, 0x300)]).write()
    with ElfFile("x", data=data) as elf:
        assert (elf.bits, elf.little_endian, elf.type, elf.machine) == (bits, order == "<", ET_DYN, 62)
        assert elf.build_id == bytes(range(20)).hex()
        assert [(s.vaddr, s.memsz) for s in elf.loads] == [(0x1000, 0x300)]
        (symbol,) = elf.find("counter")
        assert (symbol.value, symbol.size, symbol.section, symbol.thread_local) == (0x2000, 4, ".data", False)
        assert elf.find("tls")[0].thread_local
        assert [s.name for s in elf.find("local")] == ["local.0"]
        assert elf.find("elsewhere") == elf.find("nothing") == elf.find("") == elf.find("a\0b") == []
        assert set(elf.names()) >= {"counter", "xcounter", "tls"}
        for address, expected in [
            (0x1000, ("f", 0)),
            (0x100F, ("f", 15)),
            (0x1020, ("g", 0)),
            (0x1030, ("g", 16)),
        ]:
            hit = elf.symbol_at(address)
            assert hit is not None
            assert (hit[0].name, hit[1]) == expected
        assert elf.symbol_at(0x1010) is None
        assert elf.symbol_at(0xFFF) is None


def test_names_that_share_their_end() -> None:
    # the linker may keep "counter" only as the end of "xcounter"
    data = image().write()
    record = struct.pack("<IBBHQ", 1, 0x11, 0, 2, 0x2000)
    moved = data.replace(b"\0counter\0xcounter\0", b"\0????????xcounter\0").replace(
        record, struct.pack("<I", 10) + record[4:]
    )
    assert moved.count(record) == 0
    assert [s.value for s in ElfFile("x", data=moved).find("counter")] == [0x2000]


def test_many_duplicates() -> None:
    symbols = [Sym("state", 0x2000 + 8 * n, bind=0, section=2) for n in range(20)]
    elf = ElfFile("x", data=Image(symbols=symbols).write())
    assert len(elf.find("state")) == 20


def test_source_file_of_a_static() -> None:
    symbols = [Sym("a.c", 0, 0, 4, 0, 0xFFF1), Sym("s", 0x2000, bind=0, section=2)]
    symbols += [Sym("b.c", 0, 0, 4, 0, 0xFFF1), Sym("s", 0x2008, bind=0, section=2)]
    elf = ElfFile("x", data=Image(symbols=symbols).write())
    assert [elf.tables[0].source_file(s) for s in elf.find("s")] == ["a.c", "b.c"]


def test_compressed_section() -> None:
    content = b"debug " * 1000
    packed = struct.pack("<IIQQ", 1, 0, len(content), 1) + zlib.compress(content)
    bomb = struct.pack("<IIQQ", 1, 0, 1 << 40, 1) + zlib.compress(content)
    zstd = struct.pack("<IIQQ", 2, 0, len(content), 1) + b"abc"
    sections = [Sec(f".{n}", 1, d, 0x800) for n, d in (("ok", packed), ("bomb", bomb), ("zstd", zstd))]
    elf = ElfFile("x", data=Image(sections=sections).write())
    ok, bad, unknown = (elf.section(name) for name in (".ok", ".bomb", ".zstd"))
    assert ok is not None
    assert bad is not None
    assert unknown is not None
    assert elf.content(ok) == content
    with pytest.raises(ElfError, match="claims"):
        elf.content(bad)
    with pytest.raises(ElfError, match="only zlib"):
        elf.content(unknown)


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"#!/bin/sh\n" * 10, b"\x7fELF\x02\x01" + bytes(10)])
def test_what_is_no_elf(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ElfError):
        ElfFile(tmp_path / "x")


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, "/dev/null", "a\0b"):
        with pytest.raises(ElfError):
            ElfFile(path)


SYMBOLS = st.builds(
    Sym,
    st.sampled_from(["counter", "xcounter", "counter.3", "counte", "a", "\u00e4\u4e16", "ns::x", "x" * 300]),
    st.integers(0x2000, 0x20F0),
    st.sampled_from([0, 1, 4, 8, (1 << 31) - 1]),
    type=st.sampled_from([0, 1, 2]),
    bind=st.sampled_from([0, 1, 2]),
    section=st.sampled_from([0, 1, 2]),
)


@given(st.lists(SYMBOLS, max_size=12), st.sampled_from([32, 64]), st.sampled_from("<>"))
def test_symbols_that_are_written_are_read(symbols: list[Sym], bits: int, order: str) -> None:
    defined = [each for each in symbols if each.section]
    with ElfFile("x", data=Image(bits=bits, order=order, symbols=symbols).write()) as elf:
        for name in {each.name for each in symbols}:
            places = {(each.value, each.size) for each in defined if each.name == name}
            found = [(each.value, each.size) for each in elf.find(name) if each.name == name]
            assert set(found) <= places
            # one place is one symbol, whatever sizes it is given
            assert sorted(value for value, _ in found) == sorted({value for value, _ in places})
        assert {each.name for each in defined if each.type == 1} <= set(elf.names())


def exercise(data: bytes) -> None:
    """Everything that reads the file; nothing but ElfError may come out."""
    for action in (
        lambda elf: elf.find("counter"),
        lambda elf: elf.find("local"),
        lambda elf: elf.find("ns::x"),
        lambda elf: elf.symbol_at(0x1000),
        lambda elf: list(elf.names()),
        lambda elf: (elf.build_id, elf.debuglink),
        lambda elf: elf.soname,
        lambda elf: elf.loads,
        lambda elf: (elf.dynamic.copies, elf.dynamic.points_to(0x2000), elf.dynamic.references({0, 1, 2})),
        lambda elf: (elf.dynamic.needed, elf.dynamic.symbolic, elf.dynamic.definitions_at(0x2000)),
        lambda elf: [elf.dynamic.interposable(each.symbol) for each in elf.dynamic.definitions("counter")],
        lambda elf: [elf.content(section) for section in elf.sections],
        lambda elf: find_debug_file(elf),
    ):
        try:
            with ElfFile("x", data=data) as elf:
                action(elf)
        except ElfError:
            pass


BASE = image(
    build_id=bytes(20),
    loads=[(0, 0, 64, 64)],
    sections=[
        Sec(".rela.dyn", 4, bytes(48), 2),
        Sec(".dynamic", 6, struct.pack("<qQqQ", 14, 1, 0, 0), 3, link=5),
        Sec(".gnu_debuglink", 1, b"x.debug\0" + bytes(4)),
        Sec(".gnu_debugdata", 1, b"\xfd7zXZ\0" + bytes(20)),
        Sec(".z", 1, struct.pack("<IIQQ", 1, 0, 50, 1) + zlib.compress(bytes(50)), 0x800),
    ],
).write()


def test_packed_symbols_that_want_too_much_memory_are_not_unpacked() -> None:
    packed = bytearray(lzma.compress(BASE, format=lzma.FORMAT_ALONE))
    for dictionary, readable in ((1 << 23, True), (0xFFFFFFFF, False)):
        struct.pack_into("<I", packed, 1, dictionary)
        data = image(sections=[Sec(".gnu_debugdata", 1, bytes(packed))]).write()
        found = find_debug_file(ElfFile("/nowhere/x", data=data))
        assert (found is not None) == readable


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(BASE)))
def test_truncated(length: int) -> None:
    exercise(BASE[:length])


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(BASE) - 8), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6
    )
)
def test_mutated(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(BASE)
    for at, new in changes:
        data[at : at + len(new)] = new
    exercise(bytes(data))


HEADERS = len(BASE) - 64 * 14


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, 63) | st.integers(HEADERS, len(BASE) - 8),
    st.sampled_from([0, 1, 0xFF, 0x7FFF, 2**32 - 1, 2**64 - 1]),
)
def test_extreme_numbers(at: int, value: int) -> None:
    data = bytearray(BASE)
    size = max(1, (value.bit_length() + 7) // 8)
    data[at : at + size] = value.to_bytes(size, "little")
    exercise(bytes(data))


@given(st.binary(max_size=300), st.sampled_from([b"\1\1\1", b"\2\1\1", b"\1\2\1", b"\2\2\1"]))
def test_any_bytes_behind_the_mark(data: bytes, kind: bytes) -> None:
    exercise(b"\x7fELF" + kind + bytes(9) + data)


# -- against binutils -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "kind"), [((), ET_DYN), (("-no-pie",), ET_EXEC), (("-static",), ET_EXEC)])
def test_against_nm(tmp_path: Path, flags: tuple[str, ...], kind: int) -> None:
    path = build(tmp_path, "prog", SOURCE, *flags)
    expected = nm(path)
    with ElfFile(path) as elf:
        assert elf.type == kind
        for name in ("counter", "hidden", "main", "bump", "per_thread", "buffer"):
            assert {s.value for s in elf.find(name)} == {expected[name]}, name
        (calls,) = elf.find("calls")
        assert calls.value == expected[calls.name]
        assert calls.readable_name == "calls"
        assert elf.find("buffer")[0].size == 100
        assert elf.find("per_thread")[0].thread_local
        hit = elf.symbol_at(expected["bump"] + 3)
        assert hit is not None
        assert (hit[0].name, hit[1]) == ("bump", 3)
        assert elf.has_symtab
        text = subprocess.run(["readelf", "-n", path], capture_output=True, text=True, check=True).stdout
        assert elf.build_id is None or elf.build_id in text


def test_all_of_libc() -> None:
    libc = Path("/lib/x86_64-linux-gnu/libc.so.6")
    if not libc.exists():
        pytest.skip(f"{libc} is not there")
    need("nm")
    with ElfFile(libc) as elf:
        for name, value in list(nm(libc, "-D", "--defined-only").items())[::50]:
            assert value in {s.value for s in elf.find(name)}, name
        assert elf.soname == "libc.so.6"


def test_cxx_names(tmp_path: Path) -> None:
    path = build(tmp_path, "prog", CXX, "-O0", suffix="cc")
    expected = nm(path)
    names = {
        "ns::counter": "_ZN2ns7counterE",
        "ns::inner": "_ZN2nsL5innerE",
        "anon": "_ZN12_GLOBAL__N_14anonE",
        "(anonymous namespace)::anon": "_ZN12_GLOBAL__N_14anonE",
        "Box::shared": "_ZN3Box6sharedE",
        "Tmpl<int>::count": "_ZN4TmplIiE5countE",
        "lone": "_ZL4lone",
        "once": "_ZZN3Box3getEvE4once",
        "Box::get::once": "_ZZN3Box3getEvE4once",
        "ns::both": "_ZN2ns4bothEv",
    }
    with ElfFile(path) as elf:
        for name, symbol in names.items():
            assert [(s.name, s.value) for s in elf.find(name)] == [(symbol, expected[symbol])], name
        assert elf.find("shared") == []
        assert "Box::shared" in set(elf.names())


def test_separate_debug_file(tmp_path: Path) -> None:
    need("objcopy", "strip")
    path = build(tmp_path, "prog", SOURCE, "-g", "-Wl,--build-id=none")
    symbols = nm(path)
    subprocess.run(["objcopy", "--only-keep-debug", "prog", "prog.debug"], check=True, cwd=tmp_path)
    subprocess.run(["strip", "prog"], check=True, cwd=tmp_path)
    subprocess.run(["objcopy", "--add-gnu-debuglink=prog.debug", "prog"], check=True, cwd=tmp_path)
    with ElfFile(path) as elf:
        assert not elf.has_symtab
        assert elf.find("hidden") == []
        link = elf.debuglink
        assert link is not None
        assert link == ("prog.debug", zlib.crc32((tmp_path / "prog.debug").read_bytes()))
        debug = find_debug_file(elf)
        assert debug is not None
        assert debug.find("hidden")[0].value == symbols["hidden"]
        assert debug.find("hidden")[0].section == ".data"
        (tmp_path / "prog.debug").write_bytes((tmp_path / "prog.debug").read_bytes() + b"x")
        assert find_debug_file(elf) is None


def test_debug_file_by_build_id(tmp_path: Path) -> None:
    data = Image(build_id=bytes(range(20))).write()
    folder = tmp_path / ".build-id" / "00"
    folder.mkdir(parents=True)
    (folder / f"{bytes(range(1, 20)).hex()}.debug").write_bytes(image(build_id=bytes(range(20))).write())
    stripped = ElfFile("prog", data=data)
    debug = find_debug_file(stripped, debug_root=str(tmp_path))
    assert debug is not None
    assert debug.find("counter")
    (folder / f"{bytes(range(1, 20)).hex()}.debug").write_bytes(image(build_id=bytes(20)).write())
    assert find_debug_file(stripped, debug_root=str(tmp_path)) is None


def test_quick_on_many_symbols() -> None:
    count = 180_000
    symbols = [Sym(f"function_{n}", 0x1000 + 16 * n, 16, 2 if n % 3 else 1) for n in range(count)]
    data = Image(symbols=symbols).write()
    began = time.perf_counter()
    elf = ElfFile("x", data=data)
    assert len(elf.find(f"function_{count - 2}")) == 1
    assert elf.symbol_at(0x1000 + 16 * 1000 + 5) is not None
    # 0.1 s on an idle machine; what is guarded against is decoding all of it, which takes seconds
    assert time.perf_counter() - began < 2
    assert os.path.basename(elf.path) == "x"
