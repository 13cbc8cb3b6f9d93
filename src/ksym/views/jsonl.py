# SPDX-License-Identifier: BSD-2-Clause
"""``--format json``: an object a line."""

from __future__ import annotations

import json
import time

from ksym.capture.access import Access
from ksym.views.fields import fields


class JsonLines:
    """JSON lines; ``time_ns`` is nanoseconds since the epoch."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()
        self._encode = json.JSONEncoder(check_circular=False).encode

    def header(self) -> str:
        """See Rows: there is none."""
        return ""

    def row(self, access: Access) -> str:
        """See Rows."""
        return self._encode(fields(access, self._offset)) + "\n"
