# SPDX-License-Identifier: BSD-2-Clause
"""What /proc/cpuinfo says of the processor."""

from __future__ import annotations

from functools import cache
from pathlib import Path


def of_processor(name: str) -> str:
    """A field of the first processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


@cache
def flags() -> frozenset[str]:
    """What it can do."""
    return frozenset(of_processor("flags").split())
