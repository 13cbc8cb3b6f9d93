# SPDX-License-Identifier: BSD-2-Clause
"""The head of a perf.data file, ksym's or perf's own: its events, where its data are, and the machine's features.

Nothing that it says is believed: sizes are held against those of the file, and what does not fit is an error in one
line or, at the end of a file that was cut, missing.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from dataclasses import dataclass, field

from ksym.errors import KsymError
from ksym.recording.perf_file import CONSTANT, HEADER, MAGIC, MAKER, NOTE_MARK, SECTION, Feature

Bytes = io.RawIOBase | io.BufferedIOBase

_ATTR = struct.Struct("<IIQQQQQIIQQ")
"""struct perf_event_attr up to bp_len."""
_MOST_EVENTS, _MOST_ID_BYTES = 4096, 8 << 20
_MOST_FEATURE_BYTES = 64 << 20
_PIECE = 1 << 20
_KNOWN = frozenset(Feature)
KERNEL = "[kernel.kallsyms]"
"""What it is called among the files."""
_TODO = "record again, or give a file of ksym record or perf record"


@dataclass
class FileEvent:
    """An event of the file; fields are those of ``struct perf_event_attr``."""

    type: int
    config: int
    period: int
    """A sample in so many hits; so many samples a second where the flags say so (`by_rate`)."""
    sample_type: int
    read_format: int
    flags: int
    bp_type: int
    bp_address: int
    bp_length: int
    ids: tuple[int, ...]
    name: str = ""

    @property
    def by_rate(self) -> bool:
        """Whether the kernel changes the period, to come to so many samples a second (attr.freq)."""
        return bool(self.flags >> 10 & 1)


@dataclass
class Machine:
    """Where the recording was made, as far as the file tells."""

    hostname: str = ""
    release: str = ""
    arch: str = ""
    cpus: int = 0
    command: tuple[str, ...] = ()
    version: str = ""
    build_ids: dict[str, str] = field(default_factory=dict)
    """Of files, by path, in hexadecimal; the kernel's is ``[kernel.kallsyms]``."""
    clock: tuple[int, int] | None = None
    """The same moment on the wall clock and on that of the records, nanoseconds (CLOCK_DATA)."""


@dataclass
class FileHead:
    """What stands before and behind the data."""

    path: str
    events: list[FileEvent]
    data_at: int
    data_end: int
    """As far as the file reaches."""
    whole: bool
    """All the data that the header counts are there, and the features behind them."""
    begun: bool
    """The header counts data: ksym's does as soon as it is certain what is watched, perf's at the end."""
    missing: bool
    """The file is shorter than its header says."""
    machine: Machine
    modified_ns: int
    own: bool
    """It belongs to who reads it, or to root. Else no file that it names is to be opened (perf refuses such ones)."""
    by_ksym: bool
    """ksym wrote it: what it has not sealed does not count."""
    following: str | None
    """What follows the recording's end and is not read, in a clause; None: nothing does."""
    check_sum: int
    """With which the first seal of ksym's begins: CRC-32 of what stands before the data and does not change."""


def error(path: str, why: str, todo: str = _TODO) -> KsymError:
    """What is said of a file that cannot be read."""
    return KsymError(f"cannot read {path}", why, todo)


def open_file(path: str) -> io.FileIO:
    """Open a recording.

    Raises:
        KsymError: it cannot be opened, or is no file.
    """
    try:
        # a FIFO would make open(2) wait for a writer
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as failed:
        why = failed.strerror if isinstance(failed, OSError) else "its name has a NUL"
        raise error(path, why or "it fails", "name a recording") from failed
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        folder = stat.S_ISDIR(mode)
        why = "it is a folder (perf record --threads?)" if folder else "it is no regular file"
        raise error(path, why, "record into one file")
    return io.FileIO(fd, "rb")


def read_head(file: Bytes, path: str) -> FileHead:
    """Read what stands before and behind the data.

    Raises:
        KsymError: it is no recording, or nothing in it can be read.
    """
    size = os.fstat(file.fileno()).st_size
    start = _at(file, 0, HEADER.size)
    if start[:8] == MAGIC[::-1]:
        raise error(path, "it was made on a machine of the other byte order", "read it on such a machine")
    if start[:8] != MAGIC:
        raise error(path, "it is no perf.data file" if start else "it is empty")
    if len(start) >= 16 and struct.unpack_from("<Q", start, 8)[0] == 16:
        raise error(path, "it was written through a pipe", "let perf record write a file (-o FILE)")
    if len(start) < HEADER.size:
        raise error(path, "it was cut inside its header")
    _, head_size, entry, attrs_at, attrs_size, data_at, data_size, _, _, bits = HEADER.unpack(start)
    if head_size < HEADER.size or not 64 + SECTION.size <= entry <= 4096 or attrs_size % entry:
        raise error(path, "its header is damaged")
    if not 0 < attrs_size // entry <= _MOST_EVENTS:
        raise error(path, "its header is damaged: it has no events, or too many")
    events = _events(file, path, attrs_at, attrs_size, entry, size)
    if not attrs_at + attrs_size <= data_at < 1 << 62:
        raise error(path, "its header is damaged: its data lie where its events are")
    # perf writes the size at its end, so one that was killed leaves none (perf's own words: data size is 0).
    counted = data_at + data_size if data_size else size
    features = int.from_bytes(bits, "little")
    machine, whole, end = Machine(), False, counted
    if features and counted <= size:
        machine, whole, end = _features(file, counted, features, size, events)
    own = os.fstat(file.fileno()).st_uid in (0, os.geteuid())
    if not own:
        machine.build_ids = {path: value for path, value in machine.build_ids.items() if path == KERNEL}
    behind = _at(file, HEADER.size, min(data_at - HEADER.size, 2 * _MOST_ID_BYTES))
    following = _following(file, end, size, whole=whole)
    return FileHead(
        path, events, data_at, min(counted, size), whole and bool(data_size), data_size > 0,
        counted > size, machine, os.fstat(file.fileno()).st_mtime_ns, own,
        NOTE_MARK in _at(file, HEADER.size, len(MAKER)), following, zlib.crc32(start[CONSTANT] + behind),
    )  # fmt: skip


def _at(file: Bytes, offset: int, size: int) -> bytes:
    """Bytes of the file; fewer at its end."""
    try:
        return os.pread(file.fileno(), size, offset)
    except (OSError, OverflowError):
        return b""


def _events(file: Bytes, path: str, at: int, size: int, entry: int, file_size: int) -> list[FileEvent]:
    table = _at(file, at, size)
    if len(table) < size:
        raise error(path, "it was cut inside its header")
    events, room = [], _MOST_ID_BYTES
    for start in range(0, size, entry):
        event = _event(table[start : start + entry - SECTION.size])
        ids_at, ids_size = SECTION.unpack_from(table, start + entry - SECTION.size)
        room -= ids_size
        if ids_size % 8 or ids_at + ids_size > file_size or room < 0:
            raise error(path, "it was cut inside its header")
        event.ids = struct.unpack(f"<{ids_size // 8}Q", _at(file, ids_at, ids_size))
        events.append(event)
    return events


def _event(data: bytes) -> FileEvent:
    kind, _, config, period, sample_type, read_format, flags, _, bp_type, address, length = _ATTR.unpack(
        data[: _ATTR.size].ljust(_ATTR.size, b"\0")
    )
    return FileEvent(kind, config, period, sample_type, read_format, flags, bp_type, address, length, ())


def _following(file: Bytes, end: int, size: int, *, whole: bool) -> str | None:
    """Return what follows the end of a recording; of one that has no features, only another recording counts.

    The file of a recorder that was killed may end with records that its header does not count yet.
    """
    if end >= size:
        return None
    another = _find(file, MAGIC, end, size)
    if another is None and not whole:
        return None
    count = size - (end if another is None else another)
    bytes_ = f"{count:,} byte{'' if count == 1 else 's'}"
    what = bytes_ if another is None else f"another recording ({bytes_})"
    follows = "follow" if another is None and count != 1 else "follows"
    return f"{what} {follows} its end and {'are' if follows == 'follow' else 'is'} not read"


def _find(file: Bytes, what: bytes, start: int, end: int) -> int | None:
    """Return where in the file ``what`` is found first; None if it is not there."""
    for at in range(start, end, _PIECE):
        found = _at(file, at, _PIECE + len(what) - 1).find(what)
        if found >= 0:
            return at + found
    return None


def _features(
    file: Bytes, at: int, bits: int, size: int, events: list[FileEvent]
) -> tuple[Machine, bool, int]:
    """Return what the features tell, whether all of them are there, and where they end.

    A feature that is damaged tells nothing.
    """
    numbers = [number for number in range(256) if bits >> number & 1]
    table = _at(file, at, SECTION.size * len(numbers))
    machine, whole, end = Machine(), len(table) == SECTION.size * len(numbers), at + len(table)
    for place, number in enumerate(numbers[: len(table) // SECTION.size]):
        start, length = SECTION.unpack_from(table, place * SECTION.size)
        if start + length > size:
            whole = False
            continue
        end = max(end, start + length)
        if length > _MOST_FEATURE_BYTES or number not in _KNOWN:
            continue
        try:
            _feature(machine, events, number, _at(file, start, length))
        except (struct.error, ValueError):
            continue
    return machine, whole, end


def _feature(machine: Machine, events: list[FileEvent], number: int, data: bytes) -> None:
    match number:
        case Feature.HOSTNAME:
            machine.hostname = _string(data, 0)[0]
        case Feature.OSRELEASE:
            machine.release = _string(data, 0)[0]
        case Feature.VERSION:
            machine.version = _string(data, 0)[0]
        case Feature.ARCH:
            machine.arch = _string(data, 0)[0]
        case Feature.NRCPUS:
            machine.cpus = struct.unpack_from("<II", data)[1]
        case Feature.CMDLINE:
            machine.command = _strings(data)
        case Feature.CLOCK_DATA:
            _, _, wall, other = struct.unpack_from("<IIQQ", data)
            machine.clock = wall, other
        case Feature.EVENT_DESC:
            _descriptions(events, data)
        case Feature.BUILD_ID:
            machine.build_ids = _build_ids(data)


def _string(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<I", data, at)
    end = at + 4 + size
    if end > len(data):
        raise ValueError(size)
    return data[at + 4 : end].partition(b"\0")[0].decode(errors="replace"), end


def _strings(data: bytes) -> tuple[str, ...]:
    (count,) = struct.unpack_from("<I", data)
    words, at = [], 4
    for _ in range(min(count, len(data) // 4)):
        word, at = _string(data, at)
        words.append(word)
    return tuple(words)


def _descriptions(events: list[FileEvent], data: bytes) -> None:
    """EVENT_DESC: the events' names, in the order of the attrs."""
    count, attr_size = struct.unpack_from("<II", data)
    at = 8
    for number in range(min(count, len(events))):
        (ids,) = struct.unpack_from("<I", data, at + attr_size)
        name, at = _string(data, at + attr_size + 4)
        at += 8 * ids
        if at > len(data):
            raise ValueError(at)
        events[number].name = name


def _build_ids(data: bytes) -> dict[str, str]:
    """Entries of struct perf_record_header_build_id: header, pid, 24 bytes of build id, path."""
    found, at = {}, 0
    while at + 36 <= len(data):
        _, misc, size = struct.unpack_from("<IHH", data, at)
        if size < 36 or at + size > len(data):
            break
        # PERF_RECORD_MISC_BUILD_ID_SIZE: the byte behind the digest is its length
        length = data[at + 32] if misc & 1 << 15 else 20
        path = data[at + 36 : at + size].partition(b"\0")[0].decode(errors="replace")
        found[path] = data[at + 12 : at + 12 + min(length, 20)].hex()
        at += size
    return found
