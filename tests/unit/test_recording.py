# SPDX-License-Identifier: BSD-2-Clause
"""Recordings, there and back: the rows that are read are those that trace would have shown of the same bytes."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
import struct
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ksym.capture.sites import Named, Site
from ksym.commands import record
from ksym.errors import KsymError
from ksym.language.parser import parse_request
from ksym.language.request import Mode
from ksym.program.layout import PIECE_SHIFT, Hit
from ksym.recording import hits as hits_module
from ksym.recording import numbering, writer
from ksym.recording.accesses import KINDS, Accesses
from ksym.recording.files import Files
from ksym.recording.knowledge import site_data
from ksym.recording.limit import Limit
from ksym.recording.noted import NotedCode
from ksym.recording.perf_file import HEADER
from ksym.recording.reader import Recording, open_recording
from ksym.recording.sideband import Note
from ksym.recording.zstd import Compressor, ZstdMissing
from ksym.runs.engines import bind_conditions
from ksym.symbols.ctext import parse_type
from ksym.symbols.types import Array
from ksym.symbols.variable import Space, Variable
from ksym.views.bulk import bulk_rows_for, texts
from ksym.views.rows import FORMATS, rows_for, shown
from ksym.watch.plan import Watch, make_plan
from support.recordings import COUNTS, FakeArmed, FakeSites, Recorded, Traced, ksym, rows_of
from synthetic import perf

CODE = {
    0x401000: ("W", 4, False),
    0x401010: ("R", 1, False),
    0x401020: ("W", 1, True),
    0x401030: ("RW", 4, False),
    0x401040: ("?", 0, False),
    0x401050: ("R", 8, False),
    0xFFFFFFFF81000010: ("R", 4, False),
    0xFFFFFFFF81000025: ("W", 2, False),
    0xFFFFFFFF81000031: ("?", 0, False),
}
PIDS = (5_000_001, 5_000_002)
"""Beyond what the kernel gives, as `Tasks` asks /proc for names that it has not been told."""


def variable(name: str, length: int, kind: Any = None, space: Space = Space.USER) -> Variable:
    address = 0xFFFFFFFF82000000 if space is Space.KERNEL else 0x404000
    return Variable(name, address, length, space, kind)


def watches(*requests: tuple[str, Variable], twin: bool = False) -> tuple[Watch, ...]:
    return make_plan([(parse_request(text), of) for text, of in requests], twin=twin).watches


INT = variable("./prog:counter", 4, parse_type("int"))
TEXT = variable("./prog:name", 16, Array("char [16]", 16, parse_type("char"), 16))
PER_CPU = replace(
    variable("nr_running", 8, space=Space.KERNEL), per_cpu={0: 0xFFFFFFFF82000000, 1: 0xFFFFFFFF83000000}
)


def all_rows(name: str, accesses: Accesses, *, verbose: bool = False) -> str:
    rows = bulk_rows_for(name, accesses, verbose=verbose)
    return rows.header() + "".join(text for text, _ in texts(rows, accesses))


def same_rows(path: Path, traced: Traced, armed: FakeArmed) -> Recording:
    """Read a recording and hold its rows against trace's."""
    recording = open_recording(str(path))
    accesses = recording.accesses()
    for name in FORMATS:
        for verbose in (False, True):
            expected = rows_of(
                name, armed.plan.watches, traced.accesses, recording.start.offset, verbose=verbose
            )
            assert all_rows(name, accesses, verbose=verbose) == expected
    assert recording.cut is None
    assert recording.by_ksym
    return recording


# -- the same bytes through both ----------------------------------------------------------------------

SHORT = b"\0\0\0\0", b"\1\0\0\0", b"\xff\xff\xff\xff"
flags = st.sampled_from([0, Hit.NEW, Hit.OLD | Hit.NEW, Hit.OLD | Hit.NEW | Hit.CHANGED]).flatmap(
    lambda known: st.tuples(
        st.sampled_from([0, Hit.READ, Hit.WROTE]), st.sampled_from([Hit.ANEW, Hit.SAME, Hit.LATER])
    ).map(lambda told: int(known | told[0] | told[1]))
)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("hit"), st.integers(0, 1), st.integers(0, 1), st.sampled_from(sorted(CODE)), st.sampled_from(PIDS),
            flags, st.sampled_from(SHORT), st.sampled_from(SHORT), st.integers(0, 1),
            st.lists(st.sampled_from([0x401000, 0x402000, 0xFFFFFFFF81000010, 2**64 - 512, 7]), max_size=3),
        ),
        st.tuples(st.just("comm"), st.sampled_from(PIDS), st.sampled_from(["a", "b\n,\"", "\x1b[31m", "läng" * 6])),
        st.tuples(st.just("exec"), st.sampled_from(PIDS)),
        st.tuples(st.just("fork"), st.sampled_from(PIDS), st.sampled_from(PIDS)),
        st.tuples(st.just("exit"), st.sampled_from(PIDS)),
        st.tuples(st.just("round")),
        st.tuples(st.just("pause")),
    ),
    max_size=40,
)  # fmt: skip


def play(
    path: Path,
    armed: FakeArmed,
    rows: list[tuple[Any, ...]],
    *,
    code: dict[int, tuple[str, int, bool]] = CODE,
) -> Traced:
    """Let things happen, recorded and traced.

    A process's start and end begin a round, as none has hits before the one, and after the other.
    """
    data: list[list[bytes]] = [[] for _ in armed.rings]
    traced, recorded = Traced(armed, code), Recorded(path, armed, code)
    time = 1000

    def take(*, last: bool = False) -> None:
        for each in (recorded, traced):
            for ring, parts in zip(armed.rings, data, strict=True):
                ring.put(*parts)
            if isinstance(each, Traced):
                each.round(last=last)
            elif last:
                each.finish()
            else:
                each.round()
        for parts in data:
            parts.clear()

    for what, *rest in rows:
        time += 10
        match what, rest:
            case "hit", [cpu, number, ip, pid, told, old, new, piece, chain]:
                watch = armed.plan.watches[number % len(armed.plan.watches)]
                data[cpu].append(hit(armed, watch, cpu, time, ip, pid, told, old, new, piece, chain))
            case "comm", [pid, name]:
                data[0].append(perf.comm(time, pid, pid, name))
            case "pause", _:
                time += 60_000_000
            case "round", _:
                take()
            case "exec", [pid]:
                data[1].append(perf.comm(time, pid, pid, "new", by_exec=True))
            case _, [pid, *parent]:
                take()
                data[1].append(
                    perf.leave(time, pid, pid)
                    if what == "exit"
                    else perf.fork(time, pid, pid, parent[0], parent[0])
                )
                take()
    take(last=True)
    return traced


def hit(
    armed: FakeArmed, watch: Watch, cpu: int, time: int, ip: int, pid: int, told: int, old: bytes, new: bytes,
    piece: int, chain: list[int],
) -> bytes:  # fmt: skip
    piece %= len(watch.pieces)
    length = watch.variable.length
    if watch.mode is Mode.EXECUTE:
        told = length = 0
    found = chain if armed.options.stacks else None
    if armed.engine:
        values = perf.Hit(told | piece << PIECE_SHIFT, time, 1000, (old * 16)[:length], (new * 16)[:length])
        event = armed.event(watch, cpu)
        return perf.sample(time + 1, cpu=cpu, event=event, ip=ip, pid=pid, tid=pid, chain=found, hit=values)
    role = watch.roles[told % len(watch.roles)]
    event = armed.event(watch, cpu, piece, role)
    return perf.sample(time, cpu=cpu, event=event, ip=ip, pid=pid, tid=pid, chain=found)


@given(steps, st.booleans(), st.integers(1, 9))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_script_folds_the_rows_that_trace_folds(
    rows: list[tuple[Any, ...]], stacks: bool, at_once: int
) -> None:
    """However many rows are made at a time; a loop of the same accesses is added, as they seldom come by chance."""
    armed = FakeArmed(watches(("./prog:counter:rw-", INT), ("./prog:name:rw-", TEXT)), stacks=stacks)
    loop = [("hit", 0, 0, 0x401000, PIDS[0], int(Hit.NEW | Hit.ANEW), SHORT[0], SHORT[1], 0, [0x401000])] * 5
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.data")
        traced = play(path, armed, [*rows, *loop])
        recording = open_recording(str(path))
        accesses = recording.accesses()
    one = rows_for("table", armed.plan.watches)
    cast(Any, one)._clock._offset = recording.start.offset
    live = shown(one, fold=True)
    expected = live.rows(traced.accesses) + live.rest()
    assert "  x" in expected
    bulk = bulk_rows_for("table", accesses, fold=True)
    parts = [accesses.select(slice(at, at + at_once)) for at in range(0, len(accesses), at_once)]
    assert "".join(map(bulk.rows, parts)) + bulk.rest() == expected


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(sorted(CODE)), st.integers(0, 1)), max_size=12))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_script_shows_what_trace_shows_on_arm64(rows: list[tuple[int, int, int]]) -> None:
    """There an instruction that reads and writes fires a twin's RW register alone: it is no read."""
    machine = os.uname_result(("Linux", "host", "6.1", "1", "aarch64"))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(os, "uname", lambda: machine)
        patch.setattr("ksym.capture.sites.MACHINE", "aarch64")
        armed = FakeArmed(
            watches(("./prog:counter:rw-", INT), ("./prog:name:rw-", TEXT), twin=True), values=False
        )
        hits: list[tuple[Any, ...]] = [
            ("hit", cpu, 0, ip, PIDS[0], role, b"", b"", 0, []) for cpu, ip, role in rows
        ]
        path = Path(folder, "x.data")
        traced = play(path, armed, hits)
        accesses = same_rows(path, traced, armed).accesses()
        shown = zip(traced.accesses, accesses.kind.tolist(), strict=True)
        assert all(KINDS[kind] == access.access for access, kind in shown)
        atomic = [access.access for access in traced.accesses if access.site.ip == 0x401030]
        assert set(atomic) <= {"RW"}


@given(steps, st.booleans(), st.booleans(), st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_script_shows_what_trace_shows(
    rows: list[tuple[Any, ...]], values: bool, stacks: bool, twin: bool
) -> None:
    armed = FakeArmed(
        watches(("./prog:counter:rw-", INT), ("./prog:name:rw-", TEXT), twin=twin),
        values=values,
        stacks=stacks,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.data")
        traced = play(path, armed, rows)
        recording = same_rows(path, traced, armed)
        assert int(recording.accesses().hits.sum()) == sum(access.hits for access in traced.accesses)


@given(steps, st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=40)
def test_other_modes_and_copies(rows: list[tuple[Any, ...]], values: bool) -> None:
    armed = FakeArmed(
        watches(("nr_running:r--", PER_CPU), ("0x401000:--x", variable("0x401000", 1))),
        values=values,
        stacks=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        same_rows(Path(folder, "x.data"), play(Path(folder, "x.data"), armed, rows), armed)


# -- what else a recording holds ------------------------------------------------------------------------


def simple(path: Path, count: int = 10, **options: Any) -> FakeArmed:
    """A recording of some writes of one thread."""
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)))
    recorded = Recorded(path, armed, CODE, **options)
    for number in range(count):
        armed.rings[number % 2].put(write(armed, 1000 + number, number, cpu=number % 2))
    recorded.round()
    recorded.finish()
    return armed


def write(
    armed: FakeArmed, time: int, value: int, *, cpu: int = 0, pid: int = PIDS[0], ip: int = 0x401000
) -> bytes:
    known = Hit.OLD | Hit.NEW | Hit.WROTE
    values = perf.Hit(known, time, 1000, struct.pack("<i", value - 1), struct.pack("<i", value))
    event = armed.event(armed.plan.watches[0], cpu)
    return perf.sample(time, cpu=cpu, event=event, ip=ip, pid=pid, tid=pid, hit=values)


def news(accesses: Accesses) -> list[int]:
    return [int.from_bytes(row.tobytes()[:4], "little", signed=True) for row in accesses.new]


def test_a_recording_tells_of_its_machine_and_its_watches(tmp_path: Path) -> None:
    simple(tmp_path / "x.data")
    recording = open_recording(str(tmp_path / "x.data"))
    assert recording.machine.hostname == os.uname().nodename
    assert recording.machine.release == os.uname().release
    assert recording.machine.version == "ksym"
    (watch,) = recording.watches
    assert (str(watch.request), watch.variable.length, watch.variable.type) == (
        "./prog:counter:rw-",
        4,
        INT.type,
    )
    assert recording.counts["lost"] == 0
    assert not recording.start.stacks


def test_accesses_are_columns(tmp_path: Path) -> None:
    simple(tmp_path / "x.data")
    accesses = open_recording(str(tmp_path / "x.data")).accesses()
    assert len(accesses) == 10
    assert news(accesses) == list(range(10))
    assert accesses.cpu.tolist() == [0, 1] * 5
    assert (accesses.time_ns[1:] - accesses.time_ns[:-1]).tolist() == [1] * 9
    assert {KINDS[kind] for kind in accesses.kind} == {"W"}
    assert accesses.uid.tolist() == [1000] * 10
    assert accesses.address.tolist() == [INT.address] * 10
    assert accesses.old_known.all()
    assert len(accesses.select(slice(3))) == 3
    assert [value.plain for value in map(accesses.decoders()[0].of, map(bytes, accesses.new))] == list(
        range(10)
    )


def test_an_empty_recording_has_no_accesses(tmp_path: Path) -> None:
    simple(tmp_path / "x.data", 0)
    recording = open_recording(str(tmp_path / "x.data"))
    assert len(recording.accesses()) == 0
    assert recording.cut is None
    for name in FORMATS:
        all_rows(name, recording.accesses())


def test_compressed_records_are_the_same(tmp_path: Path) -> None:
    try:
        Compressor().close()
    except ZstdMissing:
        pytest.skip("libzstd is not installed")
    simple(tmp_path / "a.data", 5000)
    simple(tmp_path / "b.data", 5000, compressor=Compressor)
    plain, packed = (open_recording(str(tmp_path / name)) for name in ("a.data", "b.data"))
    assert (tmp_path / "b.data").stat().st_size < (tmp_path / "a.data").stat().st_size / 3
    assert packed.cut is None
    assert news(packed.accesses()) == news(plain.accesses()) == list(range(5000))


def test_many_hits_of_many_sizes_are_all_there(tmp_path: Path) -> None:
    """Runs of equal samples, and call chains of all lengths in between, over several pieces of the file."""
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)), stacks=True)
    recorded = Recorded(tmp_path / "x.data", armed, CODE)
    known = Hit.OLD | Hit.NEW
    count = 60_000
    for number in range(count):
        chain = [0x401000 + step for step in range(number % 7 if number % 1000 < 500 else 3)]
        values = perf.Hit(known, number, 0, bytes(4), struct.pack("<i", number))
        armed.rings[0].put(
            perf.sample(number, event=100, ip=0x401000, pid=PIDS[0], tid=PIDS[0], chain=chain, hit=values)
        )
        if number % 20_000 == 19_999:
            recorded.round()
    recorded.finish()
    accesses = open_recording(str(tmp_path / "x.data")).accesses()
    assert news(accesses) == list(range(count))
    lengths = [len(accesses.stacks[stack]) if stack >= 0 else 0 for stack in accesses.stack.tolist()]
    assert lengths == [number % 7 if number % 1000 < 500 else 3 for number in range(count)]


def test_call_chains_whose_mixtures_are_equal_are_told_apart() -> None:
    """Equal mixtures are made on purpose, as somebody could; the rows decide."""
    more = int(numbering._MIXER) + 5
    words = np.array([1, more, 2, 5, 1, more], np.uint64)
    at, count = np.array([0, 2, 4]), np.array([2, 2, 2])
    chains = hits_module.Chains()
    numbers = chains.number(words, at, count, np.array([7, 7, 7]), np.zeros(3, bool))
    assert numbers.tolist() == [0, 1, 0]
    assert list(chains.known) == [(7, False, (1, more)), (7, False, (2, 5))]


def test_lost_records_are_told(tmp_path: Path) -> None:
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)))
    recorded = Recorded(tmp_path / "x.data", armed)
    armed.rings[0].put(perf.lost(5, 0, 7), perf.throttle(6))
    recorded.round()
    assert recorded.recorder.lost_records == 7
    recorded.finish()
    assert open_recording(str(tmp_path / "x.data")).cut is None


def test_a_cpu_that_comes_while_recording_is_known(tmp_path: Path) -> None:
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)), cpus=1)
    recorded = Recorded(tmp_path / "x.data", armed, CODE)
    armed.rings[0].put(write(armed, 1, 1))
    recorded.round()
    armed.add(1)
    armed.rings.append(perf.FakeRing())
    armed.rings[0].put(write(armed, 2, 2))
    armed.rings[1].put(write(armed, 3, 3, cpu=1))
    recorded.round()
    recorded.finish()
    accesses = open_recording(str(tmp_path / "x.data")).accesses()
    assert news(accesses) == [1, 2, 3]
    assert accesses.cpu.tolist() == [0, 0, 1]


def test_the_code_of_a_new_program_at_an_old_address(tmp_path: Path) -> None:
    """Even within a round, what came before the exec has the old name."""
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)))
    recorded = Recorded(tmp_path / "x.data", armed, CODE)
    armed.rings[0].put(write(armed, 1, 1), write(armed, 2, 2))
    recorded.round()
    armed.rings[1].put(write(armed, 3, 3, cpu=1))
    armed.rings[0].put(perf.comm(4, PIDS[0], PIDS[0], "next", by_exec=True))
    armed.rings[1].put(write(armed, 5, 5, cpu=1))
    recorded.round()
    recorded.finish()
    accesses = open_recording(str(tmp_path / "x.data")).accesses()
    names = [accesses.sites[site].named.function for site in accesses.site]
    assert names == [f"u{PIDS[0]}_0"] * 3 + [f"u{PIDS[0]}_1"]
    assert [accesses.comms[comm] for comm in accesses.comm] == ["?", "?", "?", "next"]


@pytest.mark.parametrize("stacks", [False, True])
def test_several_programs_in_one_round(tmp_path: Path, stacks: bool) -> None:
    """Each at the same address, with another process in between, which runs what the first one ran at its start."""
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)), values=False, stacks=stacks)
    recorded = Recorded(tmp_path / "x.data", armed, CODE)
    traced = Traced(armed, CODE)
    time = 10
    first: list[bytes] = []
    rest: list[bytes] = []
    for number in range(4):
        for each in range(3):
            time += 1
            data = perf.sample(
                time, cpu=each % 2, event=armed.event(armed.plan.watches[0], each % 2), ip=0x401000, pid=PIDS[each % 2],
                tid=PIDS[each % 2], chain=[0x401000, 0x402000] if stacks else None,
            )  # fmt: skip
            (first, rest)[each % 2].append(data)
        time += 1
        (first, rest)[number % 2].append(perf.comm(time, PIDS[0], PIDS[0], f"p{number}", by_exec=True))
    for take in (recorded.round, lambda: traced.round(last=True)):
        armed.rings[0].put(*first)
        armed.rings[1].put(*rest)
        take()
    recorded.finish()
    accesses = same_rows(tmp_path / "x.data", traced, armed).accesses()
    names = [accesses.sites[site].named.function for site in accesses.site.tolist()]
    assert names == [
        name
        for number in range(4)
        for name in (f"u{PIDS[0]}_{number}", f"u{PIDS[1]}_0", f"u{PIDS[0]}_{number}")
    ]
    if stacks:
        frames = [accesses.stacks[stack][1].function for stack in accesses.stack.tolist()]
        assert frames == names


def test_a_process_number_that_is_used_again_in_one_round(tmp_path: Path) -> None:
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)))
    recorded = Recorded(tmp_path / "x.data", armed, CODE)
    armed.rings[0].put(
        write(armed, 1, 1), perf.leave(2, PIDS[0], PIDS[0]), perf.fork(3, PIDS[0], PIDS[0], 1, 1),
        write(armed, 4, 4),
    )  # fmt: skip
    recorded.round()
    recorded.finish()
    accesses = open_recording(str(tmp_path / "x.data")).accesses()
    names = [accesses.sites[site].named.function for site in accesses.site]
    assert len(set(names)) == 2


def test_a_cut_recording_knows_its_machine(tmp_path: Path) -> None:
    path = tmp_path / "x.data"
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)))
    recorded = Recorded(path, armed, CODE, flush_seconds=0)
    armed.rings[0].put(write(armed, 1, 1))
    recorded.round()
    recorded.recorder.close()
    recording = open_recording(str(path))
    assert recording.cut == "its recorder was killed"
    system, machine = os.uname(), recording.machine
    assert (machine.hostname, machine.release, machine.arch) == (
        system.nodename,
        system.release,
        system.machine,
    )
    assert machine.cpus > 0


def test_a_limit_leaves_out_what_is_behind_it(tmp_path: Path) -> None:
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)))
    recorded = Recorded(tmp_path / "x.data", armed, CODE, limit=3)
    for cpu, times in enumerate(((1, 4, 5), (2, 3, 6))):
        armed.rings[cpu].put(*(write(armed, time, time, cpu=cpu) for time in times))
    recorded.finish()
    assert news(open_recording(str(tmp_path / "x.data")).accesses()) == [1, 2, 3]


def test_accesses_are_counted_as_trace_counts_them() -> None:
    """Bytes that `rep stosb` writes: one access of 16 hits, then another, then one too many."""
    armed = FakeArmed(watches(("./prog:name:rw-", TEXT)))
    users: Any = SimpleNamespace(mapped=lambda record: None, changed=lambda record: None)
    limit = Limit(cast(Any, armed), FakeSites(CODE), users, 2)
    hits = []
    for number in range(48):
        told = Hit.WROTE | (Hit.LATER if number % 16 else Hit.ANEW)
        known = perf.Hit(told | (number // 8 % 2) << PIECE_SHIFT, number, 0, bytes(16), bytes(16))
        hits.append(perf.sample(number, event=100, ip=0x401020, pid=PIDS[0], tid=PIDS[0], hit=known))
    limit.take([b"".join(hits[:30])])
    assert not limit.reached
    limit.take([b"".join(hits[30:])])
    limit.finish()
    assert limit.reached
    assert (limit.accesses, limit.hits) == ([2], 32)


@pytest.mark.parametrize("event", [-1, 1 << 64, 1e300])
def test_an_identifier_that_can_be_none_is_damage(tmp_path: Path, event: Any) -> None:
    simple(tmp_path / "x.data")
    start = open_recording(str(tmp_path / "x.data")).start
    with pytest.raises(ValueError, match=re.escape(str(event))):
        start.add([[event, 0, 0, 0, "ONLY"]])


# -- files that follow each other ------------------------------------------------------------------------


class Counters:
    """What counters say, which are ahead of the rings."""

    def __init__(self) -> None:
        self.hits = self.dropped = 0

    def __call__(self) -> dict[str, Any]:
        return COUNTS | {"hits": [self.hits], "away": [self.dropped], "no_room": self.dropped, "lost": 99}


def test_files_of_a_bounded_recording(tmp_path: Path) -> None:
    path, size, counters = tmp_path / "x.data", 1 << 20, Counters()
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)))
    recorded = Recorded(path, armed, CODE, most_bytes=size)
    recorder = recorded.recorder
    total, number = 40_000, 0
    for most in (1, 3, 20_000, 5, 15_000, total):  # one that fits in no file, among others
        counters.hits = total
        counters.dropped += 2
        for number in range(number, min(total, number + most)):  # noqa: B020
            armed.rings[number % 2].put(write(armed, 1000 + number, number, cpu=number % 2))
        number += 1
        recorder.round(counters)
        files = [each for each in (path, Path(f"{path}.1")) if each.exists()]
        assert recorder.bytes_written <= size // 2
        assert sum(each.stat().st_size for each in files) <= size
    counters.hits = total + counters.dropped
    recorder.finish(counters() | {"lost": counters.dropped})
    recorder.close()
    before, last = (open_recording(name) for name in (f"{path}.1", str(path)))
    rows = [news(each.accesses()) for each in (before, last)]
    assert rows[0] + rows[1] == list(range(total - len(rows[0]) - len(rows[1]), total))
    for recording, accesses in zip((before, last), rows, strict=True):
        counts = recording.counts
        assert recording.cut is None
        assert counts["recorded"] == len(accesses)
        assert counts["hits"] == [len(accesses) + counts["lost"]]
    assert last.counts["removed"] == total - len(rows[0]) - len(rows[1]) == recorder.kept[2]
    assert before.counts["removed"] == last.counts["removed"]
    assert before.counts["continued"]
    assert last.counts["file"] == before.counts["file"] + 1
    assert before.counts["lost"] + last.counts["lost"] <= counters.dropped
    lost = sum(lost_samples(each) for each in (path, Path(f"{path}.1")))
    assert lost == before.counts["lost"] + last.counts["lost"]


def lost_samples(path: Path) -> int:
    """What LOST records tell perf."""
    data, found = path.read_bytes(), 0
    at, end = HEADER.unpack_from(data)[5], sum(HEADER.unpack_from(data)[5:7])
    while at < end:
        kind, _, size = struct.unpack_from("<IHH", data, at)
        if kind == 2:
            found += struct.unpack_from("<Q", data, at + 16)[0]
        at += size
    return found


@settings(max_examples=30)
@given(count=st.integers(0, 2500), short=st.integers(10, 5000))
def test_parts_are_written_one_behind_the_other(count: int, short: int) -> None:
    """More than one call takes, empty ones, and with a kernel that writes less than it is given."""
    parts = [bytes([number % 251]) * (number * 7 % 11) for number in range(count)]
    real = os.pwritev

    def pwritev(fd: int, given: Sequence[bytes], at: int) -> int:
        assert len(given) <= os.sysconf("SC_IOV_MAX")
        return real(fd, [b"".join(given)[:short]], at)

    with tempfile.TemporaryFile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", pwritev)
        assert writer._written(file.fileno(), parts, 7) == (sum(map(len, parts)), None)
        assert os.pread(file.fileno(), 1 << 20, 7) == b"".join(parts)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_full_disk_keeps_what_fits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    """With room for any number of bytes: whole rounds, and an end wherever there is room for one."""
    try:
        Compressor().close()
    except ZstdMissing:
        pytest.skip("libzstd is not installed")
    room, real = 1 << 30, os.pwritev

    def pwritev(fd: int, parts: Sequence[bytes], at: int) -> int:
        if at >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, [b"".join(parts)[: room - at]], at)

    monkeypatch.setattr(os, "pwritev", pwritev)
    path, seen, ended = tmp_path / "x.data", set(), 0
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)))
    compressor = Compressor if compressed else None
    least = Recorded(path, armed, CODE, compressor=compressor).recorder.bytes_written
    for more in range(10, 50_000, 500 if compressed else 1500):
        room = 1 << 30
        recorded = Recorded(path, armed, CODE, compressor=compressor)
        room = least + more
        failed: OSError | None = None
        try:
            for number in range(400):
                armed.rings[0].put(write(armed, 1000 + number, number * 977 % 1000))
                if number % 10 == 9:
                    recorded.round()
            recorded.finish()
        except OSError as error:
            failed = error
            said = recorded.recorder.stop(COUNTS | {"hits": [400]}, "No space left on device")
        recorded.recorder.close()
        recording = open_recording(str(path))
        rows = news(recording.accesses())
        assert rows == [number * 977 % 1000 for number in range(len(rows))]
        seen.add(len(rows))
        if failed is None:
            assert (len(rows), recording.cut) == (400, None)
            break
        assert (said["recorded"], said["unwritten"]) == (len(rows), 400 - len(rows))
        if "stopped" in recording.counts:
            ended += 1
            assert recording.cut == "its recorder could not write on: No space left on device"
            assert recording.counts["unwritten"] == 400 - len(rows)
            assert recording.machine.command
    assert len(seen) > 5
    assert ended > 5


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A folder with something of every kind in it."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    try:
        os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(tmp_path / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("no device can be made here")
    return tmp_path


def kinds(folder: Path) -> dict[str, tuple[int, int]]:
    return {each.name: (each.lstat().st_ino, each.lstat().st_mode) for each in folder.iterdir()}


@pytest.mark.parametrize("name", ["folder", "fifo", "link", "dangling", "socket", "zero"])
@pytest.mark.parametrize("suffix", ["", ".1", ".old"])
@pytest.mark.parametrize("force", [False, True])
def test_only_files_are_written(there: Path, name: str, suffix: str, force: bool) -> None:
    (there / name).rename(there / f"x{suffix}")
    before = kinds(there)
    if force and suffix == ".old":
        os.close(Files(str(there / "x"), force=force, rotates=True).open())
    else:
        with pytest.raises(KsymError, match=f"cannot write .*x{suffix}: it is a"):
            Files(str(there / "x"), force=force, rotates=True).open()
    assert before.items() <= kinds(there).items()


def test_the_null_device_is_written_as_it_is(there: Path) -> None:
    before = kinds(there)
    files = Files(str(there / "null"), force=False, rotates=True)
    os.close(files.open())
    assert files.null
    assert kinds(there) == before


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    for name in ("x", "x.1"):
        (tmp_path / name).write_text(name)
    files = Files(str(tmp_path / "x"), force=False, rotates=True)
    for _ in range(3):
        os.close(files.open())
    assert (tmp_path / "x.old").read_text() == "x"
    assert (tmp_path / "x.1.old").read_text() == "x.1"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    other = (tmp_path / "x").stat().st_ino
    os.link(tmp_path / "x", tmp_path / "link")
    os.close(Files(str(tmp_path / "x"), force=True, rotates=False).open())
    assert (tmp_path / "link").stat().st_ino == other != (tmp_path / "x").stat().st_ino


def test_sizes() -> None:
    texts = ("1M", "1.5M", "200MB", "2GiB", "1T", "1048576", "4096k")
    assert [record.size(text) for text in texts] == [
        1 << 20, 3 << 19, 200 << 20, 2 << 30, 1 << 40, 1 << 20, 4 << 20,
    ]  # fmt: skip
    for text in ("", "M", "1.M", "-1M", "1Q", "100K", "1e9", "٣M", "99999999999T"):
        with pytest.raises(ArgumentTypeError):
            record.size(text)
    assert [record.in_bytes(count) for count in (0, 999, 1000, 88_100, 1_250_000, 3 * 10**9)] == [
        "0 B", "999 B", "1.0 KB", "88.1 KB", "1.2 MB", "3.0 GB",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [("-o", ""), ("-o", "-"), ("--limit", "3", "--max-size", "1M")])
def test_what_record_does_not_take(words: tuple[str, ...]) -> None:
    status, out, error = ksym("record", *words, "nothing_of_that_name")
    assert (status, out, error.count("\n")) == (2, "", 1)


# -- conditions, pointers, code --------------------------------------------------------------------------


def test_what_a_condition_leaves_to_judge_is_judged(tmp_path: Path) -> None:
    request = parse_request('./prog:counter:rw- if access == R || comm == "good" || cpu == 1 && tid != 3')
    condition = bind_conditions([(request, INT)], cast(Any, None))[0]
    watch = make_plan([(request, INT)], conditions=[condition]).watches
    armed = FakeArmed(watch, values=False)
    traced, recorded = Traced(armed, CODE), Recorded(tmp_path / "x.data", armed, CODE)
    data = [
        perf.comm(1, PIDS[0], PIDS[0], "good"),
        perf.comm(1, PIDS[1], PIDS[1], "bad"),
        *(
            perf.sample(10 + number, cpu=0, event=armed.event(watch[0], 0), ip=ip, pid=pid, tid=pid)
            for number, (ip, pid) in enumerate(
                (ip, pid) for ip in (0x401000, 0x401010, 0x401040) for pid in PIDS
            )
        ),
    ]
    armed.rings[0].put(*data)
    recorded.round()
    armed.rings[0].put(*data)
    traced.round(last=True)
    recorded.finish()
    assert 0 < len(traced.accesses) < 6
    same_rows(tmp_path / "x.data", traced, armed)


def test_pointers_have_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = 0xFFFFFFFF82001000
    monkeypatch.setattr(
        "ksym.recording.naming.pointer_names", lambda kallsyms: lambda at: "ops" if at == known else None
    )
    kind = parse_type("void *")
    armed = FakeArmed(watches(("./prog:where:rw-", variable("./prog:where", 8, kind))))
    recorded = Recorded(tmp_path / "x.data", armed, CODE)
    values = [known, known + 8, 0x1000, known]
    for number, value in enumerate(values):
        given = perf.Hit(Hit.NEW, number, 0, bytes(8), struct.pack("<Q", value))
        armed.rings[0].put(perf.sample(number, event=100, ip=0x401000, pid=PIDS[0], tid=PIDS[0], hit=given))
    recorded.finish()
    accesses = open_recording(str(tmp_path / "x.data")).accesses()
    shown = [json.loads(row)["new"] for row in all_rows("json", accesses).splitlines()]
    assert shown == ["ops", hex(known + 8), "0x1000", "ops"]


def test_code_is_decoded_by_the_reader_where_the_recorder_could_not() -> None:
    pytest.importorskip("iced_x86")
    code = bytes.fromhex("55 4889e5 8902".replace(" ", ""))  # push rbp; mov rbp,rsp; mov [rdx],eax
    site = Site(0x1006, 0x1006, Named("f", 6), None, 0)
    data = site_data(9, site, (0x1000, code + bytes(16))) | {"watch": 0, "decoded": False}
    for traps_after, decoded in ((True, "mov [rdx],eax"), (False, None)):
        noted = NotedCode([Note(1, 0, "sites", [data])], [False], traps_after=traps_after)
        found = noted.site(9, 0x1006, execute=False)
        assert found is not None
        assert (found.instruction.text if found.instruction else None) == decoded


def test_code_is_decoded_again_where_the_hit_says_that_it_has_other_bits() -> None:
    pytest.importorskip("iced_x86")
    site = Site(0x1005, 0x1005, Named("f", 5), None, 0)
    data = site_data(9, site, (0x1000, bytes.fromhex("a10cc00408") + bytes(16))) | {"watch": 0}
    noted = NotedCode([Note(1, 0, "sites", [data])], [False], traps_after=True)
    as_noted, narrow = (noted.site(9, 0x1005, execute=False, bits=bits) for bits in (None, 32))
    assert as_noted is not None
    assert as_noted.instruction is None
    assert narrow is not None
    assert narrow.instruction is not None
    assert (narrow.instruction.text, narrow.bits) == ("mov eax,[0x804c00c]", 32)


# -- perf's own files -----------------------------------------------------------------------------------

FIELDS = {
    0: "ip",
    1: "tid",
    2: "time",
    3: "addr",
    6: "id",
    7: "cpu",
    8: "period",
    9: "stream",
    16: "identifier",
}
OPTIONAL = [1 << bit for bit in (3, 4, 5, 6, 7, 8, 9, 10, 16)]


def foreign(path: Path, sample_type: int, read_format: int, hits: list[tuple[int, int, int, int]]) -> None:
    """A file as perf writes it: one event, its samples of (time, tid, ip, cpu), a COMM record for each thread."""
    attr = struct.pack(
        "<IIQQQQQIIQQ", 5, 112, 0, 1, sample_type, read_format, 1 << 18, 0, 3, 0x404000, 4
    ).ljust(112, b"\0")
    data = b""
    for tid in dict.fromkeys(tid for _, tid, _, _ in hits):
        ending = [struct.pack("<II", tid, tid), struct.pack("<Q", 0)]
        ending += [struct.pack("<Q", 77)] * sum(
            bool(sample_type & bit) for bit in (1 << 6, 1 << 9, 1 << 7, 1 << 16)
        )
        body = struct.pack("<II", tid, tid) + f"t{tid}".encode().ljust(16, b"\0") + b"".join(ending)
        data += struct.pack("<IHH", 3, 0, 8 + len(body)) + body
    for time, tid, ip, cpu in hits:
        words = {
            16: struct.pack("<Q", 77), 0: struct.pack("<Q", ip), 1: struct.pack("<II", tid, tid),
            2: struct.pack("<Q", time), 3: bytes(8), 6: struct.pack("<Q", 77), 9: bytes(8),
            7: struct.pack("<II", cpu, 0), 8: struct.pack("<Q", 1),
        }  # fmt: skip
        body = b"".join(word for bit, word in words.items() if sample_type >> bit & 1)
        if sample_type & 1 << 4:
            members = 2 if read_format & 8 else 1
            times = bytes(8 * (read_format & 3).bit_count())
            each = bytes(8 + 8 * ((read_format >> 2 & 1) + (read_format >> 4 & 1)))
            body += (struct.pack("<Q", members) + times if read_format & 8 else b"") + each * members
            body += b"" if read_format & 8 else times
        if sample_type & 1 << 5:
            body += struct.pack("<3Q", 2, 2**64 - 512, ip)
        if sample_type & 1 << 10:
            body += struct.pack("<I12s", 12, b"raw")
        data += struct.pack("<IHH", 9, 2, 8 + len(body)) + body
    start = 104 + 128 + 8
    head = struct.pack("<8s8Q32s", b"PERFILE2", 104, 128, 104, 128, start, len(data), 0, 0, bytes(32))
    path.write_bytes(head + attr + struct.pack("<QQ", start - 8, 8) + struct.pack("<Q", 77) + data)


@given(
    st.lists(st.sampled_from(OPTIONAL)), st.sampled_from([0, 1, 3, 4, 8, 8 | 3 | 4, 4 | 16, 8 | 4 | 16]),
    st.lists(
        st.tuples(
            st.integers(1, 1 << 40), st.sampled_from(PIDS), st.sampled_from([0x401000, 0x402000]), st.integers(0, 3)
        ),
        max_size=40,
    ),
)  # fmt: skip
@settings(deadline=None)
def test_samples_as_perf_writes_them(
    fields: list[int], read_format: int, hits: list[tuple[int, int, int, int]]
) -> None:
    sample_type = 7
    for bit in fields:
        sample_type |= bit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "perf.data")
        foreign(path, sample_type, read_format, hits)
        accesses = open_recording(str(path)).accesses()
        cpus = bool(sample_type & 1 << 7)
        expected = sorted(hits, key=lambda row: row[0])
        offset = int(accesses.time_ns[0]) - expected[0][0] if hits else 0
        got = zip(
            (accesses.time_ns - offset).tolist(), accesses.tid.tolist(),
            [accesses.sites[site].ip for site in accesses.site], accesses.cpu.tolist(), strict=True,
        )  # fmt: skip
        assert list(got) == [(time, tid, ip, cpu if cpus else 0) for time, tid, ip, cpu in expected]
        assert [accesses.comms[comm] for comm in accesses.comm] == [f"t{row[1]}" for row in expected]
        if sample_type & 1 << 5:
            assert {len(accesses.stacks[stack]) for stack in accesses.stack} <= {1}


# -- rows in bulk ----------------------------------------------------------------------------------------


def test_widths_follow_the_longest_task_across_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ksym.views.bulk.ROWS", 3)
    rows: list[tuple[Any, ...]] = []
    for number in range(10):
        rows.append(("comm", PIDS[number % 2], "x" * (number + 1)))
        rows.append(("hit", 0, 0, 0x401000, PIDS[number % 2], 3, SHORT[0], SHORT[number % 3], 0, []))
    armed = FakeArmed(watches(("./prog:counter:rw-", INT)))
    same_rows(tmp_path / "x.data", play(tmp_path / "x.data", armed, rows), armed)
