# SPDX-License-Identifier: BSD-2-Clause
"""Recordings that were cut, damaged or made up: what was whole, or an error in one line; never a wrong row."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import struct
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksym.errors import KsymError
from ksym.language.parser import parse_request
from ksym.linux.perf_record import record
from ksym.program.layout import Hit
from ksym.recording import header, stream
from ksym.recording.hits import Decoder
from ksym.recording.perf_file import (
    ATTR_SIZE,
    CONSTANT,
    HEADER,
    MAKER,
    NOTE_MARK,
    Feature,
    Kind,
    note,
)
from ksym.recording.reader import Recording, open_recording
from ksym.recording.zstd import Compressor, ZstdMissing
from ksym.symbols.ctext import parse_type
from ksym.symbols.variable import Space, Variable
from ksym.views.bulk import bulk_rows_for, texts
from ksym.watch.plan import make_plan
from support.recordings import FakeArmed, Recorded, ksym
from synthetic import perf

CODE = {0x401000: ("W", 4, False), 0x401010: ("R", 4, False), 0x401020: ("?", 0, False)}
PID = 5_000_001
ALL = ("table", "ksym", "csv", "json")


def made(path: Path, *, rounds: int = 6, hits: int = 4, stacks: bool = True, **options: Any) -> None:
    """A recording with a bit of everything."""
    variable = Variable("./prog:counter", 0x404000, 4, Space.USER, parse_type("int"))
    watches = make_plan([(parse_request("./prog:counter:rw-"), variable)]).watches
    armed = FakeArmed(watches, stacks=stacks)
    recorded = Recorded(path, armed, CODE, **options)
    time = 100
    for number in range(rounds):
        armed.rings[1].put(perf.comm(time, PID, PID + number % 2, f"name{number}"))
        for each in range(hits):
            time += 1
            ip = sorted(CODE)[(number + each) % 3]
            known = perf.Hit(Hit.OLD | Hit.NEW, time, 0, struct.pack("<i", time), struct.pack("<i", time + 1))
            cpu = each % 2
            chain = [ip, 0x402000 + number] if stacks else None
            armed.rings[cpu].put(
                perf.sample(
                    time, cpu=cpu, event=100 + cpu, ip=ip, pid=PID, tid=PID + each % 2, chain=chain, hit=known
                )
            )
        recorded.round()
    recorded.finish()


def rows(recording: Recording, formats: Sequence[str]) -> list[str]:
    """All that can be said of a recording; the rows as JSON, which comes last."""
    accesses = recording.accesses()
    for name in formats:
        bulk = bulk_rows_for(name, accesses, verbose=True)
        text = bulk.header() + "".join(text for text, _ in texts(bulk, accesses))
    shown = text.splitlines()
    assert len(shown) == len(accesses)
    return shown


def read(path: Path, formats: Sequence[str] = ("json",)) -> tuple[list[str], str | None] | None:
    """Rows and why they are not all; None: it is refused, in one line."""
    try:
        recording = open_recording(str(path))
        return rows(recording, formats), recording.cut
    except KsymError as error:
        line = error.line()
    assert "\n" not in line
    assert line.startswith(f"cannot read {path}: ")
    return None


@functools.cache
def small() -> tuple[bytes, list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.data")
        made(path)
        found = read(path)
        assert found is not None
        assert found[1] is None
        assert len(found[0]) == 24
        return path.read_bytes(), found[0]


def zstd() -> Callable[[], Compressor]:
    try:
        Compressor().close()
    except ZstdMissing:
        pytest.skip("libzstd is not installed")
    return Compressor


# -- cut -----------------------------------------------------------------------------------------------


def test_cut_at_every_byte(tmp_path: Path) -> None:
    path, counts = tmp_path / "cut.data", set()
    made(path, rounds=3, stacks=False)
    data, all_of_it = path.read_bytes(), read(path)
    assert all_of_it is not None
    whole = all_of_it[0]
    for size in range(len(data)):
        path.write_bytes(data[:size])
        found = read(path)
        if found is not None:
            assert found[0] == whole[: len(found[0])]
            assert found[1] is not None
            counts.add(len(found[0]))
        else:
            assert not counts, "a longer file tells no less"
    assert counts == {0, 4, 8, 12}


def test_cut_anywhere_in_a_large_one(tmp_path: Path) -> None:
    path = tmp_path / "x.data"
    made(path, rounds=60, hits=400, stacks=False)
    data, found = path.read_bytes(), read(path)
    assert found is not None
    whole = found[0]
    assert len(whole) == 24_000
    chance = random.Random(3)
    for _ in range(40):
        path.write_bytes(data[: chance.randrange(len(data))])
        found = read(path)
        if found is not None:
            assert found[0] == whole[: len(found[0])]
            assert len(found[0]) % 400 == 0


def test_a_compressed_one_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "x.data"
    made(path, rounds=60, hits=400, compressor=zstd(), flush_seconds=0)
    data, found = path.read_bytes(), read(path)
    assert found is not None
    assert found[1] is None
    whole, seen = found[0], set()
    for size in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:size])
        found = read(path)
        if found is not None:
            assert found[0] == whole[: len(found[0])]
            seen.add(len(found[0]))
    assert len(seen) > 10


def test_a_killed_recorder_leaves_all_that_was_flushed(tmp_path: Path) -> None:
    path = tmp_path / "x.data"
    variable = Variable("./prog:counter", 0x404000, 4, Space.USER, parse_type("int"))
    armed = FakeArmed(make_plan([(parse_request("./prog:counter:rw-"), variable)]).watches)
    recorded = Recorded(path, armed, CODE, flush_seconds=0)
    for number in range(1, 4):
        armed.rings[0].put(
            perf.sample(
                number,
                event=100,
                ip=0x401000,
                pid=PID,
                tid=PID,
                hit=perf.Hit(0, number, 0, bytes(4), bytes(4)),
            )
        )
        recorded.round()
        found = read(path)
        assert found is not None
        assert (len(found[0]), found[1]) == (number, "its recorder was killed")
    recorded.recorder.close()


@pytest.mark.parametrize("compressed", [False, True])
def test_a_recorder_killed_after_any_write_leaves_what_the_header_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool
) -> None:
    """Its very first writes too: a header that counts data counts what is watched among them."""
    path, killed, left, real = tmp_path / "x.data", tmp_path / "killed.data", set[object](), os.pwritev

    def pwritev(fd: int, parts: Sequence[bytes], at: int) -> int:
        done = real(fd, parts, at)
        content = path.read_bytes()
        killed.write_bytes(content)
        counted = HEADER.unpack_from(content)[6]
        try:
            recording = open_recording(str(killed))
        except KsymError as error:
            left.add((counted, error.why))
        else:
            assert recording.cut in (None, "its recorder was killed")
            left.add(len(recording.accesses()))
        return done

    monkeypatch.setattr(os, "pwritev", pwritev)
    made(path, rounds=3, stacks=False, compressor=zstd() if compressed else None, flush_seconds=0)
    assert left == {(0, "its recorder was killed before anything was recorded"), 0, 4, 8, 12}


# -- damaged -------------------------------------------------------------------------------------------


mutations = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
        st.tuples(st.just("set"), st.floats(0, 1), st.sampled_from([0, 0xFF, 0xFFFFFFFF, 1 << 31, (1 << 64) - 1])),
        st.tuples(st.just("cut"), st.floats(0, 1), st.integers(1, 200)),
        st.tuples(st.just("splice"), st.floats(0, 1), st.floats(0, 1)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(max_size=40)),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def mutate(data: bytes, steps: list[tuple[Any, ...]]) -> bytes:
    out = bytearray(data)
    for what, where, *rest in steps:
        at = int(where * (len(out) - 1))
        match what, rest:
            case "flip", [bit]:
                out[at] ^= 1 << bit
            case "set", [value]:
                at -= at % 8
                out[at : at + 8] = value.to_bytes(8, "little")
            case "cut", [count]:
                del out[at : at + count]
            case "splice", [other]:
                source = int(other * (len(out) - 1))
                out[at : at + 64] = out[source : source + 64]
            case "insert", [extra]:
                out[at:at] = extra
    return bytes(out)


@given(mutations)
@settings(deadline=None, max_examples=200)
def test_a_damaged_recording_shows_no_wrong_row(steps: list[tuple[Any, ...]]) -> None:
    data, whole = small()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.data")
        path.write_bytes(mutate(data, steps))
        found = read(path)
        if found is not None:
            assert found[0] == whole[: len(found[0])]
            if len(found[0]) < len(whole):
                assert found[1] is not None


@pytest.mark.parametrize("compressed", [False, True])
def test_no_flipped_bit_makes_other_rows(tmp_path: Path, compressed: bool) -> None:
    """A bit of each byte of the first 4 KB, and of places behind them."""
    path = tmp_path / "x.data"
    made(path, compressor=zstd() if compressed else None)
    data, found = path.read_bytes(), read(path)
    assert found is not None
    whole, chance = found[0], random.Random(5)
    assert len(whole) == 24
    for at in [*range(min(len(data), 4096)), *(chance.randrange(len(data)) for _ in range(400))]:
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        found = read(path)
        assert found is None or found[0] == whole[: len(found[0])], at
        assert found is None or found[1] is not None or len(found[0]) == len(whole), at


def seals(data: bytes) -> list[int]:
    """Where in a file each part ends that is sealed."""
    at, ends = HEADER.unpack_from(data)[5], []
    end = at + HEADER.unpack_from(data)[6]
    while at < end:
        kind, _, size = struct.unpack_from("<IHH", data, at)
        at += size
        if kind == Kind.BPF_EVENT and data[at - size + 28 : at - size + 34] == b"check\0":
            ends.append(at)
    return ends


@pytest.mark.parametrize("twice", [False, True])
def test_parts_that_are_missing_or_there_twice(tmp_path: Path, twice: bool) -> None:
    """Each is sealed, but they do not follow each other."""
    path = tmp_path / "x.data"
    data, whole = small()
    ends = seals(data)
    assert len(ends) > 5
    for first, last in itertools.pairwise(ends):
        path.write_bytes(data[:last] + data[first:] if twice else data[:first] + data[last:])
        found = read(path)
        assert found is not None
        assert found[0] == whole[: len(found[0])]
        assert found[1] is not None or len(found[0]) == len(whole)


@pytest.mark.parametrize(
    ("found", "instead"),
    [
        (b"start\0", b"stark\0"),
        (NOTE_MARK, b"ksyn\0\0\0\1"),
        (b"start\0", b"\0tart\0"),
        (b"version", b"versioo"),
    ],
)
@pytest.mark.parametrize("marked", [True, False])
def test_a_recording_whose_start_is_damaged_is_never_taken_for_one_of_perf(
    tmp_path: Path, found: bytes, instead: bytes, marked: bool
) -> None:
    data, _ = small()
    data = data[: HEADER.size] + data[HEADER.size :].replace(MAKER, MAKER if marked else bytes(len(MAKER)))
    at = data.index(found, HEADER.size + len(MAKER))
    path = tmp_path / "x.data"
    path.write_bytes(data[:at] + instead + data[at + len(found) :])
    with pytest.raises(KsymError, match=r"it is damaged near byte|its watches is damaged"):
        open_recording(str(path))


def test_what_was_not_sealed_does_not_count(tmp_path: Path) -> None:
    """A file that looks whole but for the last seal, which is hidden among what nobody knows."""
    data, whole = small()
    at = data.rindex(b"check\0")
    path = tmp_path / "x.data"
    path.write_bytes(data[:at] + b"chess" + data[at + 5 :])
    found = read(path)
    assert found is not None
    assert found[0] == whole
    assert found[1] == "its last part is not sealed"


def sealed(data: bytes) -> bytes:
    """The same file with check sums that are right: whoever made it up could do that."""
    start = HEADER.unpack_from(data)[5]
    total, out, at = zlib.crc32(data[CONSTANT] + data[HEADER.size : start]), bytearray(data), start
    while at + 8 <= len(out):
        kind, _, size = struct.unpack_from("<IHH", out, at)
        if size < 8 or size % 8 or at + size > len(out):
            break
        whole = bytes(out[at : at + size])
        if kind == Kind.BPF_EVENT and whole[28:34] == b"check\0":
            digits = str(total).encode()
            room = struct.unpack_from("<I", whole, 24)[0] - 6
            if len(digits) > room + -(size - 28 - 6 - room) % 8 and len(digits) > room:
                digits = digits[:room]
            out[at + 34 : at + 34 + max(room, len(digits))] = digits.ljust(room, b"\0")
            struct.pack_into("<I", out, at + 24, 6 + len(digits))
        else:
            total = zlib.crc32(whole, total)
        at += size
    return bytes(out)


@given(mutations)
@settings(deadline=None, max_examples=200)
def test_a_forged_recording_is_read_without_a_traceback(steps: list[tuple[Any, ...]]) -> None:
    data, _ = small()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.data")
        path.write_bytes(sealed(mutate(data, steps)))
        read(path, ALL)


notes = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 70), 1 << 70),
        st.text(max_size=4),
        st.sampled_from([1e300, -1.5]),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def start_note(data: bytes) -> dict[str, Any]:
    at = data.index(b"start\0")
    found, _ = json.JSONDecoder().raw_decode(data[at + 6 :].partition(b"\0")[0].decode())
    assert isinstance(found, dict)
    return found


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_notes_that_say_what_they_like(data: st.DataObject) -> None:
    """Every part of every note replaced by something else."""
    whole, _ = small()
    start = start_note(whole)
    site: dict[str, Any] = {
        "pid": PID, "ip": 0x401000, "address": 0x400FFD, "named": ["f", 1, 0, "p"], "size": 4, "repeats": False,
        "instruction": [0x400FFD, "mov", ["W"], 4, False], "decoded": False, "code": [0x400FF0, "90" * 20], "watch": 0,
    }  # fmt: skip
    contents: dict[str, Any] = {
        "start": start, "sites": [site], "names": [[PID, 0x401000, True, "f", 1, 0, "p"]],
        "pointers": [[1, "x"]], "counts": {"lost": 0}, "events": start["events"], "end": {"notes": []},
    }  # fmt: skip
    name = data.draw(st.sampled_from(sorted(contents)))
    contents[name] = changed(data, contents[name])
    trailer = struct.pack("<IIQIIQ", 0, 0, 0, 0, 0, 1)
    sample = perf.sample(
        5,
        event=100,
        ip=0x401000,
        pid=PID,
        tid=PID,
        chain=[0x401000],
        hit=perf.Hit(3, 5, 0, bytes(4), bytes(4)),
    )
    body = b"".join(
        [
            note("start", json.dumps(contents.pop("start")).encode(), trailer),
            sample,
            *(note(each, json.dumps(content).encode(), trailer) for each, content in contents.items()),
            record(Kind.FINISHED_ROUND, b""),
        ]
    )
    at = HEADER.unpack_from(whole)[5]
    total = zlib.crc32(body, zlib.crc32(whole[CONSTANT] + whole[HEADER.size : at]))
    body += note("check", str(total).encode(), trailer)
    fields = list(HEADER.unpack_from(whole))
    fields[6], fields[9] = len(body), bytes(32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.data")
        path.write_bytes(HEADER.pack(*fields) + whole[HEADER.size : at] + body)
        found = read(path, ALL)
        assert found is None or len(found[0]) <= 1


def changed(data: st.DataObject, content: Any) -> Any:
    """The same but for one part, that is anything."""
    if isinstance(content, (dict, list)) and content and data.draw(st.integers(0, 5)):
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = data.draw(st.sampled_from(keys))
        copy: Any = dict(content) if isinstance(content, dict) else list(content)
        copy[key] = changed(data, copy[key])
        return copy
    return data.draw(notes)


# -- what is no recording --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"\x7fELF" + bytes(200), "it is not a perf.data file"),
        (b"PERFILE2", "it was cut inside its header"),
        (b"PERFILE2" + struct.pack("<Q", 16) + bytes(200), "it was written through a pipe"),
        (b"2ELIFREP" + bytes(200), "the other byte order"),
        (b"PERFILE2" + bytes(96), "its header is damaged"),
        (HEADER.pack(b"PERFILE2", 104, 128, 104, 1 << 60, 104, 0, 0, 0, bytes(32)), "its header is damaged"),
        (HEADER.pack(b"PERFILE2", 104, 128, 104, 128, 232, 0, 0, 0, bytes(32)), "it was cut inside its header"),
        (
            HEADER.pack(b"PERFILE2", 104, 128, 104, 128, 232, 0, 0, 0, bytes(32)) + bytes(128),
            "it has no accesses to memory",
        ),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_a_line(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "x.data"
    path.write_bytes(content)
    with pytest.raises(KsymError) as caught:
        open_recording(str(path))
    assert why in caught.value.line()


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, why in (
        ("fifo", "it is not a regular file"),
        ("", "it is a folder"),
        ("gone", "No such file or directory"),
        ("a\0b", "its name has a NUL"),
    ):
        with pytest.raises(KsymError) as caught:
            open_recording(str(tmp_path / path) if path else str(tmp_path))
        assert why in caught.value.line()


def attr(sample_type: int, kind: int = 5) -> bytes:
    fields = struct.pack("<IIQQQQQIIQQ", kind, ATTR_SIZE, 0, 1, sample_type, 4, 1 << 18, 0, 3, 0x404000, 4)
    return fields.ljust(ATTR_SIZE, b"\0") + struct.pack("<QQ", 0, 0)


def perfs(path: Path, body: bytes) -> None:
    """A file of perf's with these records, whose samples are as `perf.sample` makes them."""
    head = HEADER.pack(b"PERFILE2", 104, 128, 112, 128, 240, len(body), 0, 0, bytes(32))
    path.write_bytes(
        head + struct.pack("<Q", 1) + attr(0x10087)[:ATTR_SIZE] + struct.pack("<QQ", 104, 8) + body
    )


def test_features_that_nobody_knows_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file can have 256 of them, of as many bytes as are believed; to read holes takes time, too."""
    path = tmp_path / "x.data"
    perfs(path, perf.sample(3, ip=0x401000))
    data = bytearray(path.read_bytes())
    data[72:104] = b"\xff" * 32
    path.write_bytes(data + struct.pack("<QQ", 1 << 20, 32 << 20) * 256)
    os.truncate(path, 64 << 20)
    asked: list[int] = []
    look = header._at

    def counted(file: header.Bytes, offset: int, size: int) -> bytes:
        asked.append(size)
        return look(file, offset, size)

    monkeypatch.setattr(header, "_at", counted)
    assert len(open_recording(str(path)).accesses()) == 1
    assert 0 < sum(size == 32 << 20 for size in asked) <= len(Feature)


def test_parents_that_are_their_own_children(tmp_path: Path) -> None:
    ring = perf.fork(1, PID + 1, PID + 1, PID, PID) + perf.fork(2, PID, PID, PID + 1, PID + 1)
    perfs(tmp_path / "x.data", ring + perf.sample(3, ip=0x401000, pid=PID, tid=PID))
    assert len(open_recording(str(tmp_path / "x.data")).accesses()) == 1


def test_too_little_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_left(source: object) -> None:
        raise MemoryError

    path = tmp_path / "x.data"
    made(path)
    monkeypatch.setattr("ksym.recording.reader.decode", nothing_left)
    status, out, said = ksym("script", str(path))
    assert (status, out) == (125, "")
    assert said.startswith("ksym: cannot go on: ")
    assert said.count("\n") == 1


def test_a_small_file_unpacks_to_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some KB of names that repeat themselves are not taken for the hundreds of megabytes that they could be."""
    assert stream._SMALL <= 1 << 16
    monkeypatch.setattr(stream, "_SMALL", 1 << 12)  # so that it is quick
    names = perf.comm(5, 1, 1, "x") * (1 << 16)
    packed = zstd()().compress(names)
    assert len(packed) < 1 << 12
    body = b"".join(
        struct.pack("<IHH", Kind.COMPRESSED, 0, 8 + len(part)) + part
        for part in (packed[at : at + 60_000] for at in range(0, len(packed), 60_000))
    )
    path = tmp_path / "x.data"
    perfs(path, body)
    recording = open_recording(str(path))
    assert recording.cut is not None
    assert "it unpacks to an impossible size" in recording.cut


@pytest.mark.parametrize(
    ("attrs", "why"),
    [
        ([attr(5)], "its samples have no time"),
        ([attr(7), attr(15)], "its events have different fields"),
        ([attr(7), attr(7)], "do not tell which"),
    ],
)
def test_events_that_cannot_be_told_are_refused(tmp_path: Path, attrs: list[bytes], why: str) -> None:
    path = tmp_path / "x.data"
    size = 128 * len(attrs)
    path.write_bytes(
        HEADER.pack(b"PERFILE2", 104, 128, 104, size, 104 + size, 0, 0, 0, bytes(32)) + b"".join(attrs)
    )
    with pytest.raises(KsymError) as caught:
        open_recording(str(path))
    assert why in caught.value.line()


TRAILER = bytes(32)
"""What stands behind each record of a recording of ksym's."""


def forged(change: Callable[[dict[str, Any]], object], *more: bytes) -> bytes:
    """The small recording with another start note, notes behind it, and right check sums."""
    data, _ = small()
    first, length = HEADER.unpack_from(data)[5:7]
    at, out = first, b""
    while at < first + length:
        size = struct.unpack_from("<IHH", data, at)[2]
        part, at = data[at : at + size], at + size
        if part[28:34] == b"start\0":
            (long,) = struct.unpack_from("<I", part, 24)
            content = json.loads(part[34 : 28 + long])
            change(content)
            part = note("start", json.dumps(content).encode(), TRAILER) + b"".join(more)
        out += part
    fields = list(HEADER.unpack_from(data))
    fields[6], fields[9] = len(out), bytes(32)
    return sealed(HEADER.pack(*fields) + data[HEADER.size : first] + out)


def test_a_table_of_identifiers_that_no_machine_has_is_refused(tmp_path: Path) -> None:
    """Each identifier has a row with a column for each origin: a list of 100 KB could ask for a gigabyte."""
    path = tmp_path / "x.data"

    def events(count: int) -> Callable[[dict[str, Any]], object]:
        made = [[1000 + at, at, 0, 0, "ONLY"] for at in range(count)]
        return lambda start: start.update(events=made)

    path.write_bytes(forged(events(1000)))
    assert read(path) is not None
    path.write_bytes(forged(events(1 << 12)))
    with pytest.raises(KsymError) as caught:
        open_recording(str(path))
    assert "what it says of its watches is damaged" in caught.value.line()


def test_identifiers_that_come_up_before_the_first_hit_are_known(tmp_path: Path) -> None:
    """As those of a CPU that came up as soon as all was armed; whatever is noted behind them."""
    _, whole = small()
    path = tmp_path / "x.data"
    later = note("events", json.dumps([[101, 0, 0, 0, "ONLY"]]).encode(), TRAILER)
    for more in (b"", note("names", b"[]", TRAILER)):
        path.write_bytes(forged(lambda start: start["events"].pop(), later, more))
        found = read(path)
        assert found is not None
        assert found[0] == whole


def test_identifiers_that_come_one_by_one_take_no_longer_than_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is planned once, however many come behind it."""
    path = tmp_path / "x.data"
    rows = [[1000 + at, 0, 0, 0, "ONLY"] for at in range(300)]
    notes = [note("events", json.dumps([row]).encode(), TRAILER) for row in rows]
    path.write_bytes(forged(lambda start: None, *notes))
    told: list[int] = []
    plan = Decoder.plan

    def counted(self: Decoder, padded: Any, executes: Any, numbers: Any) -> None:
        told.append(len(numbers))
        plan(self, padded, executes, numbers)

    monkeypatch.setattr(Decoder, "plan", counted)
    assert read(path) is not None
    assert len(told) == 301
    assert sum(told[1:]) == 300


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*Kind, 0, 13, 255]), st.integers(0, 0xFFFF), st.binary(max_size=64),
            st.sampled_from([None, 0, 7, 8, 12, 0xFFFF]),
        ),
        max_size=12,
    ),
    st.sampled_from([7, 0x8F, 0x10087, 0x1048F]),
)  # fmt: skip
@settings(deadline=None, max_examples=100)
def test_any_records_give_rows_or_one_line(
    records: list[tuple[int, int, bytes, int | None]], sample_type: int
) -> None:
    """As one of perf's would have them: types that are known and not, sizes that are right and not."""
    body = b"".join(
        struct.pack("<IHH", kind, misc, 8 + -(-len(data) // 8) * 8 if size is None else size)
        + data.ljust(-(-len(data) // 8) * 8, b"\0")
        for kind, misc, data, size in records
    )
    head = HEADER.pack(
        b"PERFILE2", 104, ATTR_SIZE + 16, 104, ATTR_SIZE + 16, 120 + ATTR_SIZE, len(body), 0, 0, bytes(32)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.data")
        path.write_bytes(head + attr(sample_type) + body)
        read(path, ALL)


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_give_rows_or_one_line(data: bytes, marked: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.data")
        path.write_bytes((b"PERFILE2" + (104).to_bytes(8, "little") if marked else b"") + data)
        read(path, ALL)


def test_a_compressed_part_that_unpacks_without_end_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = small()
    make = zstd()
    at = HEADER.unpack_from(data)[5]
    packed = make().compress(record(Kind.FINISHED_ROUND, b"") * (1 << 27 >> 3))
    parts = [packed[first : first + 60_000] for first in range(0, len(packed), 60_000)]
    body = b"".join(struct.pack("<IHH", Kind.COMPRESSED, 0, 8 + len(part)) + part for part in parts)
    fields = list(HEADER.unpack_from(data))
    fields[6], fields[9] = len(body), bytes(32)
    path = tmp_path / "x.data"
    path.write_bytes(HEADER.pack(*fields) + data[HEADER.size : at] + body)
    monkeypatch.setattr("ksym.recording.stream._MOST_UNPACKED", 1)
    with pytest.raises(KsymError) as caught:
        open_recording(str(path))
    assert "it unpacks to an impossible size" in caught.value.line()
