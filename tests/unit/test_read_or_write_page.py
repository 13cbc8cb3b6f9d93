# SPDX-License-Identifier: BSD-2-Clause
"""docs/read-or-write.md against the table that native/test_instructions.py holds against the processor."""

from __future__ import annotations

from native.programs.page import PAGE, renewed


def test_the_page_has_the_table() -> None:
    text = PAGE.read_text()
    assert renewed(text) == text, "renew it: PYTHONPATH=tests python -m native.programs.page"
