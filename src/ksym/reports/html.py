# SPDX-License-Identifier: BSD-2-Clause
"""``ksym report --html``: a report as one page that needs nothing else, no network either.

A recording may be anybody's. Nothing of it is HTML here: it is packed (`embed`), and ``page/`` writes it as text. The
page's own policy lets run the one script and the one style that are in it, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
import zlib
from collections.abc import Callable
from importlib.resources import files
from typing import BinaryIO

from ksym.reports.about import About
from ksym.reports.analysis import Analysis
from ksym.reports.embed import pack
from ksym.reports.facts import definition, facts
from ksym.reports.hints import texts
from ksym.reports.select import Selection
from ksym.reports.terminal import SourceOf
from ksym.views.text import printable

SCRIPTS = (
    "format.js", "data.js", "selection.js", "elements.js", "axis.js", "chart.js", "timeline.js", "values.js",
    "groups.js", "flame.js", "rows.js", "page.js",
)  # fmt: skip
"""In the order in which they need each other."""
_FINDINGS = {
    "silent stores": "silent", "taking turns": "turned", "close together": "near", "changed unseen": "unseen",
}  # fmt: skip
"""By the bit that marks the accesses; see `embed.FLAGS`."""
_PIECE = 1 << 20

Progress = Callable[[int, int], None]


def write(
    file: BinaryIO, about: About, analysis: Analysis, selection: Selection, source: SourceOf, origin_ns: int,
    progress: Progress = lambda done, total: None,
) -> None:  # fmt: skip
    """Write the page.

    Args:
        file: Where to.
        about: The recording.
        analysis: What it says.
        selection: What was selected of it.
        source: Finds source lines.
        origin_ns: The recording's first access, from which ``--since`` counts, too.
        progress: Told how much has been written.
    """
    packed = pack(analysis, source, origin_ns, _about(about, analysis, selection, origin_ns))
    style, script = _style(), _script()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script}
    for number, part in enumerate(re.split(r"@([A-Z]+)@", _read("page.html"))):
        if number % 2 and part == "DATA":
            file.write(base64.b64encode(_deflate(packed, progress)))
        else:
            file.write((parts[part] if number % 2 else part).encode())


def _about(about: About, analysis: Analysis, selection: Selection, origin_ns: int) -> dict[str, object]:
    findings = [
        {"watch": subject.watch.index, "name": name, "text": text, "flag": _FINDINGS[name]}
        for subject in analysis.subjects
        for name, text in texts(analysis.findings(subject), about)
    ]
    return {
        "file": printable(about.path),
        "facts": facts(about, analysis, selection),
        "minutes_east": _minutes_east(origin_ns),
        "watches": [
            {"name": printable(watch.name), "definition": definition(watch)}
            for watch in analysis.accesses.watches
        ],
        "findings": findings,
        "sampled": analysis.sampled,
    }


def _minutes_east(time_ns: int) -> int:
    """The time zone of this machine, which the terminal's report is in."""
    try:
        return time.localtime(time_ns // 1_000_000_000).tm_gmtoff // 60
    except (OverflowError, ValueError, OSError):  # of a damaged recording
        return 0


def _deflate(data: bytes, progress: Progress) -> bytes:
    compressor = zlib.compressobj(6)
    parts = []
    for start in range(0, len(data), _PIECE):
        parts.append(compressor.compress(data[start : start + _PIECE]))
        progress(start, len(data))
    return b"".join((*parts, compressor.flush()))


def _read(name: str) -> str:
    return files("ksym.reports").joinpath("page", name).read_text("utf-8")


def _style() -> str:
    return _read("uplot/uPlot.min.css") + "\n" + _read("page.css")


def _script() -> str:
    """The library with its licence, then the page's own parts in a scope of their own."""
    licence, library = _read("uplot/LICENSE"), _read("uplot/uPlot.iife.min.js")
    own = "\n".join(_read(name) for name in SCRIPTS)
    return f"/*\n{licence}*/\n{library}\n(() => {{\n'use strict';\n{own}}})();\n"


def _hash(text: str) -> str:
    """How a Content-Security-Policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
