# SPDX-License-Identifier: BSD-2-Clause
"""Every access there can be to a word and its neighbours, each made by one instruction.

As a program: ``prog`` makes all of them, each in a function of its own, and its variable ``area`` has a member for each
place that can be watched. As a library: a function for each kind and length, to be called with an address.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from synthetic.compile import build

LENGTHS = (1, 2, 4, 8)
WORD = 8
_BEFORE = 16
"""Bytes of ``area`` in front of the word."""
_SUFFIX = {1: "b", 2: "w", 4: "l", 8: "q"}
_REGISTER = {1: "%%al", 2: "%%ax", 4: "%%eax", 8: "%%rax"}


class Place(NamedTuple):
    """Bytes that are watched; ``offset`` counts from the word's start."""

    offset: int
    length: int

    @property
    def member(self) -> str:
        """Its name in ``area``."""
        return f"{_from(self.offset)}_{self.length}"


class Step(NamedTuple):
    """One access."""

    kind: str
    """``R``, ``W`` or ``RW``."""
    offset: int
    length: int

    @property
    def function(self) -> str:
        """The program's function that makes it."""
        return f"{self.kind.lower()}{self.length}_{_from(self.offset)}"

    def meets(self, place: Place) -> bool:
        """Whether it touches one of its bytes."""
        return self.offset < place.offset + place.length and place.offset < self.offset + self.length

    def is_seen(self, place: Place, mode: str) -> bool:
        """Whether it touches the place in a way that is watched for."""
        wanted = {"rw-": "RW", "-w-": "W", "r--": "R"}[mode]
        # An instruction that reads and writes counts as a write, which a watch on reads alone leaves out.
        made = "W" if self.kind == "RW" else self.kind
        return made in wanted and self.meets(place)


def _from(offset: int) -> str:
    return f"{'m' if offset < 0 else 'p'}{abs(offset)}"


PLACES = tuple(Place(offset, length) for length in LENGTHS for offset in range(0, WORD, length))
"""What one register can cover in a word."""

STEPS = tuple(
    Step(kind, offset, length)
    for length in LENGTHS
    for offset in range(1 - length, WORD)
    for kind in ("R", "W", "RW")
)
"""Each access that touches the word, also with others' bytes."""


def _instruction(kind: str, length: int, at: str) -> str:
    suffix, register = _SUFFIX[length], _REGISTER[length]
    if kind == "RW":
        return f"inc{suffix} {at}"
    return f"mov{suffix} {at}, {register}" if kind == "R" else f"mov{suffix} {register}, {at}"


def library(folder: Path) -> Callable[[str, int, int], None]:
    """Builds the library; returns what makes an access of a kind and a length at an address."""
    functions = "\n".join(
        f"void {kind}{length}(char *at) "
        f'{{ __asm__ volatile("{_instruction(kind, length, "(%0)")}" : : "r"(at) : "rax", "memory", "cc"); }}'
        for kind in ("R", "W", "RW")
        for length in LENGTHS
    )
    loaded = ctypes.CDLL(str(build(folder, "touching.so", functions, "-shared", "-fPIC", "-O1")))
    made = {}
    for kind in ("R", "W", "RW"):
        for length in LENGTHS:
            function = loaded[f"{kind}{length}"]
            function.restype, function.argtypes = None, (ctypes.c_void_p,)
            made[kind, length] = function
    return lambda kind, length, at: made[kind, length](at)


def program(folder: Path, places: tuple[Place, ...] = PLACES) -> Path:
    """Builds the program."""
    members = "\n".join(
        f"    struct __attribute__((packed)) {{ char before_{place.member}[{_BEFORE + place.offset}];"
        f" {_declared(place)}; }};"
        for place in places
    )
    functions = "\n".join(
        f"__attribute__((noinline)) static void {step.function}(void) "
        f'{{ __asm__ volatile("{_instruction(step.kind, step.length, f"area+{_BEFORE + step.offset}(%%rip)")}"'
        ' : : : "rax", "memory", "cc"); }'
        for step in STEPS
    )
    calls = "\n".join(f"    {step.function}();" for step in STEPS)
    source = f"""
#include <stdint.h>
union {{
    char whole[48];
{members}
}} area __attribute__((aligned(64)));
{functions}
int main(void) {{
{calls}
    return 0;
}}
"""
    return build(folder, "prog", source, "-g", "-O1", "-no-pie", "-fms-extensions", "-w")


def _declared(place: Place) -> str:
    if place.length in LENGTHS:
        return f"uint{8 * place.length}_t {place.member}"
    return f"uint8_t {place.member}[{place.length}]"
