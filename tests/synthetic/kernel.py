# SPDX-License-Identifier: BSD-2-Clause
"""A kernel's memory and symbol table, as far as names and parameters need them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ksym.linux.memory import MemoryFault
from ksym.symbols.kallsyms import Kallsyms

PAGE = 4096


class FakeMemory:
    """Pages that exist where something was written."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def write(self, address: int, data: bytes) -> None:
        for at, byte in enumerate(data, address):
            self._pages.setdefault(at // PAGE, bytearray(PAGE))[at % PAGE] = byte

    def read(self, address: int, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            at = address + len(parts)
            page = self._pages.get(at // PAGE)
            if page is None:
                raise MemoryFault(at)
            parts += page[at % PAGE : at % PAGE + length - len(parts)]
        return bytes(parts)


def kallsyms(rows: Sequence[tuple[int, str, str] | tuple[int, str, str, str]]) -> Kallsyms:
    """A table of (address, kind, name[, module])."""
    lines = [
        f"{address:016x} {kind} {name}" + "".join(f"\t[{owner}]" for owner in module)
        for address, kind, name, *module in rows
    ]
    return Kallsyms("".join(line + "\n" for line in lines).encode())


class ParameterWriter:
    """Builds the array of ``struct kernel_param`` that lies between ``__start___param`` and ``__stop___param``."""

    START, STRINGS, OPS, GETTERS = (
        0xFFFFFFFF82000000,
        0xFFFFFFFF82100000,
        0xFFFFFFFF82200000,
        0xFFFFFFFF81000000,
    )

    def __init__(self) -> None:
        self.memory = FakeMemory()
        self._entries = 0
        self._getters: dict[str, int] = {}
        self._string_at, self._ops_at = self.STRINGS, self.OPS

    def string(self, text: str) -> int:
        at, data = self._string_at, text.encode() + b"\0"
        self.memory.write(at, data)
        self._string_at += len(data)
        return at

    def ops(self, getter: str) -> int:
        """A ``struct kernel_param_ops``: flags, set, get, free."""
        address = self._getters.setdefault(getter, self.GETTERS + 64 * len(self._getters))
        at = self._ops_at
        self._ops_at += 32
        self.memory.write(at, struct.pack("=I4xQQQ", 0, 0, address, 0))
        return at

    def add(self, name: str, getter: str, argument: int) -> None:
        at = self.START + 40 * self._entries
        self._entries += 1
        entry = struct.pack("=QQQHbB4xQ", self.string(name), 0, self.ops(getter), 0o644, -1, 0, argument)
        self.memory.write(at, entry)

    def table(self, *more: tuple[int, str, str]) -> Kallsyms:
        functions = [(address, "T", name) for name, address in self._getters.items()]
        stop = self.START + 40 * self._entries
        edges = [(self.START, "R", "__start___param"), (stop, "R", "__stop___param")]
        return kallsyms(sorted([*functions, *edges, *more]))
