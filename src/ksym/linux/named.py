# SPDX-License-Identifier: BSD-2-Clause
"""A file that is written for long under a name, and what becomes of the name meanwhile.

Somebody may remove the file, or put another one in its place. What was written is there as long as it is open: it gets
a new name then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass

_PIECE = 1 << 20


@dataclass(frozen=True)
class Lost:
    """What became of a file that is not where it was made.

    Args:
        why: In a clause: ``it was removed while it was written``.
        where: Its name now; None where none could be given to it.
        error: Why none could be given to it.
    """

    why: str
    where: str | None
    error: OSError | None = None

    @property
    def todo(self) -> str:
        """Where what was written is."""
        if self.where is None:
            why = self.error.strerror if self.error else ""
            return f"nothing of it could be kept ({why})"
        return f"all of it is in {self.where}"


class NamedFile:
    """A file that was made under a name.

    Args:
        fd: The file; a copy of the descriptor is kept until ``close``.
        path: Its name.
    """

    def __init__(self, fd: int, path: str) -> None:
        self._fd, self.path = os.dup(fd), path

    def in_place(self) -> bool:
        """Return True if the name still leads to the file, or if it is no regular file."""
        own = os.fstat(self._fd)
        if not stat.S_ISREG(own.st_mode):
            return True
        try:
            return os.path.samestat(own, os.stat(self.path, follow_symlinks=False))
        except OSError:
            return False

    def settle(self) -> Lost | None:
        """See that the file has a name, once all is written; None where it has its own."""
        if self.in_place():
            return None
        replaced = os.path.lexists(self.path)
        if now := self._name():
            return Lost("it was renamed" + (", and another file has its name" if replaced else ""), now)
        why = f"{'another file was put in its place' if replaced else 'it was removed'} while it was written"
        import tempfile  # late: few runs come here

        failed = None
        for folder in (os.path.dirname(self.path), tempfile.gettempdir()):
            try:
                return Lost(why, self._keep(os.path.join(folder, os.path.basename(self.path))))
            except OSError as error:  # the folder may be gone, too
                failed = failed or error
        return Lost(why, None, failed)

    def _name(self) -> str | None:
        """Return the name that the kernel knows for the file; None where it has none in this root directory."""
        try:
            name = os.readlink(f"/proc/self/fd/{self._fd}")
            return name if os.path.samestat(os.fstat(self._fd), os.lstat(name)) else None
        except OSError:
            return None

    def _keep(self, path: str) -> str:
        """Give the file a name that is free.

        Raises:
            OSError: if it cannot be made there.
        """
        for number in range(1000):
            name = f"{path}.kept" + (f".{number}" if number else "")
            with contextlib.suppress(FileExistsError):
                self._make(name)
                return name
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _make(self, name: str) -> None:
        if os.fstat(self._fd).st_nlink:
            # The folder's descriptor makes Python call linkat(2), as link(2) would not follow /proc's link.
            folder = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.link(str(self._fd), name, src_dir_fd=folder, follow_symlinks=True)
                return
            except FileExistsError:
                raise
            except OSError:  # another file system
                pass
            finally:
                os.close(folder)
        # A file that has no name left cannot get one again (linkat: ENOENT).
        import shutil  # late: few runs come here

        made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with open(f"/proc/self/fd/{self._fd}", "rb") as source, open(made, "wb") as copy:
                shutil.copyfileobj(source, copy, _PIECE)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def close(self) -> None:
        """Close the copy; closing twice does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
