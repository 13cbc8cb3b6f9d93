# SPDX-License-Identifier: BSD-2-Clause
"""``--format csv``: comma-separated values with a header line (RFC 4180, but lines end with a newline alone)."""

from __future__ import annotations

import csv
import io
import time

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
        values = fields(access, self._offset)
        values["old"], values["new"] = _cell(access.old), _cell(access.new)
        values["stack"] = ";".join(values["stack"]) if values["stack"] else None
        line = io.StringIO()
        cells = (printable(value) if isinstance(value, str) else value for value in values.values())
        csv.writer(line, lineterminator="\n").writerow(cells)
        return line.getvalue()


def _cell(value: Value | None) -> int | str | None:
    """Numbers as numbers and texts without quotes, all else as people read it."""
    if value is None:
        return None
    plain = value.plain
    return plain if isinstance(plain, str) or type(plain) is int else value.text
