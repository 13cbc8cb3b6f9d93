# SPDX-License-Identifier: BSD-2-Clause
"""Where ``-o`` and the like lead: one rule for rows, exports and pages.

``-`` is stdout. What takes bytes as they come (a terminal, a FIFO, /dev/null) is written to, also through a symbolic
link; but not what another user has put into a folder that all may write to (/tmp), as it would be his to read. All
else is a new file of mode 0600: one that is there is replaced with ``--force`` alone, and a symbolic link is never
followed, as whoever made it decides where it leads.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from ksym.errors import KsymError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

STDOUT = "-"


def check(name: str, *, force: bool, option: str = "-o") -> None:
    """Refuse what is not to be written, before anything takes time.

    Args:
        name: The file.
        force: Replace one that is there.
        option: How another one is named.

    Raises:
        KsymError: there is such a file and ``force`` is off, or it is none that can be replaced.
    """
    if not name:
        raise UsageError(
            "cannot write the output", "its name is empty", f"name a file with {option}, - for stdout"
        )
    if name == STDOUT:
        return
    if is_stream(name):
        _check_owner(name, option)
        return
    try:
        mode = os.lstat(name).st_mode
    except (OSError, ValueError):
        return  # opening it will tell
    why, todo = "it is there already", f"overwrite it with --force, or name another with {option}"
    if stat.S_ISLNK(mode):
        why, todo = "it is a symbolic link", f"name the file itself with {option}"
    elif not stat.S_ISREG(mode):
        why, todo = (
            "it is a folder" if stat.S_ISDIR(mode) else "it is no regular file",
            f"name another with {option}",
        )
    elif force:
        return
    raise KsymError(f"cannot write {name}", why, todo)


def check_apart(source: str, name: str, *, option: str = "-o") -> None:
    """Refuse to write over the file that is read, under whatever name.

    Args:
        source: The file that is read.
        name: Where the output goes; STDOUT for stdout.
        option: How another one is named.

    Raises:
        KsymError: if both are one file: by another spelling, a hard or symbolic link, or a descriptor.
    """
    try:
        read = os.stat(source)
        written = os.fstat(1) if name == STDOUT else os.stat(name)
    except (OSError, ValueError):
        return  # one of them is not there: opening it will tell
    if os.path.samestat(read, written) and stat.S_ISREG(read.st_mode):
        where = "stdout" if name == STDOUT else name
        raise KsymError(
            f"cannot write {where}", f"it is the file that is read, {source}", f"name another with {option}"
        )


def is_stream(name: str | int) -> bool:
    """Whether it takes what is written to it as it comes: a terminal, a FIFO, /dev/null."""
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def _check_owner(name: str, option: str) -> None:
    """Refuse what another user has put where all may: as the kernel does if asked to create (fs.protected_fifos)."""
    folder = os.stat(os.path.dirname(name) or ".")
    shared = folder.st_mode & stat.S_ISVTX and folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if shared and os.lstat(name).st_uid not in (os.geteuid(), folder.st_uid):
        raise KsymError(
            f"cannot write {name}", "another user made it, in a folder that all may write to",
            f"name another with {option}",
        )  # fmt: skip


def _open_stream(name: str, option: str) -> int:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        # Again, as it may have been put there since; what is not another user's now cannot be exchanged by one.
        _check_owner(name, option)
        if not is_stream(fd) or not os.path.samestat(os.fstat(fd), os.stat(name)):
            raise KsymError(
                f"cannot write {name}", "it was exchanged meanwhile", f"name another with {option}"
            )
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_folders(path: Path) -> None:
    """Make a folder and those around it, with mode 0700.

    Raises:
        KsymError: it cannot be made.
    """
    try:
        for folder in (*reversed(path.parents), path):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
    except OSError as error:
        raise KsymError(
            f"cannot make {path}", error.strerror or "it fails", "choose another folder with -o"
        ) from error


def opened(name: str, *, force: bool) -> int:
    """A descriptor to write to, of a file that can be read while it grows.

    Raises:
        KsymError: see `check`.
        OSError: it cannot be opened.
    """
    check(name, force=force)
    if is_stream(name):
        return _open_stream(name, "-o")
    if force:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    # Rows that follow after somebody has cut the file shall leave no hole in it.
    return os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def created(name: str, *, force: bool, option: str = "-o") -> Iterator[BinaryIO]:
    """A file to write to, which has its name once the block has ended well.

    Args:
        name: Its name; STDOUT for stdout.
        force: Put it in the place of another one.
        option: How another one is named.

    Raises:
        KsymError: it cannot be written.
    """
    check(name, force=force, option=option)
    if name == STDOUT:
        yield sys.stdout.buffer
        return
    try:
        if is_stream(name):
            with open(_open_stream(name, option), "wb") as stream:
                yield stream
            return
        import tempfile  # late: trace, which never comes here, is armed the sooner

        # mkstemp's mode is 0600.
        fd, unfinished = tempfile.mkstemp(prefix=".ksym-", dir=os.path.dirname(name) or ".")
        try:
            with os.fdopen(fd, "wb") as file:
                yield file
            os.replace(unfinished, name)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
            raise
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "its name has a NUL"
        raise KsymError(
            f"cannot write {name}", why or "it fails", f"make room or choose another file with {option}"
        ) from error
