# SPDX-License-Identifier: BSD-2-Clause
"""Source lines of the instructions in a report."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ksym.reports.source import Sources
from support.accesses import make_site
from synthetic.compile import build

PROGRAM = "int counter;\nint main(void)\n{\n    counter = 5;\n    return counter;\n}\n"


@pytest.mark.parametrize("flags", [(), ("-gdwarf-4",), ("-gno-as-locview-support",)])
def test_source_lines(tmp_path: Path, flags: tuple[str, ...]) -> None:
    pytest.importorskip("elftools")
    program = build(tmp_path, "prog", PROGRAM, "-g", "-O0", "-Wl,--build-id", *flags)
    from ksym.symbols.elf import ElfFile

    with ElfFile(program) as elf:
        build_id = elf.build_id
        (start,) = (symbol.value for symbol in elf.find("main"))
        size = next(symbol.size for symbol in elf.find("main"))
    assert build_id
    lines = {}
    for known in (build_id, "00" * 20, build_id[:-2] + "zz", ""):
        sources = Sources({str(program): known, "/dev/zero": build_id, "relative/prog": build_id})
        lines[known] = {
            sources.line(make_site("main", offset, text=None, ip=start + offset)) for offset in range(1, size)
        }
        assert sources.line(make_site("no_such", 1)) is None
        assert sources.line(make_site("main", 1, owner=None)) is None
        assert sources.line(make_site(None, 1)) is None
        sources.close()
    assert {"prog.c:4", "prog.c:5"} <= lines[build_id]
    assert all(found == {None} for known, found in lines.items() if known != build_id)


def test_a_path_that_would_wait_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "prog")
    assert Sources({str(tmp_path / "prog"): "ab" * 20}).line(make_site("main")) is None
