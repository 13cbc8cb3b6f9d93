# SPDX-License-Identifier: BSD-2-Clause
"""The tree of a unit's DIEs (DWARF 5, section 2.3), in a file that may claim anything of it.

pyelftools goes where ``DW_AT_sibling`` leads, round in a circle if need be. Here each step goes forward, so that a
walk ends where the unit does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def children(die: Any) -> Iterator[Any]:
    """The DIEs right below one.

    Raises:
        Exception: what pyelftools raises where there is none, at the end of the unit for instance.
        ValueError: one claims to be followed by what stands in front of it.
    """
    if not die.has_children:
        return
    child = die.cu.get_DIE_from_refaddr(die.offset + die.size)
    while not child.is_null():
        yield child
        child = die.cu.get_DIE_from_refaddr(_behind(child))


def _behind(die: Any) -> int:
    """Where what follows a DIE and those below it starts."""
    sibling = die.attributes.get("DW_AT_sibling")
    at: int = die.offset + die.size
    if not die.has_children:
        return at
    if sibling is not None:
        place: int = sibling.value + (0 if sibling.form == "DW_FORM_ref_addr" else die.cu.cu_offset)
        if place < at:
            raise ValueError("a DIE is followed by one in front of it")
        return place
    depth = 1
    while depth:
        inner = die.cu.get_DIE_from_refaddr(at)
        at += inner.size
        depth += -1 if inner.is_null() else bool(inner.has_children)
    return at


class Parents:
    """Finds the DIE that holds another one; remembers what it passes by."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Any] = {}

    def of(self, die: Any) -> Any:
        """The DIE that holds it; None for the one that holds all others, and for what is none of the tree."""
        if (id(die.cu), die.offset) not in self._known:
            self._search(die)
        return self._known.get((id(die.cu), die.offset))

    def _search(self, die: Any) -> None:
        holder = die.cu.get_top_DIE()
        while holder is not None and holder.offset < die.offset:
            last = None
            for child in children(holder):
                self._known[id(die.cu), child.offset] = holder
                if child.offset <= die.offset:
                    last = child
            holder = last
