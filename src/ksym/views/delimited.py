# SPDX-License-Identifier: BSD-2-Clause
"""``--format csv``: comma-separated values with a header line (RFC 4180, but lines end with a newline alone).

A spreadsheet takes a cell for a formula if it begins with one of a few characters, and runs it. The names of tasks,
functions and modules, and the texts in variables, are chosen by the programs under study. So a text that begins like
a formula gets a leading ``'``, which a spreadsheet shows as text. ``--raw`` leaves it out.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

from ksym.capture.access import Access
from ksym.capture.values import Value
from ksym.linux.clock import wall_offset
from ksym.views.fields import NAMES, fields
from ksym.views.text import printable

_FORMULA = re.compile(r"(^|;)(?=[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])")
"""Where a formula may begin: at the start of a cell, and after each ``;``, which divides the frames of a stack and
divides cells where a comma is the decimal point. The last four are the full-width forms of ``=+-@``."""
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*(e[+-]?[0-9]+)?|inf|nan)", re.ASCII | re.IGNORECASE)


class Csv:
    """CSV; a value that is not known is an empty cell, a stack is its frames joined by ``;``.

    Args:
        raw: Write texts as they are, also those that a spreadsheet would run.
    """

    def __init__(self, *, raw: bool = False) -> None:
        self._offset = wall_offset()
        self.raw = raw

    def header(self) -> str:
        """See Rows."""
        return ",".join(NAMES) + "\n"

    def row(self, access: Access) -> str:
        """See Rows."""
        return self.line(self.cells(access)) + "\n"

    def cells(self, access: Access) -> list[int | str | None]:
        """What a row says, one after the other."""
        values = fields(access, self._offset)
        values["old"], values["new"] = cell(access.old), cell(access.new)
        values["stack"] = ";".join(values["stack"]) if values["stack"] else None
        return list(values.values())

    def line(self, cells: Iterable[int | str | None]) -> str:
        """Return cells as a line, without a newline."""
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(map(self._shown, cells))
        return text.getvalue()

    def _shown(self, content: int | str | None) -> int | str | None:
        if not isinstance(content, str):
            return content
        return printable(content if self.raw else defused(content))


OLD = NAMES.index("old")
"""Where the old value stands in a row; the new one stands behind it."""


def defused(text: str) -> str:
    """Return ``text`` so that no spreadsheet takes it for a formula; a number stays a number.

    >>> defused("=cmd|'/c calc'!A0"), defused("-17"), defused("main+0x5b;@sum")
    ("'=cmd|'/c calc'!A0", '-17', "main+0x5b;'@sum")
    """
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub(r"\1'", text)


def cell(value: Value | None) -> int | str | None:
    """Numbers as numbers and texts without quotes, all else as people read it."""
    if value is None:
        return None
    plain = value.plain
    return plain if isinstance(plain, str) or type(plain) is int else value.text
