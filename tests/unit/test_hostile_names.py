# SPDX-License-Identifier: BSD-2-Clause
"""Names that are orders to a terminal, through every output: none has a control character but the newline."""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("numpy")

from ksym.__main__ import main
from ksym.capture.access import Access
from ksym.capture.counted import Who
from ksym.capture.instructions import Instruction
from ksym.capture.sites import Named, Site
from ksym.capture.values import Values
from ksym.commands import actions, checks, doctor, resolve
from ksym.commands.findings import BROKEN, Finding
from ksym.errors import KsymError
from ksym.exports import folded, speedscope
from ksym.exports.rows import write as write_rows
from ksym.language.condition_parser import parse_condition
from ksym.language.parser import parse_request
from ksym.program.layout import Hit
from ksym.reports import layout, progress
from ksym.reports.about import About
from ksym.reports.analysis import Analysis
from ksym.reports.terminal import Style, Terminal
from ksym.runs.session import Session
from ksym.symbols.types import Array, Encoding, Enum, Integer
from ksym.symbols.variable import Fact, Space, Variable
from ksym.tracing.buffer import Marker
from ksym.tracing.error_log import ErrorLog
from ksym.tracing.layout import OwnRows, SeedRows, profile
from ksym.views.counts import CountsTable, json_lines
from ksym.views.rows import FORMATS, rows_for
from ksym.views.summary import Tally
from ksym.watch.plan import Watch, make_plan
from support.accesses import Row, make_accesses, make_watch
from support.exports import written
from support.recordings import FakeArmed, FakeSites, Recorded, ksym
from support.reports import EVERYTHING as ALL
from support.reports import text_of
from support.tracing import Files, Machine
from synthetic import perf
from unit.test_html import Unpacked

# Colours, a window's title, what ends both, C1's own CSI, direction overrides, line ends of all kinds.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp\u2066\nrow\r\x0b\x85\u2028\x7f\udc9b"
SHORT = "\x1b[7m\x9b\x07\n\u202e"  # 15 bytes are a comm
CODE = {0x401000: ("W", 4, False), 0x401010: ("R", 4, False)}
SGR = re.compile(r"\x1b\[[0-9;]*m")


def harmless(text: str, lines: int | None = None) -> str:
    """What was printed, if it does nothing to a terminal."""
    assert text
    assert {c for c in text if not c.isprintable()} <= {"\n"}
    assert lines is None or text.count("\n") == lines
    return text


def hostile_watch(kind: Any = None, length: int = 4) -> Watch:
    """A watch that no request could name: programs' paths and symbols may have any bytes."""
    watch = make_watch("./prog:counter", kind, length=length)
    variable = replace(watch.variable, name=HOSTILE, module=HOSTILE, section=HOSTILE, remark=HOSTILE)
    return replace(
        watch,
        variable=replace(variable, facts=(Fact("address", HOSTILE, HOSTILE), Fact("size", "4", HOSTILE))),
    )


def hostile_site() -> Site:
    instruction = Instruction(0x400FFE, HOSTILE, frozenset({"W"}), 4)
    return Site(0x401000, 0x400FFE, Named(HOSTILE, 4, 16, HOSTILE), instruction, 4)


CHARS = Array("char[8]", 8, Integer("char", 1, True, Encoding.CHAR), 8)
KINDS = {
    "text": (CHARS, b"\x1b[2J\x9b\n\x07"),
    "letter": (Integer("char", 1, True, Encoding.CHAR), b"\x1b"),
    "enum": (Enum(HOSTILE, 4, False, ((HOSTILE, 27),)), b"\x1b\0\0\0"),
    "none": (None, b"\x1b[2J"),
}


def hostile_access(kind: str = "text", comm: str = HOSTILE) -> Access:
    made, data = KINDS[kind]
    watch = hostile_watch(made, len(data))
    value = Values(watch.variable).of(data.ljust(8, b"\0"))
    stack = (Named(HOSTILE, 1, 2, HOSTILE), Named(None, 7))
    return Access(1, 0, 7, 7, comm, watch, 0x4000, "W", hostile_site(), stack, 2, value, value)


# -- rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_trace(name: str, kind: str) -> None:
    access = hostile_access(kind)
    rows = rows_for(name, [access.watch], verbose=True)
    harmless(rows.row(access), lines=3 if name == "table" else 1)
    harmless(rows.header() + "\n")


def recording(path: Path) -> None:
    """By a task of that name, to a member of that value, from code of that name."""
    variable = Variable("./prog:text", 0x404000, 8, Space.USER, CHARS)
    watches = make_plan([(parse_request("./prog:text:rw-"), variable)]).watches
    armed = FakeArmed(watches, stacks=True)
    recorded = Recorded(path, armed, CODE)
    armed.rings[0].put(perf.comm(99, 5_000_001, 5_000_001, SHORT))
    armed.rings[0].put(perf.mmap2(99, 5_000_001, 0x400000, 0x2000, 0, HOSTILE.replace("\udc9b", "")))
    for number in range(4):
        hit = perf.Hit(Hit.OLD | Hit.NEW, 100 + number, 0, KINDS["text"][1], KINDS["text"][1][::-1])
        ip = sorted(CODE)[number % 2]
        sample = perf.sample(
            100 + number, event=100, ip=ip, pid=5_000_001, tid=5_000_001, chain=[ip, 0x402000], hit=hit
        )
        armed.rings[0].put(sample)
    recorded.round()
    recorded.finish()


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(FakeSites, "_user_name", lambda self, pid, ip: Named(HOSTILE, ip & 15, 64, HOSTILE))
    path = tmp_path / f"{SHORT}.data"
    recording(path)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_script(path: Path, name: str) -> None:
    out = path.with_suffix(".out")
    status, _, error = ksym("script", str(path), "--format", name, "-o", str(out))
    assert status == 0, error
    assert not error or harmless(error)
    harmless(out.read_text(), lines={"table": 13, "ksym": 6, "json": 4, "csv": 5}[name])


@pytest.mark.parametrize(
    "options", [[], ["--by", "task,value"], ["--by", "stack,function", "--timeline", "task"], ["--json"]]
)
def test_reports(path: Path, options: list[str]) -> None:
    status, out, error = ksym("report", str(path), *options)
    assert status == 0, error
    harmless(out)


def test_a_report_in_colours(path: Path) -> None:
    """Colours are ksym's own; without them nothing is left."""
    pytest.importorskip("rich")
    accesses = make_accesses(
        [Row(0, comm=HOSTILE, new=KINDS["text"][1]), Row(5, comm=HOSTILE, new=b"x", old=KINDS["text"][1])],
        watches=[hostile_watch(CHARS, 8)], sites=[hostile_site()],
    )  # fmt: skip
    analysis = Analysis(accesses, ALL)
    about = About(
        HOSTILE, None, {"hostname": HOSTILE, "release": HOSTILE, "arch": HOSTILE, "cpus": 2}, HOSTILE
    )
    about = replace(about, notes=(HOSTILE,))
    style = Style(100, layout.UNICODE, ("instruction",), 5, "task")
    lines = Terminal(about, analysis, ALL, style, lambda site: HOSTILE).lines()
    text = layout.coloured(lines, 100)
    assert SGR.search(text)
    harmless(SGR.sub("", text))
    for by in ("function", "task", "value", "stack"):
        harmless(text_of(analysis, (by,), about=about))


def test_the_page(path: Path, tmp_path: Path) -> None:
    status, _, error = ksym("report", str(path), "--html", str(tmp_path / "x.html"))
    assert status == 0, error
    harmless(error)

    def look(data: Any) -> None:
        if isinstance(data, str):
            assert not data or harmless(data, lines=0)
        for each in (
            data.items() if isinstance(data, dict) else data if isinstance(data, list | tuple) else ()
        ):
            look(each)

    look(Unpacked((tmp_path / "x.html").read_bytes()).about)


@pytest.mark.parametrize("form", ["folded", "speedscope", "csv", "jsonl"])
def test_exports(path: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"{SHORT}.{form}"
    status, _, error = ksym("export", str(path), "--to", form, "-o", str(out))
    assert status == 0, error
    harmless(error)
    harmless(out.read_text())


@pytest.mark.parametrize("form", ["folded", "speedscope", "csv", "json"])
def test_exports_of_names_that_are_no_text(form: str) -> None:
    writers = {"folded": folded.write, "speedscope": speedscope.write}
    write: Any = writers.get(form) or (lambda *arguments: write_rows(*arguments, name=form))
    stack = (Named(HOSTILE, 1, 2, HOSTILE),)
    accesses = make_accesses(
        [Row(comm=HOSTILE, new=b"\x1b", stack=0)],
        watches=[hostile_watch(CHARS, 8)],
        sites=[hostile_site()],
        stacks=[stack],
    )
    harmless(written(write, accesses).decode())


# -- counts, summaries, errors -------------------------------------------------------------------------


def test_counts() -> None:
    watch = hostile_watch()
    who = Who(0, "W", HOSTILE, HOSTILE, None, HOSTILE, 7, 7, 0)
    by = ("function", "task", "cpu")
    table = CountsTable([watch], by, interval=True)
    harmless(table.header() + table.rows({who: 3}, [3], 1.5), lines=2)
    harmless(json_lines([watch], by, {who: 3}), lines=1)


def test_the_summary() -> None:
    lines = Tally(
        [HOSTILE], [3], [2], 3, lost=2, no_room=1, rejected=1, hidden=1, notes=[f"gone: {HOSTILE}"]
    ).lines()
    harmless("\n".join(lines), lines=len(lines) - 1)


def test_what_a_machine_does_not_allow(capsys: pytest.CaptureFixture[str]) -> None:
    made: Any = Session.__new__(Session)
    made.lacking = [f"no values: {HOSTILE}"]
    made.run = SimpleNamespace(on_wait=None)
    made.tell_lacking()
    harmless(capsys.readouterr().err, lines=1)


def test_resolve() -> None:
    watch = hostile_watch(Enum(HOSTILE, 4, False, ()))
    harmless(resolve._text(watch, watch, 4))
    harmless(json.dumps(resolve._object(watch, watch, 4)))


def test_conditions() -> None:
    """As listings of programs and refusals show them."""
    harmless(str(parse_condition(f'comm == "{SHORT}"')), lines=0)


def test_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(checks, "examine", lambda kernel: [Finding("registers", BROKEN, HOSTILE, HOSTILE)])
    for as_json in (False, True):
        doctor.run(argparse.Namespace(json=as_json, vmlinux=None))
        harmless(capsys.readouterr().out)


def test_a_task_that_was_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    actions.Stopped().take(hostile_access())
    harmless(capsys.readouterr().err, lines=1)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What it says and wipes away itself stands at the start of each line, and nowhere else."""
    monkeypatch.setattr(progress, "_AFTER", -1.0)
    shown = _Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    assert main(["report", str(path)]) == 0
    own, *parts = shown.getvalue().split("\r\x1b[K")
    assert (own, parts[-1]) == ("", "")
    harmless(parts[0], lines=0)
    harmless(capsys.readouterr().out)


@pytest.mark.parametrize(
    "words",
    [
        [HOSTILE], ["report", HOSTILE], ["script", HOSTILE], ["trace", HOSTILE], ["trace", f"--{HOSTILE}", "x"],
        ["trace", "x", "--format", HOSTILE], ["trace", "x", "-p", HOSTILE], ["trace", "x", "-C", HOSTILE],
        ["trace", "x", "--if", HOSTILE], ["trace", "x", "--on-hit", HOSTILE], ["report", "x", "--by", HOSTILE],
        ["export", "x", "--to", HOSTILE], ["resolve", f"*({HOSTILE}){HOSTILE}"], ["resolve", f"./{HOSTILE}:x"],
        ["resolve", "--vmlinux", HOSTILE, "x"], ["mount", f"/nowhere/{HOSTILE}"],
        ["resolve", f"*(struct {HOSTILE} *)0x10"],
        ["export", f"/nowhere/{HOSTILE}", "--to", "csv"], ["resolve", f'x if comm == "{HOSTILE}'],
    ],
)  # fmt: skip
def test_errors(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KSYM_DEBUG", raising=False)
    status, out, error = ksym(*words)
    assert status
    assert not out
    harmless(error, lines=1)


@pytest.mark.parametrize(
    "words", [["trace", HOSTILE], ["trace", "x", "--if", HOSTILE], ["trace", f"a {HOSTILE}[:rw-"]]
)
def test_errors_with_a_place(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KSYM_DEBUG", raising=False)
    shown = _Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    assert main(words) == 2
    harmless(shown.getvalue(), lines=3)


# -- the tracing directory -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda watch: SeedRows(values=True), lambda watch: OwnRows([watch])])
def test_rows_of_the_tracing_directory(make: Callable[[Watch], SeedRows | OwnRows]) -> None:
    access = hostile_access()
    rows = make(access.watch)
    harmless(rows.header())
    harmless(rows.text(access), lines=3)
    harmless(rows.text(Marker(1, 0, 7, HOSTILE, HOSTILE)), lines=1)
    harmless(profile([(access.watch.request.mode, HOSTILE, 3)]), lines=3)


def test_the_error_log() -> None:
    log = ErrorLog()
    request = f"pid_max:zz- {HOSTILE}"
    with pytest.raises(KsymError) as caught:
        parse_request(request)
    log.add("ksym_trace_filter", caught.value, request)
    log.add("tracing_on", KsymError(HOSTILE, HOSTILE, HOSTILE), HOSTILE)
    log.note("ksym_trace_filter", HOSTILE, HOSTILE)
    harmless(log.text(), lines=9)


def test_files_of_the_tracing_directory() -> None:
    """Whatever is written to them."""
    files = Files(Machine())
    raw = HOSTILE.encode(errors="surrogateescape")
    for name in ("ksym_trace_filter", "current_tracer", "tracing_on", "buffer_size_kb", "trace_options"):
        assert files.error(name, raw)
        assert files.error(name, b"\x85\x1b".join([b"a", b"b:rw-"]))
    files.write("ksym_trace_filter", "init_net\x0b.\x0cipv4\x85.\u2028id:rw-\n")
    files.write("trace_marker", raw)
    for name in (
        "ksym_trace_filter",
        "ksym_profile",
        "trace",
        "error_log",
        "trace_options",
        "current_tracer",
    ):
        harmless(files.read(name))
    files.write("ksym_trace_filter", files.read("ksym_trace_filter").replace("rw-", "---"))
    assert files.read("ksym_trace_filter") == ""


def test_the_names_are_hostile() -> None:
    """Else nothing is shown by all this."""
    for name in (HOSTILE, SHORT, KINDS["text"][1].decode("latin-1")):
        assert {"\x1b", "\x9b", "\x07", "\n"} <= set(name)
        with pytest.raises(AssertionError):
            harmless(name)
