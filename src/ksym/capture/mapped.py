# SPDX-License-Identifier: BSD-2-Clause
"""The files of mappings: found by a mapping's record, kept from the moment on when they were mapped.

A record names a file by path and by device, inode and generation (or build id). What has the path by now may be
another file, whose symbols would be wrong names; so whatever is found is held against the record.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import struct
import time
from collections.abc import Iterator

from ksym.capture.records import MmapRecord
from ksym.errors import KsymError
from ksym.linux.maps import same_device
from ksym.linux.regular_file import RegularFile
from ksym.symbols.elf import ElfFile

_MOST_KEPT = 128
_PART_KEPT = 8
"""No more than this part of the descriptors that ksym may have."""
_FS_IOC_GETVERSION = 0x80087601
"""linux/fs.h, _IOR('v', 1, long); file systems fill in an int."""


class Kept:
    """Files that were mapped and are not looked into yet: once their names are gone, only this leads to them."""

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], int] = {}
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = (
            _MOST_KEPT if soft == resource.RLIM_INFINITY else min(_MOST_KEPT, max(1, soft // _PART_KEPT))
        )

    def keep(self, record: MmapRecord) -> None:
        """Hold on to the file of a mapping, if it can still be found."""
        if record.file in self._kept or not record.is_file:
            return
        found = find(record)
        if found is None:
            return
        if len(self._kept) >= self._most:
            os.close(self._kept.pop(next(iter(self._kept))))
        self._kept[record.file] = found

    def take(self, record: MmapRecord) -> int | None:
        """A descriptor (O_PATH) of the file of a mapping, which the caller closes; None where it is gone."""
        kept = self._kept.pop(record.file, None)
        return find(record) if kept is None else kept

    def close(self) -> None:
        """Let go of all."""
        for fd in self._kept.values():
            os.close(fd)
        self._kept.clear()


def find(record: MmapRecord) -> int | None:
    """Open the file of a mapping (O_PATH): by its name, by its process; None where it is gone."""
    for path, certain in _places(record):
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            RegularFile.short = RegularFile.short or error.errno in (errno.EMFILE, errno.ENFILE)
            continue
        except ValueError:  # a NUL in the path
            continue
        if _is_that(fd, record, certain=certain):
            return fd
        os.close(fd)
    return None


def _places(record: MmapRecord) -> Iterator[tuple[str, bool]]:
    # By name first, so that debug files are found beside it; the last ones are links to the file itself (man 5 proc).
    process, end = f"/proc/{record.pid}", record.start + record.length
    yield record.name, False
    yield f"{process}/root{record.name}", False
    yield f"{process}/map_files/{record.start:x}-{end:x}", True
    yield f"{process}/exe", True


def _is_that(fd: int, record: MmapRecord, *, certain: bool) -> bool:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return False
    if not record.inode:
        return not record.build_id or _build_id(fd) == record.build_id
    if status.st_ino != record.inode or not same_device(status.st_dev, record.device):
        return False
    # An inode's number is given again, and some file systems do so at once. Through a link of a process that has it
    # mapped, nothing else can have it.
    generation = None if certain else _generation(fd)
    if certain or not record.time:
        return True
    if generation is not None and record.generation:
        return generation == record.generation
    return status.st_ctime_ns <= record.time + time.time_ns() - time.monotonic_ns()


def _generation(fd: int) -> int | None:
    """``i_generation``, of file systems that tell it."""
    try:
        file = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return int(struct.unpack("=I4x", fcntl.ioctl(file, _FS_IOC_GETVERSION, bytes(8)))[0])
    except OSError:
        return None
    finally:
        os.close(file)


def _build_id(fd: int) -> str:
    try:
        with ElfFile(f"/proc/self/fd/{fd}") as elf:
            return elf.build_id or ""
    except (KsymError, OSError):
        return ""
