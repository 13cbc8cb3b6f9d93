# SPDX-License-Identifier: BSD-2-Clause
"""Which copy of a variable a library's code uses; the library itself is asked where that is."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ksym.errors import Span
from ksym.language.request import UserSymbol
from ksym.symbols import copies
from ksym.symbols.copies import in_use
from ksym.symbols.dynamic import Reference
from ksym.symbols.elf import ElfFile
from ksym.symbols.loaded import Process
from ksym.symbols.user import resolve_user
from synthetic.compile import build, need_32_bits, running
from synthetic.elf import Image, Sec, Sym

LIBRARY = """
#ifdef ALIAS
extern int own __attribute__((alias("level"), visibility("hidden")));
int level SEEN = 3;
int *where_level(void) { return &own; }
#else
int level SEEN = 3;
int *where_level(void) { return &level; }
#endif
"""
OTHER = "int level = 70; int other(void) { return level; }"
HOST = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#ifdef OWN
int level = 40;
#endif
static void *say(void *library) {
    int *(*where)(void) = library ? dlsym(library, "where_level") : 0;
    printf("%p ", where ? (void *)where() : (void *)0);
    return library;
}
#ifdef LINKED
int *where_level(void);
#endif
int main(void) {
#ifdef LINKED
    printf("%p ", (void *)where_level());
#else
    if (OTHERS >= 0) dlopen("./other.so", RTLD_NOW | OTHERS);
    say(dlopen("./library.so", RTLD_NOW));
    if (TWICE) say(dlmopen(LM_ID_NEWLM, "./library.so", RTLD_NOW));
#endif
    printf("\n");
    fflush(stdout);
    return getchar() == 'x';
}
"""
SCRIPT = "VER_1 { global: level; where_level; }; "
LINKED = ("-DLINKED", "./library.so", "-Wl,-rpath,$ORIGIN")
OPENED = ("-ldl",)

# name: flags of the library, flags of the host, flags of other.so (None: no LD_PRELOAD, none built), whose copy it is
CASES: dict[str, tuple[tuple[str, ...], tuple[str, ...], bool, str]] = {
    "its own": ((), LINKED, False, "library.so"),
    "the program's": ((), ("-DOWN", *LINKED), False, "host"),
    "preloaded": ((), LINKED, True, "other.so"),
    "the program's, before what is preloaded": ((), ("-DOWN", *LINKED), True, "host"),
    "symbolic": (("-Wl,-Bsymbolic",), ("-DOWN", *LINKED), False, "library.so"),
    "protected": (
        ('-DSEEN=__attribute__((visibility("protected")))',), ("-DOWN", *LINKED), False, "library.so",
    ),
    "by a hidden alias": (("-DALIAS",), ("-DOWN", *LINKED), False, "library.so"),
    "with a version": (("-Wl,--version-script,script",), ("-DOWN", *LINKED), False, "host"),
    "opened": ((), OPENED, False, "library.so"),
    "opened behind a plugin that keeps to itself": ((), ("-DOTHERS=RTLD_LOCAL", *OPENED), False, "library.so"),
    "opened, with one preloaded": ((), OPENED, True, "other.so"),
    "opened by a program that has it, exported": ((), ("-DOWN", "-rdynamic", *OPENED), False, "host"),
    "opened by a program that has it for itself": ((), ("-DOWN", *OPENED), False, "library.so"),
}  # fmt: skip


@contextmanager
def hosted(
    folder: Path, library: tuple[str, ...], host: tuple[str, ...], preload: bool, *machine: str
) -> Iterator[tuple[int, list[int]]]:
    """A process that has the library; its PID, and what the library says where its variable is."""
    (folder / "script").write_text(SCRIPT)
    seen = () if any(flag.startswith("-DSEEN") for flag in library) else ("-DSEEN=",)
    build(folder, "other.so", OTHER, "-O1", "-fPIC", "-shared", *machine)
    build(folder, "library.so", LIBRARY, "-g", "-O1", "-fPIC", "-shared", *seen, *library, *machine)
    defaults = [
        f"-D{name}={value}"
        for name, value in (("OTHERS", -1), ("TWICE", 0))
        if not any(f.startswith(f"-D{name}") for f in host)
    ]
    path = build(folder, "host", HOST, "-g", "-O1", *defaults, *host, *machine)
    env = os.environ | ({"LD_PRELOAD": str(folder / "other.so")} if preload else {})
    with running("sh", "-c", 'cd "${0%/*}" && exec "$0"', path, env=env) as (pid, words):
        yield pid, [int(word, 16) for word in words]


def used(pid: int, folder: Path) -> list[copies.Copy]:
    """The live copies, as ksym finds them."""
    with Process(pid) as process:
        loaded = process.find_object(str(folder / "library.so"))
        (symbol, *_) = loaded.elf.find("level")
        return in_use(process, loaded, symbol)


@pytest.mark.parametrize("machine", [(), ("-m32",)], ids=["64 bits", "32 bits"])
@pytest.mark.parametrize("by", ["relocations", "rule"])
@pytest.mark.parametrize("case", CASES)
def test_the_copy_that_the_library_uses(
    tmp_path: Path, case: str, by: str, machine: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relocations of a running process tell; before they are done the rule has to foresee the same."""
    if by == "rule":
        monkeypatch.setattr(copies._Linker, "bound", lambda *_: None)
    if machine:
        need_32_bits()
    library, host, preload, whose = CASES[case]
    with hosted(tmp_path, library, host, preload, *machine) as (pid, addresses):
        assert [(copy.address, copy.home.basename) for copy in used(pid, tmp_path)] == [(addresses[0], whose)]


@pytest.mark.parametrize(
    ("how", "rival"), [("RTLD_GLOBAL", "other.so"), ("RTLD_LOCAL", "other.so"), ("-1", None)]
)
def test_what_may_have_been_made_global_is_told_of(
    tmp_path: Path, how: str, rival: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the library were not relocated yet, and its process ended before it could be asked."""
    monkeypatch.setattr(copies._Linker, "bound", lambda *_: None)
    monkeypatch.setattr(copies._Linker, "_word", lambda *_: 0)
    with hosted(tmp_path, (), (f"-DOTHERS={how}", *OPENED), False) as (pid, _):
        (copy,) = used(pid, tmp_path)
        assert copy.home.basename == "library.so"
        assert (copy.rival.basename if copy.rival else None) == rival
        with Process(pid) as process:
            found = resolve_user(UserSymbol(str(tmp_path / "library.so"), "level", Span(0, 1)), process)
    if rival is None:
        assert found.again is None
    else:
        assert found.again is not None
        assert found.again.now() is None
        assert found.again.unseen.startswith("other.so was opened before library.so and has level, too")


def test_only_the_linker_knows_what_was_made_global(tmp_path: Path) -> None:
    with hosted(tmp_path, (), ("-DOTHERS=RTLD_GLOBAL", *OPENED), False) as (pid, addresses):
        assert [(copy.address, copy.home.basename) for copy in used(pid, tmp_path)] == [
            (addresses[0], "other.so")
        ]


def test_each_namespace_has_its_own(tmp_path: Path) -> None:
    with hosted(tmp_path, (), ("-DTWICE=1", *OPENED), False) as (pid, addresses):
        assert len(set(addresses)) == 2
        assert [copy.address for copy in used(pid, tmp_path)] == addresses
        with Process(pid) as process:
            found = resolve_user(UserSymbol(str(tmp_path / "library.so"), "level", Span(0, 1)), process)
        assert found.address == addresses[0]
        assert found.remark is not None
        assert f"-p {pid} and {addresses[1]:#x}/4" in found.remark


def test_the_summary_says_whose_it_is(tmp_path: Path) -> None:
    with hosted(tmp_path, (), ("-DOWN", *LINKED), False) as (pid, addresses), Process(pid) as process:
        found = resolve_user(UserSymbol(str(tmp_path / "library.so"), "level", Span(0, 1)), process)
        assert found.address == addresses[0]
        assert found.remark is not None
        assert found.remark.startswith("level of library.so is that of host")
        assert found.type is not None


def test_a_choice_that_was_foreseen_is_looked_at_when_the_linker_has_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the library were not relocated yet; and as if another copy were bound later."""
    words: dict[int, int] = {}
    real: Callable[..., int | None] = copies._Linker._word

    def word(self: copies._Linker, library: object, reference: Reference) -> int | None:
        return words.get(0, 0)

    with hosted(tmp_path, (), ("-DOWN", *LINKED), False) as (pid, addresses):
        monkeypatch.setattr(copies._Linker, "_word", word)
        (copy,) = used(pid, tmp_path)
        assert copy.address == addresses[0]
        assert copy.linked is not None
        assert copy.linked() is None
        words[0] = 0x1234
        assert copy.linked() == 0x1234
        monkeypatch.setattr(copies._Linker, "_word", real)
        (copy,) = used(pid, tmp_path)
        assert copy.linked is None


# elf.h: R_*_GLOB_DAT, R_*_64 or _32, R_*_RELATIVE
@pytest.mark.parametrize(
    ("bits", "machine", "slot", "word", "relative"),
    [(64, 62, 6, 1, 8), (64, 183, 1025, 257, 1027), (32, 3, 6, 1, 8), (32, 40, 21, 2, 23)],
    ids=["x86-64", "AArch64", "386", "ARM"],
)
def test_references_of_a_file(bits: int, machine: int, slot: int, word: int, relative: int) -> None:
    """The addend is beside the reference (RELA), or in the data itself (REL)."""
    symbols = [Sym("level", 0x2010, section=2), Sym("other", 0x2020, section=2)]
    shift = 32 if bits == 64 else 8
    entries = [
        (0x2040, 1 << shift | slot, 0),
        (0x2048, 1 << shift | word, 4),
        (0x2050, 2 << shift | slot, 0),
        (0x2058, relative, 0x2010),
        (0x2060, 1 << shift | relative + 77, 0),
    ]
    layout = struct.Struct("<QQq" if bits == 64 else "<II")
    content = b"".join(layout.pack(*each[: 3 if bits == 64 else 2]) for each in entries)
    table = Sec(".rela.dyn", 4, content, 2) if bits == 64 else Sec(".rel.dyn", 9, content, 2)
    image = Image(bits=bits, machine=machine, dynamic_symbols=symbols, sections=[table])
    dynamic = ElfFile("lib.so", data=image.write()).dynamic
    (found,) = dynamic.definitions("level")
    assert [each.symbol.name for each in dynamic.definitions_at(0x2010)] == ["level"]
    assert dynamic.interposable(found.symbol)
    references = dynamic.references({found.symbol.index})
    addend = 4 if bits == 64 else 0
    assert references == [Reference(0x2040, 0, True), Reference(0x2048, addend, False)]
    assert dynamic.points_to(0x2010) == (bits == 64)
    assert not dynamic.points_to(0x2020)
