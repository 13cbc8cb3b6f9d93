# SPDX-License-Identifier: BSD-2-Clause
"""Names as they leave ksym: paths and symbols are bytes, and need not be text."""

from __future__ import annotations

import re

_LONE = re.compile("[\ud800-\udfff]")
"""What stands for a byte that is no UTF-8 (surrogateescape): no text has it, and strict readers of JSON refuse it."""


def readable(name: str) -> str:
    """``name`` with U+FFFD for each byte that is no UTF-8, as the names of tasks have it."""
    return name if name.isascii() else _LONE.sub("\ufffd", name)
