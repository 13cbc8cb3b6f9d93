# SPDX-License-Identifier: BSD-2-Clause
"""The layout of a perf.data file, as far as ksym writes or reads it.

Sources: tools/perf/Documentation/perf.data-file-format.txt, tools/perf/util/header.h and
tools/lib/perf/include/perf/event.h of Linux; include/uapi/linux/perf_event.h.

    header        magic, sizes, where attrs and data are, 256 bits for the features that follow the data
    MAKER         in ksym's alone
    attrs         perf_event_attr and where its identifiers are, for each event
    identifiers   u64 each
    data          records
    features      a table of (offset, size), and what it points to; there once the recording has ended

What ksym alone knows stands among the data as records of type BPF_EVENT, of a kind that perf does not know and passes
over (machine__process_bpf in tools/perf/util/machine.c): a *note*. A note is a name and JSON, both in UTF-8, a long one
cut into several records.
"""

from __future__ import annotations

import enum
import struct

from ksym.linux.perf_record import RECORD, record

MAGIC = b"PERFILE2"
HEADER = struct.Struct("<8sQQQQQQQQ32s")
"""magic, size, size of an attr with its section, attrs (offset, size), data (offset, size), two zeros, features."""
SECTION = struct.Struct("<QQ")
ATTR_SIZE = 112
"""PERF_ATTR_SIZE_VER5 (4.8): all perf that is still in use knows it."""


class Kind(enum.IntEnum):
    """Types of records: the kernel's, and from 64 on perf's own."""

    MMAP = 1
    LOST = 2
    COMM = 3
    EXIT = 4
    FORK = 7
    SAMPLE = 9
    MMAP2 = 10
    BPF_EVENT = 18
    HEADER_ATTR = 64
    BUILD_ID = 67
    FINISHED_ROUND = 68
    EVENT_UPDATE = 78
    HEADER_FEATURE = 80
    COMPRESSED = 81
    COMPRESSED2 = 83


class Feature(enum.IntEnum):
    """Bits of the header: what follows the data."""

    BUILD_ID = 2
    HOSTNAME = 3
    OSRELEASE = 4
    VERSION = 5
    ARCH = 6
    NRCPUS = 7
    CMDLINE = 11
    EVENT_DESC = 12
    COMPRESSED = 27
    CLOCK_DATA = 29


EVENT_UPDATE_NAME = 2
NOTE = 0x6B73
"""The kind of BPF_EVENT that holds a note."""
NOTE_HEAD = struct.Struct("<HHI8s")
"""struct perf_record_bpf_event behind the record's header: type NOTE, flags (1: more of it follows), number, a mark."""
CHECK = "check"
"""Name of the note that holds the CRC-32 of what is CONSTANT in the header, of all that stands between it and the data,
and of all records in front of it but these notes: a part that is missing or there twice is no sound file either."""
NOTE_MARK = b"ksym\0\0\0\1"
MAKER = 8 * NOTE_MARK
"""Stands behind the header of what ksym records, so often that no damage of a few bytes hides who wrote the file."""
CONSTANT = slice(8, 48)
"""What of the header stays as it is while the file grows: sizes, where the attrs are, and where the data begin."""
_NOTE_MOST = 60_000


def text(value: str) -> bytes:
    """A string as headers have it: its size with padding, its bytes, a NUL (do_write_string in header.c)."""
    data = value.encode(errors="surrogateescape") + b"\0"
    size = -(-len(data) // 64) * 64
    return struct.pack("<I", size) + data.ljust(size, b"\0")


def is_note(data: bytes, name: str) -> bool:
    """Whether a record is the start of a note of that name."""
    at = RECORD.size + NOTE_HEAD.size + 4
    return data[at - 12 : at - 4] == NOTE_MARK and data.startswith(name.encode() + b"\0", at)


def note(name: str, data: bytes, trailer: bytes) -> bytes:
    """A note as records.

    Args:
        name: What it is about.
        data: Its content.
        trailer: What each record of the file ends with (sample_id_all).
    """
    whole = name.encode() + b"\0" + data
    parts = [whole[at : at + _NOTE_MOST] for at in range(0, len(whole), _NOTE_MOST)]
    out = b""
    for number, part in enumerate(parts):
        head = NOTE_HEAD.pack(NOTE, number < len(parts) - 1, number, NOTE_MARK)
        body = head + struct.pack("<I", len(part)) + part
        out += record(Kind.BPF_EVENT, body + bytes(-len(body) % 8) + trailer)
    return out
