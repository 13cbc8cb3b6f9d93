# SPDX-License-Identifier: BSD-2-Clause
"""Where the symbols of a stripped file are kept.

The same places that gdb looks in ("Debugging Information in Separate Files" of its manual): by build id below
``/usr/lib/debug/.build-id``, then by the name in ``.gnu_debuglink``, then what Fedora packs into the file
itself (``.gnu_debugdata``).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

from ksym.symbols.elf import SHT_NOBITS, ElfError, ElfFile

DEBUG_ROOT = "/usr/lib/debug"
_LARGEST_SUMMED = 4 << 30
"""A sparse file may be of any length, and reading all of it would take hours."""
_LARGEST_MINI = 64 << 20
_LARGEST_DICTIONARY = 256 << 20
"""What unpacking it may take; a file may ask for 4 GB."""


def find_debug_file(elf: ElfFile, *, root: str = "", debug_root: str = DEBUG_ROOT) -> ElfFile | None:
    """The separate debug file of ``elf``, opened; None where there is none.

    Args:
        elf: The stripped file.
        root: Prefix of another root directory (``/proc/PID/root``) to look in too.
        debug_root: The system's directory of debug files.
    """
    for path, checked_by_crc in _places(elf, root, debug_root):
        try:
            found = ElfFile(path)
        except ElfError:
            continue
        try:
            same_file = os.path.samefile(path, elf.path) if os.path.exists(elf.path) else False
            if not same_file and _belongs(found, elf, checked_by_crc):
                return found
        except (ElfError, OSError):
            pass
        found.close()
    return _mini(elf)


def find_shared_dwarf(elf: ElfFile, *, debug_root: str = DEBUG_ROOT) -> ElfFile | None:
    """The file into which dwz moved what a debug file has in common with others (``.gnu_debugaltlink``)."""
    section = elf.section(".gnu_debugaltlink")
    if section is None or section.type == SHT_NOBITS:
        return None
    name, _, build_id = elf.content(section).partition(b"\0")
    digits = build_id.hex()
    relative = os.path.join(os.path.dirname(os.path.realpath(elf.path)), os.fsdecode(name))
    for path in (relative, f"{debug_root}/.build-id/{digits[:2]}/{digits[2:]}.debug"):
        try:
            found = ElfFile(path)
            if found.build_id == digits and not os.path.samefile(path, elf.path):
                return found
            found.close()
        except (ElfError, OSError):
            continue
    return None


def _places(elf: ElfFile, root: str, debug_root: str) -> Iterator[tuple[str, bool]]:
    roots = [""] + ([root] if root else [])
    build_id = elf.build_id
    if build_id and len(build_id) > 2:
        for base in roots:
            yield f"{base}{debug_root}/.build-id/{build_id[:2]}/{build_id[2:]}.debug", False
    link = elf.debuglink
    if link is None or "/" in link[0]:
        return
    folder = os.path.dirname(os.path.realpath(elf.path))
    for place in (f"{folder}/{link[0]}", f"{folder}/.debug/{link[0]}"):
        yield place, True
    for base in roots:
        yield f"{base}{debug_root}{folder.removeprefix(root)}/{link[0]}", True


def _belongs(found: ElfFile, elf: ElfFile, check_crc: bool) -> bool:
    if found.build_id or elf.build_id:
        return found.build_id == elf.build_id
    link = elf.debuglink
    if not check_crc or link is None or found.length > _LARGEST_SUMMED:
        return False
    crc = 0
    for at in range(0, found.length, 1 << 20):
        crc = zlib.crc32(found.bytes_at(at, min(1 << 20, found.length - at), "content"), crc)
    return crc == link[1]


def _mini(elf: ElfFile) -> ElfFile | None:
    section = elf.section(".gnu_debugdata")
    if section is None:
        return None
    import lzma  # late: few files have it

    try:
        data = lzma.LZMADecompressor(memlimit=_LARGEST_DICTIONARY).decompress(
            elf.content(section), _LARGEST_MINI
        )
        return ElfFile(elf.path, data=data, label=f".gnu_debugdata of {elf.label}")
    except (lzma.LZMAError, EOFError, ElfError):
        return None
