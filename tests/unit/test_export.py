# SPDX-License-Identifier: BSD-2-Clause
"""Every export, read again by a library of its own, has the rows that ksym prints."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.api.recording import Columns
from ksym.exports import folded, parquet, perfetto, protobuf, rows, speedscope
from ksym.exports.flames import chains
from ksym.recording.accesses import KINDS, Accesses
from ksym.symbols.types import Enum, Float, Pointer, Type
from ksym.views.fields import NAMES
from support.accesses import START, Row, make_accesses, make_watch
from support.exports import EVERYTHING, INT, POINT, SEVERAL, STATE, as_json, plain, written

pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def table(accesses: Accesses, **more: Any) -> Any:
    return pq.read_table(io.BytesIO(written(parquet.write, accesses, **more)))


def utf8(text: str) -> str:
    """A byte that is not UTF-8 has one name in all outputs."""
    return text.encode(errors="replace").decode().replace("?", "\ufffd") if "\udcff" in text else text


# -- rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accesses", SEVERAL)
def test_csv_and_json_lines(accesses: Accesses) -> None:
    lines = written(rows.write, accesses, name="json").decode().splitlines()
    assert [json.loads(line) for line in lines] == as_json(accesses)
    found = list(csv.DictReader(io.StringIO(written(rows.write, accesses, name="csv").decode(), newline="")))
    assert len(found) == len(accesses)
    for row, expected in zip(found, as_json(accesses), strict=True):
        assert tuple(row) == NAMES
        for name in ("time_ns", "cpu", "pid", "tid", "hits", "length"):
            assert int(row[name]) == expected[name]
        assert (row["symbol"], row["access"], row["ip"]) == (
            expected["symbol"],
            expected["access"],
            expected["ip"],
        )
        if isinstance(expected["new"], int) and not isinstance(expected["new"], bool):
            assert int(row["new"]) == expected["new"]


# -- Parquet and Arrow -------------------------------------------------------------------------------------


@pytest.mark.parametrize("accesses", SEVERAL)
@pytest.mark.parametrize("fleet", [False, True])
def test_parquet(accesses: Accesses, fleet: bool) -> None:
    found = table(accesses, fleet=fleet).to_pylist()
    expected = as_json(accesses)
    assert len(found) == len(expected)
    decoders = accesses.decoders()
    for number, (row, wanted) in enumerate(zip(found, expected, strict=True)):
        for name in ("time_ns", "cpu", "pid", "tid", "length", "access", "offset", "hits", "uid"):
            assert row[name] == wanted[name], name
        for name in ("comm", "symbol", "function", "instruction", "module"):
            assert row[name] == (wanted[name] and utf8(wanted[name])), name
        for name in ("address", "ip", "instruction_address"):
            assert row[name] == (wanted[name] and int(wanted[name], 16)), name
        assert row["stack"] == wanted["stack"]
        assert np.datetime64(row["time"].replace(tzinfo=None), "us").astype(int) == wanted["time_ns"] // 1000
        watch = int(accesses.watch[number])
        for which in ("old", "new"):
            known = getattr(accesses, f"{which}_known")[number]
            value = decoders[watch].of(getattr(accesses, which)[number].tobytes()) if known else None
            shown = row[f"{which}_text"]
            if value is None:
                assert (row[which], shown) == (None, None)
            elif shown is None:
                assert str(row[which]) == value.text
            else:
                assert shown == value.text
                kind = accesses.watches[watch].variable.type
                if isinstance(kind, (Enum, Pointer)):
                    length = accesses.watches[watch].variable.length
                    assert row[which] == int.from_bytes(
                        getattr(accesses, which)[number, :length].tobytes(), "little"
                    )


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["int"], "int64"), (["unsigned int"], "int64"), (["unsigned long"], "uint64"), ([STATE], "int64"),
        ([Float("float", 4)], "double"), ([POINT], "int64"), (["long", POINT], "int64"),
        (["unsigned long", "int"], "decimal128(20, 0)"), (["int", Float("double", 8)], "int64"),
        ([Pointer("void *", 8, lambda: INT)], "uint64"),
    ],
)  # fmt: skip
def test_values_are_typed(kinds: list[str | Type], expected: str) -> None:
    watches = [make_watch(f"./prog:v{index}", kind, index=index) for index, kind in enumerate(kinds)]
    accesses = make_accesses([Row(watch=index, new=1) for index in range(len(kinds))], watches=watches)
    for each in (accesses, accesses.select(slice(0, 0))):
        schema = table(each).schema
        assert (str(schema.field("old").type), str(schema.field("new").type)) == (expected, expected)
        assert str(schema.field("time").type) == "timestamp[ns, tz=UTC]"
        assert str(schema.field("symbol").type).startswith("dictionary<values=string")


def test_every_bit_of_64_is_kept() -> None:
    made = [Row(new=2**64 - 1), Row(new=2**63, watch=0), Row(new=-(2**63), watch=1)]
    watches = [make_watch("./prog:u", "unsigned long"), make_watch("./prog:s", "long", index=1)]
    accesses = make_accesses(made, watches=watches)
    for fleet in (False, True):
        new = table(accesses, fleet=fleet).column("new").to_pylist()
        assert new == [Decimal(2**64 - 1), Decimal(2**63), Decimal(-(2**63))]


def test_row_groups_and_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS", 4)
    data = written(parquet.write, plain(9))
    file = pq.ParquetFile(io.BytesIO(data))
    assert [file.metadata.row_group(number).num_rows for number in range(3)] == [4, 4, 1]
    column = file.metadata.row_group(1).column(0)
    assert (column.path_in_schema, column.compression) == ("time_ns", "ZSTD")
    assert (column.statistics.min, column.statistics.max) == (START + 4000, START + 7000)
    assert file.read().column("new").to_pylist() == [number * 3 - 6 for number in range(9)]


def test_a_fleet_has_one_schema() -> None:
    schemas = [table(accesses, fleet=True).schema for accesses in SEVERAL]
    assert all(schema.equals(schemas[0]) for schema in schemas)
    assert str(schemas[0].field("time").type) == "timestamp[us, tz=UTC]"


def test_a_disk_that_is_full_ends_the_export() -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > 5000:
                raise OSError(28, "No space left on device")
            return super().write(data)

    with pytest.raises(OSError, match="No space"):
        parquet.write(plain(400_000), Full())


def test_columns() -> None:
    expected = as_json(EVERYTHING)
    columns = Columns(EVERYTHING)
    assert list(columns) == list(NAMES)
    for name in NAMES:
        found: list[Any] = columns[name].tolist()
        if name in ("address", "ip", "instruction_address"):
            found = [value if value is None else hex(value) for value in found]
        elif name == "stack":
            found = [value if value is None else list(value) for value in found]
        elif name in ("old", "new"):
            found = [str(value) if value in (math.inf, -math.inf) else value for value in found]
        assert found == [row[name] for row in expected], name
    assert columns["time_ns"].dtype == np.int64
    assert Columns(plain())["new"].dtype == np.int64
    some = Columns(make_accesses([Row(new=1), Row()]))["new"]
    assert (some.tolist(), some.sum()) == ([1, None], 1)
    assert columns["cpu"] is columns["cpu"]
    with pytest.raises(KeyError):
        columns["no"]


# -- Perfetto ------------------------------------------------------------------------------------------------


class Trace:
    """A trace as Perfetto's own classes read it."""

    def __init__(self, data: bytes) -> None:
        classes = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
        self.trace = classes.Trace.FromString(data)
        # Compact again, the numbers have the least bytes: nothing was there that the classes do not know.
        assert classes.Trace.FromString(self.trace.SerializeToString()) == self.trace
        assert len(self.trace.SerializeToString()) <= len(data)
        self.names: dict[str, dict[int, Any]] = {}
        self.tracks: dict[int, Any] = {}
        self.events = []
        for packet in self.trace.packet:
            assert packet.trusted_packet_sequence_id == 1
            if packet.HasField("track_descriptor"):
                self.tracks[packet.track_descriptor.uuid] = packet.track_descriptor
            for field, values in packet.interned_data.ListFields():
                known = self.names.setdefault(field.name, {})
                for value in values:
                    assert value.iid not in known
                    known[value.iid] = value
            if packet.HasField("track_event"):
                event = packet.track_event
                assert event.track_uuid in self.tracks
                assert event.type == event.TYPE_COUNTER or event.name_iid in self.names["event_names"]
                self.events.append((packet.timestamp, event))

    def arguments(self, event: Any) -> dict[str, Any]:
        found = {}
        for each in event.debug_annotations:
            which = each.WhichOneof("value")
            value = getattr(each, which)
            if which == "string_value_iid":
                value = self.names["debug_annotation_string_values"][value].str.decode()
            found[self.names["debug_annotation_names"][each.name_iid].name] = value
        if event.callstack_iid:
            frames = [
                self.names["frames"][frame]
                for frame in self.names["callstacks"][event.callstack_iid].frame_ids
            ]
            found["stack"] = [
                self.names["function_names"][frame.function_name_id].str.decode() for frame in frames
            ]
        return found

    def instants(self, kind: str) -> list[tuple[int, Any, str, dict[str, Any]]]:
        """Time, track, name and arguments of the events on tracks of threads or CPUs."""
        return [
            (
                time,
                self.tracks[event.track_uuid],
                self.names["event_names"][event.name_iid].name,
                self.arguments(event),
            )
            for time, event in self.events
            if event.type == event.TYPE_INSTANT
            and self.tracks[event.track_uuid].HasField("thread") == (kind == "thread")
        ]


def by_time(
    instants: list[tuple[int, Any, str, dict[str, Any]]],
) -> list[tuple[int, Any, str, dict[str, Any]]]:
    return sorted(instants, key=lambda instant: instant[0])


@pytest.mark.parametrize("accesses", SEVERAL)
@pytest.mark.parametrize("at_once", [7, 1 << 16])
def test_perfetto(accesses: Accesses, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perfetto, "_ROWS", at_once)
    trace = Trace(written(perfetto.write, accesses))
    expected = as_json(accesses)
    threads, cpus = by_time(trace.instants("thread")), by_time(trace.instants("cpu"))
    assert len(threads) == len(cpus) == len(accesses)
    decoders = accesses.decoders()
    for number, (row, thread, cpu) in enumerate(zip(expected, threads, cpus, strict=True)):
        time, track, name, arguments = thread
        assert time == cpu[0] == row["time_ns"]
        assert (track.thread.pid, track.thread.tid) == (row["pid"], row["tid"])
        assert trace.tracks[track.parent_uuid].process.pid == row["pid"]
        assert name == cpu[2] == f"{row['access']} {row['symbol']}"
        assert cpu[1].name == f"CPU {row['cpu']}"
        assert cpu[3] == {"task": f"{utf8(row['comm'])}-{row['tid']}"}
        assert arguments["cpu"] == row["cpu"]
        assert arguments.get("hits", 1) == row["hits"]
        assert arguments.get("instruction") == row["instruction"]
        assert arguments["function"] == str(accesses.sites[accesses.site[number]].named)
        assert arguments.get("stack") == (row["stack"] and row["stack"][::-1])
        for which in ("old", "new"):
            value = arguments.get(which)
            assert (value is None) == (not getattr(accesses, f"{which}_known")[number])
            if isinstance(value, str):
                decode = decoders[accesses.watch[number]].of
                assert value == decode(getattr(accesses, which)[number].tobytes()).text
            elif value is not None:
                assert value == (float(row[which]) if isinstance(value, float) else row[which])


def test_perfetto_counters() -> None:
    made = [
        Row(time=1, new=5, pid=1), Row(time=2, new=5, pid=1), Row(time=3, new=-6, pid=1), Row(time=4, new=5, pid=2),
        Row(time=5, pid=1), Row(time=6, new=-6, pid=1), Row(time=7, new=2**64 - 1, watch=1),
        Row(time=8, new=1, watch=2, cpu=3),
    ]  # fmt: skip
    watches = [
        make_watch("./prog:counter", "long"), make_watch("big", "unsigned long", index=1),
        make_watch("mine", "int", index=2, per_cpu={3: 0x4000}),
    ]  # fmt: skip
    trace = Trace(written(perfetto.write, make_accesses(made, watches=watches)))
    found = []
    for time, event in trace.events:
        if event.type == event.TYPE_COUNTER:
            track = trace.tracks[event.track_uuid]
            value = getattr(event, event.WhichOneof("counter_value_field"))
            process = trace.tracks[track.parent_uuid].process.pid if track.parent_uuid else None
            assert track.HasField("counter")
            found.append((time - START, track.name, process, value))
    assert sorted(found) == [
        (1, "./prog:counter", 1, 5), (3, "./prog:counter", 1, -6), (4, "./prog:counter", 2, 5),
        (7, "big", None, float(2**64 - 1)), (8, "mine of CPU 3", None, 1),
    ]  # fmt: skip


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.integers(0, 2**64 - 1))
def test_messages_of_columns(numbers: list[int], same: int) -> None:
    classes = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    column = np.array(numbers, np.int64)
    parts = protobuf.message(
        1, protobuf.number(8, same), protobuf.message(11, protobuf.number(30, column), protobuf.text(23, "name")),
        protobuf.message(11, protobuf.real(44, column.astype(np.float64))),
    )  # fmt: skip
    trace = classes.Trace.FromString(protobuf.rows(parts, len(numbers)))
    # counter_value is an int64; the second track_event of a packet is merged into the first.
    assert [packet.timestamp for packet in trace.packet] == [same] * len(numbers)
    assert [packet.track_event.double_counter_value for packet in trace.packet] == list(map(float, numbers))
    assert {packet.track_event.name for packet in trace.packet} == {"name"}
    alone = protobuf.message(1, protobuf.message(11, protobuf.number(30, column)))
    trace = classes.Trace.FromString(protobuf.rows(alone, len(numbers)))
    assert [packet.track_event.counter_value for packet in trace.packet] == numbers


# -- stacks --------------------------------------------------------------------------------------------------


def chain(accesses: Accesses, number: int) -> tuple[str, ...]:
    """The chain of one access, put together without numpy."""
    stack = accesses.stacks[accesses.stack[number]] if accesses.stack[number] >= 0 else ()
    frames = stack or (accesses.sites[accesses.site[number]].named,)
    names = [
        (frame.function or hex(frame.offset)) + (f" [{frame.owner}]" if frame.owner else "")
        for frame in frames
    ]
    kind, symbol = KINDS[accesses.kind[number]], accesses.watches[accesses.watch[number]].name
    return (f"{kind} {symbol}", utf8(accesses.comms[accesses.comm[number]]), *reversed(names))


@pytest.mark.parametrize("accesses", SEVERAL)
def test_chains(accesses: Accesses) -> None:
    found = chains(accesses)
    assert [found.chains[code] for code in found.codes] == [
        chain(accesses, at) for at in range(len(accesses))
    ]


def test_folded() -> None:
    lines = written(folded.write, EVERYTHING).decode().splitlines()
    found = {line.rpartition(" ")[0]: int(line.rpartition(" ")[2]) for line in lines}
    assert len(found) == len(lines)
    expected = Counter(
        ";".join(
            "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name).replace(
                ";", ":"
            )
            for name in chain(EVERYTHING, at)
        )
        for at in range(len(EVERYTHING))
    )
    assert found == expected
    assert not written(folded.write, plain(0))


@pytest.mark.parametrize("accesses", SEVERAL)
def test_speedscope(accesses: Accesses) -> None:
    found = json.loads(written(speedscope.write, accesses))
    assert found["$schema"] == "https://www.speedscope.app/file-format-schema.json"
    names = [frame["name"] for frame in found["shared"]["frames"]]
    seen: dict[str, list[tuple[str, ...]]] = {}
    for profile in found["profiles"]:
        assert (profile["type"], profile["unit"], profile["startValue"]) == ("sampled", "none", 0)
        assert len(profile["samples"]) == len(profile["weights"])
        assert profile["endValue"] == sum(profile["weights"])
        seen[profile["name"]] = [
            tuple(names[frame] for frame in sample)
            for sample, weight in zip(profile["samples"], profile["weights"], strict=True)
            for _ in range(weight)
        ]
    expected: dict[tuple[int, int], list[tuple[str, ...]]] = {}
    for at in range(len(accesses)):
        thread = int(accesses.pid[at]), int(accesses.tid[at])
        expected.setdefault(thread, []).append(chain(accesses, at))
    assert list(seen.values()) == [expected[thread] for thread in sorted(expected)]
