# SPDX-License-Identifier: BSD-2-Clause
"""Code of libraries that lie at one address in turn: each access is named by what was there at its time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
