# SPDX-License-Identifier: BSD-2-Clause
"""Where rows go: stdout, or a file that only its owner may read."""

from __future__ import annotations

import contextlib
import os
import select
import stat
from collections.abc import Callable

from ksym.errors import KsymError
from ksym.linux.named import NamedFile
from ksym.views.target import STDOUT, check, is_stream, opened

_PATIENCE = 200
"""Milliseconds between two questions whether the run is to end, while a reader takes nothing."""


class ReaderGone(Exception):
    """Nobody reads stdout any more (``| head``): the run ends quietly."""


class Output:
    """Rows to stdout, or with ``path`` to a file that can be read while it grows (`views.target`).

    A disk that is full leaves the rows that were written whole; where there are none, no file.

    A FIFO or terminal is opened at once: a FIFO waits for its reader, and nothing should be planted meanwhile. A file
    is made, or put in the place of another, when the rows begin: a run that is refused leaves everything as it was.

    Args:
        path: Where to; None or ``-`` for stdout.
        force: Replace a file that is there.

    Raises:
        KsymError: the file cannot be written.
    """

    def __init__(self, path: str | None, *, force: bool = False) -> None:
        self._path, self._fd = None if path == STDOUT else path, 1
        self._began = False
        self._file: NamedFile | None = None
        """The file that was made, where it is one that stays."""
        self._cut = False
        """Somebody has cut it while it was written."""
        self.ending: Callable[[], bool] = lambda: False
        """Whether to give up waiting; asked again and again while a reader takes nothing."""
        self._force = force
        self._whole = 0
        """Bytes of a file up to the end of the last text that was written."""
        self._poll = select.poll()
        if self._path is None:
            self._watch()
        elif is_stream(self._path):
            self.begin()
        else:
            check(self._path, force=force)
            self._fd = -1

    def begin(self) -> None:
        """Make the file, where there is none yet.

        Raises:
            KsymError: it cannot be made.
        """
        if self._path is None or self._began:
            return
        try:
            self._fd = opened(self._path, force=self._force)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "its name has a NUL"
            raise KsymError(
                f"cannot write {self._path}", why or "it fails", "choose another file with -o"
            ) from error
        self._began = True
        self._watch()
        if stat.S_ISREG(os.fstat(self._fd).st_mode):
            self._file = NamedFile(self._fd, self._path)

    def _watch(self) -> None:
        try:
            self._always_ready = stat.S_ISREG(os.fstat(self._fd).st_mode)
            self._poll.register(self._fd, select.POLLOUT)
        except OSError:  # stdout was closed by the caller; writing will tell
            self._always_ready = True

    def write(self, text: str) -> None:
        """Write all of ``text``.

        Raises:
            ReaderGone: stdout is a closed pipe.
            KsymError: writing failed (a full disk), or there cannot be such a file.
        """
        self.begin()
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        before = self._length()
        self._cut = self._cut or before < self._whole
        try:
            while data:
                data = data[self._write_some(data) :]
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            self._drop_part(before)
            target = self._path or "the output"
            raise KsymError(
                f"cannot write {target}", error.strerror or "it fails",
                "the run was ended there; make room or choose another file with -o",
            ) from error  # fmt: skip
        self._whole = self._length()

    def _length(self) -> int:
        return os.fstat(self._fd).st_size if self._file else 0

    def _drop_part(self, before: int) -> None:
        """Leave no half row in a file that had so many bytes, and no file without a row."""
        if not self._file:
            return
        with contextlib.suppress(OSError):
            if before:
                os.ftruncate(self._fd, before)
            elif self._file.in_place():
                os.unlink(self._file.path)
                self._file.close()
                self._file = None

    def settle(self) -> KsymError | None:
        """See that all rows are in the file, once all are written; return the error to tell where they are not."""
        if not self._file:
            return None
        if self._cut or self._length() < self._whole:
            why = "somebody cut it while it was written, and the rows before that are lost"
            return KsymError(f"cannot leave all rows in {self._path}", why, "let it grow, and run again")
        lost = self._file.settle()
        return KsymError(f"cannot leave the rows in {self._path}", lost.why, lost.todo) if lost else None

    def _write_some(self, data: memoryview) -> int:
        """Write as much as goes at once.

        A write into a full pipe would hold ksym where no signal ends it. One that poll(2) reports writable takes
        PIPE_BUF bytes without waiting.
        """
        if self._always_ready:
            return os.write(self._fd, data)
        while not self._poll.poll(_PATIENCE):
            if self.ending():
                raise KsymError(
                    f"cannot write {self._path or 'the output'}", "its reader takes no more",
                    "the rest was not shown; let the reader read, or use -o FILE",
                )  # fmt: skip
        return os.write(self._fd, data[: select.PIPE_BUF])

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()
            self._file = None
        if self._path is not None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
