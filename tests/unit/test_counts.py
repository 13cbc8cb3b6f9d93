# SPDX-License-Identifier: BSD-2-Clause
"""The kernel's table of counts: whose hits they are, and how that is printed."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.capture.counted import Counted, Element, Images, Who
from ksym.capture.instructions import Instruction
from ksym.capture.records import CommRecord, ExitRecord, ForkRecord, MmapRecord
from ksym.capture.sites import Named, Site
from ksym.capture.users import Users
from ksym.commands import stat
from ksym.commands.parser import parse
from ksym.errors import UsageError
from ksym.language.parser import parse_request
from ksym.language.request import Mode
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


def element(
    hits: Sequence[int], ip: int, tid: int = 7, *, watch: int = 0, flags: int = 0, pid: int = 7
) -> Element:
    return struct.pack("=IIQII", watch, flags, ip, pid, tid), struct.pack(f"={len(hits)}Q", *hits)


def name(comm: str, tid: int = 7, pid: int = 7) -> Element:
    return (pid << 32 | tid).to_bytes(8, "little"), comm.encode().ljust(16, b"\0")


def counted(*by: str, cpus: Sequence[int] = (0, 1), images: Images | None = None) -> Counted:
    return Counted(MODES, Code(), by, cpus, images)


def test_hits_of_one_function_are_summed_by_what_it_did() -> None:
    table = [
        element([1, 2], 0x1010),
        element([4, 0], 0x1010, 8),
        element([8, 16], 0x1020),
        element([32, 0], 0x2010),
    ]
    assert counted("function").sum(table, []) == {
        Who(0, "RW", function="adder", module="prog"): 7,
        Who(0, "R", function="adder", module="prog"): 24,
        Who(0, "W", function="storer", module="prog"): 32,
    }


def test_functions_of_one_name_in_two_objects_are_two() -> None:
    found = counted("function").sum([element([1], 0x2010), element([2], 0x3010)], [])
    assert {(who.function, who.module): hits for who, hits in found.items()} == {
        ("storer", "prog"): 1,
        ("storer", "other.so"): 2,
    }


def test_code_without_a_name_has_its_address() -> None:
    assert counted("function").sum([element([3], 0x4010)], []) == {Who(0, "?", ip=0x4010): 3}


def test_code_of_a_file_without_a_symbol_has_the_offset_in_it_wherever_it_lies() -> None:
    found = counted("function").sum([element([1], 0x5010), element([2], 0x5020), element([4], 0x9010)], [])
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
    (who,) = counted("cpu").sum([element([1], ip, flags=flags, watch=watch)], [])
    assert who.access == expected


def test_executions_are_x() -> None:
    (who,) = Counted([Mode.EXECUTE], Code(), ("task",), [0]).sum([element([1], 0x1010)], [])
    assert who.access == "X"


def test_threads_have_names() -> None:
    table = [element([1, 1], 0x2010, 7), element([5, 0], 0x2010, 8), element([9, 0], 0x2010, 9)]
    assert counted("task").sum(table, [name("main"), name("worker", 8)]) == {
        Who(0, "W", comm="main", pid=7, tid=7): 2,
        Who(0, "W", comm="worker", pid=7, tid=8): 5,
        Who(0, "W", comm="?", pid=7, tid=9): 9,
    }


def test_names_are_read_behind_the_counts() -> None:
    order = []

    def noted(what: str, element: Element) -> object:
        order.append(what)
        yield element

    one = counted("task")
    one.sum(noted("counts", element([1], 0x2010)), noted("names", name("main")))  # type: ignore[arg-type]
    assert order == ["counts", "names"]


def test_cpus_may_be_numbered_with_gaps() -> None:
    found = counted("cpu", cpus=(0, 2, 5)).sum([element([1, 0, 3, 0, 0, 0], 0x2010)], [])
    assert {who.cpu: hits for who, hits in found.items()} == {0: 1, 5: 3}


def test_each_cpu_has_an_idle_task_of_its_own() -> None:
    found = counted("task").sum([element([4, 3], 0x2010, 0, pid=0)], [name("swapper/1", 0, 0)])
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
    one = counted(*by, cpus=(0, 1, 2))
    found = one.sum(table, [])
    assert one.sum(table, []) == found
    for watch in (0, 1):
        total = sum(sum(hits) for (_, _, number, _), hits in elements.items() if number == watch)
        assert sum(hits for who, hits in found.items() if who.watch == watch) == total


class Told:
    """Stands for Users: what it is told of."""

    def __init__(self) -> None:
        self.mappings: list[int] = []

    def mapped(self, record: MmapRecord) -> None:
        self.mappings.append(record.pid)

    def changed(self, record: object) -> None:
        assert not isinstance(record, CommRecord), "an exec would make it forget what the process ran before"


def followed(*records: CommRecord | ExitRecord | ForkRecord | MmapRecord) -> tuple[Images, Told]:
    told = Told()
    images = Images(cast(Users, told))
    images.take(records)
    return images, told


def mapping(at: int, pid: int) -> MmapRecord:
    return MmapRecord(at, pid, 0x1000, 0x1000, 0, "/prog")


def test_a_fork_that_runs_another_program_made_its_hits_before() -> None:
    images, told = followed(
        mapping(1, 7), ForkRecord(2, 8, 8, 7, 7), ForkRecord(3, 9, 9, 8, 8), mapping(4, 8),
        CommRecord(5, 9, 9, "true", True), mapping(6, 9), CommRecord(7, 8, 8, "named", False),
    )  # fmt: skip
    assert (images.owner(7), images.owner(8), images.owner(9)) == (7, 8, 8)
    assert told.mappings == [7, 8]


def test_a_process_id_that_is_used_again_is_a_new_process() -> None:
    images, told = followed(
        ForkRecord(1, 8, 8, 7, 7), CommRecord(2, 8, 8, "true", True), ExitRecord(3, 8, 8), ForkRecord(4, 8, 8, 7, 7),
        mapping(5, 8),
    )  # fmt: skip
    assert images.owner(8) == 8
    assert told.mappings == [8]


def test_threads_are_no_processes() -> None:
    images, _ = followed(ForkRecord(1, 7, 8, 7, 7), CommRecord(2, 7, 7, "true", True))
    assert images.owner(7) == 7


def test_processes_that_ended_are_let_go() -> None:
    images, _ = followed()
    for pid in range(100, 1200):
        assert images.crowded == (pid >= 1124)
        images.take(
            [
                ForkRecord(pid, pid, pid, 7, 7),
                CommRecord(pid, pid, pid, "true", True),
                ExitRecord(pid, pid, pid),
            ]
        )
    images.let_go()
    assert not images.crowded
    assert not any(table for key, table in vars(images).items() if key != "_users")


def test_code_is_asked_of_the_process_that_ran_it() -> None:
    images, _ = followed(ForkRecord(2, 8, 8, 7, 7), CommRecord(5, 8, 8, "true", True))
    code = Code()
    Counted(MODES, code, ("function",), [0], images).sum([element([1], 0x2010, 8, pid=8)], [])
    assert code.asked == [7]


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
