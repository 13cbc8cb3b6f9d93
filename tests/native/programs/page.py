# SPDX-License-Identifier: BSD-2-Clause
"""The part of docs/read-or-write.md that is made from the table of instructions.

``PYTHONPATH=tests python -m native.programs.page`` puts it there anew.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from native.programs.instructions import CASES, REASONS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "read-or-write.md"
BEGIN, END = "<!-- from tests/native/programs/page.py -->\n", "<!-- up to here -->\n"


def table() -> str:
    """The table, the reasons, and the list of what needs no row in the table."""
    lines = [
        "| instruction | access | hits | `--twin on` | `--twin off` | `--twin off --no-bpf` | `-w-` | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reasons = list(REASONS)
    alike: dict[str, list[str]] = {}
    for case in CASES:
        types = case.types()
        words = f"`{case.code}`" + (f" {case.does}" if case.does else "") + ("\\*" if case.vendor else "")
        if not case.why:
            hits = f" ({case.hits} hits)" if case.hits > 1 else ""
            alike.setdefault(case.made, []).append(words + hits)
            continue
        shown = [types[way] or "-" for way in ("twins", "change", "decoding", "-w-")]
        columns = [words, case.made, str(case.hits), *shown, str(1 + reasons.index(case.why))]
        lines.append(f"| {' | '.join(columns)} |")
    lines.append("")
    lines += [f"{number}. {reason}" for number, reason in enumerate(REASONS.values(), 1)]
    lines += ["", "The rest show the same TYPE in all ways:"]
    for kind in ("R", "W", "RW", ""):
        text = f"**{kind or 'No access'}**: {'; '.join(alike[kind])}."
        whole = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\0"), text)  # code stays on a line
        wrapped = textwrap.wrap(whole, 120, break_long_words=False, break_on_hyphens=False)
        lines += ["", *(line.replace("\0", " ") for line in wrapped)]
    return "\n".join([*lines, ""])


def renewed(text: str) -> str:
    """The page's text with this part as it has to be."""
    before, _, rest = text.partition(BEGIN)
    _, _, behind = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{behind}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
