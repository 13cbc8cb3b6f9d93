# SPDX-License-Identifier: BSD-2-Clause
"""Names that resemble one that does not exist.

Kernels have two hundred thousand symbols and ``difflib`` takes some ten microseconds for each, so
cheap tests come first: a name within two edits of another shares one of any three pieces with it
(edits can spoil only two of them), and C's ``in`` finds that out in tens of nanoseconds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

_CLOSE = 0.65
"""Least ``SequenceMatcher`` ratio of a suggestion; at difflib's own 0.6, ``opaque`` is near ``nope``."""
_RANKED = 64
"""How many candidates are compared in earnest."""


def nearest(name: str, candidates: Iterable[str], n: int = 3) -> list[str]:
    """The at most ``n`` candidates that resemble ``name`` most, best first.

    Upper and lower case are told apart only when something else resembles it too.

    >>> nearest("pid_mx", ["pid_max", "jiffies", "pid_max_min"])
    ['pid_max', 'pid_max_min']
    """
    pool = list(candidates)
    found = _close(name, pool, n)
    if not found and name != name.lower():
        found = _close(name.lower(), pool, n)
    if not found:
        wanted = name.lower()
        found = sorted({each for each in pool if each.lower() == wanted})[:n]
    return found


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """The same as the last part of an error message; empty when nothing is near.

    >>> suggestion("pid_mx", ["pid_max", "jiffies"])
    'did you mean pid_max?'
    """
    return did_you_mean(nearest(name, candidates))


def did_you_mean(names: list[str]) -> str:
    """Them as the last part of an error message; empty when there are none.

    >>> did_you_mean(["a", "b", "c"])
    'did you mean a, b or c?'
    """
    *others, last = names or [""]
    listed = f"{', '.join(others)} or {last}" if others else last
    return f"did you mean {listed}?" if names else ""


def _close(name: str, pool: list[str], n: int) -> list[str]:
    if len(name) < 2 or n < 1:
        return []
    # Imported where it is needed: only failures come here.
    from difflib import SequenceMatcher

    third = max(1, len(name) // 3)
    first, second, last = name[:third], name[third : 2 * third], name[2 * third :]
    slack = max(2, len(name) // 3)
    shortest, longest = len(name) - slack, len(name) + slack
    kept = [
        each
        for each in pool
        if (first in each or last in each or second in each)
        and (shortest <= len(each) <= longest or name in each)
    ]
    pairs = {name[at : at + 2] for at in range(len(name) - 1)}
    score = {
        each: sum([pair in each for pair in pairs]) - abs(len(each) - len(name)) / 2 for each in set(kept)
    }
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(name)
    ranked: list[tuple[float, str]] = []
    for each in heapq.nlargest(_RANKED, score, key=score.__getitem__):
        matcher.set_seq1(each)
        # It keeps to the first of the longest common pieces, even where the others do not fit around that, as in names
        # that repeat themselves. What two names share at their ends is all but one letter if that is the only error.
        start = _shared(each, name)
        end = _shared(each[start:][::-1], name[start:][::-1])
        ratio = max(matcher.ratio(), 2 * (start + end) / (len(each) + len(name)))
        if ratio >= _CLOSE or name in each:
            ranked.append((-ratio, each))
    return [each for _, each in sorted(ranked)[:n]]


def _shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    most = min(len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)
