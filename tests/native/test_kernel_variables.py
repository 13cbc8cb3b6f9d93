# SPDX-License-Identifier: BSD-2-Clause
"""Kernel variables: exact counts, types and places of accesses that a test makes on purpose."""

from __future__ import annotations

import csv
import json
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ksym.views.fields import NAMES
from native.running import ended, line, sample, started, summary
from support.program import Result, ksym, shell
from synthetic.compile import build

pytestmark = pytest.mark.native

# argv: names to take (PR_SET_NAME, 15), or "get" (PR_GET_NAME, 16)
COMM = r"""
#include <string.h>
#include <sys/prctl.h>
int main(int n, char **v) {
    char name[16];
    for (int i = 1; i < n; i++)
        strcmp(v[i], "get") ? prctl(PR_SET_NAME, v[i]) : prctl(PR_GET_NAME, name);
    return 0;
}
"""


def test_a_read_is_one_r_and_a_write_is_one_w() -> None:
    chosen = sample()
    value = chosen.file.read_text().strip()
    read = ksym("trace", chosen.request, "--format", "json", "--", "cat", str(chosen.file))
    write = ksym("trace", chosen.request, "--format", "json", *shell(f"echo {value} > {chosen.file}"))
    assert [row["access"] for row in read.rows()] == ["R"]
    assert [row["access"] for row in write.rows()] == ["W"]
    if chosen.request == "workqueue:panic_on_stall":  # the others have accessors of their own
        assert read.kinds() == [("R", "param_get_uint")]
        assert write.kinds() == [("W", "kstrtouint")]
    assert read.rows()[0]["comm"] == "cat"
    assert write.rows()[0]["comm"] == "sh"
    for result in (read, write):
        assert result.status == 0
        assert result.rows()[0]["hits"] == 1
        assert result.err == f"ksym: 1 access (1 hit), 0 lost, 0 disarmed; {chosen.request} 1\n"


def test_a_write_watch_sees_no_read() -> None:
    chosen = sample()
    request = f"{chosen.request}:-w-"
    read = ksym("trace", request, "--format", "json", "--", "cat", str(chosen.file))
    both = ksym("trace", request, "--format", "json", *shell(chosen.script))
    assert (read.rows(), summary(read.err).split(";")[0]) == (
        [], "ksym: 0 accesses (0 hits), 0 lost, 0 disarmed",
    )  # fmt: skip
    assert [row["access"] for row in both.rows()] == ["W"]


def test_many_reads_are_counted_one_by_one() -> None:
    chosen = sample()
    files = " ".join([str(chosen.file)] * 50)
    traced = ksym("trace", chosen.request, "--format", "json", *shell(f"cat {files}"))
    counted = ksym("stat", chosen.request, "--json", *shell(f"cat {files}"))
    assert [row["access"] for row in traced.rows()] == ["R"] * 50
    (row,) = (json.loads(text) for text in counted.out.splitlines() if text.startswith("{"))
    assert (row["hits"], row["symbol"]) == (50, chosen.request)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("comm"), "comm", COMM, "-O1")


def _comm(names: Path, target: str, *words: str) -> Result:
    result = ksym("trace", target, "--format", "json", "--", str(names), *words)
    assert result.status == 0
    assert " 0 lost" in summary(result.err)
    return result


def test_each_new_name_writes_its_first_character_once(names: Path) -> None:
    base = _comm(names, "task(self).comm[0]:-w-").rows()
    more = _comm(names, "task(self).comm[0]:-w-", "abc", "defghijk", "m").rows()
    assert [row["access"] for row in more] == ["W"] * len(more)
    assert len(more) - len(base) == 3
    assert {row["hits"] for row in more} == {1}


def test_each_reading_of_a_name_is_the_same_accesses(names: Path) -> None:
    def seen(*words: str) -> list[tuple[str, str, str, int]]:
        rows = _comm(names, "task(self).comm", *words).rows()
        return [(row["function"], row["access"], row["instruction"] or "", row["hits"]) for row in rows]

    none, one, three = seen("abcdefg"), seen("abcdefg", "get"), seen("abcdefg", "get", "get", "get")
    each = one[len(none) :]
    assert one[: len(none)] == none
    assert each
    assert three == none + 3 * each
    assert {access for _, access, *_ in each} == {"R"}
    # A loop over its bytes makes an access of each; only a string instruction takes more hits than there are pieces.
    assert max(hits for *_, instruction, hits in each if not instruction.startswith("rep")) <= 2


def test_hits_of_the_rows_add_up_to_the_counter(names: Path) -> None:
    words = ("abcdefgh", "get", "ij", "get")
    traced = _comm(names, "task(self).comm:-w-", *words)
    counted = ksym("stat", "task(self).comm:-w-", "--json", "--", str(names), *words)
    hits = sum(row["hits"] for row in traced.rows())
    assert hits == json.loads(counted.out)["hits"]
    assert f"({hits} hits)" in summary(traced.err)
    assert {row["length"] for row in traced.rows()} == {16}


def test_limit_is_exact() -> None:
    chosen = sample()
    with started("trace", chosen.request, "--limit", "7", "-q", "--no-fold") as process:
        # It is armed when the first row comes.
        while process.poll() is None:
            chosen.file.read_text()
        out, error = ended(process)
    assert process.returncode == 0
    assert len(out.splitlines()) == 7
    assert summary(error).startswith("ksym: 7 accesses (7 hits), 0 lost")


def test_duration_ends_a_run() -> None:
    chosen = sample()
    result = ksym("trace", chosen.request, "--duration", "0.05", timeout=30)
    assert result.status == 0
    assert summary(result.err)


def test_table_has_the_columns_of_the_contract() -> None:
    chosen = sample()
    result = ksym("trace", chosen.request, "--", "cat", str(chosen.file))
    header, *rows = (text for text in result.out.splitlines() if not text.strip().isdigit())
    assert re.fullmatch(r"TIME +TASK-PID +CPU +SYMBOL +TYPE +OLD -> NEW +FUNCTION", header)
    (row,) = rows
    found = re.fullmatch(r"\d\d:\d\d:\d\d\.\d{4} cat-\d+ +\d{3}  (\S+) +R +(\S+) +(\w+)\+0x[0-9a-f]+", row)
    assert found
    assert (found[1], found[2]) == (chosen.request, chosen.file.read_text().strip())
    assert row.index(chosen.request) == header.index("SYMBOL")
    assert row.index(found[3]) == header.index("FUNCTION")


def test_json_keys_come_in_the_order_of_the_contract() -> None:
    chosen = sample()
    (row,) = ksym("trace", chosen.request, "-g", "--format", "json", "--", "cat", str(chosen.file)).rows()
    contract = "time_ns cpu pid tid comm symbol address length access old new ip function offset instruction hits stack"
    assert list(row)[:17] == contract.split()
    assert list(row) == list(NAMES)
    value = int(chosen.file.read_text())
    assert (row["old"], row["new"]) == (value, value)
    assert row["stack"][0] == f"{row['function']}+{row['offset']:#x}"
    assert any("vfs_read" in frame for frame in row["stack"])


def test_ksym_format_is_that_of_2_6_35() -> None:
    chosen = sample()
    result = ksym("trace", chosen.request, "--format", "ksym", "--", "cat", str(chosen.file))
    rows = [text for text in result.out.splitlines() if not text.strip().isdigit()]
    assert rows[:2] == [
        "#       TASK-PID   CPU#      Symbol                    Type    Function",
        "#          |        |          |                        |         |",
    ]
    symbol = re.escape(chosen.request)
    assert re.fullmatch(rf"        cat-\d+ +\[\d{{3}}\] {symbol}\+0x0/0x\d R  \w+\+0x\w+/0x\w+", rows[2])


def test_csv_has_a_header_and_a_row_an_access() -> None:
    chosen = sample()
    result = ksym(
        "trace", chosen.request, "-q", "--format", "csv", "-o", "/dev/stderr", "--", "cat", str(chosen.file)
    )
    lines = result.err.splitlines()[:2]
    assert lines[0] == ",".join(NAMES)
    (row,) = csv.DictReader(lines)
    value = chosen.file.read_text().strip()
    assert (row["access"], row["hits"], row["old"], row["stack"]) == ("R", "1", value, "")


def test_a_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    chosen = sample()
    before = os.umask(0)
    try:
        result = ksym("trace", chosen.request, "-o", str(tmp_path / "rows"), "--", "cat", str(chosen.file))
    finally:
        os.umask(before)
    assert (tmp_path / "rows").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "rows").read_text().splitlines()) == 2
    assert result.out == chosen.file.read_text()


def test_intervals_of_stat_sum_up_to_the_total(tmp_path: Path) -> None:
    chosen = sample()
    fifo = tmp_path / "go"
    os.mkfifo(fifo)
    script = f"cat {chosen.file}; read x < {fifo}; cat {chosen.file} {chosen.file}"
    with started("stat", chosen.request, "-I", "20", "--json", "--", "sh", "-c", script) as process:
        rows: list[dict[str, Any]] = []
        while len([row for row in rows if "seconds" in row]) < 3:
            text = line(process)
            rows.append(json.loads(text) if text.startswith("{") else {})
        fifo.write_text("on\n")
        out, error = ended(process)
    rows += [json.loads(text) for text in out.splitlines() if text.startswith("{")]
    intervals = [row for row in rows if "seconds" in row]
    assert sum(row["hits"] for row in intervals) == 3
    assert all(a["seconds"] <= b["seconds"] for a, b in pairwise(intervals))
    assert summary(error) == f"ksym: 3 hits, 0 lost, 0 disarmed; {chosen.request} 3"


def test_stat_prints_a_line_a_request() -> None:
    chosen = sample()
    result = ksym("stat", chosen.request, "task(self).comm[0]", "--", "cat", str(chosen.file))
    lines = result.out.splitlines()
    assert re.fullmatch(r" +HITS  SYMBOL", lines[-3])
    assert lines[-2].split() == ["1", f"{chosen.request}:rw-"]


def test_two_watches_of_one_run_keep_apart() -> None:
    chosen = sample()
    result = ksym(
        "trace", chosen.request, "task(self).comm[0]:-w-", "--format", "json", "--", "cat", str(chosen.file)
    )
    symbols = [row["symbol"] for row in result.rows()]
    assert symbols.count(chosen.request) == 1
    assert symbols.count("task(self).comm[0]") == 1  # cat's own exec
    assert summary(result.err).endswith(f"; {chosen.request} 1, task(self).comm[0] 1")


def test_only_the_chosen_process_counts() -> None:
    chosen = sample()
    with started(
        "trace", chosen.request, "-p", str(os.getpid()), "--format", "json", "--limit", "2"
    ) as process:
        other = ksym("trace", chosen.request, "--", "cat", str(chosen.file))  # somebody else's read
        while process.poll() is None:
            chosen.file.read_text()
        out, _ = ended(process)
    assert other.status == 0
    assert [json.loads(text)["pid"] for text in out.splitlines()] == [os.getpid()] * 2


def test_resolve_tells_address_type_and_source() -> None:
    chosen = sample()
    text = ksym("resolve", chosen.request)
    (row,) = (json.loads(each) for each in ksym("resolve", chosen.request, "--json").out.splitlines())
    assert text.status == 0
    assert text.out.startswith(f"{chosen.request}  (kernel)\n  address    {row['address']}  ")
    assert "registers  needs 1, 2 with twins; 4 are free\n" in text.out
    assert row["pieces"] == [{"offset": 0, "length": row["length"]}]
    assert (row["registers"], row["free_registers"], row["space"]) == (1, 4, "kernel")
    assert row["registers_with_twins"] == 2
    assert {fact["what"] for fact in row["facts"]} >= {"address"}


def test_resolve_adds_up_registers() -> None:
    result = ksym("resolve", "task(1).comm", "task(self).comm", "task(1).signal->rlim")
    assert result.status == 0
    assert "registers  needs 2, 4 with twins; 4 are free\n" in result.out
    assert re.search(r"registers  needs \d\d, 4 are free: too many\n", result.out)
    assert re.search(r"registers for all: needs \d+, 4 are free: too many\n$", result.out)
    both = ksym("resolve", "task(1).comm", sample().request)
    assert both.out.endswith("registers for all: needs 3, 6 with twins; 4 are free\n")


def test_resolve_counts_the_registers_of_reads_and_of_writes() -> None:
    request = sample().request
    for access, registers in (("r--", 2), ("-w-", 1)):
        text = ksym("resolve", f"{request}:{access}")
        row = json.loads(ksym("resolve", f"{request}:{access}", "--json").out)
        assert f"registers  needs {registers}, 4 are free\n" in text.out
        assert (row["registers"], row["registers_with_twins"]) == (registers, registers)


def test_resolve_refuses_a_condition_that_does_not_fit() -> None:
    request = sample().request
    for options in ((), ("--json",), ("--program",)):
        result = ksym("resolve", f"{request} if new.b == 1", *options)
        assert (result.status, result.out) == (2, "")
        assert "which has no members" in result.err


def test_resolve_prints_the_programs_that_trace_would_run() -> None:
    request = sample().request
    for words, titles in (
        ((request,), ["the W register of a twin", "the RW register of a twin"]),
        ((f"{request}:-w-",), ["its piece's only register"]),
        (("task(1).comm", request), ["its piece's only register"] * 3),
    ):
        result = ksym("resolve", "--program", *words)
        assert result.status == 0
        assert re.findall(r"  ksym_hit\w*, (.*? (?:of a twin|register)),", result.out) == titles
    for_all, in_process = (
        ksym("resolve", "--program", request, *p).out for p in ((), ("-p", str(os.getpid())))
    )
    assert len(in_process.splitlines()) < len(for_all.splitlines())  # without the guard
    refused = ksym("resolve", "--program", "--json", request)
    assert (refused.status, refused.out) == (2, "")
    assert "not allowed with argument" in refused.err


def test_doctor_and_selftest_say_that_this_machine_works() -> None:
    doctor = ksym("doctor", "--json")
    findings = {row["what"]: row for row in map(json.loads, doctor.out.splitlines())}
    assert doctor.status == 0
    assert findings["watch kernel variables"]["state"] == "ok"
    assert findings["debug registers"]["found"].startswith("4 free on every CPU")
    assert all(row["cure"] for row in findings.values() if row["state"] == "NO")
    selftest = ksym("selftest")
    assert selftest.status == 0
    assert "FAILED" not in selftest.out
    assert selftest.out.endswith("registers given back: 4 of 4 free\n")


def test_demo_shows_reads_and_a_write_and_changes_nothing() -> None:
    before = Path("/proc/sys/kernel/pid_max").read_text()
    result = ksym("demo", timeout=30)
    assert result.status == 0
    assert Path("/proc/sys/kernel/pid_max").read_text() == before
    table = result.out.partition("who touched")[2]
    assert re.search(r"\d+  R ", table)
    assert re.search(r" 1  W +sh ", table)
