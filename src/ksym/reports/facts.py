# SPDX-License-Identifier: BSD-2-Clause
"""What stands at the head of a report, and of each variable in it, in words."""

from __future__ import annotations

from ksym.reports.about import About, date, length, time_of_day
from ksym.reports.analysis import Analysis
from ksym.reports.select import Selection
from ksym.reports.words import count
from ksym.symbols.types import describe
from ksym.symbols.variable import Space
from ksym.views.text import printable
from ksym.watch.plan import Watch


def facts(about: About, analysis: Analysis, selection: Selection) -> list[tuple[str, str]]:
    """What was recorded, when, on what machine, and how much of it: a word for each, and a text; all printable."""
    requests = ", ".join(printable(str(subject.watch.request)) for subject in analysis.subjects)
    rows = [("watched", requests)]
    if len(analysis):
        start, end = analysis.span
        when = f"{date(start)} {time_of_day(start)} to {time_of_day(end)}, {length(end - start)}"
        rows.append(("when", when))
    elif about.start_ns:
        rows.append(("when", f"{date(about.start_ns)} {time_of_day(about.start_ns)}"))
    machine = about.machine or {}
    if machine:
        system = f"Linux {machine['release']}" if machine.get("release") else ""
        cpus = count(machine["cpus"], "CPU") if machine.get("cpus") else ""
        kind = f"{system} {machine.get('arch') or ''}".strip()
        words = (machine.get("hostname"), kind, cpus, about.made_by)
        rows.append(("machine", ", ".join(printable(str(word)) for word in words if word)))
    rows.append(("counted", _counted(about, analysis)))
    if about.continues:
        rows.append(("part", "it goes on where the file before it ended (--max-size)"))
    if selection:
        rows.append(("selected", f"{printable(str(selection))}: of {count(analysis.all, 'access')}"))
    rows += [("note", printable(note)) for note in about.notes]
    if about.cut:
        rows.append(("cut", printable(about.cut)))
    return rows


def _counted(about: About, analysis: Analysis) -> str:
    if about.sampled:
        return f"{count(len(analysis), 'sample')}, {about.lost:,} lost; {about.sampled}"
    counts = [f"{count(len(analysis), 'access')} ({count(analysis.hits, 'hit')})", f"{about.lost:,} lost"]
    counts += [f"{about.rejected:,} did not match the condition"] if about.rejected else []
    counts += [f"{about.suppressed:,} suppressed"]
    counts += [f"{about.disarmed:,} disarmed"] if about.disarmed else []
    counts += [f"{count(about.unwritten, 'hit')} not written"] if about.unwritten else []
    counts += [f"{count(about.removed, 'hit')} in files that were removed"] if about.removed else []
    return ", ".join(counts)


def definition(watch: Watch) -> str:
    """What a variable is, where it stands, and how it was watched."""
    variable = watch.variable
    kind = describe(variable.type) + ", " if variable.type else ""
    if variable.bits:
        kind += f"{count(variable.bits[1], 'bit')} from bit {variable.bits[0]} of "
    place = f"{variable.address:#x}" if not variable.per_cpu else "each CPU's own copy"
    where = " of user space" if variable.space is Space.USER else ""
    text = f"{kind}{count(variable.length, 'byte')} at {place}{where}; watched {watch.mode}"
    return printable(text)
