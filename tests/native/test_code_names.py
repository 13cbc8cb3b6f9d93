# SPDX-License-Identifier: BSD-2-Clause
"""Names of code and variables where they are hard to come by: no symbols, no file any more, several copies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ksym.linux.libc import MACHINE
from native.running import ended, line, readable, started
from support.program import ksym
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="the programs' instructions are x86"),
]

# -- code without symbols ----------------------------------------------------------------------------------

STRIPPED = """
static __attribute__((noinline)) void set(volatile long *p) { *p = 1; }
static __attribute__((noinline)) void clear(volatile long *p) { *p = 0; }
void both(volatile long *p, int sets, int clears) { while (sets--) set(p); while (clears--) clear(p); }
"""
# A child runs the same code; the last stores come from anonymous memory: mov qword [rdi],5; ret, twice.
RUNS_STRIPPED = r"""
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
volatile long shared;
void both(volatile long *p, int sets, int clears);
int main(void) {
    static const char code[] = "\x48\xc7\x07\x05\0\0\0\xc3\x48\xc7\x07\x06\0\0\0\xc3";
    if (!fork()) { both(&shared, 4, 0); _exit(0); }
    wait(0);
    both(&shared, 7, 3);
    char *made = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(made, code, sizeof code);
    for (int i = 0; i < 2; i++) ((void (*)(volatile long *))made)(&shared);
    ((void (*)(volatile long *))(made + 8))(&shared);
    return 0;
}
"""


def test_code_without_a_symbol_is_counted_place_by_place(tmp_path: Path) -> None:
    build(tmp_path, "bare.so", STRIPPED, "-O1", "-shared", "-fPIC")
    subprocess.run(["strip", "bare.so"], check=True, cwd=tmp_path)
    build(tmp_path, "prog", RUNS_STRIPPED, "-O1", "./bare.so")
    words = ("./prog:shared:-w-", "--by", "function", "--", "./prog")
    counted = ksym("stat", "--json", *words, cwd=tmp_path)
    rows = [json.loads(line) for line in counted.out.splitlines()]
    in_file = sorted((row["hits"], row["module"]) for row in rows if row["offset"] is not None)
    assert in_file == [(3, "bare.so"), (11, "bare.so")]
    assert sorted(row["hits"] for row in rows if row["ip"] is not None) == [1, 2]
    assert all((row["offset"] is None) != (row["ip"] is None) for row in rows)
    table = ksym("stat", *words, cwd=tmp_path).out
    offsets = {row["offset"] for row in rows if row["offset"] is not None}
    assert {f"bare.so+{offset:#x}" for offset in offsets} <= set(table.split())


# -- pointers that move ------------------------------------------------------------------------------------

# For each word on stdin: touch what the path leads to now, move its second pointer, or unset it; then answers.
TREE = r"""
#include <stdio.h>
struct node { struct node *left; long depth; } leaf = { 0, 1 }, other = { 0, 2 }, root = { &leaf, 0 }, *top = &root;
int main(void) {
    int word;
    printf("%p %p\n", (void *)&leaf.depth, (void *)&other.depth);
    fflush(stdout);
    while ((word = getchar()) != EOF) {
        if (word == 't') top->left->depth++;
        if (word == 'm') top->left = &other;
        if (word == 'n') top->left = 0;
        putchar(word);
        fflush(stdout);
    }
    return 0;
}
"""


@pytest.mark.parametrize("word", [b"m", b"n"], ids=["moved", "unset"])
def test_the_summary_tells_that_a_pointer_leads_elsewhere_by_now(tmp_path: Path, word: bytes) -> None:
    build(tmp_path, "tree", TREE, "-g", "-O1")
    with subprocess.Popen(
        [str(tmp_path / "tree")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as tree:
        assert tree.stdin is not None
        assert tree.stdout is not None
        here, there = tree.stdout.readline().decode().split()
        words = ("-v", "./tree:top->left->depth", "--format", "json", "-p", str(tree.pid))
        with started("trace", *words, cwd=tmp_path) as tracing:
            assert tracing.stderr is not None
            touched = 0
            while not readable(tracing):
                tree.stdin.write(b"t")
                assert tree.stdout.read(1) == b"t"
                touched += 1
            assert json.loads(line(tracing))["address"] == here
            tree.stdin.write(word)
            told = ""
            while "led elsewhere" not in told:
                told = tracing.stderr.readline().decode()
                assert told, "ended without a word"
            assert f"led elsewhere, to {there if word == b'm' else 'nothing (NULL)'}, which" in told
            error = ended(tracing, signal.SIGTERM)[1]
        assert told in error + told
        assert error.count("led elsewhere") == 1
        tree.stdin.close()


# -- variables that another object's copy interposes --------------------------------------------------------

METER = "long gauge = 1; void turn(long by) { gauge += by; }"
TURNS = "void turn(long by); int main(void) { turn(5); turn(6); return 0; }"


@pytest.mark.parametrize(
    ("whose", "program", "preload", "values"),
    [
        ("turns", "long gauge = 100;" + TURNS, "", [(100, 105), (105, 111)]),
        ("before.so", TURNS, "long gauge = 20;", [(20, 25), (25, 31)]),
        (None, TURNS, "", [(1, 6), (6, 12)]),
    ],
    ids=["the program's", "preloaded", "its own"],
)
def test_the_copy_is_watched_that_the_library_uses(
    tmp_path: Path, whose: str | None, program: str, preload: str, values: list[tuple[int, int]]
) -> None:
    build(tmp_path, "meter.so", METER, "-g", "-O1", "-shared", "-fPIC")
    build(tmp_path, "turns", program, "-O1", "./meter.so", "-Wl,-rpath,$ORIGIN")
    command = ["./turns"]
    if preload:
        build(tmp_path, "before.so", preload, "-shared", "-fPIC")
        command = ["env", "LD_PRELOAD=./before.so", *command]
    traced = ksym("trace", "./meter.so:gauge:-w-", "--format", "json", "--", *command, cwd=tmp_path)
    assert [(row["old"], row["new"]) for row in traced.rows()] == values
    assert {(row["function"], row["module"]) for row in traced.rows()} == {("turn", "meter.so")}
    assert ("gauge of meter.so is that of" in traced.err) == (whose is not None)
    assert whose is None or f"gauge of meter.so is that of {whose}, " in traced.err


TWICE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
int main(void) {
    void *first = dlopen("./meter.so", RTLD_NOW), *second = dlmopen(LM_ID_NEWLM, "./meter.so", RTLD_NOW);
    void (*one)(long) = dlsym(first, "turn"), (*two)(long) = dlsym(second, "turn");
    one(1); two(2); one(3);
    return 0;
}
"""


def test_a_second_copy_is_watched_or_spoken_of(tmp_path: Path) -> None:
    build(tmp_path, "meter.so", METER, "-O1", "-shared", "-fPIC")
    build(tmp_path, "twice", TWICE, "-O1", "-ldl")
    traced = ksym("trace", "./meter.so:gauge:-w-", "--format", "json", "--", "./twice", cwd=tmp_path)
    made = [(row["old"], row["new"]) for row in traced.rows()]
    told = "meter.so was loaded again: its copy of ./meter.so:gauge at 0x" in traced.err
    assert (made, told) in [([(1, 2), (2, 5)], True), ([(1, 2), (1, 3), (2, 5)], False)]


# -- files that are gone -----------------------------------------------------------------------------------

EXTRACTED = "void set_level(volatile long *p, long value) { *p = value; }"
# Unpacks a library, loads and removes it, and another one takes its name; it goes on when the fifo says so, and ends.
EXTRACTS = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
volatile long level;
int main(int count, char **words) {
    char go;
    if (system("cp extracted.so unpacked.so")) return 1;
    void *library = dlopen("./unpacked.so", RTLD_NOW);
    if (remove("unpacked.so") || system("cp impostor.so unpacked.so")) return 2;
    if (read(open(words[1], O_RDONLY), &go, 1) != 1) return 3;
    void (*set)(volatile long *, long) = dlsym(library, "set_level");
    set(&level, 3);
    set(&level, 4);
    return 0;
}
"""


@pytest.fixture
def extracts(tmp_path: Path) -> Path:
    build(tmp_path, "extracted.so", EXTRACTED, "-O1", "-shared", "-fPIC")
    build(tmp_path, "impostor.so", EXTRACTED.replace("set_level", "wrong_name"), "-O1", "-shared", "-fPIC")
    build(tmp_path, "extracts", EXTRACTS, "-O1", "-ldl")
    return tmp_path


def run_extracts(folder: Path, *words: str) -> str:
    """Run ksym with the program, which goes on once ksym has the library; returns its stdout."""
    os.mkfifo(folder / "go")
    go = os.open(folder / "go", os.O_RDWR)
    try:
        with started(*words, "--", "./extracts", "go", cwd=folder) as process:
            while process.poll() is None and not _has_open(process.pid, "unpacked.so"):
                readable(process)
            os.write(go, b"x")
            out, error = ended(process)
    finally:
        os.close(go)
        os.unlink(folder / "go")
    assert process.returncode == 0, error
    return out


def _has_open(pid: int, name: str) -> bool:
    folder = f"/proc/{pid}/fd"
    for fd in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            if name in os.readlink(f"{folder}/{fd}"):
                return True
    return False


def test_code_of_a_library_that_was_removed(extracts: Path) -> None:
    out = run_extracts(extracts, "trace", "./extracts:level:-w-", "--format", "json")
    rows = [json.loads(each) for each in out.splitlines()]
    assert [(row["old"], row["new"]) for row in rows] == [(0, 3), (3, 4)]
    assert {(row["function"], row["module"]) for row in rows} == {("set_level", "unpacked.so")}


def test_it_has_its_name_in_recordings_and_counts(extracts: Path) -> None:
    run_extracts(extracts, "record", "-o", "x.data", "./extracts:level:-w-")
    shown = ksym("script", "x.data", "--format", "json", cwd=extracts)
    assert {(row["function"], row["module"]) for row in shown.rows()} == {("set_level", "unpacked.so")}
    out = run_extracts(extracts, "stat", "./extracts:level:-w-", "--by", "function", "--json")
    (row,) = map(json.loads, out.splitlines())
    assert (row["function"], row["module"], row["hits"]) == ("set_level", "unpacked.so", 2)


def test_a_program_that_runs_from_memory_is_named_by_its_process(tmp_path: Path) -> None:
    """Its file never had a name; another program that has a variable of that name is not meant."""
    build(tmp_path, "tree", TREE, "-g", "-O1")
    script = "import os, sys; m = os.memfd_create('t'); os.write(m, open('tree', 'rb').read()); os.execve(m, ['t'], {})"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=tmp_path
    ) as tree:
        assert tree.stdin is not None
        assert tree.stdout is not None
        here = tree.stdout.readline().decode().split()[0]
        request = f"/proc/{tree.pid}/exe:leaf.depth:-w-"
        with started("trace", request, "--format", "json", "-p", str(tree.pid), cwd=tmp_path) as tracing:
            while not readable(tracing):
                tree.stdin.write(b"t")
                assert tree.stdout.read(1) == b"t"
            row = json.loads(line(tracing))
            assert (row["address"], row["function"], row["module"]) == (here, "main", "memfd:t")
            ended(tracing, signal.SIGTERM)
        tree.stdin.close()
