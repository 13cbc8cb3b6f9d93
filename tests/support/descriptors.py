# SPDX-License-Identifier: BSD-2-Clause
"""How many descriptors something leaves open."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def leaves_open(more: int = 0) -> Iterator[None]:
    """What is done within leaves so many more open than there were.

    Python's collector waits meanwhile: it would close what other tests have left to it.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        before = descriptors()
        yield
        assert descriptors() == before + more
    finally:
        if collecting:
            gc.enable()
