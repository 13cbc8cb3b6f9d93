# SPDX-License-Identifier: BSD-2-Clause
"""Files whose names or contents are somebody else's: a program under study may be hostile, and ksym is mostly root.

Opening a device can do things (a tape rewinds, a watchdog starts to count), and so can reading from /proc or /sys. A
mapped file that its owner cuts is SIGBUS. So what is opened is looked at first, and bytes are read, never mapped.
"""

from __future__ import annotations

import errno
import os
import stat

_NO_FILES = ("/proc/", "/sys/")
MOST_OPEN = 512
"""At once: a program may have mapped any number, and ksym has but so many descriptors."""
_LARGEST_READ = 1 << 30
"""A sparse file may claim any length."""


class RegularFile:
    """A regular file, open for reading as long as the object lives.

    Args:
        path: The file. A FIFO, a device, a file of /proc or /sys is never opened, whatever its name becomes meanwhile.

    Raises:
        OSError: it cannot be opened; EINVAL where it is none, or empty, EMFILE where too many are open.
    """

    _open = 0
    short = False
    """One could not be opened, as too many files are open."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = -1
        if RegularFile._open >= MOST_OPEN:
            RegularFile.short = True
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            RegularFile.short = RegularFile.short or error.errno in (errno.EMFILE, errno.ENFILE)
            raise
        except ValueError as error:  # a NUL in the path
            raise OSError(errno.EINVAL, str(error)) from error
        try:
            found = os.fstat(place)
            link = f"/proc/self/fd/{place}"
            if (
                not stat.S_ISREG(found.st_mode)
                or not found.st_size
                or os.readlink(link).startswith(_NO_FILES)
            ):
                raise OSError(errno.EINVAL, "it is empty or not a regular file")
            self._fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        finally:
            os.close(place)
        RegularFile._open += 1
        self.length = found.st_size
        """As it was when it was opened."""

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the file; fewer where it has become shorter.

        Raises:
            OSError: they cannot be read; EFBIG for more than anybody needs at once.
        """
        if size > _LARGEST_READ:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        try:
            return os.pread(self._fd, size, offset)
        except OverflowError as error:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG)) from error

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            RegularFile._open -= 1

    def __del__(self) -> None:
        self.close()


class Bytes:
    """What is there already, read in the same way."""

    def __init__(self, data: bytes) -> None:
        self._data, self.length = data, len(data)

    def read(self, offset: int, size: int) -> bytes:
        """See RegularFile."""
        return self._data[offset : offset + size]

    def close(self) -> None:
        """Let go of it."""
        self._data = b""
