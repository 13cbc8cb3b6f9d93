# SPDX-License-Identifier: BSD-2-Clause
"""The standard streams of the program, where the caller may have closed them or they may take nothing.

A message that cannot be written must not end a run: registers are to be given back and COMMAND has a status. So stderr
takes all that is written to it, and remembers whether some of it was lost.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Stderr(io.FileIO):
    """Descriptor 2; what cannot be written is dropped, and noted."""

    lost = False
    """True once something could not be written. A pipe that nobody reads any more does not count: its reader has
    seen enough."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of ``data``, or drop it."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                left = left[os.write(2, left) :]
        except OSError as error:
            self.lost = self.lost or error.errno != errno.EPIPE
        return size


def install() -> Stderr:
    """Fill standard streams that were closed, and let stderr take what cannot be written.

    Else ksym's own descriptors would take the numbers of closed streams, and rows would go into them. What is written
    to a closed stdout or stderr fails, as it should: what fills them is open for reading alone.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - for the life of the process
    stderr = Stderr(2, "wb", closefd=False)
    encoding = getattr(sys.stderr, "encoding", None)
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(stderr), encoding=encoding, errors="backslashreplace", line_buffering=True
    )
    return stderr
