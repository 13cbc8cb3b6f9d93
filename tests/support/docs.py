# SPDX-License-Identifier: BSD-2-Clause
"""Examples in the docs, to be run."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def fenced(page: str, language: str) -> list[str]:
    """The code blocks of a page that are marked as of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)


def shown(page: str, language: str) -> list[tuple[str, str]]:
    """Those blocks, each with the output that is shown under it."""
    pattern = rf"^```{language}\n(.*?)^```\n\n((?:    [^\n]*\n)*)"
    found = re.findall(pattern, (DOCS / page).read_text(), re.M | re.S)
    return [(code, re.sub(r"^    ", "", output, flags=re.M)) for code, output in found]
