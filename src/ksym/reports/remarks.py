# SPDX-License-Identifier: BSD-2-Clause
"""What a recording lacks, in lines for stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ksym.reports.words import count
from ksym.views.text import printable

if TYPE_CHECKING:
    from ksym.recording.reader import Recording


def remarks(recording: Recording) -> list[str]:
    """A line for each thing that is missing."""
    name, lost, found = printable(recording.path), recording.counts.get("lost"), []
    if recording.sampled:
        found.append(f"{name} has not every access: {recording.sampled}")
    if isinstance(lost, int) and lost:
        found.append(f"{name}: {count(lost, 'hit')} lost while it was recorded")
    if recording.unopened and not recording.by_ksym:
        found.append(f"{name} has no names of programs' code: {recording.unopened}")
    if recording.cut:
        found.append(f"{name} is not whole: {printable(recording.cut)}")
    if recording.following:
        found.append(f"{name}: {recording.following}")
    return [f"ksym: {line}\n" for line in found]
