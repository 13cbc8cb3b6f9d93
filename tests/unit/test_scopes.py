# SPDX-License-Identifier: BSD-2-Clause
"""Static variables of one name, told apart by source file and function: with DWARF, without, and in C++."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ksym.errors import KsymError
from ksym.language.parser import parse_request
from ksym.language.request import written
from ksym.symbols.resolver import Resolver
from synthetic.compile import build, need, running

FIRST = r"""
#include <stdio.h>
static int mark = 1; extern void *second(int), *inner(int);
static void *pick(void) { static int uses; uses++; return &uses; }
static void *drop(void) { static int uses; uses++; return &uses; }
int main(void) {
    printf("%p %p %p %p %p\n", (void *)&mark, second(0), pick(), drop(), inner(0)); fflush(stdout);
    return getchar() == 'x';
}
"""
SECOND = "static int mark = 2; int uses; void *second(int n) { mark += n; return &mark; }"
INNER = "static int mark = 3; void *inner(int n) { mark += n; return &mark; }"
CXX = r"""
#include <cstdio>
namespace { struct Box { static int count; }; int Box::count = 4; }
template <class T> struct Reg { static int count; };
template <class T> int Reg<T>::count = 5;
static void *grow(int n) { static int steps; steps += n; return &steps; }
static void *grow(char n) { static int steps; steps += n; return &steps; }
int main() {
    printf("%p %p %p %p\n", (void *)&Box::count, (void *)&Reg<int>::count, grow(1), grow('a')); fflush(stdout);
    return getchar() == 'x';
}
"""


def sources(folder: Path) -> list[str]:
    (folder / "sub").mkdir()
    (folder / "second.c").write_text(SECOND)
    (folder / "sub" / "second.c").write_text(INNER)
    return ["second.c", "sub/second.c"]


def resolver(pid: int) -> Resolver:
    return Resolver(pid=pid)


@pytest.mark.parametrize("flags", [["-g"], ["-g", "-gdwarf-4", "-O2"]])
def test_statics_are_told_apart_by_dwarf(tmp_path: Path, flags: list[str]) -> None:
    path = build(tmp_path, "first", FIRST, *sources(tmp_path), *flags)
    with running(path) as (pid, words):
        mark, second, pick, drop, inner = (int(word, 16) for word in words)
        found = resolver(pid)
        for name, address in {
            "first.c::mark": mark, "'first.c'::mark": mark, "'sub/second.c'::mark": inner, "pick::uses": pick,
            "drop::uses": drop, "first.c::drop::uses": drop, "first.c::pick::uses/2": pick,
        }.items():  # fmt: skip
            assert found.resolve(parse_request(f"{path}:{name}")).address == address, name
        assert second not in (mark, inner)
        with pytest.raises(KsymError, match=r"there are 2; write .*:'.*/second\.c'::mark or ") as caught:
            found.resolve(parse_request(f"{path}:second.c::mark"))
        advised = re.findall(r"\S+::mark", caught.value.todo)
        assert {found.resolve(parse_request(each)).address for each in advised} == {second, inner}
        with pytest.raises(KsymError, match="there are 3; write"):
            found.resolve(parse_request(f"{path}:mark"))
        with pytest.raises(KsymError, match="has no such symbol"):
            found.resolve(parse_request(f"{path}:second.c::pick::uses"))
        found.close()


def test_without_dwarf_files_and_numbers_tell_them_apart(tmp_path: Path) -> None:
    path = build(tmp_path, "first", FIRST, *sources(tmp_path), "-O1", "-fno-inline")
    with running(path) as (pid, words):
        mark, _, pick, drop, _ = (int(word, 16) for word in words)
        found = resolver(pid)
        assert found.resolve(parse_request(f"{path}:first.c::mark")).address == mark
        # Two files have one name, and nothing in the symbol table tells them apart.
        with pytest.raises(KsymError, match="all of them in files of one name; compile it with -g"):
            found.resolve(parse_request(f"{path}:mark"))
        with pytest.raises(KsymError, match=r"write \S+:uses\.\d or \S+:uses\.\d$") as caught:
            found.resolve(parse_request(f"{path}:first.c::uses"))
        advised = re.findall(r"\S+:uses\.\d", caught.value.todo)
        assert {found.resolve(parse_request(each)).address for each in advised} == {pick, drop}
        found.close()


def test_names_of_cxx_in_quotes(tmp_path: Path) -> None:
    need("g++")
    path = build(tmp_path, "boxes", CXX, "-g", suffix="cc")
    with running(path) as (pid, words):
        box, reg, *grown = (int(word, 16) for word in words)
        found = resolver(pid)
        for name, address in {
            "Box::count": box,
            "'(anonymous namespace)::Box::count'": box,
            "'Reg<int>::count'": reg,
        }.items():
            assert found.resolve(parse_request(f"{path}:{name}")).address == address, name
        with pytest.raises(KsymError, match="there are 2; write") as caught:
            found.resolve(parse_request(f"{path}:grow::steps"))
        advised = re.findall(r"\S*/boxes:\S+", caught.value.todo)
        assert sorted(found.resolve(parse_request(each)).address for each in advised) == sorted(grown)
        found.close()


def test_a_path_with_colons_decides_by_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("gcc")
    (tmp_path / "a:b").mkdir()
    path = build(tmp_path / "a:b", "first", FIRST, *sources(tmp_path / "a:b"), "-g")
    monkeypatch.chdir(tmp_path)
    with running(path) as (pid, words):
        for text in ("./a:b/first:pick::uses:-w-", "'./a:b/first':pick::uses:w"):
            request = parse_request(text, is_file=os.path.isfile)
            assert str(request) == "'./a:b/first':pick::uses:-w-"
            assert Resolver(pid=pid).resolve(request).address == int(words[2], 16)
    assert parse_request("./a:b", is_file=os.path.isfile).target.root.object == "./a"  # type: ignore[union-attr]


def test_written_reads_back() -> None:
    for names in (
        ("./p", "x"),
        ("./a b", "x.c", "y"),
        ("./it's", "Box<int>::n"),
        ("libc.so.6", "a:b"),
        ("./p", "1.c", "x"),
    ):
        root = parse_request(written(*names)).target.root
        assert (root.object, root.name) == (names[0], "::".join(names[1:]))  # type: ignore[union-attr]
