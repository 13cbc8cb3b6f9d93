# SPDX-License-Identifier: BSD-2-Clause
"""Lines of text in styles, and tables of them, as wide as a terminal is.

A line is plain text wherever it goes but to a terminal; there rich gives its parts colours, if it is installed.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, TypeAlias

Line: TypeAlias = list[tuple[str, str]]
"""Parts of a line: text and style; a style is one of rich's, "" for none."""

BOLD, DIM, READ, WRITE, HINT, NAME = "bold", "dim", "green", "red", "yellow", "cyan"
GAP = "  "


class Glyphs(NamedTuple):
    """What is drawn with."""

    blocks: str
    branch: str
    last: str
    bar: str
    bullet: str
    dots: str


UNICODE = Glyphs(" ▁▂▃▄▅▆▇█", "├─", "└─", "│ ", "•", "…")
_COERCED = "C.UTF-8"
"""What Python puts into LC_CTYPE where the locale is C and LC_ALL does not say so."""
ASCII = Glyphs(" .:-=+*#@", "|-", "`-", "| ", "*", "...")


def glyphs(encoding: str | None, environment: Mapping[str, str] = os.environ) -> Glyphs:
    """Those that an output in this encoding can show, and that the locale has.

    Python writes UTF-8 in the C locale, too (PEP 538, PEP 540); a terminal of who asked for that one may show none.
    """
    asked = environment.get("LC_ALL")
    if not asked:
        asked = environment.get("LC_CTYPE")
        asked = asked if asked and asked != _COERCED else environment.get("LANG")
    if asked in ("C", "POSIX"):
        return ASCII
    try:
        "".join(UNICODE).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def cells(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def pad(text: str, width: int, *, right: bool = False) -> str:
    """With spaces behind it, or in front."""
    space = " " * (width - cells(text))
    return space + text if right else text + space


def cut(text: str, width: int, dots: str = "...") -> str:
    """Its first characters, where all of it is wider than ``width``."""
    if cells(text) <= width:
        return text
    room = max(0, width - cells(dots))
    fitting = next((at for at, used in enumerate(accumulate(map(cells, text))) if used > room), len(text))
    return text[:fitting] + dots


def width_of(line: Line) -> int:
    """Columns of a line."""
    return sum(cells(text) for text, _ in line)


def flow(parts: Iterable[Line], width: int, indent: int, gap: str = GAP + " ") -> list[Line]:
    """Parts one behind the other, as many on a line as there is room for; each line is indented.

    A part that is wider than a line is broken between words.
    """
    lines: list[Line] = []
    for part in parts:
        if lines and width_of(lines[-1]) + len(gap) + width_of(part) <= width:
            lines[-1] += [(gap, ""), *part]
        else:
            lines += _wrapped(part, width, indent)
    return lines


def _wrapped(part: Line, width: int, indent: int) -> list[Line]:
    if indent + width_of(part) <= width:
        return [[(" " * indent, ""), *part]]
    lines: list[Line] = [[(" " * indent, "")]]
    for text, style in part:
        for number, word in enumerate(text.split(" ")):
            piece = (" " if number else "") + word
            if width_of(lines[-1]) + cells(piece) > width and width_of(lines[-1]) > indent:
                lines.append([(" " * indent, "")])
                piece = word
            lines[-1].append((piece, style))
    return lines


@dataclass(frozen=True)
class Column:
    """A column of a table: its head, a text for each row, and a style; numbers stand to the right."""

    head: str
    texts: Sequence[str]
    style: str = ""
    right: bool = False

    @property
    def width(self) -> int:
        """Columns of the terminal that it takes."""
        return max(map(cells, (self.head, *self.texts)))


def table(
    columns: Sequence[Column], below: Sequence[Sequence[Line]] = (), *, width: int = 0, indent: int = 8
) -> list[Line]:
    """A line of heads, then a line a row.

    Args:
        columns: The columns, of equal length.
        below: For each row, lines that stand under it.
        width: Of the terminal: where a row has not room enough, its last columns stand under it, too.
        indent: Of what stands under a row for that.
    """
    columns, rows = list(columns), len(columns[0].texts)
    while (
        width and len(columns) > 1 and 1 + sum(len(GAP) + each.width for each in columns) - len(GAP) > width
    ):
        last = columns.pop()
        moved: list[list[Line]] = [
            flow([[(text, last.style)]], width, indent) if text else [] for text in last.texts
        ]
        below = [[*own, *more] for own, more in zip(moved, below or [[]] * rows, strict=True)]
    widths = [column.width for column in columns]
    lines = [_row([(column.head, BOLD) for column in columns], columns, widths)]
    for number in range(len(columns[0].texts)):
        parts = [(column.texts[number], column.style) for column in columns]
        lines.append(_row([(text, DIM if text == "0" else style) for text, style in parts], columns, widths))
        if below:
            lines += below[number]
    return lines


def _row(parts: Line, columns: Sequence[Column], widths: Sequence[int]) -> Line:
    line: Line = []
    last = max((number for number, (text, _) in enumerate(parts) if text), default=0)
    for number, ((text, style), column, width) in enumerate(zip(parts, columns, widths, strict=True)):
        if number > last:
            break
        shown = text if number == last and not column.right else pad(text, width, right=column.right)
        line += [(" " if not number else GAP, ""), (shown, style)]
    return line


def plain(lines: Iterable[Line]) -> str:
    """As text."""
    return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines)


def coloured(lines: Iterable[Line], width: int) -> str:
    """As text with a terminal's colours; as `plain` where rich is not installed."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return plain(lines)
    console = Console(force_terminal=True, width=width, highlight=False, soft_wrap=True)
    with console.capture() as capture:
        for line in lines:
            console.print(Text.assemble(*line), crop=False, overflow="ignore", no_wrap=True)
    return capture.get()
