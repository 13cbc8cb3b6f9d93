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
def collector_off() -> Iterator[None]:
    """Let Python's collector wait: it would close what other tests have left to it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def leaves_open(more: int = 0) -> Iterator[None]:
    """What is done within leaves so many more open than there were."""
    with collector_off():
        before = descriptors()
        yield
        assert descriptors() == before + more
