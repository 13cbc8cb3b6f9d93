# SPDX-License-Identifier: BSD-2-Clause
"""Native tests need root and a machine with debug registers; each must leave all of them free."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.linux.libc import MACHINE
from ksym.watch.registers import holders
from native.running import free
from synthetic.compile import build

PROGRAM = r"""
#include <stdint.h>
struct config { int level; long limits[4]; } cfg;
volatile uint64_t counter;
uint64_t wide[2] __attribute__((aligned(16)));
char text[8] __attribute__((aligned(8)));
uint64_t unused;
__attribute__((constructor)) static void early(void) { counter = 7; }
__attribute__((noinline)) int work(int n) { __asm__ volatile(""); return n + 1; }
int main(void) {
    uint64_t value;
    __asm__ volatile("movq %1, %0" : "=r"(value) : "m"(counter));
    __asm__ volatile("movq %1, %0" : "=m"(counter) : "r"(value));
    __asm__ volatile("incq %0" : "+m"(counter));
    __asm__ volatile("lock xaddq %1, %0" : "+m"(counter), "+r"(value));
    cfg.limits[2] = 5;
    __asm__ volatile("movups %0, %%xmm0\n movaps %%xmm0, %0" : "+m"(wide) : : "xmm0");
    const char *from = "abcdefgh";
    char *to = text;
    long n = 8;
    __asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(n) : : "memory");
    return work(work(1));
}
"""


@pytest.fixture(autouse=True)
def _registers_come_back() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    try:
        free()
    except OSError as error:
        pytest.skip(f"no hardware watchpoints here: {error}")
    if not _all_free(tries=20):
        pytest.skip(f"somebody else holds debug registers: {free()} free, {holders()}")
    yield
    assert _all_free(), (free(), holders())


def _all_free(tries: int = 200) -> bool:
    """Whether four registers are free on every CPU.

    Somebody else on this machine may have one for a moment, which no event tells of; what a test leaves
    behind stays taken.
    """
    for _ in range(tries):
        if min(free()) >= 4:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``prog``, a program that touches its variables in known ways, in a folder of its own."""
    if MACHINE != "x86_64":
        pytest.skip("its instructions are x86")
    return build(tmp_path_factory.mktemp("program"), "prog", PROGRAM, "-g", "-O1")
