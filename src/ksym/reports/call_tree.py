# SPDX-License-Identifier: BSD-2-Clause
"""Call chains as a tree: at its root who made the access, and from there outwards who called that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ksym.capture.sites import Named
from ksym.reports.groups import Subject

MOST_STACKS = 20_000
"""Of different chains those with most accesses make the tree; the others are counted alone."""
DEEPEST = 127
"""Frames of a chain: as many as the kernel's default (kernel.perf_event_max_stack)."""


@dataclass
class Node:
    """A function, on one way to it.

    Args:
        name: With its module, program or library.
        accesses: Accesses below it.
        callers: Who called it, by name.
    """

    name: str
    accesses: int = 0
    callers: dict[str, Node] = field(default_factory=dict)

    def by_accesses(self) -> list[Node]:
        """Its callers, those with most accesses first."""
        return sorted(self.callers.values(), key=lambda node: -node.accesses)


@dataclass(frozen=True)
class Tree:
    """All chains of a variable's accesses.

    Args:
        root: A node without a name; its callers are the functions that made accesses.
        without: Accesses of which no chain is known.
        left_out: Accesses with chains that are not in the tree.
    """

    root: Node
    without: int
    left_out: int


def chains(subject: Subject) -> Iterator[tuple[tuple[Named, ...], int]]:
    """Different call chains, where there are any, and the number of their accesses; those with most first."""
    stack = subject.accesses.stack
    counts = np.bincount(stack[stack >= 0], minlength=1)
    for number in np.argsort(-counts, kind="stable").tolist():
        if not counts[number]:
            return
        yield subject.accesses.stacks[number], int(counts[number])


def grow(subject: Subject) -> Tree | None:
    """The tree; None where the recording has no call chains."""
    root, taken, left_out = Node(""), 0, 0
    names: dict[Named, str] = {}
    for number, (frames, accesses) in enumerate(chains(subject)):
        if number >= MOST_STACKS:
            left_out += accesses
            continue
        taken += accesses
        node = root
        node.accesses += accesses
        for frame in frames[:DEEPEST]:
            name = names.get(frame)
            if name is None:
                name = names[frame] = frame.code
            child = node.callers.get(name)
            if child is None:
                child = node.callers[name] = Node(name)
            child.accesses += accesses
            node = child
    if not taken:
        return None
    return Tree(root, len(subject) - taken - left_out, left_out)
