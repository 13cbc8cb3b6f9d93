# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import builtins
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ksym.symbols import dwarf
from ksym.symbols.elf import ElfError, ElfFile
from ksym.symbols.types import Array, Encoding, Enum, Float, Function, Integer, Pointer, Struct, Type, resolve
from synthetic.compile import build, need

pytest.importorskip("elftools")

C = """
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
enum color { RED, GREEN = 5, BLUE = -1 };
enum plain { ONE = 1, TWO };
struct later;
union either { int i; float f; };
struct flags { unsigned a : 3; unsigned b : 7; int : 4; signed c : 12; unsigned long d : 40; bool e : 1; };
struct __attribute__((packed)) tight { char x; unsigned p : 31; unsigned q : 9; };
struct node {
    struct node *next; const char *name; volatile int value; char text[16];
    union { long number; void *pointer; }; struct { short low, high; } pair;
    int (*call)(struct node *, char); double real; int open[];
};
typedef struct { int x, y; } point_t;
typedef uint32_t word;
int counter = 1; static unsigned char byte_var; char letter; bool truth; long double wide; _Complex double z;
const volatile unsigned long qualified = 3; _Atomic int atomic_var; word typed; point_t here;
int matrix[2][3][4]; char *strings[5]; int (*table[4])(int); struct node first; struct flags bits;
struct tight packed; union either either; enum color shade; enum plain plain; void *nothing;
struct later *unfinished; struct node *chain; int ab = 4; point_t *const fixed = 0; int (*grid)[7];
extern int sized[]; int sized[9];
static int bump(void) { static int calls; static long twin; return ++calls + twin++; }
static long other(void) { static short twin; return ++twin; }
int main(void) { int counter_local = bump(); return counter_local + other() + byte_var + packed.p; }
"""
CXX = """
namespace ns {
struct Base { int base_member; virtual ~Base() {} };
class Derived : public Base {
  public: static int shared; int own; int &ref; Derived(int &r) : own(2), ref(r) {}
};
int Derived::shared = 4;
int counter = 1;
enum class Level : unsigned char { Low, High = 200 };
Level level = Level::High;
namespace { long hidden = 9; }
template <typename T> struct Box { T value; static T count; };
template <typename T> T Box<T>::count = 6;
Box<short> box;
}
template struct ns::Box<int>;
int target; ns::Derived derived(target); int &alias = target; static ns::Derived *pointer = &derived;
int f() { static unsigned once = 4; return once++; }
int main() { return ns::hidden + f() + pointer->own + ns::box.value; }
"""
VERSIONS = [
    "-gdwarf-4",
    "-gdwarf-5",
    "-gdwarf-3 -gstrict-dwarf",
    "-gdwarf-2 -gstrict-dwarf",
    "-gdwarf-5 -gz=zlib",
    "-gdwarf-4 -fdebug-types-section",
    "-gdwarf-5 -fdebug-types-section",
    "-g -no-pie",
    "-gdwarf64 -gdwarf-5",
]


def build_with(folder: Path, source: str, flags: str, suffix: str = "c") -> Path:
    from elftools.dwarf.dwarfinfo import DWARFInfo

    if flags == "-gdwarf-4 -fdebug-types-section" and not hasattr(DWARFInfo, "get_DIE_by_sig8"):
        pytest.skip("this version of pyelftools cannot read .debug_types")
    return build(folder, "prog", source, *flags.split(), suffix=suffix)


def find(path: Path, name: str) -> Type:
    elf = ElfFile(path)
    (symbol,) = elf.find(name)
    kind = dwarf.variable(elf, symbol.name, symbol.value)
    assert kind is not None, name
    return kind


def fields(kind: Type) -> dict[str, tuple[str, int, tuple[int, int] | None]]:
    inner = resolve(kind)
    assert isinstance(inner, Struct)
    return {f.name: (f.type.name, f.offset, f.bits) for f in inner.fields}


@pytest.mark.parametrize("flags", VERSIONS)
def test_c_types(tmp_path: Path, flags: str) -> None:
    path = build_with(tmp_path, C, flags)
    names = {
        "counter": ("int", 4),
        "byte_var": ("unsigned char", 1),
        "letter": ("char", 1),
        "truth": ("_Bool", 1),
        "wide": ("long double", 16),
        "qualified": ("long unsigned int", 8),
        "atomic_var": ("int", 4),
        "typed": ("word", 4),
        "here": ("point_t", 8),
        "matrix": ("int[2][3][4]", 96),
        "strings": ("char *[5]", 40),
        "table": ("int (*[4])(int)", 32),
        "either": ("union either", 4),
        "shade": ("enum color", 4),
        "nothing": ("void *", 8),
        "chain": ("struct node *", 8),
        "ab": ("int", 4),
        "fixed": ("point_t *", 8),
        "grid": ("int (*)[7]", 8),
        "sized": ("int[9]", 36),
        "calls": ("int", 4),
        "z": ("complex double", 16),
    }
    for name, expected in names.items():
        kind = find(path, name)
        assert (kind.name, kind.size) == expected, name
    truth, letter = find(path, "truth"), find(path, "letter")
    assert isinstance(truth, Integer)
    assert isinstance(letter, Integer)
    assert (truth.encoding, letter.encoding) == (Encoding.BOOL, Encoding.CHAR)
    assert isinstance(find(path, "wide"), Float)
    matrix = find(path, "matrix")
    assert isinstance(matrix, Array)
    assert (matrix.count, matrix.element.name, matrix.element.size) == (2, "int[3][4]", 48)
    shade = find(path, "shade")
    assert isinstance(shade, Enum)
    assert (shade.signed, shade.enumerators) == (True, (("RED", 0), ("GREEN", 5), ("BLUE", -1)))
    table = find(path, "table")
    assert isinstance(table, Array)
    assert isinstance(table.element, Pointer)
    assert isinstance(table.element.target, Function)
    unfinished = find(path, "unfinished")
    assert isinstance(unfinished, Pointer)
    assert unfinished.target.size == 0


@pytest.mark.parametrize("flags", VERSIONS)
def test_members(tmp_path: Path, flags: str) -> None:
    path = build_with(tmp_path, C, flags)
    chain = find(path, "chain")
    assert isinstance(chain, Pointer)
    node = chain.target
    assert fields(node) == {
        "next": ("struct node *", 0, None),
        "name": ("char *", 8, None),
        "value": ("int", 16, None),
        "text": ("char[16]", 20, None),
        "": ("union {...}", 40, None),
        "pair": ("struct {...}", 48, None),
        "call": ("int (*)(struct node *, char)", 56, None),
        "real": ("double", 64, None),
        "open": ("int[]", 72, None),
    }
    assert isinstance(node, Struct)
    assert isinstance(node.fields[0].type, Pointer)
    assert node.fields[0].type.target is node
    assert isinstance(resolve(find(path, "either")), Struct)
    assert resolve(find(path, "either")).union  # type: ignore[attr-defined]
    assert fields(find(path, "bits")) == {
        "a": ("unsigned int", 0, (0, 3)),
        "b": ("unsigned int", 0, (3, 7)),
        "c": ("int", 0, (14, 12)),
        "d": ("long unsigned int", 8, (0, 40)),
        "e": ("_Bool", 13, (0, 1)),
    }


def test_packed_bit_fields(tmp_path: Path) -> None:
    path = build(tmp_path, "prog", C, "-g")
    assert fields(find(path, "packed")) == {
        "x": ("char", 0, None),
        "p": ("unsigned int", 1, (0, 31)),
        "q": ("unsigned int", 4, (7, 9)),
    }


@pytest.mark.parametrize("flags", VERSIONS)
def test_cxx(tmp_path: Path, flags: str) -> None:
    if "strict" in flags:
        pytest.skip("gcc describes too little of C++ in these versions")
    path = build_with(tmp_path, CXX, flags, "cc")
    names = {
        "ns::counter": ("int", 4),
        "ns::Derived::shared": ("int", 4),
        "ns::level": ("ns::Level", 1),
        "hidden": None,
        "ns::hidden": ("long int", 8),
        "ns::Box<int>::count": ("int", 4),
        "ns::box": ("ns::Box<short int>", 2),
        "alias": ("int &", 8),
        "pointer": ("ns::Derived *", 8),
        "once": ("unsigned int", 4),
        "f::once": ("unsigned int", 4),
    }
    for name, expected in names.items():
        if expected is None:
            assert ElfFile(path).find(name) == []
            continue
        kind = find(path, name)
        assert (kind.name, kind.size) == expected, name
    level = find(path, "ns::level")
    assert isinstance(level, Enum)
    assert (level.signed, level.enumerators) == (False, (("Low", 0), ("High", 200)))
    pointer = find(path, "pointer")
    assert isinstance(pointer, Pointer)
    derived = fields(pointer.target)
    assert derived[""] == ("ns::Base", 0, None)
    assert derived["own"] == ("int", 12, None)
    assert derived["ref"][0] == "int &"
    assert "shared" not in derived


@pytest.mark.parametrize("flags", ["-gdwarf-4", "-gdwarf-5"])
def test_by_name_alone(tmp_path: Path, flags: str) -> None:
    path = build(tmp_path, "prog", C, flags)
    kind = dwarf.variable(path, "counter")
    assert kind is not None
    assert kind.name == "int"
    # two statics of functions have this name: the address decides
    with ElfFile(path) as elf:
        twins = {dwarf.variable(elf, s.name, s.value).size for s in elf.find("twin")}  # type: ignore[union-attr]
        assert twins == {2, 8}
        assert dwarf.variable(elf, "counter_local") is None
        assert dwarf.variable(elf, "nothing_like_it") is None
        reader = dwarf.Dwarf(elf)
        found = reader.type_named("struct node")
        assert found is not None
        assert found.size == 72
        assert reader.type_named("union either").size == 4  # type: ignore[union-attr]
        assert reader.type_named("point_t").size == 8  # type: ignore[union-attr]
        assert reader.type_named("struct nowhere") is None


@pytest.mark.parametrize("flags", ["-gdwarf-4", "-gdwarf-5"])
def test_definition_in_another_unit(tmp_path: Path, flags: str) -> None:
    need("gcc")
    (tmp_path / "b.c").write_text("struct opaque { int a; long b; }; struct opaque one = {1, 2};")
    source = """
    struct opaque; extern struct opaque one; struct opaque *handle = &one;
    int main(void) { return !handle; }
    """
    path = build(tmp_path, "prog", source, flags, "b.c")
    handle = find(path, "handle")
    assert isinstance(handle, Pointer)
    assert fields(handle.target) == {"a": ("int", 0, None), "b": ("long int", 8, None)}


def test_without_dwarf(tmp_path: Path) -> None:
    path = build(tmp_path, "prog", C)
    assert dwarf.variable(path, "counter") is None


def test_without_pyelftools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build(tmp_path, "prog", C, "-g")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("elftools"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(dwarf.NotAvailable, match="pip install pyelftools"):
        dwarf.variable(path, "counter")


def test_clang_addresses_by_number(tmp_path: Path) -> None:
    need("clang")
    (tmp_path / "x.c").write_text(C)
    subprocess.run(["clang", "-gdwarf-5", "x.c", "-o", "prog"], check=True, cwd=tmp_path)
    assert find(tmp_path / "prog", "counter").name == "int"
    assert find(tmp_path / "prog", "matrix").name == "int[2][3][4]"
    node = dwarf.Dwarf(ElfFile(tmp_path / "prog")).type_named("struct node")
    assert node is not None
    assert node.size == 72


@pytest.mark.parametrize("flags", ["-gdwarf-4", "-gdwarf-5"])
def test_dwarf_shared_by_dwz(tmp_path: Path, flags: str) -> None:
    need("dwz")
    for name in ("prog", "other"):
        # twice the same, so that there is something to share
        build(tmp_path, name, C, flags)
    command = ["dwz", "-m", "common", "-M", str(tmp_path / "common"), "prog", "other"]
    subprocess.run(command, check=True, cwd=tmp_path)
    path = tmp_path / "prog"
    assert ElfFile(path).section(".gnu_debugaltlink") is not None
    assert find(path, "matrix").name == "int[2][3][4]"
    chain = find(path, "chain")
    assert isinstance(chain, Pointer)
    assert fields(chain.target)["next"] == ("struct node *", 0, None)
    (tmp_path / "common").unlink()
    symbol = ElfFile(path).find("chain")[0]
    with pytest.raises(ElfError, match="gnu_debugaltlink"):
        dwarf.variable(path, "chain", symbol.value)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = build(tmp_path_factory.mktemp("fuzz"), "prog", C, "-g", "-nostdlib", "-Wl,-e,main")
    return path.read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged(program: bytes, data: st.DataObject) -> None:
    elf = ElfFile("x", data=program)
    sections = [s for s in elf.sections if s.name.startswith(".debug_") and s.size > 16]
    section = data.draw(st.sampled_from(sections))
    changed = bytearray(program)
    for _ in range(data.draw(st.integers(1, 20))):
        at = section.offset + data.draw(st.integers(0, section.size - 1))
        changed[at] = data.draw(st.integers(0, 255))
    elf = ElfFile("x", data=bytes(changed))
    for name in ("first", "matrix", "table", "shade", "chain", "bits"):
        (symbol,) = elf.find(name)
        for address in (symbol.value, None):
            try:
                look_into(dwarf.Dwarf(elf).variable(name, address), 3)
            except ElfError:
                continue


def look_into(kind: Type | None, depth: int) -> None:
    inner = None if kind is None else resolve(kind)
    if not depth or inner is None:
        return
    if isinstance(inner, Struct):
        for member in inner.fields:
            look_into(member.type, depth - 1)
    elif isinstance(inner, Pointer):
        look_into(inner.target, depth - 1)
