# SPDX-License-Identifier: BSD-2-Clause
"""Source lines of the instructions in a recording, where this machine has the same files with debug information.

A path in a recording is somebody's claim: a file is believed only where its build id is the recorded one, and only
regular files are opened.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from ksym.capture.sites import Site
from ksym.errors import KsymError
from ksym.symbols.debugfile import DEBUG_ROOT, find_debug_file
from ksym.symbols.dwarf import has_dwarf
from ksym.symbols.dwarf import readable as dwarf_readable
from ksym.symbols.elf import ElfFile

_KERNEL = "[kernel.kallsyms]"
_MOST_UNITS = 2000
"""Of a file without an index by address (.debug_aranges) so many units are looked through."""


class _Row(NamedTuple):
    """From ``start`` on, up to the next row; ``line`` 0: nothing."""

    start: int
    file: str
    line: int


class Sources:
    """Finds source lines; files are opened when the first place in them is asked for.

    Args:
        build_ids: Of the recording's files, by path; the kernel's is ``[kernel.kallsyms]``.
    """

    def __init__(self, build_ids: Mapping[str, str]) -> None:
        self._build_ids = build_ids
        self._files: dict[str | None, _Lines | None] = {}

    def line(self, site: Site) -> str | None:
        """``prog.c:12``, or None."""
        named = site.named
        if named.function is None or named.in_file:
            return None
        if named.owner not in self._files:
            self._files[named.owner] = self._open(named.owner)
        lines = self._files[named.owner]
        if lines is None:
            return None
        # x86 reports the instruction behind the access; any byte of the one that made it will do.
        back = site.ip - site.address if site.instruction else 1
        try:
            return lines.at(named.function, named.offset - back)
        except KsymError:
            return None

    def close(self) -> None:
        """Close all files."""
        for lines in self._files.values():
            if lines:
                lines.elf.close()

    def _open(self, owner: str | None) -> _Lines | None:
        if not dwarf_readable():
            return None
        for path, build_id in self._build_ids.items():
            if (
                path == _KERNEL
                if owner is None
                else path.rpartition("/")[2] == owner and path.startswith("/")
            ):
                elf = _with_lines(path, build_id)
                if elf:
                    return _Lines(elf)
        return None


def _with_lines(path: str, build_id: str) -> ElfFile | None:
    """The file of that build id, or its debug file: whichever has DWARF."""
    if len(build_id) < 8 or build_id.strip("0123456789abcdef"):
        return None
    places = [f"{DEBUG_ROOT}/.build-id/{build_id[:2]}/{build_id[2:]}.debug"]
    for place in [*places, path] if path.startswith("/") else places:
        elf = None
        try:
            if not stat.S_ISREG(os.stat(place).st_mode):
                continue
            elf = ElfFile(place)
            if elf.build_id == build_id:
                if has_dwarf(elf):
                    return elf
                debug = find_debug_file(elf)
                if debug and has_dwarf(debug):
                    elf.close()
                    return debug
        except (KsymError, OSError, ValueError):
            pass
        if elf:
            elf.close()
    return None


class _Lines:
    """The line tables of one file."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self._tables: dict[int, tuple[list[int], list[_Row]]] = {}

    def at(self, function: str, offset: int) -> str | None:
        """The line of an offset in a function, if there is but one function of that name."""
        starts = {symbol.value for symbol in self.elf.find(function) if symbol.is_function}
        if len(starts) != 1:
            return None
        address = starts.pop() + offset
        row: _Row | None = self.elf.dwarf.guarded(lambda: self._row(address))
        return f"{row.file}:{row.line}" if row and row.line else None

    def _row(self, address: int) -> _Row | None:
        unit = self._unit(address)
        if unit is None:
            return None
        if unit.cu_offset not in self._tables:
            rows = sorted(_rows(self.elf.dwarf.info, unit), key=lambda row: row.start)
            self._tables[unit.cu_offset] = [row.start for row in rows], rows
        starts, rows = self._tables[unit.cu_offset]
        number = bisect_right(starts, address) - 1
        return rows[number] if number >= 0 else None

    def _unit(self, address: int) -> Any:
        """The compilation unit that an address is in."""
        info = self.elf.dwarf.info
        if self._index is not None:
            offset = self._index.cu_offset_at_addr(address)
            if offset is not None:
                return info.get_CU_at(offset)
        return next((unit for low, high, unit in self._ranges if low <= address < high), None)

    @cached_property
    def _index(self) -> Any:
        return self.elf.dwarf.info.get_aranges()

    @cached_property
    def _ranges(self) -> list[tuple[int, int, Any]]:
        """What units say of themselves."""
        found = []
        for number, unit in enumerate(self.elf.dwarf.info.iter_CUs()):
            if number >= _MOST_UNITS:
                break
            top = unit.get_top_DIE().attributes
            if "DW_AT_low_pc" in top and "DW_AT_high_pc" in top:
                low, high = top["DW_AT_low_pc"].value, top["DW_AT_high_pc"]
                length = high.value if high.form.startswith("DW_FORM_data") else high.value - low
                found.append((low, low + length, unit))
        return found


def _rows(info: Any, unit: Any) -> Iterator[_Row]:
    program = info.line_program_for_CU(unit)
    if program is None:
        return
    files = program["file_entry"]
    first = 0 if program["version"] >= 5 else 1  # DWARF 5, section 6.2.4
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        number = state.file - first
        name = files[number].name if 0 <= number < len(files) else b"?"
        text = name.decode("utf-8", "replace").rpartition("/")[2]
        yield _Row(state.address, text, 0 if state.end_sequence else state.line)
