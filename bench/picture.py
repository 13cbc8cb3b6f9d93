# SPDX-License-Identifier: BSD-2-Clause
"""The table as a picture: for each figure that has a peer, how ksym stands to it. SVG, for the README."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from bench.report import BEHIND, Row, ratios, spread, verdict

_LEFT, _PLOT, _RIGHT, _TOP, _LINE, _HEAD = 370, 400, 190, 58, 20, 28
_SIZE = 12
"""Of letters, in pixels."""
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.dim { fill: #656d76 } .head { font-weight: 600 }
.grid { stroke: #d0d7de } .one { stroke: #656d76 } .asked { stroke: #1f2328; stroke-width: 2 }
.ok { fill: #2da44e; stroke: #2da44e } .behind { fill: #cf222e; stroke: #cf222e }
.plain { fill: #57606a; stroke: #57606a }
.range { stroke-width: 2; opacity: .45 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .dim { fill: #8d96a0 } .grid { stroke: #30363d } .one { stroke: #8d96a0 }
  .asked { stroke: #e6edf3 }
  .ok { fill: #3fb950; stroke: #3fb950 } .behind { fill: #f85149; stroke: #f85149 }
  .plain { fill: #8d96a0; stroke: #8d96a0 }
}
"""
TITLES = {
    "count": "counting: ksym stat",
    "armed": "from Enter to armed, and to the end",
    "loss": "rows at full rate: ksym trace",
    "cost": "plain perf events: ksym trace --no-bpf",
    "values": "values, conditions, two registers: ksym trace",
    "record": "recording: ksym record",
    "offline": "reading a recording: ksym report, script, export",
    "growth": "growth: with hits, watches, CPUs, symbols",
}
"""What a figure is about; a figure without one stands under its name."""
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def picture(rows: Sequence[Row], caption: str) -> str:
    """Draw the rows that are held against a peer.

    Args:
        rows: The figures.
        caption: A line on where they are from.
    """
    shown = [row for row in rows if row.peer and all(each > 0 for each in ratios(row))]
    scale = _Scale(shown)
    figures = list(dict.fromkeys(row.figure for row in shown))
    height = _TOP + _LINE * len(shown) + _HEAD * len(figures) + 30
    width = _LEFT + _PLOT + _RIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>ksym against its peers</title><style>{_STYLE}</style>",
        '<text x="12" y="20" class="head">ksym against its peers, as a ratio: left of 1 ksym takes less</text>',
        f'<text x="12" y="37" class="dim">{escape(caption)}</text>',
        *scale.grid(height),
    ]
    y: float = _TOP
    for figure in figures:
        lines.append(f'<text x="12" y="{y + 19}" class="head">{escape(TITLES.get(figure, figure))}</text>')
        y += _HEAD
        for row in (each for each in shown if each.figure == figure):
            lines += _row(row, scale, y + _LINE / 2)
            y += _LINE
    key = "dot: median of pairs of runs; line: their range; bar: the most that is asked for"
    lines.append(f'<text x="12" y="{height - 9}" class="dim">{key}</text></svg>')
    return "\n".join(lines) + "\n"


def caption(machine: Mapping[str, Any]) -> str:
    """Where the figures are from, in a line."""
    return (
        f"{machine['date']}, Linux {machine['kernel']}, {machine['cpu']}, {machine['cpus']} CPUs; "
        f"{machine['perf']}, {machine['bpftrace']}, {machine['gdb'].removeprefix('GNU ')}"
    )


class _Scale:
    """Ratios along a logarithmic axis."""

    def __init__(self, rows: Sequence[Row]) -> None:
        values = [value for row in rows for value in (*ratios(row), row.asked_ratio or 1.0)] or [1.0]
        self._low = math.log(min(*values, 0.5) / 1.2)
        self._high = math.log(max(*values, 2.0) * 1.2)

    def x(self, ratio: float) -> float:
        """Where a ratio stands."""
        return round(_LEFT + _PLOT * (math.log(ratio) - self._low) / (self._high - self._low), 1)

    def grid(self, height: int) -> Iterator[str]:
        """The lines of the axis, with their numbers."""
        for tick in _TICKS:
            if not self._low <= math.log(tick) <= self._high:
                continue
            x, kind = self.x(tick), "one" if tick == 1 else "grid"
            yield f'<line class="{kind}" x1="{x}" x2="{x}" y1="{_TOP}" y2="{height - 26}"/>'
            yield f'<text class="dim" x="{x}" y="{_TOP - 5}" text-anchor="middle">{tick:g}</text>'


def _row(row: Row, scale: _Scale, y: float) -> Iterator[str]:
    between = spread(ratios(row))
    judged = verdict(row)
    kind = "plain" if row.asked_ratio is None else "behind" if judged == BEHIND else "ok"
    base = y + _SIZE / 3
    yield f'<text x="{_LEFT - 12}" y="{base}" text-anchor="end">{escape(row.what)}</text>'
    ends = (scale.x(between.least), scale.x(between.most))
    yield f'<line class="{kind} range" x1="{ends[0]}" x2="{ends[1]}" y1="{y}" y2="{y}"/>'
    if row.asked_ratio is not None:
        x = scale.x(row.asked_ratio)
        yield f'<line class="asked" x1="{x}" x2="{x}" y1="{y - 7}" y2="{y + 7}"/>'
    yield f'<circle class="{kind}" cx="{scale.x(between.median)}" cy="{y}" r="4"/>'
    x = _LEFT + _PLOT + 12
    yield f'<text x="{x}" y="{base}"><tspan class="head">{between.median:.2f}</tspan> {escape(row.peer_name)}</text>'
