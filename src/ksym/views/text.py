# SPDX-License-Identifier: BSD-2-Clause
"""Text that came from elsewhere, made safe for a terminal and for columns."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""``text`` with every control or unprintable character escaped as ``\xNN`` or ``\uNNNN``.

    Task names are set by any process (prctl PR_SET_NAME): escape sequences in them must not reach a terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
