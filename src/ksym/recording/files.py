# SPDX-License-Identifier: BSD-2-Clause
"""The files of a recording, by their names: FILE, FILE.1 with ``--max-size``, FILE.old for what was there.

Recordings are made by root. So nothing is written to, renamed or removed that is no regular file, and every file is a
new one: one that somebody else has prepared would be his to read.
"""

from __future__ import annotations

import contextlib
import os
import stat

from ksym.errors import SHORT_OF, KsymError
from ksym.views.text import printable

_NULL = os.makedev(1, 3)
"""/dev/null (Documentation/admin-guide/devices.txt)."""
_TODO = "choose another file with -o"


class Files:
    """What a recording is written into.

    Args:
        path: FILE.
        force: Overwrite what is there; else it is renamed.
        rotates: There will be FILE.1, too.

    Raises:
        KsymError: there is something that is no regular file.
    """

    def __init__(self, path: str, *, force: bool, rotates: bool) -> None:
        self._path, self._force, self._number = path, force, 0
        self.null = _kind(path) == "null"
        """It is /dev/null, which takes everything and keeps nothing."""
        self._rotates = rotates and not self.null
        self._check()

    def _names(self) -> list[str]:
        names = [self._path, *([f"{self._path}.1"] if self._rotates else [])]
        return names if self._force else [each for name in names for each in (name, f"{name}.old")]

    def _check(self) -> None:
        for name in [] if self.null else self._names():
            kind = _kind(name)
            if kind == "a symbolic link":
                raise KsymError(
                    f"cannot write {printable(name)}", "it is a symbolic link", "name what it points to"
                )
            if kind not in ("", "a file"):
                raise KsymError(f"cannot write {printable(name)}", f"it is {kind}", _TODO)

    def open(self) -> int:
        """Open the next file, mode 0600, and make room for its name.

        Raises:
            OSError: it cannot be made.
            KsymError: something came under one of the names that is no regular file.
        """
        if self.null:
            return os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        self._check()
        if self._number:
            os.replace(self._path, f"{self._path}.1")
        else:
            for name in self._names() if self._force else self._names()[::2]:
                self._clear(name)
        self._number += 1
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _clear(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if not self._force:
                os.replace(name, f"{name}.old")
            elif name == self._path:
                os.unlink(name)

    def error(self, error: OSError) -> KsymError:
        """In words."""
        begun = self._number and error.filename is None
        if error.errno in SHORT_OF:
            return KsymError(f"cannot write {printable(self._path)}", *SHORT_OF[error.errno])
        todo = "what was written before can be read" if begun else _TODO
        return KsymError(f"cannot write {printable(self._path)}", error.strerror or "it fails", todo)


def _kind(path: str) -> str:
    """What is there: ``a file``, ``null``, "" for nothing, or in words what it is instead."""
    try:
        found = os.lstat(path)
    except OSError:
        return ""  # opening it tells
    mode = found.st_mode
    if stat.S_ISREG(mode):
        return "a file"
    if stat.S_ISLNK(mode):
        return "a symbolic link"
    if stat.S_ISDIR(mode):
        return "a directory"
    if stat.S_ISCHR(mode) and found.st_rdev == _NULL:
        return "null"
    return "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
