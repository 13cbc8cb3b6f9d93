# SPDX-License-Identifier: BSD-2-Clause
"""The files that exports go into: whole or not there, readable to their owner alone, none overwritten unasked."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ksym.errors import KsymError


def check(path: Path, *, force: bool, option: str = "-o") -> None:
    """Refuse to overwrite.

    Args:
        path: The file.
        force: Do not.
        option: How another one is named.

    Raises:
        KsymError: there is such a file, and ``force`` is off.
    """
    if not force and os.path.lexists(path) and not _is_stream(path):
        raise KsymError(
            f"cannot write {path}",
            "it is there already",
            f"overwrite it with --force, or name another with {option}",
        )


def _is_stream(path: Path) -> bool:
    """Whether it takes what is written to it as it comes: a terminal, a FIFO, /dev/null."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


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


@contextlib.contextmanager
def created(path: Path, *, force: bool, option: str = "-o") -> Iterator[BinaryIO]:
    """A file to write to, which has its name once the block has ended well.

    Args:
        path: Its name.
        force: Put it in the place of another one.
        option: How another one is named.

    Raises:
        KsymError: it cannot be written.
    """
    check(path, force=force, option=option)
    try:
        if _is_stream(path):
            with path.open("wb") as stream:
                yield stream
            return
        # mkstemp's mode is 0600.
        fd, unfinished = tempfile.mkstemp(prefix=".ksym-", dir=path.parent)
        try:
            with os.fdopen(fd, "wb") as file:
                yield file
            os.replace(unfinished, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
            raise
    except OSError as error:
        why = error.strerror or "it fails"
        raise KsymError(
            f"cannot write {path}", why, f"make room or choose another file with {option}"
        ) from error
