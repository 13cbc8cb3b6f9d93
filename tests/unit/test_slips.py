# SPDX-License-Identifier: BSD-2-Clause
"""Slips on the command line: each is refused before COMMAND runs, with the line to type instead."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ksym.__main__ import main
from ksym.errors import KsymError, NoSuchVariable, NotPermitted, NotWatchable
from ksym.language.parser import parse_request
from ksym.runs.slips import check_programs, explain
from support.program import command, environment
from synthetic.compile import build, need

SOURCE = """
int creat(const char *, int);
struct { int depth, level; } gauge;
int main(void) { gauge.level++; return creat("ran", 0600) < 0; }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("gcc")
    folder = tmp_path_factory.mktemp("slips")
    build(folder, "meter", SOURCE, "-g")
    build(folder, "meter.o", SOURCE, "-g", "-c")
    build(folder, "fixed", SOURCE, "-g", "-no-pie")
    (folder / "start").write_text("#!/bin/sh\nexec ./meter\n")
    (folder / "start").chmod(0o755)
    (folder / "notes.txt").write_text("gauge\n")
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["gauge.level:w", "--", "./meter"],
            "cannot watch gauge.level: the kernel has no variable gauge that ksym can find, but ./meter has one; "
            "write ./meter:gauge.level:w",
        ),
        (
            ["meter:gauge", "--", "./meter"],
            "cannot watch meter:gauge: there is no module meter, but a program ./meter; write ./meter:gauge",
        ),
        (
            ["./meter:gauge", "./meter"],
            "cannot read the command line: -- is missing before COMMAND ./meter; write ./meter:gauge -- ./meter",
        ),
        (
            ["./meter:gauge", "./meter", "--verbose-meter"],
            "cannot read the command line: -- is missing before COMMAND ./meter; write ./meter:gauge -- ./meter",
        ),
        (
            ["./meter", "gauge.depth:-w-", "--", "./meter"],
            "cannot watch ./meter: the name of its variable stands apart; write ./meter:gauge.depth:-w-",
        ),
        (
            ["rwatch", "./meter:gauge.level", "--", "./meter"],
            "cannot read request 'rwatch ./meter:gauge.level': 'rwatch' is a command of gdb's; "
            "write ./meter:gauge.level:r--",
        ),
        (
            ["./meter.c:gauge.level:-w-", "--", "./meter"],
            "cannot watch ./meter.c:gauge.level: ./meter.c is a source file, not a program; "
            "write ./meter:gauge.level:-w-",
        ),
        (
            ["./meter.o:gauge", "--", "./meter"],
            "cannot watch ./meter.o:gauge: ./meter.o is an object file, not a program; write ./meter:gauge",
        ),
        (
            ["./start:gauge", "--", "./start"],
            "cannot watch ./start:gauge: ./start is a script, not a program; name the program that it runs",
        ),
        (
            ["./notes.txt:gauge", "--", "./meter"],
            "cannot watch ./notes.txt:gauge: ./notes.txt is neither a program nor a library; write ./meter:gauge",
        ),
        (
            ["gaugf", "--", "./meter"],
            "cannot watch gaugf: the kernel has no variable gaugf that ksym can find, and ./meter has none of that "
            "name; did you mean ./meter:gauge?",
        ),
        (
            ["main", "--", "./meter"],
            "cannot watch main: it is a function of ./meter; watch its execution with ./meter:main:--x",
        ),
        (
            ["./meter:gauge", "--", "meter"],
            "cannot run meter: it is in no directory of PATH, but in this directory; write ./meter",
        ),
        (
            ["./meter:gauge", "--", "./meter -x"],
            "cannot run ./meter -x: there is no such file; give its arguments as words of their own, without quotes",
        ),
        (
            ["../:gauge", "--", "./meter"],
            "cannot watch ../:gauge: ../ is a directory, not a program; write ./meter:gauge",
        ),
        (
            ["./meter:gauge", "--", "--limit", "3"],
            "cannot read the command line: --limit after -- is taken for COMMAND; put options before --",
        ),
        (
            ["-e", "./meter:gauge", "--", "./meter"],
            "cannot read the command line: unknown option -e; leave it out, REQUEST stands by itself",
        ),
    ],
)
def test_a_slip_is_told_before_command_runs(folder: Path, words: list[str], said: str) -> None:
    for verb in ("trace", "stat"):
        done = subprocess.run(
            command(verb, *words), capture_output=True, text=True, env=environment(), cwd=folder
        )
        assert done.stderr == f"ksym: {said}\n"
        assert done.returncode in (2, 125, 127)
        assert done.stdout == ""
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("error", "better"),
    [
        (NoSuchVariable("cannot watch gauge", "no"), True),
        (NotPermitted("cannot find kernel symbols", "no"), True),
        (NoSuchVariable("cannot reach gauge.level", "the type of gauge is not known"), False),
        (NotWatchable("cannot watch gauge", "it is a function"), False),
        (KsymError("cannot reach gauge.level", "no member"), False),
    ],
)
def test_only_an_unknown_name_is_looked_for_in_command(folder: Path, error: KsymError, better: bool) -> None:
    request = parse_request("gauge.level")
    found = explain(error, request, pid=None, command=[str(folder / "meter")], texts=["gauge.level"])
    assert (found is not error) == better


def test_an_address_of_command_gets_its_name(folder: Path) -> None:
    from synthetic.compile import nm

    address = nm(folder / "fixed")["gauge"]
    done = subprocess.run(
        command("trace", f"{address:#x}/4:-w-", "--", "./fixed"),
        capture_output=True, text=True, env=environment(), cwd=folder,
    )  # fmt: skip
    assert done.stderr == (
        f"ksym: cannot watch {address:#x}/4: an address of COMMAND is not known before it runs, and ./fixed has gauge "
        "there; write ./fixed:gauge/4:-w-\n"
    )


def test_a_misspelt_path_is_told(folder: Path) -> None:
    done = subprocess.run(
        command("trace", "./mter:gauge", "--", "true"),
        capture_output=True,
        text=True,
        env=environment(),
        cwd=folder,
    )
    assert done.stderr == "ksym: cannot watch ./mter: there is no file ./mter; did you mean ./meter?\n"


def test_options_before_the_command_are_put_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-p", "1", "trace", "v if new > 1"]) == 2
    assert capsys.readouterr().err == (
        "ksym: cannot read the command line: option -p stands before the command trace; "
        "run `ksym trace -p 1 'v if new > 1'`\n"
    )


def test_a_program_that_may_not_be_read_is_told_before_command_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(folder / "meter")
    request = parse_request(f"{path}:gauge")
    check_programs([request], [path])
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)  # root may read all
    with pytest.raises(NotPermitted, match=f"this user may not read {path}; run it with sudo"):
        check_programs([request], [path])
