# SPDX-License-Identifier: BSD-2-Clause
"""Files that somebody has open, and reads of them that wait."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from ksym.tracing.nodes import Caller, File, Handle, refusal

MAX_WRITE = 128 << 10
"""The longest write(2) that arrives whole."""
MAX_READ = 128 << 10
"""The kernel asks for no more at once (option max_read), and again where it got that and its reader wants more."""


@dataclass(eq=False)
class OpenFile:
    """An open file.

    Args:
        number: What the kernel calls it in requests.
        file: What is open.
        handle: How to use it.
        poller: What the kernel calls it, while it wants to know when it gets ready.
    """

    number: int
    file: File
    handle: Handle
    poller: int | None = None


@dataclass(frozen=True)
class Read:
    """A read(2), or a part of a long one."""

    opened: OpenFile
    offset: int
    size: int

    def data(self) -> bytes | None:
        """What the handle gives; None where the reader has to wait.

        A stream gives one byte less than the kernel asks for at most: it would ask again, and that second part
        would wait with the first one's bytes in hand.

        Raises:
            ValueError: it is more than was asked for.
        """
        size = min(self.size, MAX_READ - self.opened.file.stream)
        data = self.opened.handle.read(self.offset, size)
        if data is not None and len(data) > size:
            raise ValueError(f"{len(data)} bytes were read, not {size}")
        return data


def open_file(file: File, flags: int, caller: Caller) -> Handle:
    """A new handle, if the file's mode allows what ``flags`` ask for.

    Raises:
        OSError: it does not (EACCES), or the file refuses.
    """
    access = flags & os.O_ACCMODE
    wanted = (0o400 if access != os.O_WRONLY else 0) | (0o200 if access != os.O_RDONLY else 0)
    if wanted & ~file.mode:
        raise refusal(errno.EACCES)
    handle = file.open(flags, caller)
    if flags & os.O_TRUNC:
        try:
            handle.truncate()
        except BaseException:
            handle.close()
            raise
    return handle
