# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's table of counts: whose hits they are, and how that is printed."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.capture.counted import Counted, Element, Who
from ksym.capture.instructions import Instruction
from ksym.capture.records import CommRecord, DataRecord, ExitRecord, ForkRecord, MmapRecord
from ksym.capture.sites import Named, Site
from ksym.capture.users import Users
from ksym.commands import stat
from ksym.commands.parser import parse
from ksym.errors import UsageError
from ksym.language.parser import parse_request
from ksym.language.request import Mode
from ksym.linux.clock import monotonic_ns
from ksym.program.layout import Hit
from ksym.symbols.variable import Space, Variable
from ksym.views.counts import CountsTable, json_lines
from ksym.watch.plan import make_plan

ADDS, LOADS, STORES = (frozenset({kind}) for kind in ("RW", "R", "W"))
CODE = {
    0x1010: (Named("adder", 0x10, owner="prog"), ADDS),
    0x1020: (Named("adder", 0x20, owner="prog"), LOADS),
    0x2010: (Named("storer", 0x10, owner="prog"), STORES),
    0x3010: (Named("storer", 0x10, owner="other.so"), STORES),
    0x4010: (Named(None, 0x4010), None),
    0x5010: (Named("other.so", 0x1010, owner="other.so", in_file=True), STORES),
    0x5020: (Named("other.so", 0x1020, owner="other.so", in_file=True), STORES),
    0x9010: (Named("other.so", 0x1010, owner="other.so", in_file=True), STORES),
}
PLAN = make_plan(
    [
        (parse_request("./prog:first"), Variable("./prog:first", 0x5000, 8, Space.USER)),
        (parse_request("./prog:other:-w-"), Variable("./prog:other", 0x6000, 8, Space.USER)),
    ]
)
MODES = [watch.mode for watch in PLAN.watches]


class Code:
    """Names what is in CODE, and remembers whose it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def site(self, pid: int, ip: int, *, execute: bool, bits: int | None = None) -> Site:
        self.asked.append(pid)
        named, accesses = CODE[ip]
        instruction = Instruction(ip - 4, "some code", accesses, 8) if accesses else None
        return Site(ip, ip - 4, named, instruction, 8)

    def forget(self, pid: int, addresses: range) -> bool:
        return False


class Kernel:
    """Stands for Engine: what it counts."""

    def __init__(self, counts: Sequence[Element] = (), comms: Sequence[Element] = ()) -> None:
        self.elements, self.names = list(counts), comms
        self.read = 0

    def counts(self) -> list[Element]:
        self.read += 1
        return list(self.elements)

    def comms(self) -> Sequence[Element]:
        return self.names

    def drop_counts(self, keys: Iterable[bytes]) -> None:
        dropped = set(keys)
        self.elements = [each for each in self.elements if each[0] not in dropped]


def element(
    hits: Sequence[int], ip: int, tid: int = 7, *, watch: int = 0, flags: int = 0, pid: int = 7
) -> Element:
    return struct.pack("=IIQII", watch, flags, ip, pid, tid), struct.pack(f"={len(hits)}Q", *hits)


def name(comm: str, tid: int = 7, pid: int = 7) -> Element:
    return (pid << 32 | tid).to_bytes(8, "little"), comm.encode().ljust(16, b"\0")


def summed(
    by: Sequence[str], counts: Sequence[Element], comms: Sequence[Element] = (), cpus: Sequence[int] = (0, 1)
) -> dict[Who, int]:
    return Counted(MODES, Code(), by, cpus, Users(), Kernel(counts, comms)).sum()


def test_hits_of_one_function_are_summed_by_what_it_did() -> None:
    table = [
        element([1, 2], 0x1010),
        element([4, 0], 0x1010, 8),
        element([8, 16], 0x1020),
        element([32, 0], 0x2010),
    ]
    assert summed(["function"], table) == {
        Who(0, "RW", function="adder", module="prog"): 7,
        Who(0, "R", function="adder", module="prog"): 24,
        Who(0, "W", function="storer", module="prog"): 32,
    }


def test_functions_of_one_name_in_two_objects_are_two() -> None:
    found = summed(["function"], [element([1], 0x2010), element([2], 0x3010)])
    assert {(who.function, who.module): hits for who, hits in found.items()} == {
        ("storer", "prog"): 1,
        ("storer", "other.so"): 2,
    }


def test_code_without_a_name_has_its_address() -> None:
    assert summed(["function"], [element([3], 0x4010)]) == {Who(0, "?", ip=0x4010): 3}


def test_code_of_a_file_without_a_symbol_has_the_offset_in_it_wherever_it_lies() -> None:
    found = summed(["function"], [element([1], 0x5010), element([2], 0x5020), element([4], 0x9010)])
    assert found == {
        Who(0, "W", "other.so", "other.so", offset=0x1010): 5,
        Who(0, "W", "other.so", "other.so", offset=0x1020): 2,
    }
    lines = table("function").rows(found, [7, 0]).splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["5", "2"]
    assert [line.split()[-1] for line in lines[:2]] == ["other.so+0x1010", "other.so+0x1020"]
    made = [json.loads(line) for line in json_lines(PLAN.watches, ("function",), found).splitlines()]
    assert [(row["offset"], row["ip"], row["hits"]) for row in made] == [(0x1010, None, 5), (0x1020, None, 2)]


@pytest.mark.parametrize(
    ("ip", "flags", "watch", "expected"),
    [
        (0x4010, Hit.READ, 0, "R"),
        (0x4010, Hit.WROTE, 0, "W"),
        (0x1010, Hit.WROTE, 0, "RW"),
        (0x1020, Hit.WROTE, 0, "W"),
        (0x2010, Hit.READ, 0, "R"),
        (0x1020, 0, 0, "R"),
        (0x4010, 0, 0, "?"),
        (0x4010, 0, 1, "W"),
    ],
)
def test_the_kernel_is_asked_for_the_type_before_the_instruction(
    ip: int, flags: int, watch: int, expected: str
) -> None:
    (who,) = summed(["cpu"], [element([1], ip, flags=flags, watch=watch)])
    assert who.access == expected


def test_executions_are_x() -> None:
    kernel = Kernel([element([1], 0x1010)])
    (who,) = Counted([Mode.EXECUTE], Code(), ("task",), [0], Users(), kernel).sum()
    assert who.access == "X"


def test_threads_have_names() -> None:
    table = [element([1, 1], 0x2010, 7), element([5, 0], 0x2010, 8), element([9, 0], 0x2010, 9)]
    assert summed(["task"], table, [name("main"), name("worker", 8)]) == {
        Who(0, "W", comm="main", pid=7, tid=7): 2,
        Who(0, "W", comm="worker", pid=7, tid=8): 5,
        Who(0, "W", comm="?", pid=7, tid=9): 9,
    }


def test_names_are_read_behind_the_counts() -> None:
    class Named(Kernel):
        def comms(self) -> Sequence[Element]:
            return [name("main")] if self.read else []

    kernel = Named([element([1], 0x2010)])
    (who,) = Counted(MODES, Code(), ("task",), (0, 1), Users(), kernel).sum()
    assert who.comm == "main"


def test_cpus_may_be_numbered_with_gaps() -> None:
    found = summed(["cpu"], [element([1, 0, 3, 0, 0, 0], 0x2010)], cpus=(0, 2, 5))
    assert {who.cpu: hits for who, hits in found.items()} == {0: 1, 5: 3}


def test_each_cpu_has_an_idle_task_of_its_own() -> None:
    found = summed(["task"], [element([4, 3], 0x2010, 0, pid=0)], [name("swapper/1", 0, 0)])
    assert found == {
        Who(0, "W", comm="swapper/0", pid=0, tid=0): 4,
        Who(0, "W", comm="swapper/1", pid=0, tid=0): 3,
    }


KEYS = st.lists(st.sampled_from(["function", "task", "cpu"]), unique=True, min_size=1)
ELEMENTS = st.dictionaries(
    st.tuples(
        st.sampled_from(sorted(CODE)), st.integers(0, 3), st.sampled_from([0, 1]), st.sampled_from([0, 8, 16])
    ),
    st.lists(st.integers(0, 1 << 40), min_size=3, max_size=3),
)


@given(KEYS, ELEMENTS)
def test_no_hit_is_lost_by_summing(
    by: list[str], elements: dict[tuple[int, int, int, int], list[int]]
) -> None:
    table = [
        element(hits, ip, tid, watch=watch, flags=flags) for (ip, tid, watch, flags), hits in elements.items()
    ]
    one = Counted(MODES, Code(), by, (0, 1, 2), Users(), Kernel(table))
    found = one.sum()
    assert one.sum() == found
    for watch in (0, 1):
        total = sum(sum(hits) for (_, _, number, _), hits in elements.items() if number == watch)
        assert sum(hits for who, hits in found.items() if who.watch == watch) == total


class Programs:
    """Stands for Users and Sites: each process has one function, named like what it runs; libraries have theirs."""

    def __init__(self, **running: str) -> None:
        self.running = {int(pid[1:]): program for pid, program in running.items()}
        self.libraries: dict[int, tuple[range, str]] = {}

    def replaces(self, record: MmapRecord) -> bool:
        return record.pid in self.libraries

    def mapped(self, record: MmapRecord | DataRecord) -> bool:
        assert isinstance(record, MmapRecord)
        self.libraries[record.pid] = range(record.start, record.start + record.length), record.name
        return True

    def changed(self, record: CommRecord | ForkRecord | ExitRecord) -> None:
        if isinstance(record, ForkRecord):
            self.running[record.pid] = self.running[record.parent_pid]
        elif isinstance(record, CommRecord) and record.exec:
            self.running[record.pid] = record.comm

    def site(self, pid: int, ip: int, *, execute: bool, bits: int | None = None) -> Site:
        addresses, library = self.libraries.get(pid, (range(0), ""))
        function = library if ip - 1 in addresses else self.running[pid]
        return Site(ip, ip - 4, Named(function, 0x10, owner="code"), None, 8)

    def forget(self, pid: int, addresses: range) -> bool:
        return True


def follow(programs: Programs, kernel: Kernel, by: str = "function") -> Counted:
    return Counted(MODES, programs, [by], (0, 1), programs, kernel)


def by_function(one: Counted) -> dict[str | None, int]:
    return {who.function: hits for who, hits in one.sum().items()}


def mapping(at: int, pid: int, name: str) -> MmapRecord:
    return MmapRecord(at, pid, 0x1000, 0x1000, 0, name)


def test_what_was_counted_before_another_program_has_the_name_of_then() -> None:
    kernel = Kernel([element([2, 3], 0x2010), element([1, 0], 0x3010, 9, pid=9)])
    one = follow(Programs(p7="first", p9="other"), kernel)
    one.follow([CommRecord(5, 7, 7, "named", False), CommRecord(6, 7, 7, "second", True)])
    assert by_function(one) == {"first": 5, "other": 1}
    kernel.elements[0] = element([4, 3], 0x2010)
    assert by_function(one) == {"first": 5, "other": 1, "second": 2}
    one.follow([CommRecord(7, 7, 7, "third", True)])
    kernel.elements[0] = element([4, 13], 0x2010)
    assert by_function(one) == {"first": 5, "other": 1, "second": 2, "third": 10}


NEVER, EVER = 0, 1 << 62
"""Before and after all looks."""


def test_libraries_that_lie_at_one_address_in_turn_are_told_apart() -> None:
    kernel = Kernel([element([7], 0x500)])
    one = follow(Programs(p7="main"), kernel)
    one.follow([mapping(NEVER, 7, "liba.so")])
    assert kernel.read == 0, "nothing was there before"
    kernel.elements.append(element([2], 0x1010))
    one.sum()
    one.follow([mapping(EVER, 7, "libb.so")])
    kernel.elements[1] = element([5], 0x1010)
    assert by_function(one) == {"main": 7, "liba.so": 2, "libb.so": 3}


def test_hits_that_may_be_of_either_library_have_no_name() -> None:
    kernel = Kernel([element([1], 0x1010)])
    one = follow(Programs(p7="main"), kernel)
    one.follow([mapping(NEVER, 7, "liba.so")])
    assert by_function(one) == {"liba.so": 1}
    between = monotonic_ns()
    kernel.elements[0] = element([3], 0x1010)
    assert by_function(one) == {"liba.so": 3}, "nothing else is known yet"
    kernel.elements[0] = element([6], 0x1010)
    one.follow([mapping(between, 7, "libb.so")])
    kernel.elements[0] = element([10], 0x1010)
    assert by_function(one) == {"liba.so": 1, None: 5, "libb.so": 4}
    one.follow([mapping(EVER, 7, "libc.so")])
    assert by_function(one) == {"liba.so": 1, None: 5, "libb.so": 4}


def test_no_hit_is_counted_twice_where_libraries_come_in_quick_succession() -> None:
    """The second change is known to be behind the first look alone, and the hits of that are settled already."""
    kernel = Kernel([element([2], 0x1010)])
    one = follow(Programs(p7="main"), kernel)
    one.follow([mapping(NEVER, 7, "liba.so")])
    assert by_function(one) == {"liba.so": 2}
    between = monotonic_ns()
    kernel.elements[0] = element([5], 0x1010)
    one.follow([mapping(between, 7, "libb.so")])
    kernel.elements[0] = element([8], 0x1010)
    one.follow([mapping(between + 1, 7, "libc.so")])
    kernel.elements[0] = element([9], 0x1010)
    assert by_function(one) == {"liba.so": 2, None: 6, "libc.so": 1}
    assert one.unnamed == 6


def test_the_byte_before_the_address_tells_whose_code_it_is() -> None:
    kernel = Kernel([element([2], 0x2000)])
    one = follow(Programs(p7="main"), kernel)
    one.follow([mapping(NEVER, 7, "liba.so")])
    one.sum()
    one.follow([mapping(EVER, 7, "libb.so")])
    assert by_function(one) == {"liba.so": 2}


def test_a_process_id_that_is_used_again_is_a_new_process() -> None:
    kernel = Kernel([element([1], 0x2010, 8, pid=8)])
    one = follow(Programs(p7="parent", p8="first"), kernel)
    one.follow([ExitRecord(3, 8, 8), ForkRecord(4, 8, 8, 7, 7)])
    kernel.elements[0] = element([3], 0x2010, 8, pid=8)
    assert by_function(one) == {"first": 1, "parent": 2}


def test_processes_that_have_ended_leave_their_room() -> None:
    kernel, first = Kernel(), 1 << 23  # no process has such a number: PID_MAX_LIMIT is 1 << 22
    programs = Programs(p7="main")
    one = follow(programs, kernel, "cpu")
    for pid in range(first, first + 1000):
        one.follow([ForkRecord(pid, pid, pid, 7, 7)])
        kernel.elements.append(element([1, 2], 0x2010, pid, pid=pid))
        one.follow([ExitRecord(pid, pid, pid)])
        assert len(kernel.elements) < 100
    assert {who.cpu: hits for who, hits in one.sum().items()} == {0: 1000, 1: 2000}
    assert kernel.read < 30


def test_a_process_whose_first_thread_has_ended_still_counts() -> None:
    mine = os.getpid()
    kernel = Kernel([element([1], 0x2010, mine, pid=mine)])
    one = follow(Programs(**{f"p{mine}": "main"}), kernel)
    one.follow([ExitRecord(1, mine, mine), *(ExitRecord(2, 1 << 23 | n, 1 << 23 | n) for n in range(100))])
    kernel.elements = [element([5], 0x2010, mine, pid=mine)]
    assert by_function(one) == {"main": 5}


# -- printing ------------------------------------------------------------------------------------------


ADDER = Who(0, "RW", function="adder", module="prog")
COUNTS = {Who(0, "R", function="reader"): 1, ADDER: 1500, Who(0, "?", ip=0x4010): 499}


def table(*by: str, interval: bool = False) -> CountsTable:
    return CountsTable(PLAN.watches, by, interval=interval)


def test_rows_are_sorted_by_hits_request_by_request() -> None:
    one = table("function")
    other = {Who(1, "W", function="storer"): 5}
    assert one.header() + one.rows(other | COUNTS, [2000, 5]) == (
        "          HITS   SHARE  SYMBOL                TYPE  FUNCTION\n"
        "         1,500   75.0%  ./prog:first          RW    adder [prog]\n"
        "           499   24.9%  ./prog:first          ?     0x4010\n"
        "             1    0.1%  ./prog:first          R     reader\n"
        "             5  100.0%  ./prog:other          W     storer\n"
    )


def test_a_request_without_hits_has_a_row() -> None:
    assert table("cpu", interval=True).rows({ADDER: 0}, [0, 0], 1.5) == (
        "    1.500000              0       -  ./prog:first          -     -\n"
        "    1.500000              0       -  ./prog:other          -     -\n"
    )


def test_shares_are_of_all_hits_also_of_those_in_no_row() -> None:
    assert "   50.0%  " in table("function").rows({ADDER: 5}, [10, 0])


def test_columns_are_in_the_order_asked_for() -> None:
    who = Who(1, "W", "storer", "prog", None, "evil\x1b[2J", 7, 8, 1)
    one = table("cpu", "task", "function", interval=True)
    assert one.header() == (
        "     SECONDS           HITS   SHARE  SYMBOL                TYPE  CPU  TASK-PID              FUNCTION\n"
    )
    assert one.rows({who: 1}, [0, 1], 0.25).splitlines()[1] == (
        r"    0.250000              1  100.0%  ./prog:other          W     001  evil\x1b[2J-8         storer [prog]"
    )


def test_json_has_the_keys_that_were_asked_for() -> None:
    who = Who(1, "W", "storer", "prog", None, "worker", 7, 8, 1)
    (row,) = map(
        json.loads, json_lines(PLAN.watches, ("cpu", "task", "function"), {who: 3, ADDER: 0}).splitlines()
    )
    assert row == {
        "symbol": "./prog:other", "access": "-w-", "type": "W", "function": "storer", "module": "prog", "ip": None,
        "offset": None,
        "comm": "worker", "pid": 7, "tid": 8, "cpu": 1, "hits": 3,
    }  # fmt: skip
    rows = [json.loads(line) for line in json_lines(PLAN.watches, ("function",), COUNTS, 0.5).splitlines()]
    assert rows[1] == {
        "seconds": 0.5, "symbol": "./prog:first", "access": "rw-", "type": "?", "function": None, "module": None,
        "ip": "0x4010", "offset": None, "hits": 499,
    }  # fmt: skip
    assert [row["hits"] for row in rows] == [1500, 499, 1]


@pytest.mark.parametrize("words", ["", "functions", "task,", "task,task", "cpu function"])
def test_unknown_keys_are_refused(words: str) -> None:
    with pytest.raises(UsageError, match="is not one of function, task, cpu, nor some of them in a list"):
        parse("stat", stat, ["pid_max", "--by", words])


def test_several_keys() -> None:
    assert parse("stat", stat, ["pid_max", "--by", "task,function"]).by == ("task", "function")
