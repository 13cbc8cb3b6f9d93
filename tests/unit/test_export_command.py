# SPDX-License-Identifier: BSD-2-Clause
"""``ksym export``: the files that it leaves, a fleet's folder, and the queries of its page."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections import Counter
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ksym.commands import export
from ksym.commands.parser import parse
from ksym.errors import KsymError, UsageError
from ksym.exports import folded
from ksym.recording import reader
from ksym.views.fields import NAMES
from support.accesses import START
from support.docs import fenced
from support.exports import EVERYTHING, as_json, plain, written

duckdb = pytest.importorskip("duckdb")
pytest.importorskip("pyarrow")


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A recording, as the command would read it."""
    monkeypatch.chdir(tmp_path)
    found: Any = SimpleNamespace(
        accesses=lambda: found.columns,
        columns=EVERYTHING,
        machine=SimpleNamespace(hostname="host-1"),
        path="run.data",
        counts={},
        sampled=None,
        unopened=None,
        cut=None,
        following=None,
    )
    monkeypatch.setattr(reader, "open_recording", lambda path, progress: found)
    return found


def run(*words: str) -> int:
    return export.run(parse("export", export, words))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", export.ENDINGS)
def test_names_and_modes(
    name: str, recording: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("some/where/run.data", "--to", name) == 0
    out = tmp_path / f"run{export.ENDINGS[name]}"
    assert mode(out) == 0o600
    assert list(tmp_path.iterdir()) == [out]
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"ksym: {out.name}: 50 accesses\n")
    before = out.read_bytes()
    out.write_bytes(b"mine")
    with pytest.raises(KsymError) as raised:
        run("run.data", "--to", name)
    assert str(raised.value) == (
        f"cannot write {out.name}: it is there already; overwrite it with --force, or name another with -o"
    )
    assert out.read_bytes() == b"mine"
    run("run.data", "--to", name, "--force")
    assert out.read_bytes() == before
    assert mode(out) == 0o600


def test_a_cut_recording_is_told_of(recording: Any, capsys: pytest.CaptureFixture[str]) -> None:
    recording.cut = "the end of the file is missing"
    run("run.data", "--to", "csv", "-o", "x")
    recording.counts, recording.sampled = {"lost": 2}, "one hit in 100 was sampled"
    run("run.data", "--to", "csv", "-o", "x", "--force")
    assert capsys.readouterr().err.splitlines() == [
        "ksym: x: 50 accesses",
        "ksym: run.data is not whole: the end of the file is missing",
        "ksym: x: 50 accesses",
        "ksym: run.data has not every access: one hit in 100 was sampled",
        "ksym: run.data: 2 hits lost while it was recorded",
        "ksym: run.data is not whole: the end of the file is missing",
    ]


def test_a_selection(recording: Any, tmp_path: Path) -> None:
    run("run.data", "--to", "jsonl", "--only", "W,RW", "--symbol", "./prog:signed", "-o", "x")
    found = [json.loads(line) for line in (tmp_path / "x").read_text().splitlines()]
    assert found == [
        row
        for row in as_json(EVERYTHING)
        if row["access"] in ("W", "RW") and row["symbol"] == "./prog:signed"
    ]


def test_stdout(recording: Any, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("run.data", "--to", "folded", "-o", "-") == 0
    assert capsysbinary.readouterr() == (written(folded.write, EVERYTHING), b"")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "the following arguments are required: --to"),
        (("--to", "xml"), "invalid choice: 'xml'"),
        (("--to", "parquet", "-o", "-"), "parquet is no text for stdout"),
        (("--to", "csv", "--partition", "-o", "x"), "--partition is for parquet, not for csv"),
        (("--to", "parquet", "--partition"), "--partition needs a folder"),
        (("--to", "parquet", "--partition", "-o", ""), "--partition needs a folder"),
        (("--to", "csv", "-o", ""), "its name is empty"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], why: str, recording: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        run("run.data", *words)
    assert why in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_what_fails_leaves_nothing(recording: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*anything: Any) -> None:
        anything[1].write(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(folded, "write", full)
    with pytest.raises(KsymError) as raised:
        run("run.data", "--to", "folded")
    assert str(raised.value).startswith("cannot write run.folded: No space left on device; ")
    with pytest.raises(KsymError, match=r"cannot write no/such/folder: No such file or directory; "):
        run("run.data", "--to", "folded", "-o", "no/such/folder")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()


def test_a_stream_is_written_to(recording: Any, tmp_path: Path) -> None:
    with pytest.raises(KsymError, match="cannot write /dev/full: No space left on device; "):
        run("run.data", "--to", "csv", "-o", "/dev/full")
    run("run.data", "--to", "csv", "-o", "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_library_that_is_missing(recording: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(KsymError) as raised:
        run("run.data", "--to", "parquet")
    assert str(raised.value) == "cannot export to parquet: pyarrow is not installed; pip install 'ksym[data]'"


# -- a fleet -----------------------------------------------------------------------------------------------------


def fleet(recording: Any, folder: Path) -> int:
    """Recordings of three hosts and different variables in one folder; how many accesses."""
    total = 0
    for host, accesses in (
        ("host-1", EVERYTHING),
        ("host-2", plain()),
        ("../o dd=/", plain(3, "unsigned long")),
    ):
        recording.columns, recording.machine.hostname = accesses, host
        assert run("run.data", "--to", "parquet", "--partition", "-o", str(folder)) == 0
        total += len(accesses)
    return total


def test_partition(recording: Any, tmp_path: Path) -> None:
    total = fleet(recording, tmp_path / "fleet" / "data")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.parquet"))
    assert found == [
        f"fleet/data/host={host}/date={date}/ksym-{START}.parquet"
        for host, date in (
            ("..%2Fo%20dd%3D%2F", "2026-11-23"), ("host-1", "2026-11-23"), ("host-1", "2026-11-24"),
            ("host-1", "2026-11-25"), ("host-2", "2026-11-23"),
        )
    ]  # fmt: skip
    assert {mode(path) for path in tmp_path.rglob("*.parquet")} == {0o600}
    assert {mode(path) for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}
    query = f"from read_parquet('{tmp_path}/fleet/data/**/*.parquet', hive_partitioning = true)"
    assert duckdb.sql(f"select count(*) {query}").fetchall() == [(total,)]
    sums = duckdb.sql(
        f"select host, count(*), sum(new) {query} where symbol = './prog:counter' group by 1 order by 1"
    )
    expected = [
        sum(number * 3 - 6 & 2**64 - 1 for number in range(3)),
        sum(number * 3 - 6 for number in range(9)),
    ]
    assert sums.fetchall() == [("../o dd=/", 3, Decimal(expected[0])), ("host-2", 9, Decimal(expected[1]))]
    days = duckdb.sql(
        f"select date, min(time_ns), count(*) {query} where host = 'host-1' group by 1 order by 1"
    ).fetchall()
    assert sum(count for _, _, count in days) == 50
    assert all(
        np.datetime64(date, "D") == np.datetime64(at, "ns").astype("datetime64[D]") for date, at, _ in days
    )


def test_an_empty_recording_adds_nothing(
    recording: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording.columns = EVERYTHING.select(slice(0))
    assert run("run.data", "--to", "parquet", "--partition", "-o", "fleet") == 0
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == "ksym: fleet: 0 accesses\n"


def test_the_same_recording_twice(recording: Any, tmp_path: Path) -> None:
    fleet(recording, tmp_path / "fleet")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    recording.columns, recording.machine.hostname = EVERYTHING, "host-1"
    with pytest.raises(KsymError, match="it is there already"):
        run("run.data", "--to", "parquet", "--partition", "-o", "fleet")
    run("run.data", "--to", "parquet", "--partition", "-o", "fleet", "--force")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == before


def test_a_host_without_a_name(recording: Any, tmp_path: Path) -> None:
    recording.columns, recording.machine.hostname = plain(), ""
    run("run.data", "--to", "parquet", "--partition", "-o", "fleet")
    query = (
        f"select distinct host from read_parquet('{tmp_path}/fleet/**/*.parquet', hive_partitioning = true)"
    )
    assert duckdb.sql(query).fetchall() == [(None,)]


@pytest.mark.skipif(os.environ.get("KSYM_SPARK") != "1", reason="make test-spark asks for it")
def test_spark(recording: Any, tmp_path: Path) -> None:
    sql = pytest.importorskip("pyspark.sql")
    if not shutil.which("java"):
        pytest.skip("Java is not installed")
    total = fleet(recording, tmp_path / "fleet")
    spark = (
        sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC").getOrCreate()
    )  # fmt: skip
    try:
        found = spark.read.parquet(str(tmp_path / "fleet"))
        assert found.count() == total
        assert {name for name, _ in found.dtypes} == {*NAMES, "time", "old_text", "new_text", "host", "date"}
        rows = found.where("host = 'host-2'").orderBy("time_ns").collect()
        assert [(row["time_ns"], row["new"], row["old"], row["access"]) for row in rows] == [
            (each["time_ns"], each["new"], each["old"], each["access"]) for each in as_json(plain())
        ]
        assert all(row["time"].microsecond == row["time_ns"] // 1000 % 10**6 for row in rows)
        chains = found.where("host = 'host-1' and stack is not null").select("stack").collect()
        assert Counter(tuple(row["stack"]) for row in chains) == Counter(
            tuple(row["stack"]) for row in as_json(EVERYTHING) if row["stack"]
        )
        assert {(row["host"], str(row["date"])) for row in found.select("host", "date").distinct().collect()} == {
            ("../o dd=/", "2026-11-23"), ("host-1", "2026-11-23"),
            ("host-1", "2026-11-24"), ("host-1", "2026-11-25"), ("host-2", "2026-11-23"),
        }  # fmt: skip
    finally:
        spark.stop()


# -- docs --------------------------------------------------------------------------------------------------------


def test_queries_of_the_docs(recording: Any, tmp_path: Path) -> None:
    """Each SQL query in docs/export.md runs, and finds something."""
    recording.columns = plain(2000)
    run("ksym.data", "--to", "parquet")
    run("ksym.data", "--to", "parquet", "--partition", "-o", "fleet")
    queries = fenced("export.md", "sql")
    assert len(queries) >= 4
    for query in queries:
        assert "─" in str(duckdb.sql(query)), query
        ((count,),) = duckdb.sql(f"select count(*) from ({query})").fetchall()
        assert count > 0, query
