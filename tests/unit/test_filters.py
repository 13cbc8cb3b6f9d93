# SPDX-License-Identifier: BSD-2-Clause
"""``ksym_trace_filter``: what a write does to what is planted, by the rules of 2.6.33 and those that mend them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ksym.errors import KsymError, NoRegisters, NoSuchVariable, NotPermitted, NotTakenOver, RequestError
from ksym.language.parser import parse_request
from ksym.language.request import Request
from ksym.tracing.filters import Filters
from ksym.tracing.planted import How, Planted
from support.tracing import FakePlanted, Machine, failing


@dataclass
class Told:
    """Filters over a machine, and what they tell."""

    machine: Machine
    filters: Filters
    notes: list[tuple[str, str]]
    left: list[Planted]


GAVE_WAY = "no register was free beside it: for a moment nothing was seen"


@pytest.fixture
def it() -> Told:
    return make(Machine())


def make(machine: Machine) -> Told:
    notes: list[tuple[str, str]] = []
    left: list[Planted] = []
    filters = Filters(
        How(), lambda request, note: notes.append((str(request), note)), left.append, machine.plant
    )
    return Told(machine, filters, notes, left)


def lines(it: Told) -> list[str]:
    """The requests, newest first; each is planted, and nothing else is."""
    assert {str(each.request) for each in it.machine.planted} == set(it.filters.text().splitlines())
    assert len(it.machine.planted) == len(it.filters.planted)
    return it.filters.text().splitlines()


# -- one request ---------------------------------------------------------------------------------------


def test_newest_first(it: Told) -> None:
    for name in ("a", "b", "c"):
        it.filters.write(f"{name}:rw-\n")
    assert lines(it) == ["c:rw-", "b:rw-", "a:rw-"]
    assert all(isinstance(each, FakePlanted) and each.enabled for each in it.filters.planted)


@pytest.mark.parametrize(
    "request_text",
    [
        "workqueue:panic_on_stall:-w-",
        "init_task.comm:r--",
        "avenrun[1]:-w-",
        "do_exit:--x",
        "x:-w- if new > 100",
    ],
)
def test_read_back_as_written(it: Told, request_text: str) -> None:
    it.filters.write(f"  {request_text}\n")
    assert lines(it) == [request_text]


def test_a_change_in_place(it: Told) -> None:
    it.filters.write("a:rw-")
    it.filters.write("b:rw-")
    it.machine.hit("a", 3)
    it.filters.write("a:-w-\n")
    assert lines(it) == ["b:rw-", "a:-w-"]
    assert it.machine.named("a").hits == 3
    it.machine.hit("a")
    assert it.machine.named("a").hits == 4


def test_a_change_in_place_leaves_no_gap(it: Told) -> None:
    """To close a watch takes the kernel some 20 ms; the new one sees accesses before that."""
    it.filters.write("a:rw-")
    it.filters.write("a:-w-")
    assert it.machine.events == ["a:rw- enabled", "a:-w- enabled", "a:rw- closed"]


def test_another_condition_is_a_change_in_place(it: Told) -> None:
    it.filters.write("a:-w-")
    it.machine.hit("a")
    it.filters.write("a:-w- if new > 5")
    assert lines(it) == ["a:-w- if new > 5"]
    it.filters.write("a:-w-")
    assert lines(it) == ["a:-w-"]
    assert it.machine.named("a").hits == 1


def test_another_spelling_is_a_change_in_place(it: Told) -> None:
    it.filters.write("task(12)->comm:-w-")
    it.machine.hit("task(12)->comm", 2)
    it.filters.write("task(12).comm:rw-")
    assert lines(it) == ["task(12).comm:rw-"]
    assert it.machine.named("task(12).comm").hits == 2


@pytest.mark.parametrize("error", [NoRegisters("w", "y"), NotPermitted("w", "y"), NoSuchVariable("w", "y")])
def test_the_old_one_stays_where_the_new_one_cannot_be_planted(it: Told, error: KsymError) -> None:
    it.filters.write("a:rw-")
    it.machine.hit("a", 7)
    # Out of registers, it is tried again with those of the old one.
    it.machine.refusal = failing(error, error if isinstance(error, NoRegisters) else None)
    with pytest.raises(type(error)):
        it.filters.write("a:-w-")
    assert lines(it) == ["a:rw-"]
    assert it.machine.named("a").hits == 7
    it.machine.hit("a")
    assert it.machine.named("a").hits == 8
    assert it.notes == []


def test_no_registers_the_old_one_gives_way(it: Told) -> None:
    for name in ("a", "b", "c", "d"):
        it.filters.write(f"{name}:-w-")
    it.machine.hit("d", 2)
    it.filters.write("d:rw-")
    assert lines(it) == ["d:rw-", "c:-w-", "b:-w-", "a:-w-"]
    assert it.machine.named("d").hits == 2
    assert it.notes == [("d:rw-", GAVE_WAY)]
    with pytest.raises(NoRegisters):
        it.filters.write("d:r--")  # two
    with pytest.raises(NoRegisters):
        it.filters.write("e:rw-")
    assert lines(it) == ["d:rw-", "c:-w-", "b:-w-", "a:-w-"]
    assert it.machine.named("d").hits == 2
    it.filters.write("c:---\nd:r--")
    assert lines(it) == ["d:r--", "b:-w-", "a:-w-"]
    assert it.machine.named("d").hits == 2


def test_no_registers_the_old_ones_are_taken_over(it: Told) -> None:
    """There is no moment at which somebody else could get them."""
    for name in ("a", "b"):
        it.filters.write(f"{name}:r--")
    it.machine.events.clear()
    it.filters.write("a:-w-\nb:rw-")
    assert it.machine.events == ["a:-w- enabled", "b:rw- enabled", "a:r-- closed", "b:r-- closed"]
    assert it.machine.used == 2
    assert it.notes == [("a:-w-", GAVE_WAY), ("b:rw-", GAVE_WAY)]


@pytest.mark.parametrize(
    ("registers", "before", "write", "after"),
    [
        (4, "a:rw-\nb:rw-\nm:c:rw-", "a:---\nd:rw-\ne:rw-", ["e:rw-", "d:rw-", "m:c:rw-", "b:rw-"]),
        (1, "a:rw-", "a:---\nb:rw-", ["b:rw-"]),
        # What is changed needs one register less, which another needs, after it or before it.
        (2, "a:r--", "a:rw-\nb:rw-", ["b:rw-", "a:rw-"]),
        (2, "a:r--", "a:---\nb:rw-\na:rw-", ["a:rw-", "b:rw-"]),
    ],
)
def test_registers_go_from_one_variable_to_another(
    registers: int, before: str, write: str, after: list[str]
) -> None:
    it = make(Machine(registers))
    it.filters.write(before)
    it.filters.write(write)
    assert lines(it) == after
    assert it.machine.used == registers
    it.machine.hit("b", 2)
    with pytest.raises(NoRegisters):
        it.filters.write("b:---\nf:rw-\ng:rw-")
    assert lines(it) == after
    assert it.machine.named("b").hits == 2


def test_what_cannot_be_taken_over_is_given_up(it: Told) -> None:
    it.filters.write("a:-w-")
    it.machine.hit("a", 2)
    it.machine.events.clear()
    it.machine.refusal = failing(NoRegisters("w", "y"), NotTakenOver("w", "y"))
    it.filters.write("a:rw-")
    assert it.machine.events == ["a:-w- closed", "a:rw- enabled"]
    assert (it.machine.named("a").hits, it.notes) == (2, [("a:rw-", GAVE_WAY)])


@pytest.mark.parametrize("error", [NoRegisters("w", "y"), NotPermitted("w", "y")])
def test_what_was_taken_over_in_vain_comes_back(it: Told, error: KsymError) -> None:
    for name in ("a", "b", "c", "d"):
        it.filters.write(f"{name}:-w-")
        it.machine.hit(name, 3)
    more = [None, error, error] if isinstance(error, NoRegisters) else [None, error]
    it.machine.refusal = failing(NoRegisters("w", "y"), *more)
    with pytest.raises(type(error)):
        it.filters.write("a:rw-\nb:rw-")
    assert lines(it) == ["d:-w-", "c:-w-", "b:-w-", "a:-w-"]
    assert (it.machine.used, it.notes) == (4, [])
    for name in ("a", "b", "c", "d"):
        it.machine.hit(name, 1)
        assert it.machine.named(name).hits == 4


def test_somebody_takes_the_registers_in_between(it: Told) -> None:
    it.filters.write("a:-w-")
    it.filters.write("b:-w-")
    no = NoRegisters("cannot watch a", "somebody else has them")
    it.machine.refusal = failing(no, NotTakenOver("cannot watch a", "it is of another kind"), no, no)
    with pytest.raises(NoRegisters):
        it.filters.write("a:rw-")
    assert lines(it) == ["b:-w-"]
    ((request, note),) = it.notes
    assert request == "a:-w-"
    assert note == "it had to give way and could not be planted again: somebody else has them"
    it.machine.refusal = lambda request: None
    it.filters.write("a:rw-")
    assert lines(it) == ["a:rw-", "b:-w-"]


@pytest.mark.parametrize("text", ["a:rw-", " a:rw- \n", "b:-w-\na:rw-", "c:rw-\nc:rw-"])
def test_duplicates(it: Told, text: str) -> None:
    it.filters.write("a:rw-")
    with pytest.raises(RequestError, match="already"):
        it.filters.write(text)
    assert lines(it) == ["a:rw-"]


# -- clearing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0", "0\n", "*:---", "*:---\n", "", "\n", " \n", "\n\n"])
def test_the_ways_to_clear_all(it: Told, text: str) -> None:
    it.filters.write("a:rw-\nb:-w-\nc:-w-")
    it.filters.write(text)
    assert lines(it) == []
    assert it.machine.used == 0
    it.filters.write(text)  # there is nothing to clear, which is well


def test_clear_one(it: Told) -> None:
    it.filters.write("a:rw-\nb:-w-\nmod:c:-w- if changed")
    it.filters.write("b:---\n")
    assert lines(it) == ["mod:c:-w- if changed", "a:rw-"]
    it.filters.write("mod:c:---")
    assert lines(it) == ["a:rw-"]
    for text in ("b:---", "mod:a:---", "nosuch:---"):
        with pytest.raises(RequestError, match="not watched"):
            it.filters.write(text)
    assert lines(it) == ["a:rw-"]


def test_what_is_given_up_can_still_be_asked_for_its_accesses(it: Told) -> None:
    it.filters.write("a:rw-")
    it.machine.hit("a", 2)
    it.filters.write("a:---")
    assert [len(planted.take()) for planted in it.left] == [2]


# -- several lines -------------------------------------------------------------------------------------


def test_several_lines(it: Told) -> None:
    it.filters.write("a:rw-\n\n  b:-w-\n*:---\nc:rw-\nd:rw-\nc:---\n")
    assert lines(it) == ["d:rw-"]


BAD_LINES = (
    "a:rw-",
    "nosuch:rw-",
    "e:rw-",
    "b",
    "b:rwx",
    "b:rw-:x:y",
    ":rw-",
    "z:---",
    "c:-w- if new >",
    "./p:x:rw-",
)


@pytest.mark.parametrize("bad", BAD_LINES)
def test_all_lines_or_none(it: Told, bad: str) -> None:
    it.filters.write("a:rw-")
    it.machine.hit("a", 5)
    with pytest.raises(KsymError):
        it.filters.write(f"c:-w-\nd:-w-\nf:-w-\n{bad}\n")
    assert lines(it) == ["a:rw-"]
    assert it.machine.named("a").hits == 5
    # What is cleared by other lines of the write is kept, too.
    with pytest.raises(KsymError):
        it.filters.write(f"*:---\nc:-w-\nd:-w-\nf:-w-\nb:r--\n{'c:-w-' if bad == 'a:rw-' else bad}\n")
    assert lines(it) == ["a:rw-"]
    assert it.machine.named("a").hits == 5


def test_an_error_of_planting_shows_its_line(it: Told) -> None:
    with pytest.raises(NoSuchVariable) as raised:
        it.filters.write("a:rw-\n  nosuch:-w-\n")
    assert raised.value.place is not None
    assert raised.value.place.caret() == "  nosuch:-w-\n  ^^^^^^"


# -- whose task, whose variable ------------------------------------------------------------------------


def test_task_self_is_the_writer(it: Told) -> None:
    it.filters.write("task(self)->signal->nr_threads:-w- if pid == 3", writer=4711)
    assert lines(it) == ["task(4711)->signal->nr_threads:-w- if pid == 3"]
    assert it.machine.planted[0].request.text == "task(4711)->signal->nr_threads:-w- if pid == 3"
    with pytest.raises(RequestError, match="already"):
        it.filters.write("task(4711)->signal->nr_threads:-w- if pid == 3", writer=5)
    it.filters.write("task(self)->signal->nr_threads:---", writer=4711)
    assert lines(it) == []


def test_task_self_of_nobody(it: Told) -> None:
    with pytest.raises(RequestError, match="another pid namespace"):
        it.filters.write("task(self).comm:-w-", writer=0)


@pytest.mark.parametrize("text", ["./prog:counter:rw-", "libc.so.6:environ:rw-", "/bin/sh:x:---"])
def test_variables_of_programs_are_for_trace(it: Told, text: str) -> None:
    with pytest.raises(RequestError, match=r"`ksym trace -p PID [^ ]+:[a-z]+`$"):
        it.filters.write(text)


# -- how, and whether ----------------------------------------------------------------------------------


def test_planted_anew_in_another_way(it: Told) -> None:
    it.filters.write("a:rw-\nb:-w-\nc:-w-")
    it.machine.hit("a", 2)
    it.filters.replant(How(stacks=True))
    assert lines(it) == ["c:-w-", "b:-w-", "a:rw-"]
    assert all(
        each.how.stacks and isinstance(each, FakePlanted) and each.enabled for each in it.filters.planted
    )
    assert it.machine.named("a").hits == 2
    it.machine.refusal = failing(None, NotPermitted("cannot", "no"))
    with pytest.raises(NotPermitted):
        it.filters.replant(How())
    assert lines(it) == ["c:-w-", "b:-w-", "a:rw-"]
    assert all(each.how.stacks for each in it.filters.planted)
    it.filters.write("d:-w-")
    assert it.machine.named("d").how.stacks


def test_switched_off_they_stay(it: Told) -> None:
    it.filters.write("a:rw-")
    it.filters.switch(False)
    it.machine.hit("a")
    it.filters.write("b:rw-\na:-w-")
    assert lines(it) == ["b:rw-", "a:-w-"]
    it.machine.hit("b")
    assert [each.hits for each in it.filters.planted] == [0, 0]
    it.filters.switch(True)
    it.machine.hit("b")
    assert [each.hits for each in it.filters.planted] == [0, 1]


def test_what_is_told_later(it: Told) -> None:
    it.filters.write("a:rw-")
    it.machine.named("a").told("it cost too much")
    assert it.notes == [("a:rw-", "it cost too much")]


def test_any_exception_leaves_all_as_it_was(it: Told) -> None:
    it.filters.write("a:rw-\nb:rw-\nc:rw-")

    def refuse(request: Request) -> Exception | None:
        return MemoryError() if request.target.text == "e" else None

    it.machine.refusal = refuse
    for text in ("d:rw-\ne:rw-", "c:---\nd:rw-\na:r--\ne:rw-"):
        with pytest.raises((MemoryError, NoRegisters)):
            it.filters.write(text)
        assert lines(it) == ["c:rw-", "b:rw-", "a:rw-"]


# -- all of it, against a model ------------------------------------------------------------------------

NAMES = ("a", "b", "m:c", "d", "e", "nosuch")
ACCESSES = ("rw-", "-w-", "r--", "--x", "---", "-w- if new > 5", "rw- if changed")
LINES = (
    st.builds("{}:{}".format, st.sampled_from(NAMES), st.sampled_from(ACCESSES))
    | st.sampled_from(["", " ", "0", "*:---", "a", "a:rw", "a:b:c:rw-", "b:wr-"])
)  # fmt: skip


class FiltersAgainstAModel(RuleBasedStateMachine):
    """The model is a dict: name to ACCESS and hits, in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.it = make(Machine())
        self.wanted: dict[str, tuple[str, int]] = {}
        self.on = True

    @rule(text=st.lists(LINES, min_size=1, max_size=4).map("\n".join))
    def write(self, text: str) -> None:
        after = expected(text, self.wanted, self.it.machine.registers)
        if after is None:
            with pytest.raises(KsymError):
                self.it.filters.write(text)
        else:
            self.it.filters.write(text)
            self.wanted = after

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 3))
    def hit(self, name: str, count: int) -> None:
        self.it.machine.hit(name, count)
        if self.on and name in self.wanted:
            access, hits = self.wanted[name]
            self.wanted[name] = access, hits + count

    @rule(on=st.booleans())
    def switch(self, on: bool) -> None:
        self.it.filters.switch(on)
        self.on = on

    @rule(registers=st.integers(0, 5))
    def somebody_else(self, registers: int) -> None:
        self.it.machine.registers = max(registers, self.it.machine.used)

    @rule(stacks=st.booleans())
    def replant(self, stacks: bool) -> None:
        self.it.filters.replant(How(stacks=stacks))
        assert all(each.how.stacks == stacks for each in self.it.filters.planted)

    @invariant()
    def as_the_model_says(self) -> None:
        filters, machine = self.it.filters, self.it.machine
        assert filters.text() == "".join(
            f"{name}:{access}\n" for name, (access, _) in reversed(self.wanted.items())
        )
        assert [each.hits for each in filters.planted] == [hits for _, hits in self.wanted.values()]
        assert {id(each) for each in filters.planted} == {id(each) for each in machine.planted}
        assert all(each.enabled == self.on for each in machine.planted)
        assert machine.used == cost(self.wanted) <= machine.registers
        assert {note for _, note in self.it.notes} <= {GAVE_WAY}


def cost(wanted: dict[str, tuple[str, int]]) -> int:
    return sum(2 if access == "r--" else 1 for access, _ in wanted.values())


def expected(
    text: str, before: dict[str, tuple[str, int]], registers: int
) -> dict[str, tuple[str, int]] | None:
    """What there is after a write; None: it fails."""
    wanted = dict(before)
    for line in [line for line in text.split("\n") if line.strip()] or [""]:
        if line in ("", "0", "*:---"):
            wanted.clear()
            continue
        name, _, access = line.rpartition(":")
        if line in ("a", "a:rw", "a:b:c:rw-", "b:wr-"):
            return None
        if access == "---":
            if wanted.pop(name, None) is None:
                return None
        elif name in wanted and wanted[name][0] == access:
            return None
        else:
            wanted[name] = access, before.get(name, ("", 0))[1]
    return None if "nosuch" in wanted or cost(wanted) > registers else wanted


TestFiltersAgainstAModel = FiltersAgainstAModel.TestCase
TestFiltersAgainstAModel.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


@given(st.text(max_size=60) | st.lists(LINES, max_size=5).map("\n".join))
@settings(max_examples=500)
def test_any_text_is_done_or_refused(text: str) -> None:
    it = make(Machine())
    it.filters.write("a:rw-")
    try:
        it.filters.write(text, writer=12)
    except KsymError:
        assert lines(it) == ["a:rw-"]
    else:
        for line in lines(it):
            assert str(parse_request(line, seed=True)) == line


def test_a_very_deep_condition_is_refused(it: Told) -> None:
    for text in ("(" * 50_000, "!" * 50_000, "1+" * 50_000, "-" * 50_000, "a" * 100_000):
        with pytest.raises(KsymError):
            it.filters.write(f"a:rw- if {text}")
    makers: list[Callable[[int], str]] = [
        lambda n: "(" * n + "a", lambda n: "*" * n + "a", lambda n: "a" + "[0]" * n, lambda n: "a" + ".b" * n,
    ]  # fmt: skip
    for maker in makers:
        with contextlib.suppress(KsymError):
            it.filters.write(f"{maker(20_000)}:-w-")
