# SPDX-License-Identifier: BSD-2-Clause
"""Reading small files of /proc and /sys; pathlib would cost a tenth of a short run's start-up."""

from __future__ import annotations

import os

StrPath = str | os.PathLike[str]


def read_bytes(path: StrPath) -> bytes:
    """All of a file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def read_text(path: StrPath) -> str:
    """All of a file as text, undecodable bytes replaced.

    Raises:
        OSError: it cannot be read.
    """
    return read_bytes(path).decode(errors="replace")
