# SPDX-License-Identifier: BSD-2-Clause
"""The dynamic linker's own list of what it has loaded, read from a process: link.h, ``r_debug`` and ``link_map``.

The program's ``DT_DEBUG`` leads to it. The linker makes it for debuggers, before it loads the first library.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ksym.linux.memory import Memory, MemoryFault
from ksym.symbols.elf import SHT_DYNAMIC
from ksym.symbols.loaded import LoadedObject

_DT_NULL, _DT_DEBUG = 0, 21
_MOST_OBJECTS, _MOST_NAMESPACES, _MOST_ENTRIES = 1 << 14, 64, 1 << 10
_HAS_NEXT = 2
"""``r_version`` from which ``r_debug_extended`` has ``r_next``, the next namespace (glibc 2.35)."""


class Linked(NamedTuple):
    """An object that the linker has loaded, moved by ``bias``; its dynamic section lies at ``dynamic``."""

    bias: int
    dynamic: int


def namespaces(program: LoadedObject, memory: Memory) -> list[list[Linked]]:
    """What the dynamic linker has loaded, in its order: the base namespace, then those of dlmopen(3).

    Empty where there is no dynamic linker, or it has not begun.
    """
    words = _Words(memory, program)
    found: list[list[Linked]] = []
    try:
        at = _debug(program, words)
        while at and len(found) < _MOST_NAMESPACES:
            found.append(list(_objects(words.word(at + words.size), words)))
            version = words.word(at) & 0xFFFFFFFF
            at = words.word(at + 5 * words.size) if version >= _HAS_NEXT else 0
    except MemoryFault:
        pass
    return [each for each in found if each]


class _Words:
    def __init__(self, memory: Memory, program: LoadedObject) -> None:
        self._memory, self.size = memory, program.elf.bits // 8
        self._layout = struct.Struct(program.elf.order + ("Q" if self.size == 8 else "I"))

    def word(self, address: int) -> int:
        found: int = self._layout.unpack(self._memory.read(address, self.size))[0]
        return found


def _debug(program: LoadedObject, words: _Words) -> int:
    """Address of ``r_debug``; 0 where it is not set."""
    start = next((s.addr for s in program.elf.sections if s.type == SHT_DYNAMIC), None)
    if start is None:
        return 0
    at = start + program.bias
    for entry in range(_MOST_ENTRIES):
        tag = words.word(at + 2 * entry * words.size)
        if tag == _DT_DEBUG:
            return words.word(at + (2 * entry + 1) * words.size)
        if tag == _DT_NULL:
            break
    return 0


def _objects(at: int, words: _Words) -> Iterator[Linked]:
    # struct link_map: l_addr, l_name, l_ld, l_next
    for _ in range(_MOST_OBJECTS):
        if not at:
            return
        yield Linked(words.word(at), words.word(at + 2 * words.size))
        at = words.word(at + 3 * words.size)
