# SPDX-License-Identifier: BSD-2-Clause
"""User-space code of all processes of a run: names, and bytes to decode.

Hits are named a moment later, when their process may be gone or have other code at the address. So the memory map
(/proc/PID/maps) of a process is read once, before anything is told of it; from then on, and of processes that start or
run another program later, the kernel's records of executable mappings are the only source, in order of time.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ksym.capture.mapped import Kept
from ksym.capture.records import CommRecord, DataRecord, ExitRecord, ForkRecord, MmapRecord, Record, parse
from ksym.capture.sites import Named
from ksym.capture.usernames import VDSO, Loaded, ObjectCache, UserNames, code_bits, loaded_at
from ksym.errors import KsymError
from ksym.linux.maps import DELETED, Mapping
from ksym.symbols.debugfile import find_debug_file
from ksym.symbols.elf import ET_EXEC, ElfFile
from ksym.symbols.readable import readable

_GENERATIONS = 4096
_ANCESTORS = 64
"""Programs that fork and fork again without running another do not go so deep; what is made to would take for ever."""


@dataclass(frozen=True)
class Image:
    """A file that was seen mapped: the ELF file, and its debug file where it is stripped."""

    elf: ElfFile
    tables: tuple[ElfFile, ...]


class _Mapped:
    """The mappings of one process that records have reported.

    Args:
        parent: What the process has that it was forked from; None: nothing is known. What that maps later is left out.
    """

    def __init__(self, parent: _Mapped | None = None) -> None:
        self._own: list[MmapRecord | DataRecord] = []
        self._parent, self._inherited = parent, len(parent._own) if parent else 0
        if parent and not parent._own:
            self._parent, self._inherited = parent._parent, parent._inherited

    def add(self, record: MmapRecord | DataRecord) -> None:
        """Add a mapping."""
        self._own.append(record)

    def newest_first(self) -> Iterator[MmapRecord | DataRecord]:
        """Yield its own mappings, then those inherited at fork, for at most _ANCESTORS generations; newest first."""
        mapped, count = self, len(self._own)
        for _ in range(_ANCESTORS):
            yield from reversed(mapped._own[:count])
            if mapped._parent is None:
                return
            mapped, count = mapped._parent, mapped._inherited


_NOTHING = _Mapped()


class Users:
    """What is known of the code of processes.

    Args:
        pids: Processes that are watched from the start, whose maps are read at once.
    """

    def __init__(self, *pids: int) -> None:
        self._cache = ObjectCache()
        self._live: dict[int, UserNames] = {}
        self._recorded: dict[int, _Mapped] = {}
        self._inherited: dict[int, tuple[UserNames, ...]] = {}
        """For each forked process, the memory maps of its ancestors at the time of the fork."""
        self._images: dict[tuple[object, ...], Image | None] = {}
        self._kept = Kept()
        self._ended: dict[int, None] = {}
        self._loaded: dict[int, tuple[int, Sequence[Mapping], Sequence[Loaded]]] = {}
        for pid in pids:
            self._read_map(pid)

    def _read_map(self, pid: int) -> None:
        """Read a memory map for the last time; later changes come from records."""
        names = self._names(pid)
        names.snapshot()
        names.freeze()

    # -- what the records tell -------------------------------------------------------------------

    def mapped(self, record: MmapRecord | DataRecord) -> bool:
        """See replaced.Follower."""
        if isinstance(record, DataRecord):
            return self._covered(record)
        if record.pid not in self._recorded:
            self._read_map(record.pid)
        self._recorded.setdefault(record.pid, _Mapped()).add(record)
        self._keep(record)
        return True

    def _covered(self, record: DataRecord) -> bool:
        """Note a mapping that replaces code: the file that the code came from is no longer loaded."""
        pid = record.pid
        if not any(_replaces(record, each) for each in self._known_code(pid)):
            return False
        self._names(pid).freeze()
        self._recorded.setdefault(pid, _Mapped()).add(record)
        return True

    def hold(self, data: bytes) -> None:
        """Keep the files of mappings that the rings will tell of, too; called as soon as they are made.

        Args:
            data: Records, as `Early` gives them.
        """
        records: list[Record] = []
        parse(data, chains=False, raw=False, out=records)
        for record in records:
            if isinstance(record, MmapRecord):
                self._keep(record)

    def _keep(self, record: MmapRecord) -> None:
        if self._images.get(record.file) is None:
            self._images.pop(record.file, None)
            self._kept.keep(record)

    def changed(self, record: CommRecord | ForkRecord | ExitRecord) -> None:
        """See replaced.Follower."""
        pid = record.pid
        if isinstance(record, CommRecord):
            if record.exec:
                self._live.pop(pid, None)
                self._inherited.pop(pid, None)
                self._loaded.pop(pid, None)
                self._recorded[pid] = _Mapped()
        elif isinstance(record, ForkRecord):
            if pid != record.parent_pid:
                self._ended.pop(pid, None)
                self._live.pop(pid, None)
                self._loaded.pop(pid, None)
                # Not looked up later: by then the parent may run another program.
                parent = record.parent_pid
                if parent not in self._recorded:
                    self._read_map(parent)
                self._recorded[pid] = _Mapped(self._recorded.get(parent))
                self._inherited[pid] = tuple(self._memory_maps(parent))[:_ANCESTORS]
        elif record.pid == record.tid:
            self._end(pid)

    def _end(self, pid: int) -> None:
        """A process is over; what is known of it is kept for hits that are not named yet, but not for ever."""
        self._ended[pid] = None
        if len(self._ended) > _GENERATIONS:
            old = next(iter(self._ended))
            del self._ended[old]
            for table in (self._live, self._recorded, self._inherited):
                table.pop(old, None)

    # -- what is asked -----------------------------------------------------------------------------

    def replaces(self, record: MmapRecord) -> bool:
        """See counted.Code."""
        for other in self._known_code(record.pid):
            if record.start < _end(other) and other.start < record.start + record.length:
                return not _same(record, other)
        return False

    def name(self, pid: int, ip: int) -> Named:
        """See sites.UserCode."""
        record = self._record(pid, ip)
        if record and record.is_file:
            return self._recorded_name(record, ip)
        for names in self._unrecorded(pid, record):
            found = names.name(ip)
            if found is not None:
                return Named(found.function, found.offset, found.size, found.object, found.in_file)
        return Named(None, ip)

    def read(self, pid: int, address: int, length: int) -> bytes:
        """See sites.UserCode."""
        # The file first: by now the process may have other code there.
        record = self._record(pid, address)
        image = self._image(record) if record else None
        if record and image:
            try:
                return image.elf.bytes_at(address - record.start + record.offset, length, "code")
            except KsymError:
                return b""
        found = (names.read(address, length) for names in self._unrecorded(pid, record))
        return next((data for data in found if data), b"") or self._live_bytes(pid, address, length)

    def bits(self, pid: int, ip: int) -> int:
        """See sites.UserCode."""
        record = self._record(pid, ip)
        image = self._image(record) if record else None
        if image:
            return code_bits(image.elf)
        found = (names.bits(ip) for names in self._unrecorded(pid, record))
        return next((bits for bits in found if bits is not None), 64)

    def _live_bytes(self, pid: int, address: int, length: int) -> bytes:
        try:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                return os.pread(memory.fileno(), length, address)
        except (OSError, ValueError, OverflowError):
            return b""

    def loaded(self, pid: int) -> Sequence[Loaded]:
        """The programs and libraries of a process, the newest first; the same object while nothing is new.

        Nothing is read anew for this: what is mapped after the snapshot is reported by the kernel.
        """
        records = list(self._recorded.get(pid, _NOTHING).newest_first())
        names = self._names(pid)
        known = self._loaded.get(pid)
        if known is None or known[0] != len(records) or known[1] is not names.mappings:
            found: list[Loaded | None] = []
            for at, record in enumerate(records):
                if isinstance(record, DataRecord) or any(_replaces(later, record) for later in records[:at]):
                    continue
                image = self._image(record)
                if image is None:
                    continue
                name = names.library(record.path.removesuffix(DELETED))
                found.append(loaded_at(image.tables, _bias(image.elf, record), name))
            for mapping in names.code:
                if not any(_replaces(later, mapping) for later in records):
                    found.append(names.loaded(mapping))
            fresh = [each for each in found if each]
            known = self._loaded[pid] = len(records), names.mappings, fresh
        return known[2]

    def _unrecorded(self, pid: int, record: MmapRecord | None) -> Iterable[UserNames]:
        """Yield the memory maps to ask if no recorded file holds an address."""
        if record is None:
            return self._memory_maps(pid)
        if record.path != VDSO:
            return ()
        return [
            UserNames(
                pid, self._cache, [Mapping(record.start, record.start + record.length, "r-xp", 0, 0, 0, VDSO)]
            )
        ]

    def _memory_maps(self, pid: int) -> Iterable[UserNames]:
        """Yield the memory map of the process, then those of its ancestors at fork."""
        yield self._names(pid)
        yield from self._inherited.get(pid, ())

    def _names(self, pid: int) -> UserNames:
        names = self._live.get(pid)
        if names is None:
            names = self._live[pid] = UserNames(pid, self._cache)
            if pid in self._recorded:
                names.freeze()
        return names

    def _code(self, pid: int) -> Iterator[MmapRecord]:
        """Return the recorded executable mappings, the newest first."""
        known = self._recorded.get(pid, _NOTHING)
        return (record for record in known.newest_first() if isinstance(record, MmapRecord))

    def _known_code(self, pid: int) -> Iterator[MmapRecord | Mapping]:
        """Yield all code that a process is known to have had, the newest first."""
        yield from self._code(pid)
        for names in self._memory_maps(pid):
            yield from names.code

    def _record(self, pid: int, ip: int) -> MmapRecord | None:
        # The newest mapping of an address is the one that counts.
        for record in self._code(pid):
            if record.start <= ip < record.start + record.length:
                return record
        return None

    def _recorded_name(self, record: MmapRecord, ip: int) -> Named:
        image = self._image(record)
        owner = readable(record.name.rpartition("/")[2])
        bias = _bias(image.elf, record) if image else None
        if image and bias is not None:
            for table in image.tables:
                try:
                    hit = table.symbol_at(ip - bias)
                except KsymError:
                    continue
                if hit is not None:
                    symbol, offset = hit
                    return Named(readable(symbol.function_name), offset, symbol.size, owner)
        return Named(owner, ip - record.start + record.offset, 0, owner, in_file=True)

    def _image(self, record: MmapRecord) -> Image | None:
        if record.file not in self._images:
            self._images[record.file] = self._open(record)
        return self._images[record.file]

    def _open(self, record: MmapRecord) -> Image | None:
        fd = self._kept.take(record) if record.is_file else None
        if fd is None:
            return None
        try:
            # The descriptor keeps the inode's number, so that what has it under this name is the same file.
            return open_image(record.name if _is_at(record.name, fd) else f"/proc/self/fd/{fd}", record.name)
        finally:
            os.close(fd)

    def build_ids(self) -> dict[str, str]:
        """Build ids of the files whose code was looked at, by path."""
        found = {image.elf.label: image.elf.build_id for image in self._images.values() if image}
        found |= self._cache.build_ids()
        return {path: build_id for path, build_id in found.items() if build_id}

    def close(self) -> None:
        """Close all files."""
        self._cache.close()
        for image in self._images.values():
            for elf in image.tables if image else ():
                elf.close()
        self._images.clear()
        self._kept.close()


def _replaces(later: MmapRecord | DataRecord, code: MmapRecord | Mapping) -> bool:
    """Return True if a later mapping of another file covers this code, or the part of its file before it."""
    overlaps = later.start < _end(code) and code.start - code.offset < later.start + later.length
    return overlaps and later.path.removesuffix(DELETED) != code.path.removesuffix(DELETED)


def _same(one: MmapRecord, other: MmapRecord | Mapping) -> bool:
    """Return True if two mappings put the same part of a file of the same name at the same addresses."""
    same_file = one.file == other.file if isinstance(other, MmapRecord) else one.name == other.path
    return same_file and (one.start, one.start + one.length, one.offset) == (
        other.start,
        _end(other),
        other.offset,
    )


def _end(mapping: MmapRecord | Mapping) -> int:
    return mapping.end if isinstance(mapping, Mapping) else mapping.start + mapping.length


def _is_at(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except (OSError, ValueError):
        return False


def open_image(path: str, label: str = "") -> Image | None:
    """Open a file that was mapped, called ``label``; None where it cannot be read, or is none."""
    try:
        elf = ElfFile(path, label=label)
        debug = None if elf.has_symtab else find_debug_file(elf)
    except (KsymError, OSError, ValueError):
        return None
    return Image(elf, (elf,) if debug is None else (debug, elf))


def _bias(elf: ElfFile, record: MmapRecord) -> int | None:
    """Run-time minus link-time address, by the segment that the mapping at ``record`` was made from."""
    if elf.type == ET_EXEC:
        return 0
    page = mmap.PAGESIZE
    for segment in elf.loads:
        if segment.offset & -page == record.offset:
            return record.start - (segment.vaddr & -page)
    return None
