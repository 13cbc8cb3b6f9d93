# SPDX-License-Identifier: BSD-2-Clause
"""Numbers, values and names as reports write them."""

from __future__ import annotations

from collections.abc import Sequence

from ksym.capture.values import Value
from ksym.reports.layout import cut
from ksym.views.text import printable

_VALUE_MOST = 40


def count(number: int, noun: str) -> str:
    """``1,000 accesses``."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def part(number: int, whole: int, noun: str) -> str:
    """``10 of 1,000 writes (1.0%)``."""
    return f"{number:,} of {count(whole, noun)} ({100 * number / whole:.1f}%)"


def value_text(value: Value) -> str:
    """A value, not too long."""
    return cut(printable(value.text), _VALUE_MOST)


def cpu_list(cpus: Sequence[int]) -> str:
    """``0-3,8``; of many the first, the last and how many."""
    parts: list[list[int]] = []
    for cpu in cpus:
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1][1:] = [cpu]
        else:
            parts.append([cpu])
    if len(parts) > 6:
        return f"{cpus[0]} ... {cpus[-1]} ({len(cpus)})"
    return ",".join("-".join(map(str, part)) for part in parts)
