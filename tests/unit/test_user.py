# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ksym.capture.usernames import ObjectCache, UserNames
from ksym.errors import KsymError, NoSuchVariable, NotWatchable, Place, Span
from ksym.language.request import UserSymbol
from ksym.symbols.loaded import ObjectNotMapped, Process
from ksym.symbols.types import Struct
from ksym.symbols.user import UserVariable, is_mapped, resolve_user
from synthetic.compile import build, need, nm, running

PROGRAM = r"""
#include <stdio.h>
int counter = 5; static long hidden = 7; __thread int per_thread = 3; struct { int a, b; } config = {1, 2};
static void work(void) { static int calls; calls++; }
int main(void) {
    work();
    printf("%p %p %p %p %d\n", (void *)&counter, (void *)&hidden, (void *)work, (void *)&config, per_thread);
    fflush(stdout);
    return getchar() == 'x';
}
"""
LIBRARY = """
int shared_counter = 1; static int inside = 2; int exported[4] = {1};
int touch(void) { return ++shared_counter + ++inside; }
int *where(void) { return &shared_counter; }
int *where_inside(void) { return &inside; }
"""
USER = r"""
#include <stdio.h>
extern int shared_counter, touch(void), *where(void), *where_inside(void);
int main(void) {
    printf("%p %p %p %p %d\n", USE, (void *)where(), (void *)where_inside(), (void *)touch, touch());
    fflush(stdout);
    return getchar() == 'x';
}
"""


def resolve(pid: int, target: str, execute: bool = False) -> UserVariable:
    spec, _, name = target.partition(":")
    with Process(pid) as process:
        found = resolve_user(UserSymbol(spec, name, Span(0, 1)), process, execute=execute)
        assert found.type is None or not isinstance(found.type, Struct) or found.type.fields
        return found


@pytest.mark.parametrize("flags", [("-pie", "-fPIE"), ("-no-pie",), ("-static",), ("-static-pie", "-fPIE")])
def test_addresses_in_a_program(tmp_path: Path, flags: tuple[str, ...]) -> None:
    path = build(tmp_path, "prog", PROGRAM, "-g", *flags)
    with running(path) as (pid, words):
        counter, hidden, work, config = (int(word, 16) for word in words[:4])
        found = resolve(pid, f"{path}:counter")
        assert (found.address, found.size, found.section) == (counter, 4, ".data")
        assert found.type is not None
        assert found.type.name == "int"
        assert {fact.what: fact.source for fact in found.facts}["type"] == f"DWARF of {path}"
        assert {fact.what: fact.source for fact in found.facts}["size"] == f".symtab of {path}"
        assert resolve(pid, f"{path}:hidden").address == hidden
        assert resolve(pid, f"{path}:config").size == 8
        assert resolve(pid, f"{path}:config").address == config
        function = resolve(pid, f"{path}:work", execute=True)
        assert (function.address, function.is_function) == (work, True)
        assert resolve(pid, f"{path}:calls").name == "calls"

        names = UserNames(pid)
        size = next(s.size for s in Process(pid).find_object(str(path)).elf.find("work"))
        assert names.name(work + 4) == ("work", 4, "prog", size)
        assert size > 4
        assert str(names.name(work + 4)) == "work+0x4"
        assert names.name(0x10) is None
    assert names.name(work + 5) == ("work", 5, "prog", size)  # after its death


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build(tmp_path, "prog", PROGRAM)
    (tmp_path / "link").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    with running(path) as (pid, words):
        for spec in ("./prog", "./link", str(path)):
            assert resolve(pid, f"{spec}:counter").address == int(words[0], 16)


def test_path_with_spaces_and_newline(tmp_path: Path) -> None:
    folder = tmp_path / "odd\nfolder (deleted)"
    folder.mkdir()
    path = build(tmp_path, "prog", PROGRAM)
    path = Path(shutil.copy(path, folder / "the program"))
    with running(path) as (pid, words):
        assert resolve(pid, f"{path}:counter").address == int(words[0], 16)


def test_deleted_program(tmp_path: Path) -> None:
    path = build(tmp_path, "prog", PROGRAM)
    with running(path) as (pid, words):
        path.unlink()
        assert resolve(pid, f"{path}:counter").address == int(words[0], 16)
        # built anew: another file is there now
        build(tmp_path, "prog", PROGRAM.replace("int counter = 5;", "int before[64] = {1}; int counter = 5;"))
        assert resolve(pid, f"{path}:counter").address == int(words[0], 16)
        name = UserNames(pid).name(int(words[2], 16))
        assert name is not None
        assert name[:3] == ("work", 0, "prog")


def library(folder: Path) -> Path:
    path = build(folder, "libfoo.so.1.2", LIBRARY, "-g", "-shared", "-fPIC", "-Wl,-soname,libfoo.so.1", "-xc")
    for link in ("libfoo.so.1", "libfoo.so"):
        (folder / link).symlink_to(path.name)
    return path


@pytest.mark.parametrize("flags", [("-pie", "-fPIE"), ("-no-pie", "-fno-pic")])
def test_library_without_copy(tmp_path: Path, flags: tuple[str, ...]) -> None:
    lib = library(tmp_path)
    path = build(tmp_path, "prog", USER, "-DUSE=(void*)0", "-L.", "-lfoo", f"-Wl,-rpath,{tmp_path}", *flags)
    with running(path) as (pid, words):
        address, inside, touch = (int(word, 16) for word in words[1:4])
        for spec in ("libfoo.so", "libfoo.so.1", "libfoo.so.1.2", str(lib), str(tmp_path / "libfoo.so")):
            found = resolve(pid, f"{spec}:shared_counter")
            assert found.address == address, spec
            assert found.section == ".data"
        assert resolve(pid, "libfoo.so:inside").address == inside
        if "-pie" in flags:  # else &touch is its PLT entry in the program
            assert resolve(pid, "libfoo.so:touch", execute=True).address == touch
        assert is_mapped(pid, "libfoo.so.1")
        assert is_mapped(pid, str(lib))
        assert not is_mapped(pid, "libbar.so")
        real = resolve(pid, "libfoo.so:touch", execute=True).address
        name = UserNames(pid).name(real + 1)
        assert name is not None
        assert name[:3] == ("touch", 1, "libfoo.so.1.2")
    assert not is_mapped(pid, "libfoo.so.1")


def test_copy_relocation(tmp_path: Path) -> None:
    library(tmp_path)
    flags = ("-no-pie", "-fno-pic", "-DUSE=(void*)&shared_counter", "-L.", "-lfoo", f"-Wl,-rpath,{tmp_path}")
    path = build(tmp_path, "prog", USER, *flags)
    with running(path) as (pid, words):
        direct, through = int(words[0], 16), int(words[1], 16)
        assert direct == through == nm(path, "-D")["shared_counter"]
        found = resolve(pid, "libfoo.so:shared_counter")
        assert (found.address, found.size) == (direct, 4)
        assert found.section == ".bss"
        assert found.type is not None
        assert any("copy relocation" in fact.source for fact in found.facts)


def test_environ_of_libc(tmp_path: Path) -> None:
    source = r"""
    #include <stdio.h>
    #include <dlfcn.h>
    extern char **environ;
    int main(void) { printf("%p\n", WHERE); fflush(stdout); return getchar() == 'x'; }
    """
    for flags in (("-no-pie", "-fno-pic"), ("-pie", "-fPIE")):
        path = build(tmp_path, "prog", source, "-DWHERE=(void*)&environ", *flags)
        with running(path) as (pid, words):
            found = resolve(pid, "libc.so.6:environ")
            assert (found.address, found.size) == (int(words[0], 16), 8), flags


def test_stripped_program_and_its_debug_file(tmp_path: Path) -> None:
    need("objcopy", "strip")
    path = build(tmp_path, "prog", PROGRAM, "-g")
    subprocess.run(["objcopy", "--only-keep-debug", "prog", "prog.debug"], check=True, cwd=tmp_path)
    subprocess.run(["strip", "prog"], check=True, cwd=tmp_path)
    with running(path) as (pid, words):
        with pytest.raises(NoSuchVariable, match=r"is stripped.*install its debug symbols"):
            resolve(pid, f"{path}:hidden")
        ip = int(words[2], 16)
        name = UserNames(pid).name(ip)
        assert name is not None
        assert name.function == name.object == "prog"
        assert (name.offset & 0xFFF) == (ip & 0xFFF)
        subprocess.run(
            ["objcopy", "--add-gnu-debuglink=prog.debug", "prog", "linked"], check=True, cwd=tmp_path
        )
    with running(tmp_path / "linked") as (pid, words):
        found = resolve(pid, f"{tmp_path / 'linked'}:hidden")
        assert (found.address, found.size, found.section) == (int(words[1], 16), 8, ".data")
        assert found.type is not None
        assert found.type.name == "long int"
        assert any("prog.debug" in fact.source for fact in found.facts)
        name = UserNames(pid).name(int(words[2], 16))
        assert name is not None
        assert name[:3] == ("work", 0, "linked")


AMBIGUOUS = r"""
#include <stdio.h>
static int twice = 1; extern int two(void); __asm__(".data\n.globl bare\nbare: .long 1\n.text\n");
int main(void) { printf("%p\n", (void *)&twice); fflush(stdout); return two() + getchar() == 'x'; }
"""


def test_refusals(tmp_path: Path) -> None:
    second = "static int twice = 2; int two(void) { return ++twice; } __thread int tls = 1;"
    (tmp_path / "two.c").write_text(second)
    path = build(tmp_path, "prog", AMBIGUOUS, "two.c")
    with running(path) as (pid, words):
        listed = rf"there are 2; write {path}:prog\.c::twice or {path}:two\.c::twice$"
        with pytest.raises(NotWatchable, match=listed):
            resolve(pid, f"{path}:twice")
        assert resolve(pid, f"{path}:prog.c::twice").address == int(words[0], 16)
        with pytest.raises(NotWatchable, match="it is a function"):
            resolve(pid, f"{path}:two")
        with pytest.raises(NotWatchable, match="it is a variable"):
            resolve(pid, f"{path}:twice", execute=True)
        with pytest.raises(NotWatchable, match="thread-local"):
            resolve(pid, f"{path}:tls")
        with pytest.raises(NotWatchable, match="no size"):
            resolve(pid, f"{path}:bare")
        with pytest.raises(NoSuchVariable, match=r"no such symbol.*twice"):
            resolve(pid, f"{path}:twicee")
        with pytest.raises(ObjectNotMapped, match=r"libc\.so\.6"):
            resolve(pid, "libc.so.5:environ")
        with pytest.raises(ObjectNotMapped):
            resolve(pid, f"{tmp_path / 'two.c'}:x")
        symbol = UserSymbol("./none", "x", Span(0, 6))
        with Process(pid) as process, pytest.raises(ObjectNotMapped) as caught_place:
            resolve_user(symbol, process, place=lambda span: Place("./none:x", span))
        assert caught_place.value.place == Place("./none:x", Span(0, 6))


def test_no_such_process() -> None:
    with pytest.raises(KsymError, match="no such process"):
        Process(2**22 + 1)
    assert not is_mapped(2**22 + 1, "libc.so.6")
    names = UserNames(2**22 + 1)
    assert names.name(0x1000) is None
    assert not names.snapshot()


def test_library_opened_later() -> None:
    # ctypes has loaded libc; its functions are found in this very process
    address = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p).value
    assert address is not None
    cache = ObjectCache()
    names = UserNames(os.getpid(), cache)
    found = names.name(address)
    assert found is not None
    assert "getppid" in found.function
    assert found.object.startswith("libc")
    # The cache has now mapped libc a second time, to read it.
    assert UserNames(os.getpid()).name(address) == found
    again = UserNames(os.getppid(), cache)
    assert again.snapshot() in (True, False)


def test_vdso() -> None:
    names = UserNames(os.getpid())
    names.snapshot()
    vdso = [m for m in names._mappings if m.path == "[vdso]"]
    if not vdso:
        pytest.skip("this process has no vDSO")
    (elf,) = names._cache.open(os.getpid(), vdso[0])
    names_of_it = ("__vdso_clock_gettime", "__kernel_clock_gettime")
    symbols = [s for name in names_of_it for s in elf.find(name) if s.is_function]
    found = names.name(vdso[0].start + symbols[0].value + 1)
    assert found is not None
    assert (found.offset, found.object) == (1, "[vdso]")
    assert "clock_gettime" in found.function
