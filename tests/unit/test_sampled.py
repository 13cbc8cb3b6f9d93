# SPDX-License-Identifier: BSD-2-Clause
"""Recordings of perf that have not every access: ``-c 100``, ``-F 99``, or perf's own rate where none was asked for."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from ksym.linux.perf_record import record
from ksym.recording.perf_file import ATTR_SIZE, HEADER, Kind
from ksym.recording.reader import open_recording
from ksym.watch.rings import SAMPLE_TYPE
from support.recordings import ksym
from synthetic import perf

BY_RATE = 1 << 10
ONE_IN_100 = "one hit in 100 was sampled; perf record -c 1 takes all"
RATE = "samples were taken at a rate of 4,000 a second; perf record -c 1 takes all"


def made(path: Path, *events: tuple[int, int]) -> None:
    """Two writers on two CPUs, by turns and close together, as perf records it: (period, flags) of each event."""
    attrs = b""
    at = HEADER.size + len(events) * (ATTR_SIZE + 16)
    for number, (period, flags) in enumerate(events):
        fields = (5, ATTR_SIZE, 0, period, SAMPLE_TYPE, 4, 1 << 18 | flags, 0, 3, 0x404000, 4)
        attrs += struct.pack("<IIQQQQQIIQQ", *fields).ljust(ATTR_SIZE, b"\0")
        attrs += struct.pack("<QQ", at + 8 * number, 8)
    attrs += struct.pack(f"<{len(events)}Q", *range(1, len(events) + 1))
    data = b"".join(
        perf.sample(1000 + 100 * each, cpu=each % 2, ip=0x401000, pid=9, tid=9 + each % 2)
        for each in range(10)
    )
    data += record(Kind.FINISHED_ROUND, b"")
    where = (HEADER.size, 128 * len(events), HEADER.size + len(attrs), len(data))
    path.write_bytes(HEADER.pack(b"PERFILE2", HEADER.size, 128, *where, 0, 0, bytes(32)) + attrs + data)


@pytest.mark.parametrize(
    ("events", "sampled"),
    [
        ([(1, 0)], None),
        ([(100, 0)], ONE_IN_100),
        ([(1, 0), (100, 0)], ONE_IN_100),
        ([(4000, BY_RATE)], RATE),
        ([(100, 0), (4000, BY_RATE)], f"{ONE_IN_100.partition(';')[0]} and {RATE}"),
    ],
)
def test_how_perf_chose(tmp_path: Path, events: list[tuple[int, int]], sampled: str | None) -> None:
    made(tmp_path / "x.data", *events)
    assert open_recording(str(tmp_path / "x.data")).sampled == sampled


def test_what_samples_do_not_tell_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    file = tmp_path / "x.data"
    made(file, (1, 0))
    status, text, _ = ksym("report", str(file))
    assert status == 0
    assert "10 accesses (10 hits), 0 lost, 0 suppressed" in text
    assert " 100.0%        10 " in text
    data = json.loads(ksym("report", "--json", str(file))[1])
    assert data["sampled"] is None
    assert data["variables"][0]["rows"][0]["share"] == 1
    made(file, (100, 0))
    text = ksym("report", str(file))[1]
    assert f"counted  10 samples, 0 lost; {ONE_IN_100}\n" in text
    assert "\n SAMPLES " in text
    for word in ("SHARE", "ACCESSES", "accesses", "%", "look here"):
        assert word not in text
    data = json.loads(ksym("report", "--json", str(file))[1])
    assert data["sampled"] == ONE_IN_100
    assert data["variables"][0]["rows"][0]["share"] is None
    assert set(data["variables"][0]["findings"].values()) == {None}


def test_rows_and_exports_say_so(tmp_path: Path) -> None:
    file, out = tmp_path / "x.data", tmp_path / "out"
    made(file, (4000, BY_RATE))
    said = f"ksym: {file} has not every access: {RATE}\n"
    # what its end is missing is told, too
    assert ksym("script", str(file))[2].startswith(said)
    assert ksym("script", "-q", str(file))[2] == ""
    assert ksym("export", "--to", "csv", "-o", str(out), str(file))[2].startswith(
        f"ksym: {out}: 10 accesses\n{said}"
    )
