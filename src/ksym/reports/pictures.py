# SPDX-License-Identifier: BSD-2-Clause
"""Pictures of characters: a timeline, and a tree of call chains."""

from __future__ import annotations

from collections.abc import Callable

from ksym.reports.about import length, time_of_day
from ksym.reports.call_tree import Node, Tree
from ksym.reports.layout import BOLD, DIM, HINT, NAME, READ, WRITE, Glyphs, Line, cells, cut, flow, pad
from ksym.reports.timeline import Timeline
from ksym.views.text import printable

STYLES = {"R": READ, "W": WRITE, "RW": WRITE, "X": NAME, "?": HINT}
"""Of each kind of access."""
_LABEL_MOST = 20
_LEAST, _MOST, _DEEPEST = 0.01, 8, 24
"""Of a tree what has a smaller share, what comes after so many siblings, and what is deeper is summed up."""
_STEP = " " * 5
"""How far callers stand behind who they called."""


def columns_for(width: int, key: str, accesses: int) -> int:
    """How many columns of a timeline a terminal has room for, beside names and sums.

    Args:
        width: Of the terminal.
        key: ``cpu`` or ``task``.
        accesses: The largest sum there may be.
    """
    label = len("CPU 123") if key == "cpu" else _LABEL_MOST
    return max(10, width - len("   RW ") - label - len(f" {accesses:,}"))


def timeline_lines(timeline: Timeline, glyphs: Glyphs, width: int) -> list[Line]:
    """A line a lane; the highest block is the largest count of all."""
    highest = max((int(lane.counts.max()) for lane in timeline.lanes), default=0)
    if not highest:
        return []
    names = [printable(lane.who) if lane.who is not None else "others" for lane in timeline.lanes]
    head = f"over time, {length(timeline.column_ns)} a column, highest {highest:,}"
    lines: list[Line] = [[], *flow([[(head, BOLD)]], width, 0)]
    room = min(_LABEL_MOST, max(map(cells, names)))
    steps = len(glyphs.blocks) - 1
    before = None
    for name, lane in zip(names, timeline.lanes, strict=True):
        label = pad(cut(name if name != before else "", room), room)
        before = name
        blocks = "".join(glyphs.blocks[-(-count * steps // highest)] for count in lane.counts.tolist())
        lines.append(
            [(f"  {label} {lane.kind:<2} ", ""), (blocks, STYLES[lane.kind]), (f" {lane.total:,}", DIM)]
        )
    start, end = time_of_day(timeline.start_ns), time_of_day(timeline.end_ns)
    columns = len(timeline.lanes[0].counts)
    axis = pad(start, columns - len(end)) + end if columns > len(start) + len(end) else start
    return [*lines, [(" " * (room + 6), ""), (axis, DIM)]]


def tree_lines(tree: Tree, total: int, glyphs: Glyphs, width: int, *, sampled: bool = False) -> list[Line]:
    """A tree; ``total`` accesses are the whole, of which each branch has a share, or is so many samples."""

    def part(accesses: int) -> str:
        return f"{accesses:6,} " if sampled else f"{100 * accesses / total:5.1f}% "

    title = "stacks, from who made the access to who called it"
    lines: list[Line] = [[], *flow([[(title, BOLD)]], width, 0)]
    _branches(tree.root.by_accesses(), total, part, glyphs, "  ", 0, lines)
    for count, why in ((tree.without, "no stack"), (tree.left_out, "rarer stacks, left out")):
        if count:
            lines.append([(f"  {part(count)}", BOLD), (why, DIM)])
    return lines


def _branches(
    nodes: list[Node],
    total: int,
    part: Callable[[int], str],
    glyphs: Glyphs,
    indent: str,
    depth: int,
    lines: list[Line],
) -> None:
    """Callers, those with most accesses first; one that is alone stands straight under who it called."""
    shown = [node for node in nodes[:_MOST] if node.accesses >= _LEAST * total] or nodes[:1]
    rest = sum(node.accesses for node in nodes) - sum(node.accesses for node in shown)
    for number, node in enumerate(shown):
        last = number == len(shown) - 1 and not rest
        branch = f"{glyphs.last if last else glyphs.branch} " if depth else ""
        below = indent + ("" if not depth else "   " if last else glyphs.bar + " ")
        share = part(node.accesses)
        lines.append(
            [(indent + branch, DIM), (share, BOLD), (printable(node.name), NAME if not depth else "")]
        )
        space = " " * len(share)
        while len(node.callers) == 1:
            (caller,) = node.callers.values()
            if caller.accesses != node.accesses:
                break
            node = caller
            lines.append([(below + space, DIM), (printable(node.name), "")])
        if not node.callers:
            continue
        if depth >= _DEEPEST:
            lines.append([(below + space + glyphs.dots, DIM)])
            continue
        _branches(node.by_accesses(), total, part, glyphs, below + _STEP, depth + 1, lines)
    if rest:
        branch = f"{glyphs.last} " if depth else ""
        count = len(nodes) - len(shown)
        lines.append([(indent + branch, DIM), (part(rest), BOLD), (f"{count:,} more", DIM)])
