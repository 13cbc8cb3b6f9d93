# SPDX-License-Identifier: BSD-2-Clause
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ksym.symbols.loaded import ObjectNotMapped, Process
from ksym.symbols.originals import Originals
from ksym.symbols.wanted import Wanted
from synthetic.compile import build, running

PROGRAM = r"""
#include <stdio.h>
int counter = 5;
int main(void) { puts("ready"); fflush(stdout); return getchar() == 'x'; }
"""


def test_part_of_the_files(tmp_path: Path) -> None:
    program = build(tmp_path, "prog", PROGRAM)
    with running(program) as (pid, _):
        placement = Wanted([str(program), "libnone.so"]).placement(pid)
        assert placement is not None
        assert [len(each) for each in placement] == [1, 0]
        assert Wanted(["libnone.so", "libneither.so"]).placement(pid) is None


@pytest.mark.parametrize("flags", [("-pie", "-fPIE"), ("-no-pie",)])
def test_a_program_that_runs_is_in_use(flags: tuple[str, ...], tmp_path: Path) -> None:
    program = build(tmp_path, "prog", PROGRAM, *flags)
    with running(program) as (pid, _):
        assert Wanted([str(program), "libc.so.6", "libnone.so"]).in_use(pid) == {str(program), "libc.so.6"}


def test_a_file_under_another_name(tmp_path: Path) -> None:
    program = build(tmp_path, "prog", PROGRAM)
    originals = Originals([str(program)])
    renamed = program.rename(tmp_path / "renamed")
    shutil.copy(renamed, tmp_path / "copy")
    try:
        for replaced in (False, True):
            if replaced:
                shutil.copy(renamed, program)
            for file, same in ((renamed, True), (tmp_path / "copy", False), (program, True)):
                if not file.exists():
                    continue
                with running(file) as (pid, _), Process(pid, originals) as process:
                    assert (Wanted([str(program)], originals).placement(pid) is not None) == same, file
                    if same:
                        assert process.find_object(str(program)).basename == file.name
                    else:
                        with pytest.raises(ObjectNotMapped):
                            process.find_object(str(program))
        assert renamed.stat().st_ino in Wanted([str(program)], originals).file_numbers()
        assert len(list(Wanted([str(program)], originals).entries())) == 2
        with running(renamed) as (pid, _):
            assert Wanted([str(program)]).placement(pid) is None
    finally:
        originals.close()


def test_the_number_of_a_kept_file_is_not_given_away(tmp_path: Path) -> None:
    program = build(tmp_path, "prog", PROGRAM)
    originals = Originals([str(program)])
    (number,) = originals.numbers(str(program))
    program.unlink()
    try:
        files = [tmp_path / str(each) for each in range(8)]
        for file in files:
            file.touch()
        assert number not in {file.stat().st_ino for file in files}
    finally:
        originals.close()


def test_what_is_no_file_is_not_kept(tmp_path: Path) -> None:
    originals = Originals(["libc.so.6", str(tmp_path), str(tmp_path / "none")])
    assert not any(map(originals.numbers, ("libc.so.6", str(tmp_path), str(tmp_path / "none"))))
    originals.close()
