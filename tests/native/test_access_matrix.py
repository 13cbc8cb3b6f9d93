# SPDX-License-Identifier: BSD-2-Clause
"""Every length at every alignment, in every register: the hits that overlap demands, by the kernel and by ksym."""

from __future__ import annotations

import json
import mmap
from collections import defaultdict
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_long, c_void_p
from pathlib import Path
from typing import Any

import pytest

from ksym.__main__ import main
from ksym.linux.libc import MACHINE
from ksym.watch.plan import split
from native.programs import touching
from native.programs.exact import caught
from native.programs.touching import PLACES, STEPS, WORD, Place, Step
from support.apart import apart
from support.processor import flags
from support.registers import RW, Area, W, X, attr, count, opened, refusal

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(
        MACHINE != "x86_64", reason="the lengths, the alignments and the instructions are x86"
    ),
]

REGISTERS = 4
KINDS = {W: "-w-", RW: "rw-"}
Touch = Callable[[str, int, int], None]


@pytest.fixture(scope="module")
def touch(tmp_path_factory: pytest.TempPathFactory) -> Touch:
    return touching.library(tmp_path_factory.mktemp("library"))


# -- what the kernel and the processor do ----------------------------------------------------------------


@pytest.mark.parametrize("word", [1024, mmap.PAGESIZE - WORD], ids=["in a line", "at the end of a page"])
@pytest.mark.parametrize("register", range(REGISTERS))
def test_each_access_to_each_place(touch: Touch, register: int, word: int) -> None:
    """At a page's end, what reaches over the word's end lies on two lines and two pages."""

    def work() -> tuple[int, list[tuple[str, Place, Step, int]]]:
        area, wrong, hits = Area(), [], 0
        word_at, aside = area.start + word, area.start + word - 64
        lower = [attr(RW, aside + 8 * number, 8) for number in range(register)]
        for kind, mode in KINDS.items():
            for place in PLACES:
                with opened(*lower, attr(kind, word_at + place.offset, place.length)) as events:
                    for step in STEPS:
                        before = count(events[-1])
                        touch(step.kind, step.length, word_at + step.offset)
                        made = count(events[-1]) - before
                        hits += made
                        if made != step.is_seen(place, mode):
                            wrong.append((mode, place, step, made))
                    assert [count(each) for each in events[:-1]] == [0] * register
                    for number in range(register):
                        touch("R", 8, aside + 8 * number)
                    assert [count(each) for each in events[:-1]] == [1] * register
        return hits, wrong

    hits, wrong = apart(work)
    assert wrong == []
    assert hits == sum(
        step.is_seen(place, mode) for mode in KINDS.values() for place in PLACES for step in STEPS
    )


def test_all_registers_at_once(touch: Touch) -> None:
    """What straddles two watches counts in both, whichever registers they are in."""

    def work() -> list[tuple[Step, list[int]]]:
        area, wrong = Area(), []
        word = area.start + 1024
        for length in touching.LENGTHS:
            # Neighbours, of which a step touches some; where they leave room, the word behind as well.
            places = [Place(number * length, length) for number in range(REGISTERS)]
            with opened(*(attr(RW, word + place.offset, length) for place in places)) as events:
                for step in STEPS:
                    before = [count(each) for each in events]
                    touch(step.kind, step.length, word + step.offset)
                    made = [count(each) - old for each, old in zip(events, before, strict=True)]
                    if made != [step.meets(place) for place in places]:
                        wrong.append((step, made))
        return wrong

    assert apart(work) == []


@pytest.mark.parametrize("kind", KINDS, ids=KINDS.values())
def test_lengths_and_alignments_that_are_refused(kind: int) -> None:
    area = Area()
    wide = "" if "bpext" in flags() else "EOPNOTSUPP"
    for length in (*range(18), 24, 32, 64):
        for offset in range(WORD):
            whole = length.bit_count() == 1 and not offset % length
            expected = (wide if length > WORD else "") if whole else "EINVAL"
            assert refusal(attr(kind, area.start + offset, length)) == expected, (length, offset)


def test_kinds_that_are_refused() -> None:
    """Nothing, reads alone, and execution together with accesses."""
    area = Area()
    accepted = {kind: refusal(attr(kind, area.start, 8)) for kind in range(9)}
    assert accepted == {kind: "" if kind in (W, RW, X) else "EINVAL" for kind in range(9)}


def test_execution_has_one_length_and_any_address() -> None:
    area = Area()
    for length in (0, 1, 2, 4, 8, 16):
        for offset in range(WORD):
            assert refusal(attr(X, area.start + offset, length)) == ("" if length == 8 else "EINVAL")


# Instructions that do nothing, of 1 to 9 bytes (Intel SDM, volume 2, NOP); the last one returns.
_NOPS = (
    "90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000", "0f1f840000000000",
    "660f1f840000000000", "c3",
)  # fmt: skip
CODE = [bytes.fromhex(each) for each in _NOPS]


@pytest.mark.parametrize("register", range(REGISTERS))
def test_execution_hits_the_first_byte_alone(touch: Touch, register: int) -> None:
    """Once for each time the instruction is executed, and not again when it goes on behind the trap."""

    def work() -> list[int]:
        code, data = Area(code=b"".join(CODE)), Area()
        run = CFUNCTYPE(None)(code.start)
        lower = [attr(RW, data.start + 8 * number, 8) for number in range(register)]
        found = []
        for at in range(sum(map(len, CODE))):
            with opened(*lower, attr(X, code.start + at, 8)) as events:
                for _ in range(3):
                    run()
                touch("R", 8, code.start + at)
                touch("W", 8, data.start)
                found.append(count(events[-1]))
                assert [count(each) for each in events[:-1]] == [1, 0, 0][:register]
        return found

    starts = [sum(map(len, CODE[:number])) for number in range(len(CODE))]
    assert apart(work) == [3 if at in starts else 0 for at in range(sum(map(len, CODE)))]


def test_an_instruction_that_is_watched_and_what_it_touches(touch: Touch) -> None:
    """Its execution traps before it, its access behind it: both count."""

    def work() -> list[int]:
        data = Area()
        write = bytes.fromhex("488937")  # mov [rdi], rsi
        code = Area(code=write + write + b"\xc3")
        run = CFUNCTYPE(None, c_void_p, c_long)(code.start)
        places = (
            attr(X, code.start, 8),
            attr(W, data.start, 8),
            attr(X, code.start + 3, 8),
            attr(RW, data.start, 4),
        )
        with opened(*places) as events:
            for value in range(5):
                run(data.start, value)
            return [count(each) for each in events]

    assert apart(work) == [5, 10, 5, 10]


# -- what ksym makes of it -------------------------------------------------------------------------------

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "-w-": ("-w-", {}),
    "-w-, no program": ("-w-", {"bpf": False}),
    "rw-, one register": ("rw-", {"twin": "off"}),
    "rw-, one register, no program": ("rw-", {"twin": "off", "bpf": False}),
    "rw-, twins": ("rw-", {"twin": "on"}),
    "rw-, twins, no program": ("rw-", {"twin": "on", "bpf": False}),
    "r--": ("r--", {}),
}


def in_turn(places: tuple[Place, ...], size: int, by: int) -> list[tuple[Place, ...]]:
    """Groups of so many, beginning elsewhere each time, so that places are in other registers."""
    places = places[by:] + places[:by]
    return [places[at : at + size] for at in range(0, len(places), size)]


ODD = tuple(
    Place(offset, length)
    for offset in range(WORD)
    for length in range(1, WORD + 1)
    if Place(offset, length) not in PLACES and (offset + length <= WORD or offset in (1, 3, 6))
)
"""Places that take several registers."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return touching.program(tmp_path_factory.mktemp("program"), PLACES + ODD)


Found = dict[str, dict[str, list[tuple[str, int]]]]
"""(TYPE, hits) of each row, by place and function."""


def found(program: Path, mode: str, places: tuple[Place, ...], options: dict[str, Any]) -> Found:
    """What a run shows."""
    by_place: Found = {place.member: defaultdict(list) for place in places}
    for access in caught(program, *(f"{{}}:area.{place.member}:{mode}" for place in places), **options):
        assert access.function is not None
        by_place[access.symbol.rpartition(".")[2]][access.function].append((access.access, access.hits))
    return by_place


@pytest.mark.parametrize("way", WAYS)
def test_ksym_shows_each_access_once(program: Path, way: str) -> None:
    mode, options = WAYS[way]
    for group in in_turn(PLACES, 2 if "twins" in way or mode == "r--" else REGISTERS, list(WAYS).index(way)):
        assert found(program, mode, group, options) == {
            place.member: {step.function: [(step.kind, 1)] for step in STEPS if step.is_seen(place, mode)}
            for place in group
        }


@pytest.mark.parametrize("mode", ["rw-", "-w-", "r--"])
def test_ksym_counts_each_access_once(program: Path, mode: str, capfd: pytest.CaptureFixture[str]) -> None:
    for group in in_turn(PLACES, 2 if mode == "r--" else REGISTERS, 1):
        requests = [f"{program}:area.{place.member}:{mode}" for place in group]
        assert main(["stat", *requests, "--json", "--", str(program)]) == 0
        assert [json.loads(line)["hits"] for line in capfd.readouterr().out.splitlines()] == [
            sum(step.is_seen(place, mode) for step in STEPS) for place in group
        ]


def pieces(place: Place) -> tuple[Place, ...]:
    """What the registers cover of it; the word is aligned."""
    return tuple(
        Place(place.offset + piece.offset, piece.length) for piece in split(place.offset, place.length)
    )


def packed() -> list[tuple[Place, ...]]:
    """As many odd places at a time as four registers can watch."""
    groups: list[tuple[Place, ...]] = []
    for place in sorted(ODD, key=lambda place: -len(pieces(place))):
        for number, group in enumerate(groups):
            if sum(len(pieces(each)) for each in (*group, place)) <= REGISTERS:
                groups[number] = (*group, place)
                break
        else:
            groups.append((place,))
    return groups


@pytest.mark.parametrize("bpf", [True, False], ids=["program", "no program"])
def test_ksym_cuts_others_into_pieces(program: Path, bpf: bool) -> None:
    """A hit for each piece that an access touches."""
    for group in packed():
        shown = found(program, "rw-", group, {"twin": "off", "bpf": bpf})
        for place in group:
            by_function = {
                name: ({kind for kind, _ in rows}, sum(hits for _, hits in rows))
                for name, rows in shown[place.member].items()
            }
            assert by_function == {
                step.function: ({step.kind}, sum(map(step.meets, pieces(place))))
                for step in STEPS
                if step.meets(place)
            }
