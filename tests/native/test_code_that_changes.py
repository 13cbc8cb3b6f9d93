# SPDX-License-Identifier: BSD-2-Clause
"""Code of libraries that lie at one address in turn: each access is named by what was there at its time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from native.running import line, readable, started
from support.program import ksym
from synthetic.compile import build

pytestmark = pytest.mark.native

MAIN = r"""
#include <dlfcn.h>
int balance;
static void use(const char *file, const char *name) {
    void *library = dlopen(file, RTLD_NOW);
    ((void (*)(int *))dlsym(library, name))(&balance);
    dlclose(library);
}
int main(void) {
    for (int i = 0; i < 3; i++) { use("./pay.so", "pay"); use("./draw.so", "draw"); }
    return 0;
}
"""
PAY = "void pay(int *account) { *account += 7; }"
DRAW = "void draw(int *account) { *account -= 3; }"
EXPECTED = [("pay", 7), ("draw", -3)] * 3


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    build(tmp_path, "shop", MAIN, "-O1")
    build(tmp_path, "pay.so", PAY, "-shared", "-fPIC", "-O1")
    build(tmp_path, "draw.so", DRAW, "-shared", "-fPIC", "-O1")
    return tmp_path


def made(lines: str) -> list[tuple[str, int]]:
    return [(row["function"], row["new"] - row["old"]) for row in map(json.loads, lines.splitlines())]


def test_as_it_happens(shop: Path) -> None:
    done = ksym("trace", "--format", "json", "./shop:balance:-w-", "--", "./shop", cwd=shop)
    assert made(done.out) == EXPECTED, done


def test_counted(shop: Path) -> None:
    """What a count cannot tell apart has an address, never the other one's name."""
    done = ksym("stat", "--by", "function", "--json", "./shop:balance:-w-", "--", "./shop", cwd=shop)
    hits = {row["function"]: row["hits"] for row in map(json.loads, done.out.splitlines())}
    assert sum(hits.values()) == len(EXPECTED), done
    assert hits.get("pay", 0) <= 3
    assert hits.get("draw", 0) <= 3
    unnamed = hits.get(None, 0)
    assert (f"{unnamed} hits by address alone: other code came there meanwhile" in done.err) == bool(unnamed)


def test_recorded(shop: Path) -> None:
    ksym("record", "-q", "-o", "x.data", "./shop:balance:-w-", "--", "./shop", cwd=shop)
    assert made(ksym("script", "--format", "json", "x.data", cwd=shop).out) == EXPECTED


# The child touches the variable, goes on as another program, of which code is at the same addresses, and stays.
LEAVES = r"""
#include <sys/wait.h>
#include <unistd.h>
volatile int balance;
__attribute__((noinline)) void pay(void) { balance += 7; }
int main(int count, char **words) {
    pay();
    pid_t child = fork();
    if (!child) { pay(); execl("./other", "other", (char *)0); _exit(1); }
    int byte;
    waitpid(child, &byte, 0);
    return 0;
}
"""
OTHER = r"""
#include <unistd.h>
__attribute__((noinline)) void wrong(int n) { volatile int sum[64]; for (int i = 0; i < 64; i++) sum[i] = n; }
int main(void) { for (int i = 0; i < 9; i++) wrong(i); usleep(300000); return 0; }
"""


@pytest.mark.parametrize("more", [(), ("--no-bpf",)])
def test_a_child_that_runs_another_program_by_now(tmp_path: Path, more: tuple[str, ...]) -> None:
    build(tmp_path, "leaves", LEAVES, "-O1", "-fno-pie", "-no-pie")
    build(tmp_path, "other", OTHER, "-O1", "-fno-pie", "-no-pie")
    words = ("./leaves:balance:-w-", "--", "./leaves")
    done = ksym("trace", *more, "--format", "json", *words, cwd=tmp_path)
    assert [(row["function"], row["module"]) for row in done.rows()] == [("pay", "leaves")] * 2, done
    assert ksym("record", "-q", *more, "-o", "x.data", *words, cwd=tmp_path).status == 0
    read = ksym("script", "--format", "json", "x.data", cwd=tmp_path).rows()
    assert [(row["function"], row["module"]) for row in read] == [("pay", "leaves")] * 2


# At its word, calls into a library, puts memory of its own where that was, and goes on from there.
MAKES_CODE = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
volatile int balance = 5;
int main(void) {
    void *library = dlopen("./pay.so", RTLD_NOW);
    void (*pay)(volatile int *) = dlsym(library, "pay");
    unsigned char code[64];
    memcpy(code, (void *)pay, sizeof code);
    do {
        balance = 5;
        puts("here");
        fflush(stdout);
    } while (getchar() == 't');
    pay(&balance);
    dlclose(library);
    void *page = (void *)((long)pay & -4096);
    if (mmap(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)
        != page)
        return 1;
    memcpy((void *)pay, code, sizeof code);
    pay(&balance);
    memset(page, 0, 4096);
    getchar();
    return 0;
}
"""


def test_code_that_is_made_where_a_library_was(tmp_path: Path) -> None:
    """Neither is it the library's, nor is the library's the zeros that are there by now."""
    build(tmp_path, "makes", MAKES_CODE, "-O1", "-ldl")
    build(tmp_path, "pay.so", PAY, "-shared", "-fPIC", "-O1")
    with subprocess.Popen(
        ["./makes"], cwd=tmp_path, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as makes:
        assert makes.stdin is not None
        assert makes.stdout is not None
        words = ("./makes:balance:-w-", "--format", "json", "-p", str(makes.pid))
        with started("trace", *words, cwd=tmp_path) as tracing:
            while not readable(tracing):  # until it is armed
                makes.stdin.write(b"t")
                assert makes.stdout.readline() == b"here\n"
            makes.stdin.write(b"x")
            made: list[dict[str, Any]] = []
            while len(made) < 2:
                made += [row for row in [json.loads(line(tracing))] if row["new"] != 5]
            makes.stdin.close()
    assert [(row["old"], row["new"]) for row in made] == [(5, 12), (12, 19)]
    assert [(row["function"], row["module"]) for row in made] == [("pay", "pay.so"), (None, None)]
    assert made[0]["access"] == "RW"
