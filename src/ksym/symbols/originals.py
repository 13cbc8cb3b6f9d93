# SPDX-License-Identifier: BSD-2-Clause
"""The files that paths named when a run began, which are known again under any other name.

COMMAND may rename the program that is watched and run it, or put another one in its place. The user meant both: the
file that had the path, and the one that has it now. The first is known by its inode number. The file is kept open, as
the kernel gives the number of a removed file to the next new one as soon as nobody has it open.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ksym.linux.maps import read_maps, same_device


class _Original(NamedTuple):
    fd: int
    device: int
    numbers: frozenset[int]


class Originals:
    """Files that are kept open.

    Args:
        names: Of objects, as the user wrote them; those that are not paths, or lead to no file, are passed over.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._kept = {name: kept for name in set(names) if "/" in name and (kept := _keep(name)) is not None}

    def close(self) -> None:
        """Close the files; nothing is known of them afterwards."""
        for each in self._kept.values():
            os.close(each.fd)
        self._kept.clear()

    def is_that_of(self, name: str, device: int, inode: int) -> bool:
        """Return True if a file in a memory map is the one that the name led to at the start."""
        kept = self._kept.get(name)
        return kept is not None and inode in kept.numbers and same_device(device, kept.device)

    def numbers(self, name: str) -> frozenset[int]:
        """Return the inode numbers of a file; see `file_numbers`."""
        kept = self._kept.get(name)
        return frozenset() if kept is None else kept.numbers

    def path(self, name: str) -> str | None:
        """Return a path by which ksym can open the file, even if it was renamed or removed; None if it is not kept."""
        kept = self._kept.get(name)
        return None if kept is None else f"/proc/self/fd/{kept.fd}"


def file_numbers(path: str) -> Iterator[int]:
    """Yield the inode numbers of a file, as stat(2) and memory maps have them: overlayfs shows others to stat(2)."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is empty
        yield os.stat(path).st_ino
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 1, prot=mmap.PROT_READ):
            yield from (mapping.inode for mapping in read_maps(os.getpid()) if mapping.path == path)


def _keep(name: str) -> _Original | None:
    path = os.path.realpath(name)
    if not os.path.isfile(path):  # opening a fifo or a device may do something
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:  # it may be executable and not readable
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
    status = os.fstat(fd)
    # Memory maps have other numbers only on file systems without a device of their own, see same_device.
    numbers = {status.st_ino}
    if os.major(status.st_dev) == 0:
        numbers |= set(file_numbers(path))
    return _Original(fd, status.st_dev, frozenset(numbers))
