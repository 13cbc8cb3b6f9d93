# SPDX-License-Identifier: BSD-2-Clause
"""Put what ``make bench`` measured into the documentation: ``make bench-page``.

The table and two pictures go to docs/bench.md, a picture and what ksym is behind in to README.md; a run of some
figures, or a quick one, is not published.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from bench.figures import FIGURES
from bench.picture import TITLES, caption, picture
from bench.report import BEHIND, COLUMNS, Row, cells, ratios, rows_of, spread, verdict
from bench.runner import ROOT

RESULTS, DOCS = ROOT / "build" / "bench.json", ROOT / "docs"
BEGIN, END = "<!-- made by make bench-page; do not edit -->", "<!-- end of what make bench-page made -->"


def main() -> int:
    """Write the pages; 1 where there is nothing to publish."""
    try:
        rows, machine = rows_of(RESULTS.read_text())
        publishable(rows, machine)
        growth = [row for row in rows if row.figure == "growth"]
        (DOCS / "bench.svg").write_text(picture([row for row in rows if row not in growth], caption(machine)))
        (DOCS / "bench-growth.svg").write_text(picture(growth, caption(machine)))
        for page, lines in (
            (DOCS / "bench.md", [*_pictures("", "bench", "bench-growth"), *table(rows, machine)]),
            (ROOT / "README.md", [*_pictures("docs/", "bench"), *behind(rows)]),
        ):
            page.write_text(replaced(page.read_text(), lines))
    except (OSError, ValueError) as error:
        print(f"bench-page: {error}", file=sys.stderr)
        return 1
    print(f"docs/bench.md, docs/bench.svg, docs/bench-growth.svg, README.md: {len(rows)} figures")
    return 0


def _pictures(folder: str, *names: str) -> Iterator[str]:
    for name in names:
        yield f"![ksym against its peers, as ratios]({folder}{name}.svg)"
        yield ""


def publishable(rows: Sequence[Row], machine: Mapping[str, Any]) -> None:
    """Refuse what is not the whole bench.

    Raises:
        ValueError: it was a quick run, or one of some figures, or a figure or a peer is missing.
    """
    if machine.get("quick", True):
        raise ValueError("the last run was a quick one: run make bench")
    if lacking := [name for name in FIGURES if name not in {row.figure for row in rows}]:
        raise ValueError(f"the last run left out {', '.join(lacking)}: run make bench")
    for row in rows:
        if not row.ours or row.note:
            raise ValueError(f"{row.what}: {row.note or row.remark}")


def table(rows: Sequence[Row], machine: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the table, a heading a figure."""
    yield f"{caption(machine)}; Python {machine['python']}; load {machine['load before']:.1f} before."
    for figure, group in groupby(rows, lambda row: row.figure):
        yield ""
        yield f"### {TITLES.get(figure, figure)}"
        yield ""
        yield "| " + " | ".join(COLUMNS).lower() + " |"
        yield "|---" * len(COLUMNS) + "|"
        for row in group:
            yield "| " + " | ".join(_cell(text) for text in cells(row)) + " |"


def _cell(text: str) -> str:
    return f"**{text}**" if text == BEHIND else text.replace("|", "\\|")


def behind(rows: Sequence[Row]) -> Iterator[str]:
    """What a reader of the README should know: each figure that is not what was asked for."""
    late = [row for row in rows if verdict(row) == BEHIND]
    asked = [row for row in rows if row.asked_ratio is not None or row.asked_most is not None]
    yield f"{len(asked) - len(late)} of {len(asked)} figures are what was asked for{'; behind are:' if late else '.'}"
    if late:
        yield ""
    for row in late:
        what, ours, peer, *_ = cells(row)
        if row.asked_ratio is not None and row.peer:
            ratio = spread(ratios(row)).median
            line = f"- {what}: {ours}, {peer}: {ratio:.2f} times that, asked {row.asked_ratio:.3g}"
        else:
            line = f"- {what}: {ours}, asked at most {row.asked_most:g} {row.unit}".rstrip()
        yield line + (f" ({row.remark})" if row.remark else "")


def replaced(page: str, lines: Iterable[str]) -> str:
    """The page with new lines in its place for them.

    Raises:
        ValueError: it has no such place.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page does not say where the figures go")
    return before + "\n".join([BEGIN, "", *lines, "", END]) + after


if __name__ == "__main__":
    sys.exit(main())
