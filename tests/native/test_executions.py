# SPDX-License-Identifier: BSD-2-Clause
"""One execution of one instruction is one access: random mixes of stores and loads, held against what they did."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ksym.capture.instructions import available
from ksym.linux.libc import MACHINE
from native.running import summary
from support.program import Result, ksym
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="its string instructions are x86"),
]

BEFORE, LENGTH = 32, 32
"""Bytes in front of the area and after it, which are not watched, and bytes of the area: four registers' pieces."""
NAMES = [f"{kind}{size}" for kind in ("store", "load") for size in (1, 2, 4, 8, 16)] + ["fill", "scan"]
SOURCE = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <string.h>
struct room { unsigned char before[%d], area[%d], after[%d]; };
__attribute__((aligned(64))) struct room room;
struct step { unsigned char what, at, bytes, value; };
static const struct step steps[2][%d] = { %s };
#define HELPERS(size, type) \
    __attribute__((noinline)) void store##size(void *at, unsigned char value) { \
        type all; memset(&all, value, sizeof all); \
        __asm__ volatile("mov %%1,(%%0)" :: "r"(at), "r"(all) : "memory"); } \
    __attribute__((noinline)) void load##size(void *at) { \
        type all; __asm__ volatile("mov (%%1),%%0" : "=r"(all) : "r"(at) : "memory"); }
HELPERS(1, uint8_t) HELPERS(2, uint16_t) HELPERS(4, uint32_t) HELPERS(8, uint64_t)
__attribute__((noinline)) void store16(void *at, unsigned char value) {
    unsigned char all[16]; memset(all, value, 16);
    __asm__ volatile("movdqu (%%1),%%%%xmm0\n\tmovdqu %%%%xmm0,(%%0)" :: "r"(at), "r"(all) : "xmm0", "memory"); }
__attribute__((noinline)) void load16(void *at) {
    __asm__ volatile("movdqu (%%0),%%%%xmm0" :: "r"(at) : "xmm0", "memory"); }
__attribute__((noinline)) void fill(void *at, long bytes, unsigned char value) {
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(value) : "memory"); }
__attribute__((noinline)) void scan(void *at, long bytes) {
    __asm__ volatile("rep lodsb" : "+S"(at), "+c"(bytes) :: "al", "memory"); }
static void *run(void *number) {
    for (const struct step *each = steps[(long)number], *end = each + %d; each < end; each++) {
        unsigned char *at = (unsigned char *)&room + each->at;
        switch (each->what) {
        case 0: store1(at, each->value); break; case 1: store2(at, each->value); break;
        case 2: store4(at, each->value); break; case 3: store8(at, each->value); break;
        case 4: store16(at, each->value); break;
        case 5: load1(at); break; case 6: load2(at); break; case 7: load4(at); break;
        case 8: load8(at); break; case 9: load16(at); break;
        case 10: fill(at, each->bytes, each->value); break;
        case 11: scan(at, each->bytes); break;
        }
    }
    return 0;
}
int main(int count, char **words) {
    pthread_t second;
    if (count > 1 && pthread_create(&second, 0, run, (void *)1)) return 1;
    run((void *)0);
    return count > 1 ? pthread_join(second, 0) : 0;
}
"""


class Step(NamedTuple):
    """One execution: which helper, where in the room, how many bytes, which value."""

    what: int
    at: int
    size: int
    value: int

    @property
    def name(self) -> str:
        return NAMES[self.what]

    @property
    def kind(self) -> str:
        return "W" if self.name.startswith(("store", "fill")) else "R"

    @property
    def repeats(self) -> bool:
        return self.name in ("fill", "scan")

    def pieces(self) -> list[int]:
        """The pieces of the area that it touches."""
        first, end = self.at - BEFORE, self.at - BEFORE + self.size
        return [piece for piece in range(LENGTH // 8) if first < 8 * piece + 8 and end > 8 * piece]

    def in_area(self) -> int:
        """How many bytes of the area it touches."""
        return max(0, min(self.at + self.size, BEFORE + LENGTH) - max(self.at, BEFORE))

    def apply(self, area: bytearray) -> None:
        """Do to the area what it does."""
        if self.kind == "W":
            for at in range(max(self.at, BEFORE), min(self.at + self.size, BEFORE + LENGTH)):
                area[at - BEFORE] = self.value


def steps_of(seed: int, count: int, *, plain: bool = False) -> list[Step]:
    """A random sequence, in which the same helper often goes on where it was, or begins again.

    Args:
        seed: Decides all.
        count: How many.
        plain: Leave out what only registers tell: accesses that are not aligned, and string instructions that
            go beyond the area.
    """
    chance = random.Random(seed)
    steps: list[Step] = []
    while len(steps) < count:
        what = chance.randrange(len(NAMES))
        at = chance.randrange(BEFORE - 8, BEFORE + LENGTH)
        for _ in range(chance.choice((1, 1, 2, 5))):
            size = chance.choice((1, 2, 5, 8, 16, 40)) if what >= 10 else 1 << what % 5
            if plain:
                at = at & -size if what < 10 else max(at, BEFORE)
                size = min(size, BEFORE + LENGTH - at) if what >= 10 else size
            if size > 0 and at + size <= 2 * BEFORE + LENGTH:
                steps.append(Step(what, at, size, chance.randrange(256)))
            at = chance.choice((at, at + size, at + 8, at - 8, at))
            at = min(max(at, BEFORE - 16), BEFORE + LENGTH)
    return steps[:count]


COUNT = 250
SEEDS = (20091018, 42)


def program(folder: Path, *, plain: bool = False) -> list[list[Step]]:
    """Build ``prog``; what each of its threads does."""
    threads = [steps_of(seed, COUNT, plain=plain) for seed in SEEDS]
    rows = ",".join(
        f"{{{','.join('{' + ','.join(map(str, each)) + '}' for each in thread)}}}" for thread in threads
    )
    text = SOURCE % (BEFORE, LENGTH, BEFORE, COUNT, rows, COUNT)
    build(folder, "prog", text, "-g", "-O1", "-pthread")
    return threads


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[Step]]]:
    folder = tmp_path_factory.mktemp("executions")
    return folder, program(folder)


def seen(steps: Sequence[Step], mode: str) -> list[Step]:
    return [step for step in steps if step.pieces() and (mode == "rw-" or step.kind == "W")]


def expected(steps: Sequence[Step], mode: str, *, values: bool = True) -> Iterator[dict[str, Any]]:
    """What each row says, but for the hits of string instructions, which processors group as they like."""
    area = bytearray(LENGTH)
    for step in steps:
        before = list(area)
        step.apply(area)
        if step.pieces() and (mode == "rw-" or step.kind == "W"):
            yield {
                "function": step.name,
                "access": step.kind,
                "old": before if values else None,
                "new": list(area) if values else None,
                "hits": None if step.repeats else len(step.pieces()),
            }


def shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {name: row[name] for name in ("function", "access", "old", "new")}
        | {"hits": None if row["function"] in ("fill", "scan") else row["hits"]}
        for row in rows
    ]


def trace(folder: Path, *words: str, command: Sequence[str] = ("./prog",)) -> Result:
    result = ksym("trace", *words, "--format", "json", "--", *command, cwd=folder)
    assert result.status == 0, result.err
    assert " 0 lost, 0 disarmed" in summary(result.err)
    return result


@pytest.mark.parametrize("mode", ["-w-", "rw-"])
def test_each_execution_is_a_row(threads: tuple[Path, list[list[Step]]], mode: str) -> None:
    """Aligned or not, one piece or several, string instructions that begin, end or go on anywhere."""
    if mode == "rw-" and not available():
        pytest.skip("without iced-x86 the TYPE of a load is not known")
    folder, (steps, _) = threads
    result = trace(folder, f"./prog:room.area:{mode}")
    rows = result.rows()
    assert shown(rows) == list(expected(steps, mode))
    assert f"ksym: {len(rows):,} accesses" in summary(result.err)
    base = min(int(row["address"], 16) for row in rows)
    first = [(int(row["address"], 16) - base) // 8 for row in rows]
    assert first == [step.pieces()[0] for step in seen(steps, mode)]


def test_a_recording_has_the_same_accesses(threads: tuple[Path, list[list[Step]]]) -> None:
    folder, (steps, _) = threads
    done = ksym("record", "-f", "-o", "x.data", "./prog:room.area:-w-", "--", "./prog", cwd=folder)
    assert done.status == 0, done.err
    read = ksym("script", "--format", "json", "x.data", cwd=folder)
    assert shown(read.rows()) == list(expected(steps, "-w-"))
    table = ksym("script", "-q", "--no-fold", "x.data", cwd=folder).out.splitlines()
    assert len(table) == len(read.rows())


def test_threads_do_not_share_accesses(threads: tuple[Path, list[list[Step]]]) -> None:
    folder, both = threads
    rows = trace(folder, "./prog:room.area:-w-", command=("./prog", "two")).rows()
    tids = list(dict.fromkeys(row["tid"] for row in rows))
    found = [Counter(row["function"] for row in rows if row["tid"] == tid) for tid in tids]
    wanted = [Counter(step.name for step in seen(steps, "-w-")) for steps in both]
    assert sorted(found, key=str) == sorted(wanted, key=str)


def test_with_a_condition_hits_are_not_joined_to_accesses_that_it_refused(
    threads: tuple[Path, list[list[Step]]],
) -> None:
    """Of an access over two pieces the first hit has the change, the second finds nothing changed."""
    folder, (steps, _) = threads
    rows = trace(folder, "./prog:room.area:-w- if changed").rows()
    area = bytearray(LENGTH)
    wanted = []
    for step in steps:
        before = bytes(area)
        step.apply(area)
        if area != before:
            wanted.append((step.name, list(area)))
    assert [(row["function"], row["new"]) for row in rows] == wanted


@pytest.mark.skipif(not available(), reason="decoded by iced-x86, which is not installed")
@pytest.mark.parametrize("mode", ["-w-", "rw-"])
def test_without_programs_the_instruction_tells(tmp_path: Path, mode: str) -> None:
    steps, _ = program(tmp_path, plain=True)
    rows = trace(tmp_path, f"./prog:room.area:{mode}", "--no-bpf").rows()
    assert shown(rows) == list(expected(steps, mode, values=False))
    recorded = ksym(
        "record", "-f", "--no-bpf", "-o", "x.data", f"./prog:room.area:{mode}", "--", "./prog", cwd=tmp_path
    )
    assert recorded.status == 0, recorded.err
    read = ksym("script", "--format", "json", "x.data", cwd=tmp_path).rows()
    assert shown(read) == shown(rows)


def test_the_table_folds_what_json_has_one_by_one(tmp_path: Path) -> None:
    text = """
volatile char v[8];
__attribute__((noinline)) char get(int i) { return v[i]; }
int main(void) { for (int i = 0; i < 8; i++) get(i); v[0] = 1; return 0; }
"""
    build(tmp_path, "prog", text, "-g", "-O1")
    folded = ksym("trace", "-q", "./prog:v", "--", "./prog", cwd=tmp_path)
    each = ksym("trace", "-q", "--no-fold", "./prog:v", "--", "./prog", cwd=tmp_path)
    counts = [int(row.rpartition("  x")[2]) if "  x" in row else 1 for row in folded.out.splitlines()]
    assert len(each.out.splitlines()) == 9
    assert sum(counts) == 9
    assert len(counts) < 9
    assert "  x" not in each.out
    assert summary(folded.err) == summary(each.err)
    limited = ksym("trace", "-q", "--limit", "3", "./prog:v", "--", "./prog", cwd=tmp_path)
    assert summary(limited.err).startswith("ksym: 3 accesses (3 hits)")
    objects = [json.loads(line) for line in ksym(
        "trace", "-q", "--format", "json", "./prog:v", "--", "./prog", cwd=tmp_path
    ).out.splitlines()]  # fmt: skip
    assert len(objects) == 9
