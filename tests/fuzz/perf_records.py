# SPDX-License-Identifier: BSD-2-Clause
"""Changes perf.data files by what they are made of, header, events, records, notes, and makes check sums right."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from ksym.linux.perf_record import RECORD
from ksym.recording.perf_file import CHECK, CONSTANT, HEADER, MAKER, NOTE_HEAD, Kind, is_note, note

_NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    255,
    1 << 16,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    1 << 62,
    1 << 63,
    (1 << 64) - 1,
    1 << 70,
    10**30,
)
_TEXTS = (
    "", "\x1b[2J", "\x1b]0;x\x07", "a\nb", "\x9b31m", "\u202eevil", "\ud800", "A" * 300, "../../etc/shadow", "\0", "%s",
)  # fmt: skip
_ODD: tuple[Any, ...] = (
    None,
    True,
    [],
    {},
    [[]],
    1.5,
    1e308,
    float("nan"),
    "x",
    -1,
    [1, 2],
    {"kind": "array"},
)


def split(data: bytes) -> tuple[bytes, list[bytes], bytes] | None:
    """What stands before the records, the records, and what stands behind them."""
    if len(data) < HEADER.size:
        return None
    head = HEADER.unpack_from(data)
    start, size = head[5], head[6]
    end = min(len(data), start + size) if size else len(data)
    if not HEADER.size <= start <= len(data):
        return None
    records, at = [], start
    while at + RECORD.size <= end:
        size = RECORD.unpack_from(data, at)[2]
        if size < RECORD.size or at + size > end:
            break
        records.append(data[at : at + size])
        at += size
    return data[:start], records, data[at:]


def join(head: bytes, records: list[bytes], rest: bytes) -> bytes:
    """The file, with the size of its data and the places of its features made right."""
    body = b"".join(records)
    out = bytearray(head)
    sizes = struct.unpack_from("<QQ", head, 40)
    if len(head) >= HEADER.size and sizes[1]:
        struct.pack_into("<Q", out, 48, len(body))
        moved = len(body) - sizes[1]
        table = bytearray(rest)
        bits = int.from_bytes(head[72:104], "little").bit_count()
        for at in range(0, min(16 * bits, len(table) // 16 * 16), 16):
            with contextlib.suppress(struct.error):
                struct.pack_into("<Q", table, at, struct.unpack_from("<Q", table, at)[0] + moved)
        rest = bytes(table)
    return bytes(out) + body + rest


def sealed(data: bytes) -> bytes:
    """The file with right check sums."""
    parts = split(data)
    if parts is None:
        return data
    head, records, rest = parts
    so_far = zlib.crc32(head[CONSTANT] + head[HEADER.size :])
    for at, record in enumerate(records):
        if is_note(record, CHECK):
            records[at] = note(CHECK, b"%d" % so_far, _trailer(record))
        else:
            so_far = zlib.crc32(record, so_far)
    return join(head, records, rest)


def _trailer(record: bytes) -> bytes:
    """What stands behind a note in its record."""
    (size,) = struct.unpack_from("<I", record, RECORD.size + NOTE_HEAD.size)
    return record[RECORD.size + -(-(NOTE_HEAD.size + 4 + size) // 8) * 8 :]


def mutate(data: bytes, most: int, seed: int) -> bytes:
    """Other bytes; check sums are right in half of the cases."""
    chance = random.Random(seed)
    parts = split(data)
    if parts is None:
        return _bytes(data, chance)[:most]
    head, records, rest = parts
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        head, records, rest = chance.choice(_WAYS)(head, list(records), rest, chance)
    made = join(head, records, rest)
    if chance.random() < 0.5:
        made = sealed(made)
    return made[:most]


_Parts = tuple[bytes, list[bytes], bytes]


def _head(head: bytes, records: list[bytes], rest: bytes, chance: random.Random) -> _Parts:
    out = bytearray(head)
    if chance.random() < 0.3:
        at = 8 * chance.randrange(HEADER.size // 8)
    else:  # the events and their identifiers
        at = min(
            len(out) - 8,
            HEADER.size + len(MAKER) + 4 * chance.randrange(max(1, (len(out) - HEADER.size) // 4)),
        )
    if chance.random() < 0.5:
        out[max(0, at)] ^= 1 << chance.randrange(8)
    else:
        struct.pack_into("<Q", out, max(0, at), chance.choice(_NUMBERS) & (1 << 64) - 1)
    return bytes(out), records, rest


def _order(head: bytes, records: list[bytes], rest: bytes, chance: random.Random) -> _Parts:
    if records:
        at, to = chance.randrange(len(records)), chance.randrange(len(records))
        match chance.randrange(4):
            case 0:
                del records[at]
            case 1:
                records.insert(to, records[at])
            case 2:
                records[at], records[to] = records[to], records[at]
            case 3:
                records[to:to] = records[at : at + chance.randrange(1, 40)]
    return head, records, rest


def _record(head: bytes, records: list[bytes], rest: bytes, chance: random.Random) -> _Parts:
    if records:
        at = chance.randrange(len(records))
        out = bytearray(records[at])
        where = 8 * chance.randrange(len(out) // 8)
        match chance.randrange(5):
            case 0:
                out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
            case 1:
                struct.pack_into("<Q", out, where, chance.choice(_NUMBERS) & (1 << 64) - 1)
            case 2:
                struct.pack_into("<I", out, 0, chance.choice([*Kind, 13, 255]))
            case 3:
                text = chance.choice(_TEXTS).encode(errors="replace")
                start = min(len(out), chance.choice((16, 40, 72)))
                out[start : start + len(text)] = text[: len(out) - start]
            case 4:
                longer = (
                    out + bytes(8 * chance.randrange(4)) if chance.random() < 0.5 else out[: max(8, where)]
                )
                out = bytearray(longer)
                struct.pack_into("<H", out, 6, len(out) & 0xFFFF)
        records[at] = bytes(out)
    return head, records, rest


def _note(head: bytes, records: list[bytes], rest: bytes, chance: random.Random) -> _Parts:
    """Something in the JSON of a note of ksym's."""
    places = [at for at, each in enumerate(records) if each[:4] == struct.pack("<I", Kind.BPF_EVENT)]
    if not places:
        return _record(head, records, rest, chance)
    at = chance.choice(places)
    record = records[at]
    begin = RECORD.size + NOTE_HEAD.size + 4
    with contextlib.suppress(struct.error, ValueError, RecursionError):
        (size,) = struct.unpack_from("<I", record, begin - 4)
        name, _, content = record[begin : begin + size].partition(b"\0")
        changed = json.dumps(_changed(json.loads(content), chance)).encode()
        records[at] = note(name.decode(), changed[:50_000], _trailer(record))
    return head, records, rest


def _changed(data: Any, chance: random.Random) -> Any:
    """The same JSON with one thing in it changed."""
    if isinstance(data, dict) and data and chance.random() < 0.9:
        key = chance.choice(list(data))
        if chance.random() < 0.05:
            return {each: value for each, value in data.items() if each != key}
        return {**data, key: _changed(data[key], chance)}
    if isinstance(data, list) and data and chance.random() < 0.9:
        at = chance.randrange(len(data))
        match chance.randrange(8):
            case 0:
                return data[:at] + data[at + 1 :]
            case 1:
                return data * chance.choice((2, 3, 50))
        return [*data[:at], _changed(data[at], chance), *data[at + 1 :]]
    if isinstance(data, int) and chance.random() < 0.7:
        return chance.choice((*_NUMBERS, data + 1, data - 1, -data, data << 8))
    if isinstance(data, str) and chance.random() < 0.7:
        return chance.choice(
            (*_TEXTS, data + chance.choice(_TEXTS), data[:-1], "R", "W", "int", "struct", "float")
        )
    if chance.random() < 0.1:
        nested: Any = 1
        for _ in range(chance.choice((20, 400))):
            nested = {"name": "x", "size": 8, "kind": "typedef", "target": nested}
        return nested
    return chance.choice(_ODD)


def _bytes_of_head(head: bytes, records: list[bytes], rest: bytes, chance: random.Random) -> _Parts:
    return head, records, _bytes(rest, chance)


def _bytes(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        if out:
            out[chance.randrange(len(out))] = chance.randrange(256)
    return bytes(out)


_WAYS: tuple[Callable[[bytes, list[bytes], bytes, random.Random], _Parts], ...] = (
    _head, _order, _record, _record, _note, _note, _note, _bytes_of_head,
)  # fmt: skip
