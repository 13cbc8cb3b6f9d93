# SPDX-License-Identifier: BSD-2-Clause
"""``--format csv``: comma-separated values with a header line (RFC 4180, but lines end with a newline alone)."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable

from ksym.capture.access import Access
from ksym.capture.values import Value
from ksym.views.fields import NAMES, fields
from ksym.views.text import printable


class Csv:
    """CSV; what is not known is an empty cell, a stack is its frames joined by ``;``."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def header(self) -> str:
        """See Rows."""
        return ",".join(NAMES) + "\n"

    def row(self, access: Access) -> str:
        """See Rows."""
        return line(self.cells(access)) + "\n"

    def cells(self, access: Access) -> list[int | str | None]:
        """What a row says, one after the other."""
        values = fields(access, self._offset)
        values["old"], values["new"] = cell(access.old), cell(access.new)
        values["stack"] = ";".join(values["stack"]) if values["stack"] else None
        return list(values.values())


OLD = NAMES.index("old")
"""Where the old value stands in a row; the new one stands behind it."""


def line(cells: Iterable[int | str | None]) -> str:
    """Cells as a line, without a newline."""
    text = io.StringIO()
    shown = (printable(each) if isinstance(each, str) else each for each in cells)
    csv.writer(text, lineterminator="").writerow(shown)
    return text.getvalue()


def cell(value: Value | None) -> int | str | None:
    """Numbers as numbers and texts without quotes, all else as people read it."""
    if value is None:
        return None
    plain = value.plain
    return plain if isinstance(plain, str) or type(plain) is int else value.text
