# SPDX-License-Identifier: BSD-2-Clause
"""What a served directory is made of: directories, files, and files that somebody has open.

A file system is a tree of these, given to `ksym.tracing.server.Server`. All methods are called in the thread that
serves; to refuse, they raise OSError with the errno that the caller is to get (`refusal`). All nodes belong to root.

The server sees to the access that a mode allows, for root as well: a file of mode 0400 is never opened for writing.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

_numbers = itertools.count(2)  # 1 is the root's


def refusal(number: int) -> OSError:
    """The error to raise for the errno ``number``."""
    return OSError(number, os.strerror(number))


class Caller(NamedTuple):
    """Who asks: a thread of root's."""

    pid: int
    uid: int
    gid: int


class Node:
    """A file or a directory: the same object, as long as it has its name.

    Args:
        mode: Permission bits.
    """

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.number = next(_numbers)
        """Its inode number, never used again."""
        self.born_ns = time.time_ns()


class Handle:
    """A file that somebody has open: one for each open(2). What is not overridden is refused or does nothing."""

    def read(self, offset: int, size: int) -> bytes | None:
        """Bytes from ``offset`` on, at most ``size``; b"" is the end.

        Returns:
            None where there is nothing yet: the reader is kept waiting, and asked for again at ``Server.wake``,
            or gets EAGAIN with O_NONBLOCK.
        """
        raise refusal(errno.EINVAL)

    def write(self, offset: int, data: bytes, caller: Caller) -> int:
        """Take what somebody writes: all of it, or 128 KiB and the rest in further calls.

        Args:
            offset: Where in the file; after O_APPEND the kernel's guess of its size, which means nothing here.
            data: What is written.
            caller: Who writes, which need not be who has opened the file.

        Returns:
            How many bytes were taken.
        """
        raise refusal(errno.EINVAL)

    def truncate(self) -> None:
        """Empty the file, as O_TRUNC (a shell's ``>``) and its kin ask for."""

    def ready(self) -> bool:
        """Whether a read would not wait, for poll(2)."""
        return True

    def flush(self) -> None:
        """One of its descriptors is closed; what is raised is close(2)'s error."""

    def close(self) -> None:
        """Its last descriptor is closed."""


class File(Node):
    """A file whose size is not known before it is read: it is 0 in stat(2), as in tracefs.

    Args:
        mode: Permission bits: 0600, 0400 or 0200.
        stream: It has no positions, and reads may wait.
    """

    def __init__(self, mode: int, *, stream: bool = False) -> None:
        super().__init__(mode)
        self.stream = stream

    def open(self, flags: int, caller: Caller) -> Handle:
        """A new handle; O_TRUNC is dealt with by a call of its ``truncate``."""
        raise refusal(errno.EACCES)


class Text(Handle):
    """Reads text that is made anew whenever it is read from its start, and stays the same from there on."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._text: bytes | None = None

    def read(self, offset: int, size: int) -> bytes:
        """See Handle.read."""
        if self._text is None or not offset:
            self._text = self._make()
        return self._text[offset : offset + size]


class Directory(Node):
    """A directory; ``names`` may be changed at any time, and what was opened stays open.

    Args:
        names: What is in it.
        mode: Permission bits.
    """

    def __init__(self, names: Mapping[str, Node] | None = None, mode: int = 0o700) -> None:
        super().__init__(mode)
        self.names = dict(names or {})

    def mkdir(self, name: str, caller: Caller) -> None:
        """Put a directory into ``names``; there is none of that name."""
        raise refusal(errno.EPERM)

    def rmdir(self, name: str, caller: Caller) -> None:
        """Take a directory out of ``names``; it is there."""
        raise refusal(errno.EPERM)
