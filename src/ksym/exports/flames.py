# SPDX-License-Identifier: BSD-2-Clause
"""Who called what made the accesses, as other programs' flame graphs take it; counted in accesses.

The root is the access and the variable, then the thread, then functions from the outermost one to the one that made the
access: that one alone where the recording has no call chains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ksym.recording.accesses import KINDS, Accesses
from ksym.reports.comparable import number
from ksym.symbols.readable import readable


class Chains(NamedTuple):
    """Every different chain of a recording, and which one each access has.

    Args:
        chains: Names, outermost first.
        codes: Of each access, its chain.
    """

    chains: list[tuple[str, ...]]
    codes: NDArray[np.intp]


def chains(accesses: Accesses) -> Chains:
    """The chains of all accesses."""
    codes = _together(
        accesses.watch * len(KINDS) + accesses.kind, accesses.comm, accesses.stack + 1, accesses.site
    )
    found = number(codes)
    first = np.full(len(found), 0, np.intp)
    first[found.codes[::-1]] = np.arange(len(codes))[::-1]
    return Chains([_chain(accesses, at) for at in first.tolist()], found.codes)


def _together(*columns: NDArray[np.int32]) -> NDArray[np.intp]:
    """One number for each different row of several columns."""
    codes = np.zeros(len(columns[0]), np.intp)
    for column in columns:
        own = number(column)
        codes = number(codes * max(len(own), 1) + own.codes).codes
    return codes


def _chain(accesses: Accesses, at: int) -> tuple[str, ...]:
    watch, kind = accesses.watches[accesses.watch[at]], KINDS[accesses.kind[at]]
    stack = accesses.stacks[accesses.stack[at]] if accesses.stack[at] >= 0 else ()
    frames = stack or (accesses.sites[accesses.site[at]].named,)
    return (
        f"{kind} {watch.name}",
        readable(accesses.comms[accesses.comm[at]]),
        *(frame.code for frame in reversed(frames)),
    )
