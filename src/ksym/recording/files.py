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
from ksym.linux.named import Lost, NamedFile
from ksym.recording.writer import FileCut
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
        self._made: list[NamedFile] = []
        """The files that are kept: FILE.1, if there is one, and FILE."""
        self._lost: dict[str, Lost] = {}
        """By their names, those that are not where they were made."""
        self._moved: list[str] = []
        """Names under which something was that was renamed to NAME.old."""
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
            self._turn()
        else:
            for name in self._names() if self._force else self._names()[::2]:
                self._clear(name)
        self._number += 1
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._made.append(NamedFile(fd, self._path))
        return fd

    def _turn(self) -> None:
        """FILE becomes FILE.1; the file that was FILE.1 is not kept."""
        *before, present = self._made
        for each in before:
            each.close()
        self._made = [present]
        if not self._settle(present):
            os.replace(self._path, f"{self._path}.1")
            present.path = f"{self._path}.1"

    def _settle(self, file: NamedFile) -> bool:
        lost = file.settle()
        if lost:
            self._lost[file.path] = lost
        return lost is not None

    def settle(self) -> KsymError | None:
        """See that all is where it was written, once it is; return the error to tell where it is not."""
        for file in self._made:
            if file.path not in self._lost:
                self._settle(file)
        for path, lost in self._lost.items():
            return KsymError(
                f"cannot leave the recording in {printable(path)}", lost.why, printable(lost.todo)
            )
        return None

    def name(self, path: str) -> str | None:
        """Return where a file is that was made under a name; None where it is not kept."""
        lost = self._lost.get(path)
        return lost.where if lost else path

    def discard(self) -> None:
        """Remove a file of which nothing can be read, and give what was there its name back."""
        file = self._made.pop() if self._made else None
        if file is not None:
            with contextlib.suppress(OSError):
                if file.in_place():
                    os.unlink(file.path)
            file.close()
        if self._number <= 1:
            for name in self._moved:
                with contextlib.suppress(OSError):
                    if not os.path.lexists(name):
                        os.replace(f"{name}.old", name)

    def close(self) -> None:
        """Let go of the files."""
        for file in self._made:
            file.close()
        self._made.clear()

    def _clear(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if not self._force:
                os.replace(name, f"{name}.old")
                self._moved.append(name)
            elif name == self._path:
                os.unlink(name)

    def error(self, error: OSError, *, readable: str | None = None) -> KsymError:
        """Return the error that a user reads.

        Args:
            error: What failed.
            readable: The file in which what was written before can be read; None where there is none.
        """
        if error.errno in SHORT_OF:
            return KsymError(f"cannot write {printable(self._path)}", *SHORT_OF[error.errno])
        todo = "nothing that is certain is left of it, record again" if isinstance(error, FileCut) else _TODO
        if readable:
            todo = f"what was written before can be read: ksym report {printable(readable)}"
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
