# SPDX-License-Identifier: BSD-2-Clause
"""What to look at in a recording, in words."""

from __future__ import annotations

from collections.abc import Iterator

from ksym.reports.about import About, length, time_of_day
from ksym.reports.analysis import NEAR_NS, Findings, Near, Unseen
from ksym.reports.groups import Write
from ksym.reports.layout import BOLD, HINT, NAME, Column, Line, flow, table
from ksym.reports.words import count, part, value_text
from ksym.views.text import printable


def hints(found: Findings, about: About, width: int, bullet: str) -> list[Line]:
    """A paragraph for each finding; nothing where nothing was found."""
    lines: list[Line] = []
    for name, text in texts(found, about):
        first, *more = flow([[(f"{name}: ", HINT), (text, "")]], width, 4)
        lines += [[(f"  {bullet} ", HINT), *first[1:]], *more]
    return [[], [("look here", f"{BOLD} {HINT}")], *lines] if lines else []


def texts(found: Findings, about: About) -> Iterator[tuple[str, str]]:
    """Of each finding what it is called, and what was found."""
    if found.silent:
        silent = found.silent
        functions = ", ".join(f"{printable(name)} {made:,}" for name, made in silent.functions)
        yield (
            "silent stores",
            f"{part(silent.count, silent.of, 'write')} stored the value that was there; {functions}",
        )
    if found.turns:
        turns = found.turns
        cpus = ", ".join(f"CPUs {one} and {two} {made:,}" for (one, two), made in turns.cpus)
        yield (
            "taking turns",
            f"{part(turns.count, turns.of, 'write')} came from another CPU than the write before; {cpus}",
        )
    if found.near:
        yield "close together", _near(found.near)
    if found.unseen:
        yield "changed unseen", _unseen(found.unseen, about)


def _near(near: Near) -> str:
    places = (
        f"{printable(one)} {'twice' if one == two else 'and ' + printable(two)} {made:,}"
        for (one, two), made in near.places
    )
    return (
        f"{count(near.count, 'access')} within {length(NEAR_NS)} behind another CPU's, one of the two a write, "
        f"the closest {length(near.least_ns)} apart; {', '.join(places)}. "
        "A hint, no proof: look whether one lock is held around both"
    )


def _unseen(unseen: Unseen, about: About) -> str:
    found = f" ({value_text(unseen.found)} was found)" if unseen.found else ""
    text = (
        f"{count(unseen.count, 'time')} the value was not what the access before had left, first at "
        f"{time_of_day(unseen.first_ns)}{found}"
    )
    if unseen.in_doubt:
        text += f"; {unseen.in_doubt:,} of them within {length(NEAR_NS)} of another CPU's access, the order in doubt"
    causes = ["lost hits"] if about.lost else []
    causes += ["hits that did not match the condition"] if about.rejected else []
    return (
        f"{text}. By {', '.join([*causes, 'accesses that were not asked for, another mapping, or a device'])}"
    )


def writers(writes: list[Write], width: int) -> list[Line]:
    """Who wrote the last few values last."""
    if not writes:
        return []
    columns = [
        Column("VALUE", [value_text(write.value) for write in writes], right=True),
        Column("LAST WRITTEN", [time_of_day(write.time_ns) for write in writes]),
        Column("TASK-PID", [f"{printable(write.comm)}-{write.tid}" for write in writes]),
        Column("CPU", [f"{write.cpu:03d}" for write in writes]),
        Column("FUNCTION", [printable(str(write.site.named)) for write in writes], NAME),
    ]
    return [[], *table(columns, width=width)]
