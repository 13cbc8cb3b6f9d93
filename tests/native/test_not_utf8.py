# SPDX-License-Identifier: BSD-2-Clause
"""Names that are bytes and no text: of files, functions, tasks. In every output they are UTF-8, with U+FFFD."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, NoReturn

import pytest

import ksym
from support.program import command, environment
from synthetic.compile import build

pytestmark = pytest.mark.native

ODD = rb"""
#include <sys/prctl.h>
volatile unsigned tally;
void (*volatile hook)(void);
void bump(void) __asm__("na\xefve\x80");
__attribute__((noinline)) void bump(void) { tally += 5; }
int main(void) {
    prctl(PR_SET_NAME, "t\xe2sk");
    for (int left = 4; left > 0; left--) bump();
    hook = bump;
    return 0;
}
"""
FUNCTION, FILE, TASK = "na\ufffdve\ufffd", "pr\ufffdg", "t\ufffdsk"


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with the program, whose name is not UTF-8, either."""
    source = ODD.decode("latin-1").replace("\xef", "\\xef").replace("\x80", "\\x80").replace("\xe2", "\\xe2")
    # Adjacent strings: an escape ends where its string does.
    source = source.replace('"na\\xefve\\x80"', '"na\\xef" "ve\\x80"').replace('"t\\xe2sk"', '"t\\xe2" "sk"')
    program = build(tmp_path, "plain", source, "-g", "-O1", "-no-pie")
    os.rename(os.fsencode(program), os.fsencode(tmp_path) + b"/pr\xf8g")
    return tmp_path


def refuse(text: str) -> NoReturn:
    raise ValueError(text)


def strict(line: bytes) -> Any:
    """JSON as a strict parser takes it: UTF-8, no lone surrogate, no NaN."""
    found = json.loads(line.decode("utf-8"), parse_constant=refuse)
    json.dumps(found, ensure_ascii=False).encode("utf-8")
    return found


def said(folder: Path, *words: str | bytes) -> bytes:
    done = subprocess.run(
        [*command(), *words], cwd=folder, env=environment(), capture_output=True, check=True
    )
    assert "\\udc" not in done.stderr.decode("utf-8")
    assert "\\udc" not in done.stdout.decode("utf-8")
    return done.stdout


REQUESTS = (b"./pr\xf8g:tally:-w-", b"./pr\xf8g:hook:-w-")
RUN = (b"--", b"./pr\xf8g")


def test_rows_and_counts(odd: Path) -> None:
    rows = [
        strict(line) for line in said(odd, "trace", "-g", "--format", "json", *REQUESTS, *RUN).splitlines()
    ]
    assert [row["function"] for row in rows] == [FUNCTION] * 4 + ["main"]
    assert {(row["comm"], row["module"]) for row in rows} == {(TASK, FILE)}
    assert rows[-1]["new"] == FUNCTION
    assert rows[0]["stack"][0].startswith(f"{FUNCTION}+")
    for form in ("table", "csv", "ksym"):
        times = 4 if form == "ksym" else 5  # it has no values
        assert said(odd, "trace", "--format", form, *REQUESTS, *RUN).decode().count(FUNCTION) == times
    counts = [
        strict(line) for line in said(odd, "stat", "--by", "function", "--json", *REQUESTS, *RUN).splitlines()
    ]
    assert {count["function"] for count in counts} == {FUNCTION, "main"}


def test_recordings_and_what_is_made_of_them(odd: Path) -> None:
    data = os.fsencode(odd) + b"/r\xe9c.data"
    said(odd, "record", "-g", "-o", data, *REQUESTS, *RUN)
    rows = [strict(line) for line in said(odd, "script", "--format", "json", data).splitlines()]
    assert [row["function"] for row in rows] == [FUNCTION] * 4 + ["main"]
    assert FUNCTION in json.dumps(strict(said(odd, "report", "--json", data)), ensure_ascii=False)
    assert FUNCTION in said(odd, "report", data).decode()
    for form in ("jsonl", "csv", "folded", "speedscope", "perfetto", "parquet"):
        out = odd / f"out.{form}"
        said(odd, "export", data, "--to", form, "-o", str(out))
        assert FUNCTION.encode() in out.read_bytes() or form == "parquet" or "\\ufffd" in out.read_text()
    recording = ksym.open(os.fsdecode(data))
    accesses = list(recording)
    assert {(each.comm, each.module) for each in accesses} == {(TASK, FILE)}
    assert {each.function for each in accesses} == {FUNCTION, "main"}
    if pytest.importorskip("pyarrow"):
        assert set(recording.to_arrow()["function"].to_pylist()) == {FUNCTION, "main"}


def test_the_api(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(odd)
    requests = [os.fsdecode(request) for request in REQUESTS]
    with ksym.trace(*requests, command=[os.fsdecode(RUN[1])], stacks=True) as accesses:
        found = list(accesses)
    assert [each.function for each in found] == [FUNCTION] * 4 + ["main"]
    assert {(each.comm, each.module, each.symbol[:6]) for each in found} == {(TASK, FILE, f"./{FILE}")}
    assert found[-1].new == FUNCTION
