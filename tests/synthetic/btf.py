# SPDX-License-Identifier: BSD-2-Clause
"""A small BTF writer, so that the reader is tested without binaries in the tree.

It lays out what it is told, sense or nonsense. Source of the format: include/uapi/linux/btf.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

Member = tuple[str, int, int] | tuple[str, int, int, int]
"""Name, type id, offset in bits, and for a bit field its width."""

SIGNED, CHAR, BOOL = 1, 2, 4


class BtfWriter:
    """Collects types; each method returns the new type's id.

    Args:
        order: ``<`` or ``>``.
        base: For split BTF, the writer that it continues.
    """

    def __init__(self, order: str = "<", base: BtfWriter | None = None) -> None:
        self.order = order
        self.count: int = base.count if base else 0
        self._types = bytearray()
        self._first_string = base.end_string if base else 0
        self._strings = bytearray() if base else bytearray(b"\0")
        self._known: dict[str, int] = dict(base._known) if base else {"": 0}

    @property
    def end_string(self) -> int:
        return self._first_string + len(self._strings)

    def string(self, text: str) -> int:
        if text not in self._known:
            self._known[text] = self.end_string
            self._strings += text.encode() + b"\0"
        return self._known[text]

    def add(
        self, kind: int, name: str, word: int, body: Iterable[int] = (), *, vlen: int = 0, flag: bool = False
    ) -> int:
        """Any record: the three words of struct btf_type, then ``body``'s words."""
        return self.raw([self.string(name), flag << 31 | kind << 24 | vlen, word, *body])

    def raw(self, words: Sequence[int]) -> int:
        """Any words at all, counted as one record."""
        self._types += struct.pack(f"{self.order}{len(words)}I", *(value & 0xFFFFFFFF for value in words))
        self.count += 1
        return self.count

    def integer(self, name: str, size: int, how: int = 0, *, bits: int | None = None, start: int = 0) -> int:
        return self.add(1, name, size, [how << 24 | start << 16 | (8 * size if bits is None else bits)])

    def pointer(self, target: int) -> int:
        return self.add(2, "", target)

    def array(self, element: int, count: int) -> int:
        return self.add(3, "", 0, [element, 1, count])

    def struct(
        self, name: str, size: int, members: Sequence[Member], *, union: bool = False, flag: bool = True
    ) -> int:
        body: list[int] = []
        for member, kind, offset, *width in members:
            body += [self.string(member), kind, (width[0] << 24 if width else 0) | offset]
        return self.add(5 if union else 4, name, size, body, vlen=len(members), flag=flag)

    def enum(self, name: str, size: int, values: Sequence[tuple[str, int]], *, signed: bool = False) -> int:
        body = [word for constant, value in values for word in (self.string(constant), value)]
        return self.add(6, name, size, body, vlen=len(values), flag=signed)

    def enum64(self, name: str, size: int, values: Sequence[tuple[str, int]], *, signed: bool = False) -> int:
        body = [word for text, value in values for word in (self.string(text), value, value >> 32)]
        return self.add(19, name, size, body, vlen=len(values), flag=signed)

    def forward(self, name: str, *, union: bool = False) -> int:
        return self.add(7, name, 0, flag=union)

    def typedef(self, name: str, target: int) -> int:
        return self.add(8, name, target)

    def volatile(self, target: int) -> int:
        return self.add(9, "", target)

    def const(self, target: int) -> int:
        return self.add(10, "", target)

    def restrict(self, target: int) -> int:
        return self.add(11, "", target)

    def function(self, name: str, prototype: int) -> int:
        return self.add(12, name, prototype, vlen=1)

    def prototype(self, result: int, parameters: Sequence[tuple[str, int]] = ()) -> int:
        body = [word for name, kind in parameters for word in (self.string(name), kind)]
        return self.add(13, "", result, body, vlen=len(parameters))

    def variable(self, name: str, kind: int, linkage: int = 1) -> int:
        return self.add(14, name, kind, [linkage])

    def section(self, name: str, size: int, variables: Sequence[tuple[int, int, int]]) -> int:
        """Variables are (id, offset, size)."""
        return self.add(15, name, size, [word for each in variables for word in each], vlen=len(variables))

    def real(self, name: str, size: int) -> int:
        return self.add(16, name, size)

    def declaration_tag(self, name: str, target: int, component: int = -1) -> int:
        return self.add(17, name, target, [component])

    def type_tag(self, name: str, target: int) -> int:
        return self.add(18, name, target)

    def blob(self, layout: bytes | None = None) -> bytes:
        """The whole; with ``layout`` the header of 2026 and a layout section behind the strings."""
        sections = [len(self._types), len(self._types), len(self._strings)]
        extra = b"" if layout is None else layout
        if layout is not None:
            sections += [len(self._types) + len(self._strings), len(layout)]
        length = 12 + 4 * len(sections)
        head = struct.pack(f"{self.order}HBBII{len(sections)}I", 0xEB9F, 1, 0, length, 0, *sections)
        return head + bytes(self._types) + bytes(self._strings) + extra
