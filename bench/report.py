# SPDX-License-Identifier: BSD-2-Clause
"""Ratios, verdicts, and how they are shown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

OK, BEHIND, NOT_ASKED = "ok", "BEHIND", "-"
COLUMNS = ("WHAT", "KSYM", "PEER", "RATIO (LEAST-MOST)", "ASKED", "VERDICT", "REMARK")


@dataclass(frozen=True)
class Spread:
    """A median and how far the single values lie from it."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        what: What was measured.
        unit: Of both figures; a ratio has none.
        ours: ksym's values, one a run.
        peer_name: What it is held against; empty where nothing is.
        peer: Its values, pair by pair with ``ours``; empty where it is missing.
        asked_ratio: The highest ratio ours/peer asked for.
        asked_most: The highest value of ours asked for.
        note: Why the peer is not there.
        remark: What a reader of the figure should know; with no value at all, why there is none.
        cpu: Seconds of CPU time of ksym's runs, where the figure is a time of whole runs.
        peer_cpu: Of the peer's.
        figure: The name of the figure whose line it is.
    """

    what: str
    unit: str
    ours: Sequence[float] = ()
    peer_name: str = ""
    peer: Sequence[float] = ()
    asked_ratio: float | None = None
    asked_most: float | None = None
    note: str = ""
    remark: str = ""
    cpu: Sequence[float] = ()
    peer_cpu: Sequence[float] = ()
    figure: str = ""


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most.

    Raises:
        ValueError: there is no value.
    """
    if not values:
        raise ValueError("no value to take the median of")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(row: Row) -> list[float]:
    """ours/peer, pair by pair: what slows the machine for a while slows both of a pair.

    Raises:
        ValueError: the runs are not in pairs.
    """
    if not row.peer:
        return []
    return [ours / peer for ours, peer in zip(row.ours, row.peer, strict=True)]


def ratio_text(ours: Sequence[float], peer: Sequence[float]) -> str:
    """The median of the ratios, pair by pair."""
    return f"{spread(ratios(Row('', '', ours, '', peer))).median:.3f}"


def by_cpu_time(ours: Sequence[float], peer: Sequence[float]) -> str:
    """A remark: the ratio by CPU time, which other work on the machine hardly changes."""
    return f"by CPU time {ratio_text(ours, peer)}"


def verdict(row: Row) -> str:
    """``ok`` or ``BEHIND`` where something was asked and could be measured, by the medians; else ``-``."""
    asked = []
    if row.asked_ratio is not None and row.peer:
        asked.append(spread(ratios(row)).median <= row.asked_ratio)
    if row.asked_most is not None and row.ours:
        asked.append(spread(row.ours).median <= row.asked_most)
    if not asked:
        return NOT_ASKED
    return OK if all(asked) else BEHIND


def table(rows: Sequence[Row]) -> str:
    """All rows, aligned, with a header."""
    lines: list[tuple[str, ...]] = [COLUMNS, *map(cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def cells(row: Row) -> tuple[str, ...]:
    """A row in words, column by column as `COLUMNS` names them."""
    ours = _figure(row.ours, row.unit) if row.ours else "-"
    peer, ratio = row.note or row.peer_name or "-", "-"
    if row.peer:
        between = spread(ratios(row))
        ratio = f"{between.median:.3f}"
        if len(row.peer) > 1:
            ratio += f" ({between.least:.3f}-{between.most:.3f})"
        peer = f"{row.peer_name} {_figure(row.peer, row.unit)}"
    asked = []
    if row.asked_ratio is not None:
        asked.append(f"ratio <= {row.asked_ratio:.3g}")
    if row.asked_most is not None:
        asked.append(f"<= {row.asked_most:g} {row.unit}".rstrip())
    return row.what, ours, peer, ratio, ", ".join(asked) or "-", verdict(row), row.remark


def _figure(values: Sequence[float], unit: str) -> str:
    median = spread(values).median
    number = f"{median:,.0f}" if median >= 1000 or median == int(median) else f"{median:.4g}"
    return f"{number} {unit}".rstrip()


def as_json(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """Everything that was measured, for programs."""
    return json.dumps({"machine": machine, "rows": [_object(row) for row in rows]}, indent=1) + "\n"


def _object(row: Row) -> dict[str, Any]:
    return {
        **asdict(row),
        "median": spread(row.ours).median if row.ours else None,
        "peer_median": spread(row.peer).median if row.peer else None,
        "ratio": asdict(spread(ratios(row))) if row.peer else None,
        "verdict": verdict(row),
    }


def rows_of(text: str) -> tuple[list[Row], dict[str, Any]]:
    """What `as_json` made: the rows, and the machine.

    Raises:
        ValueError: it is something else.
    """
    names = [field.name for field in fields(Row)]
    try:
        made = json.loads(text)
        return [Row(**{name: row[name] for name in names}) for row in made["rows"]], made["machine"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"no results of the bench: {error!r}") from error


def write_json(path: Path, rows: Sequence[Row], machine: dict[str, Any]) -> None:
    """Write the JSON, with the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json(rows, machine))
