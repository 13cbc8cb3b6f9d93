# SPDX-License-Identifier: BSD-2-Clause
"""Recordings whose file is also where the output should go, and recordings with something behind their end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ksym.recording.reader import open_recording
from support.program import command, environment
from support.recordings import TOTAL, FakeArmed, Recorded, ksym, small_recording

COMMANDS = {
    "script": ("-o",),
    "export": ("--to", "csv", "-o"),
    "parquet": ("--to", "parquet", "-o"),
    "report": ("--html",),
}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A recording of three hits."""
    path = tmp_path / "own.data"
    small_recording(path, 3)
    return path


def itself(path: Path) -> str:
    return str(path)


def spelled(path: Path) -> str:
    return f"{path.parent}/../{path.parent.name}/./{path.name}"


def hard_link(path: Path) -> str:
    other = path.with_name("other")
    os.link(path, other)
    return str(other)


def symbolic_link(path: Path) -> str:
    other = path.with_name("link")
    other.symlink_to(path)
    return str(other)


def descriptor(path: Path) -> str:
    return f"/proc/self/fd/{os.open(path, os.O_RDWR)}"


@pytest.mark.parametrize("name", [itself, spelled, hard_link, symbolic_link, descriptor])
@pytest.mark.parametrize("verb", COMMANDS)
def test_a_recording_is_not_overwritten_by_what_is_made_of_it(
    verb: str, name: Callable[[Path], str], own: Path
) -> None:
    before, target = own.read_bytes(), name(own)
    words = ("export" if verb == "parquet" else verb, str(own), *COMMANDS[verb], target, "--force")
    status, out, err = ksym(*words)
    assert (status, out) == (125, "")
    assert err == (
        f"ksym: cannot write {target}: it is the file that is read, {own}; name another with {COMMANDS[verb][-1]}\n"
    )
    assert own.read_bytes() == before


@pytest.mark.parametrize(
    "words", [("script",), ("report",), ("export", "--to", "jsonl", "-o", "-")], ids=" ".join
)
def test_nor_by_stdout(words: tuple[str, ...], own: Path) -> None:
    before = own.read_bytes()
    with own.open("ab") as appended:
        done = subprocess.run(
            [sys.executable, "-m", "ksym", words[0], str(own), *words[1:]],
            stdout=appended, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
    assert done.returncode == 125
    assert done.stderr.startswith(f"ksym: cannot write stdout: it is the file that is read, {own}; ")
    assert own.read_bytes() == before


def test_another_file_of_the_same_name_is_fine(own: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert ksym("script", str(own), "-o", str(tmp_path / "folder" / own.name))[0] == 0


# -- what follows the end -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["script", "export", "report"])
def test_a_second_recording_in_the_file_is_told(verb: str, own: Path, tmp_path: Path) -> None:
    small_recording(tmp_path / "b.data", 2)
    second = (tmp_path / "b.data").read_bytes()
    with own.open("ab") as file:
        file.write(second)
    words = ("--to", "csv", "-o", str(tmp_path / "rows.csv")) if verb == "export" else ()
    status, out, err = ksym(verb, str(own), *words)
    assert status == 0
    said = f"another recording ({len(second):,} bytes) follows its end and is not read"
    assert said in (" ".join(out.split()) if verb == "report" else err)


def test_other_bytes_are_told_too(own: Path) -> None:
    assert open_recording(str(own)).following is None
    with own.open("ab") as file:
        file.write(b"x")
    assert open_recording(str(own)).following == "1 byte follows its end and is not read"
    with own.open("ab") as file:
        file.write(b"yz" * 600)
    assert open_recording(str(own)).following == "1,201 bytes follow its end and are not read"


def test_a_recorder_that_was_killed_leaves_bytes_of_its_own(own: Path, tmp_path: Path) -> None:
    """What its header does not count yet is no second recording; one that was appended to it is."""
    whole = own.read_bytes()
    cut = tmp_path / "cut.data"
    armed = FakeArmed([TOTAL], values=False)
    recorded = Recorded(cut, armed)
    recorded.recorder.close()
    with cut.open("ab") as file:
        file.write(bytes(64))
    assert open_recording(str(cut)).following is None
    with cut.open("ab") as file:
        file.write(whole)
    assert open_recording(str(cut)).following == (
        f"another recording ({len(whole):,} bytes) follows its end and is not read"
    )


@pytest.mark.parametrize("verb", ["trace", "record"])
@pytest.mark.parametrize("name", [itself, hard_link, symbolic_link])
@pytest.mark.parametrize("of", ["COMMAND", "REQUEST", "--vmlinux"])
def test_what_is_run_or_read_is_not_overwritten(
    tmp_path: Path, verb: str, name: Callable[[Path], str], of: str
) -> None:
    program = tmp_path / "tank"
    program.write_bytes(b"\x7fELF, as far as that goes")
    program.chmod(0o755)
    words = {
        "COMMAND": ["task(1).comm", "--", str(program)],
        "REQUEST": [f"{program}:level", "--", "true"],
        "--vmlinux": ["task(1).comm", "--vmlinux", str(program), "--", "true"],
    }[of]
    output = name(program)
    done = subprocess.run(
        command(verb, "-o", output, "-f", *words), capture_output=True, text=True, env=environment()
    )
    assert done.stderr == (
        f"ksym: cannot write {output}: it is the file that is read, {program}; name another with -o\n"
    )
    assert done.returncode == 125
    assert program.read_bytes().startswith(b"\x7fELF")
    assert not list(tmp_path.glob("*.old"))
