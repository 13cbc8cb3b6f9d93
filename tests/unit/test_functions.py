# SPDX-License-Identifier: BSD-2-Clause
"""Where functions lie for ``ip in FUNCTION``: where the FUNCTION column shows them, and their parts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ksym.capture.usernames import UserNames
from ksym.errors import NotPermitted, RequestError
from ksym.linux.libc import MACHINE
from ksym.symbols.elf import ElfFile
from ksym.symbols.functions import Functions, Range, extents
from ksym.symbols.kallsyms import Kallsyms
from ksym.symbols.variable import Space
from synthetic.compile import build, nm, running
from synthetic.elf import Image, Sym

FUNC, NOTYPE, OBJECT = 2, 0, 1
SYMBOLS = [
    Sym("foo", 0x1000, 0x10, FUNC),
    Sym("foo.cold", 0x1080, 8, FUNC),
    Sym("foo.isra.0", 0x1010, 0, FUNC),
    Sym("foo.isra.0.cold", 0x1088, 8, FUNC),
    Sym("foobar", 0x1018, 8, FUNC),
    Sym("bare", 0x1020, 0, NOTYPE),
    Sym("typed", 0x1028, 0, FUNC),
    Sym("sized", 0x1030, 4, FUNC),
    Sym("alias", 0x1030, 0, NOTYPE),
    Sym("_ZN2ns3fooEi", 0x1040, 4, FUNC),
    Sym("_ZN2ns3fooEi.cold", 0x1048, 4, FUNC),
    Sym("_ZN2ns3fooEv", 0x1050, 4, FUNC),
    Sym("data", 0x2000, 4, OBJECT, section=2),
    Sym("foo.static", 0x2008, 4, OBJECT, section=2),
    Sym("last", 0x10C0, 0, FUNC),
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("foo", {(0x1000, 0x1010), (0x1080, 0x1088), (0x1010, 0x1018), (0x1088, 0x1090)}),
        ("foo.isra.0", {(0x1010, 0x1018), (0x1088, 0x1090)}),
        ("foo.isra", {(0x1010, 0x1018), (0x1088, 0x1090)}),
        ("foo.cold", {(0x1080, 0x1088)}),
        ("foo.col", set()),
        ("bare", {(0x1020, 0x1028)}),
        ("typed", {(0x1028, 0x1030)}),
        ("alias", {(0x1030, 0x1034)}),
        ("ns::foo", {(0x1040, 0x1044), (0x1048, 0x104C), (0x1050, 0x1054)}),
        ("ns::foo.cold", {(0x1048, 0x104C)}),
        ("last", {(0x10C0, 0x1100)}),
        ("data", set()),
        ("fo", set()),
    ],
)
def test_extents(name: str, expected: set[Range]) -> None:
    with ElfFile("x", data=Image(symbols=SYMBOLS).write()) as elf:
        assert extents(elf.tables, name) == expected


def test_all_that_the_column_shows_lies_in_it() -> None:
    with ElfFile("x", data=Image(symbols=SYMBOLS).write()) as elf:
        shown = {address: elf.symbol_at(address) for address in range(0xFF0, 0x1100)}
        for address, hit in shown.items():
            if hit is not None:
                spans = extents(elf.tables, hit[0].function_name)
                assert any(address in range(*span) for span in spans), hex(address)


def test_exported_functions_end_where_the_whole_table_says() -> None:
    exported = [
        Sym("typed", 0x1028, 0, FUNC),
        Sym("_ZN2ns3fooEv", 0x1050, 4, FUNC),
        Sym("only", 0x1060, 4, FUNC),
    ]
    with ElfFile("x", data=Image(symbols=SYMBOLS, dynamic_symbols=exported).write()) as elf:
        assert extents(elf.tables, "typed") == {(0x1028, 0x1030)}
        assert extents(elf.tables, "only") == {(0x1060, 0x1064)}


PROGRAM = r"""
#include <stdio.h>
void typeless(void); void sizeless(void);
__asm__(".text\n.globl typeless\ntypeless: nop\n nop\n ret\n"
        ".globl sizeless\n.type sizeless, %function\nsizeless: nop\n ret\n"
        ".globl behind\n.type behind, %function\nbehind: ret\n.size behind, .-behind\n");
int work(void) { return 1; }
int main(void) {
    typeless(), sizeless();
    printf("%d\n", work());
    fflush(stdout);
    return getchar();
}
"""
KERNEL = b"""\
ffffffff81000000 T _stext
ffffffff81000100 T work
ffffffff81000140 t work.cold
ffffffff81000150 t worker
ffffffff81000160 t other.isra.0
ffffffff81000180 t last
"""
START = 0xFFFFFFFF81000000


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    path = build(tmp_path_factory.mktemp("functions"), "prog", PROGRAM, "-O0")
    with running(path) as (pid, _):
        yield pid, path


class _Kernel(SimpleNamespace):
    kallsyms = Kallsyms(KERNEL)


class _Secret(SimpleNamespace):
    @property
    def kallsyms(self) -> Kallsyms:
        raise NotPermitted("cannot find kernel symbols", "they are hidden")


def functions(pid: int | None, kernel: object = None, *, kernel_accesses: bool = False) -> Functions:
    return Functions(kernel or _Kernel(), pid, kernel_accesses=kernel_accesses)  # type: ignore[arg-type]


def test_of_a_process(program: tuple[int, Path]) -> None:
    pid, path = program
    at, names = nm(path), UserNames(pid)
    assert names.snapshot()
    for name, length in (
        ("typeless", at["sizeless"] - at["typeless"]),
        ("sizeless", at["behind"] - at["sizeless"]),
        ("behind", 4 if MACHINE == "aarch64" else 1),
    ):
        ((start, end),) = functions(pid).ranges(name, Space.USER)
        assert end - start == length
        for address, expected in ((start, name), (end - 1, name)):
            found = names.name(address)
            assert found is not None
            assert found.function == expected


def test_the_vdso_has_functions(program: tuple[int, Path]) -> None:
    pid, _ = program
    maps = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    vdso = [words[0] for words in maps if words[-1] == "[vdso]"]
    if not vdso:
        pytest.skip("there is no vDSO")
    name = "__kernel_clock_gettime" if MACHINE == "aarch64" else "__vdso_clock_gettime"
    ((start, end),) = functions(pid).ranges(name, Space.USER)
    low, high = (int(text, 16) for text in vdso[0].split("-"))
    assert low <= start < end <= high


def test_of_the_kernel() -> None:
    ranges = functions(None).ranges
    assert ranges("work", Space.KERNEL) == ((START + 0x100, START + 0x140), (START + 0x140, START + 0x150))
    assert ranges("work.cold", Space.KERNEL) == ((START + 0x140, START + 0x150),)
    assert ranges("other", Space.KERNEL) == ((START + 0x160, START + 0x180),)


def test_the_kernels_function_of_the_same_name_is_meant_too(program: tuple[int, Path]) -> None:
    pid, _ = program
    own = functions(pid).ranges("work", Space.USER)
    assert len(own) == 1
    both = functions(pid, kernel_accesses=True).ranges("work", Space.USER)
    assert both == (*own, *functions(pid).ranges("work", Space.KERNEL))
    # Without privileges rows do not name the kernel's functions either.
    assert functions(pid, _Secret(), kernel_accesses=True).ranges("work", Space.USER) == own
    with pytest.raises(NotPermitted):
        functions(pid, _Secret(), kernel_accesses=True).ranges("worker", Space.USER)


@pytest.mark.parametrize(
    ("name", "space", "kernel_accesses", "line"),
    [
        ("typeles", Space.USER, False, "process PID has none of that name; did you mean typeless?"),
        ("wrok", Space.USER, False, "process PID has none of that name; did you mean work?"),
        (
            "wrker",
            Space.USER,
            True,
            "neither process PID nor the kernel has one of that name; did you mean worker?",
        ),
        ("otherr", Space.KERNEL, False, "the kernel has none of that name; did you mean other?"),
        (
            "qqqqqqqqqq",
            Space.KERNEL,
            False,
            "the kernel has none of that name; look at the FUNCTION column of a run without the condition",
        ),
    ],
)
def test_misspelt(
    name: str, space: Space, kernel_accesses: bool, line: str, program: tuple[int, Path]
) -> None:
    pid, _ = program
    with pytest.raises(RequestError) as caught:
        functions(pid, kernel_accesses=kernel_accesses).ranges(name, space)
    told = re.sub(rf"\b{pid}\b", "PID", caught.value.line())
    assert told.startswith(f"cannot find function {name}: {line}"[:-1])
