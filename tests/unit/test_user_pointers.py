# SPDX-License-Identifier: BSD-2-Clause
"""What a program's pointers point to, in programs that tell where their own objects are."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ksym.capture.pointers import user_pointer_names
from ksym.capture.records import CommRecord, MmapRecord
from ksym.capture.users import Users
from ksym.linux.maps import read_maps
from ksym.symbols.elf import ElfFile
from synthetic.compile import build, need, running
from synthetic.elf import Image, Sym

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int counter = 5; static long hidden[4]; char large[100000]; static const int constant[3] = {1};
static int *work(void) { static int calls; calls++; return &calls; }
int main(void) {
    int local = *work();
    void *places[] = { &counter, &hidden[2], large + 99999, (void *)&constant[1], (char *)main + 4, work, work(),
                       stdout, puts, &hidden[4], &local, malloc(8), "text", large - 1 };
    for (unsigned i = 0; i < sizeof places / sizeof *places; i++) printf("%p ", places[i]);
    printf("\n");
    fflush(stdout);
    return getchar() == 'x' && local && large[0] && constant[local] && counter;
}
"""
INSIDE = ["counter", "hidden+0x10", "large+0x1869f", "constant+0x4", "main+0x4", "work", "calls"]
LIBRARY = """
int shared[4] = {1}; static int inside;
int *where(void) { return &shared[1]; }
int *touch(void) { return &inside; }
"""
USER = r"""
#include <stdio.h>
extern int *where(void), *touch(void);
int main(void) {
    printf("%p %p %p\n", (void *)where(), (void *)touch(), (void *)touch); fflush(stdout); return getchar() == 'x';
}
"""


def names_of(users: Users, pid: int) -> Callable[[int], str | None]:
    return user_pointer_names(lambda: users.loaded(pid), lambda address: f"kernel {address:#x}")


@pytest.mark.parametrize("flags", [("-pie", "-fPIE"), ("-no-pie", "-fno-pic"), ("-static",)])
def test_in_a_program(tmp_path: Path, flags: tuple[str, ...]) -> None:
    path = build(tmp_path, "prog", PROGRAM, "-w", *flags)
    with running(path) as (pid, words):
        users = Users(pid)
        name = names_of(users, pid)
    # The process is gone: its memory map was read while it lived, its symbols are read only now.
    places = [int(word, 16) for word in words]
    assert [name(place) for place in places[:7]] == INSIDE
    if "-static" not in flags:  # else the program has all of libc in it
        assert name(places[7]) == "_IO_2_1_stdout_ [libc.so.6]"
        # Without -pie the function's address is that of its entry in the program's PLT.
        assert name(places[8]) == ("puts [libc.so.6]" if "-pie" in flags else "puts")
    assert (name(places[9]) or "").partition("+")[0] != "hidden"  # one behind the last
    assert [name(place) for place in places[10:13]] == [None] * 3  # stack, heap, no symbol
    assert (name(places[13]) or "").partition("+")[0] != "large"
    assert [name(0x10), name(1 << 47), name((1 << 63) - 1)] == [None] * 3
    assert name(2**64 - 1) == "kernel 0xffffffffffffffff"
    users.close()


def test_in_a_library_that_is_mapped_later(tmp_path: Path) -> None:
    library = build(tmp_path, "libfoo.so", LIBRARY, "-shared", "-fPIC")
    path = build(tmp_path, "prog", USER, "-pie", "-fPIE", "-L.", "-lfoo", f"-Wl,-rpath,{tmp_path}")
    with running(path) as (pid, words):
        maps = read_maps(pid)
    users = Users()
    name = names_of(users, pid)
    shared, inside, touch = (int(word, 16) for word in words)
    assert [name(shared), name(inside), name(touch)] == [None] * 3
    known = users.loaded(pid)
    assert users.loaded(pid) is known
    for mapping in maps:
        if mapping.executable and mapping.path == str(library):
            length = mapping.end - mapping.start
            users.mapped(MmapRecord(1, pid, mapping.start, length, mapping.offset, mapping.path))
    expected = ["shared+0x4 [libfoo.so]", "inside [libfoo.so]", "touch [libfoo.so]"]
    assert [name(shared), name(inside), name(touch)] == expected
    users.changed(CommRecord(2, pid, pid, "other", exec=True))
    assert [name(shared), name(inside), name(touch)] == [None] * 3
    users.close()


def test_a_stripped_program_and_its_debug_file(tmp_path: Path) -> None:
    need("objcopy", "strip")
    build(tmp_path, "prog", PROGRAM, "-w")
    subprocess.run(["objcopy", "--only-keep-debug", "prog", "prog.debug"], check=True, cwd=tmp_path)
    subprocess.run(["strip", "prog"], check=True, cwd=tmp_path)
    subprocess.run(["objcopy", "--add-gnu-debuglink=prog.debug", "prog", "linked"], check=True, cwd=tmp_path)
    for program, expected in (("prog", [None] * 7), ("linked", INSIDE)):
        with running(tmp_path / program) as (pid, words):
            users = Users(pid)
            name = names_of(users, pid)
            assert [name(int(word, 16)) for word in words[:7]] == expected
            users.close()


def test_the_newest_mapping_counts(tmp_path: Path) -> None:
    users, start = Users(), 0x7F00_0000_0000
    name = names_of(users, 1)
    for time, (file, at) in enumerate((("old", 0), ("new", 0), ("old", 0x2000), ("old", 0x10000))):
        image = Image(symbols=[Sym("state", 0x2000, 8, section=2)], loads=[(0, 0x1000, 0x2000, 0x3000)])
        (tmp_path / file).write_bytes(image.write())
        users.mapped(MmapRecord(time, 1, start + at, 0x1000, 0, str(tmp_path / file)))
        if not at:
            assert name(start + 0x1004) == f"state+0x4 [{file}]"
    # The third one took the place of a part of the second one, and with it of the whole.
    assert name(start + 0x1004) is None
    assert [name(start + at) for at in (0x3000, 0x3008, 0x11007)] == ["state [old]", None, "state+0x7 [old]"]
    users.close()


def test_what_holds_an_address() -> None:
    symbols = [
        Sym("f", 0x1000, 0x10, type=2), Sym("bare", 0x10F0, 0, type=0), Sym("_data", 0x2000, 8, section=2),
        Sym("data@V_1", 0x2000, 8, bind=2, section=2), Sym("member", 0x2002, 2, section=2),
        Sym("unsized", 0x2010, 0, section=2), Sym("tls", 0x20, 4, type=6, section=3),
        Sym("absolute", 0x2020, 4, section=0xFFF1), Sym("from_plt", 0x1080, 0, type=2, section=0),
        Sym("elsewhere", 0, 0, type=2, section=0),
    ]  # fmt: skip
    with ElfFile("x", data=Image(symbols=symbols).write()) as elf:
        found = {
            at: elf.holder_at(at) for at in (*range(0x40), *range(0xFFF, 0x1110), *range(0x1FFF, 0x2100))
        }
    named = {at: (hit[0].readable_name, hit[1]) for at, hit in found.items() if hit}
    assert named == {
        **{0x1000 + n: ("f", n) for n in range(16)},
        0x1080: ("from_plt", 0),
        **{0x10F0 + n: ("bare", n) for n in range(16)},  # up to the end of its section
        **{0x2000 + n: ("data", n) for n in range(8)},
        0x2002: ("member", 0),
        0x2003: ("member", 1),
    }
