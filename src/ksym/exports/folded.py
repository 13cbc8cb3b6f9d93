# SPDX-License-Identifier: BSD-2-Clause
"""Folded stacks: a line for each call chain, ``root;...;leaf COUNT``, as flamegraph.pl and its kin read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from ksym.exports.flames import chains
from ksym.recording.accesses import Accesses
from ksym.views.text import printable


def write(accesses: Accesses, out: BinaryIO, step: Callable[[int], None] = lambda done: None) -> None:
    """Write a line for each different chain.

    Args:
        accesses: The accesses.
        out: The file, open for writing.
        step: Told how many have been taken.

    Raises:
        OSError: it cannot be written.
    """
    found = chains(accesses)
    counts: Counter[str] = Counter()
    for chain, count in zip(found.chains, np.bincount(found.codes).tolist(), strict=True):
        counts[";".join(map(_plain, chain))] += count
    lines = [f"{line} {count}\n" for line, count in sorted(counts.items())]
    out.write("".join(lines).encode())
    step(len(accesses))


def _plain(name: str) -> str:
    """A name that cannot be taken for two, or for two lines."""
    return printable(name).replace(";", ":")
