# SPDX-License-Identifier: BSD-2-Clause
"""Where the records of a BTF blob lie: header, strings, and the way from a type id to its record.

BTF has no index: records follow one another and a type's id is its ordinal, so record N is found by
stepping over those before it. vmlinux has more than a hundred thousand. The stepping is therefore
the one hot loop of this reader, done only as far as something has been asked for, and no name is
decoded for it: a name is searched for as bytes in the string section, and its offset as bytes in the
type section.

Source of the format: include/uapi/linux/btf.h and Documentation/bpf/btf.rst of Linux. ``vlen`` of 24
bits, kinds of 7 bits and the layout section are of 2026; older files have zeros there.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import repeat
from typing import NamedTuple

from ksym.errors import KsymError

MAGIC = 0xEB9F
_HEADER_LENGTH = 24  # struct btf_header without the layout section's fields
_LAYOUT_HEADER_LENGTH = 32  # with them
_STRIDE = 4096  # records indexed at a time


class Kind(IntEnum):
    """``BTF_KIND_*``."""

    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# What follows struct btf_type's three words, in words: (once, for each of vlen).
_EXTRA: dict[int, tuple[int, int]] = {
    **dict.fromkeys(Kind, (0, 0)),
    Kind.INT: (1, 0),
    Kind.ARRAY: (3, 0),
    Kind.STRUCT: (0, 3),
    Kind.UNION: (0, 3),
    Kind.ENUM: (0, 2),
    Kind.FUNC_PROTO: (0, 2),
    Kind.VAR: (1, 0),
    Kind.DATASEC: (0, 3),
    Kind.DECL_TAG: (1, 0),
    Kind.ENUM64: (0, 3),
}


class BtfError(KsymError):
    """BTF is absent or malformed."""


class Record(NamedTuple):
    """One ``struct btf_type`` with what follows it."""

    name: int
    """Offset of its name among the strings."""
    kind: int
    vlen: int
    flag: bool
    """``kind_flag``: what it means depends on the kind."""
    word: int
    """Size or type id, depending on the kind."""
    body: list[int]


class BtfIndex:
    """The records and strings of one BTF blob.

    Args:
        data: The blob.
        base: For split BTF (modules), the index that its type ids and string offsets continue.
        name: What to call the blob in error messages.

    Raises:
        BtfError: The header is not one of BTF. Damage further in shows when it is come across.
    """

    def __init__(self, data: bytes, base: BtfIndex | None = None, name: str = "vmlinux") -> None:
        self.base, self.name = base, name
        self._data = data
        self._order = self._byte_order(data)
        length: int
        _, version, _, length, type_at, type_length, string_at, string_length = self._unpack("HBBIIIII", 0)
        if version != 1:
            raise self.damage(f"its format has version {version}, not 1")
        if length < _HEADER_LENGTH:
            raise self.damage(f"its header has {length} bytes")
        self._types = self._section("types", length + type_at, type_length)
        strings = self._section("strings", length + string_at, string_length)
        if type_length % 4:
            raise self.damage(f"its types have {type_length} bytes, no multiple of 4")
        if string_length == 0 and base is None:
            raise self.damage("it has no strings")
        if string_length and data[strings.stop - 1]:
            raise self.damage("its strings are cut off")
        if base is None and data[strings.start]:
            raise self.damage("its strings continue those of another BTF, which is missing")
        self._strings = strings
        self._extra = self._layout(length)
        self._words = self._as_words(data)
        # Positions of the records' info words; the last entry is that of the first record not yet indexed.
        self._infos = [1]
        self._complete = False
        self._steps: dict[int, int] = {}  # info word -> words to the next record; a few hundred differ
        self._first_id = 1 if base is None else base.end_id
        self._first_string: int = 0 if base is None else base.end_string

    # -- what lies where ------------------------------------------------------------------------

    @property
    def big_endian(self) -> bool:
        """Byte order of the file, which is that of the machine whose types it describes."""
        return self._order == ">"

    @property
    def first_id(self) -> int:
        """Id of the first own type: 1, or the base's end."""
        return self._first_id

    @property
    def end_id(self) -> int:
        """The id after the last one; indexes everything."""
        self._index_all()
        return self._first_id + len(self._infos) - 1

    @property
    def end_string(self) -> int:
        """The string offset after the last one."""
        return self._first_string + len(self._strings)

    def record(self, number: int) -> Record:
        """The record of type ``number``, be it an own one or the base's.

        Raises:
            BtfError: There is no such type.
        """
        if number < self._first_id:
            if self.base is None or number < 1:
                raise self.damage(f"there is no type {number}")
            return self.base.record(number)
        at = number - self._first_id
        while at >= len(self._infos) - 1:
            if self._complete:
                raise self.damage(f"there is no type {number}; the last one is {self.end_id - 1}")
            self._grow(at + _STRIDE)
        position, words = self._infos[at], self._words
        info = words[position]
        name, word = words[position - 1], words[position + 1]
        body = words[position + 2 : self._infos[at + 1] - 1].tolist()
        return Record(name, info >> 24 & 0x7F, info & 0xFFFFFF, info >> 31 == 1, word, body)

    def text(self, offset: int) -> str:
        """The string at ``offset``.

        Raises:
            BtfError: It lies outside the strings.
        """
        if offset < self._first_string and self.base is not None:
            return self.base.text(offset)
        start = self._strings.start + offset - self._first_string
        if start >= self._strings.stop:
            raise self.damage(f"a name lies at {offset}, past the end of the strings")
        # The section was seen to end in a zero byte, so there is one.
        return self._data[start : self._data.index(0, start)].decode("utf-8", "replace")

    # -- searching ------------------------------------------------------------------------------

    def named(self, name: str) -> Iterator[int]:
        """Ids of own types that have this name, without the base's."""
        for offset in self._offsets(name):
            yield from self._with_word(offset, 0)

    def of_kind(self, kind: Kind) -> Iterator[int]:
        """Ids of own types of a kind that is rare; indexes everything."""
        self._index_all()
        for info in [info for info in self._steps if info >> 24 & 0x7F == kind]:
            yield from self._with_word(info, 1)

    def names(self, kinds: Iterable[int]) -> Iterator[str]:
        """All names of own types of the given kinds: slow, meant for suggestions."""
        self._index_all()
        wanted = {info for info in self._steps if info >> 24 & 0x7F in set(kinds)}
        words = self._words
        for position in self._infos[:-1]:
            if words[position] in wanted and words[position - 1]:
                yield self.text(words[position - 1])

    def _offsets(self, name: str) -> Iterator[int]:
        """Every offset, the base's too, at which the string ``name`` starts."""
        if self.base is not None:
            yield from self.base._offsets(name)
        if not name or "\0" in name:
            return
        text = name.encode("utf-8", "surrogateescape") + b"\0"
        start, stop = self._strings.start, self._strings.stop
        # The strings of split BTF need not begin with an empty one.
        if self._data.startswith(text, start, stop):
            yield self._first_string
        at = self._data.find(b"\0" + text, start, stop)
        while at >= 0:
            yield at + 1 - start + self._first_string
            at = self._data.find(b"\0" + text, at + 1, stop)

    def _with_word(self, value: int, which: int) -> Iterator[int]:
        """Ids of own types whose ``which``-th word (0: name, 1: info) is ``value``.

        Most places that hold such bytes are something else, so each is looked up among the records.
        """
        pattern = struct.pack(self._order + "I", value)
        start, stop = self._types.start, self._types.stop
        at = self._data.find(pattern, start, stop)
        while at >= 0:
            word, rest = divmod(at - start, 4)
            if not rest:
                position = word + 1 - which
                while self._infos[-1] <= position and not self._complete:
                    self._grow(_STRIDE)
                index = bisect_left(self._infos, position)
                if index < len(self._infos) - 1 and self._infos[index] == position:
                    yield self._first_id + index
            at = self._data.find(pattern, at + 1, stop)

    # -- reading the blob -----------------------------------------------------------------------

    def _index_all(self) -> None:
        while not self._complete:
            self._grow(1 << 20)

    def _grow(self, count: int) -> None:
        """Index up to ``count`` more records."""
        infos, words, steps = self._infos, self._words, self._steps
        position, add = infos[-1], infos.append
        todo = repeat(None, count)
        while True:
            try:
                for _ in todo:
                    position += steps[words[position]]
                    add(position)
            except KeyError:
                steps[words[position]] = self._step(words[position])
                continue
            except IndexError:
                pass
            break
        end = position - 1
        if end == len(words):
            self._complete = True
        elif end >= len(words) - 1:
            if len(infos) > 1:
                infos.pop()  # the record that is cut off must not pass for a whole one
            raise self.damage(f"type {self._first_id + len(infos) - 1} is cut off")

    def _step(self, info: int) -> int:
        """Length in words of a record with this info word."""
        kind, vlen = info >> 24 & 0x7F, info & 0xFFFFFF
        if kind not in self._extra:
            raise self.damage(f"type {self._first_id + len(self._infos) - 1} is of the unknown kind {kind}")
        once, each = self._extra[kind]
        return 3 + once + each * vlen

    def _layout(self, header_length: int) -> dict[int, tuple[int, int]]:
        """Record lengths by kind; the blob's own layout section tells those of kinds yet to come."""
        extra = _EXTRA
        if header_length >= _LAYOUT_HEADER_LENGTH:
            at, length = self._unpack("II", _HEADER_LENGTH)
            section = self._section("layout", header_length + at, length)
            extra = dict(_EXTRA)
            for kind in range(1, min(length // 4, 128)):
                once, each, _ = self._unpack("BBH", section.start + 4 * kind)
                if kind not in extra and not (once | each) % 4:
                    extra[kind] = (once // 4, each // 4)
        return extra

    def _as_words(self, data: bytes) -> memoryview:
        view = memoryview(data)[self._types.start : self._types.stop]
        if self.big_endian == (sys.byteorder == "big"):
            return view.cast("I")
        swapped = array("I", view.tobytes())
        swapped.byteswap()
        return memoryview(swapped)

    def _byte_order(self, data: bytes) -> str:
        for order in "<>":
            if data[:2] == struct.pack(order + "H", MAGIC):
                if len(data) >= _HEADER_LENGTH:
                    return order
                raise self.damage("it ends inside its header")
        raise self.damage("it does not begin as BTF does")

    def _unpack(self, layout: str, at: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self._order + layout, self._data, at)
        except struct.error:
            raise self.damage("it ends inside its header") from None

    def _section(self, what: str, start: int, length: int) -> range:
        if start + length > len(self._data):
            raise self.damage(f"its {what} reach past its end")
        return range(start, start + length)

    def damage(self, why: str) -> BtfError:
        """An error for something in the blob that cannot be so."""
        return BtfError(f"cannot read the BTF of {self.name}", why, "it is damaged, or of a newer format")
