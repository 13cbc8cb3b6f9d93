# SPDX-License-Identifier: BSD-2-Clause
"""Where rows go: stdout, or a file that only its owner may read."""

from __future__ import annotations

import os

from ksym.errors import KsymError


class ReaderGone(Exception):
    """Nobody reads stdout any more (``| head``): the run ends quietly."""


class Output:
    """Rows to stdout, or with ``path`` to a file.

    Kernel addresses are secrets of root, so a new file is made with mode 0600.

    Raises:
        KsymError: the file cannot be opened.
    """

    def __init__(self, path: str | None) -> None:
        self._path, self._fd = path, 1
        if path is not None:
            try:
                self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise KsymError(
                    f"cannot write {path}", error.strerror or "it fails", "choose another file with -o"
                ) from error

    def write(self, text: str) -> None:
        """Write all of ``text``.

        Raises:
            ReaderGone: stdout is a closed pipe.
            KsymError: writing failed (a full disk).
        """
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            target = self._path or "the output"
            raise KsymError(
                f"cannot write {target}", error.strerror or "it fails",
                "the run was ended there; make room or choose another file with -o",
            ) from error  # fmt: skip

    def close(self) -> None:
        """Close the file."""
        if self._path is not None and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
