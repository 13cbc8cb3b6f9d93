# SPDX-License-Identifier: BSD-2-Clause
"""The report as a person reads it: what was recorded, then variable by variable who touches it, and what to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ksym.capture.sites import Site
from ksym.recording.accesses import KINDS
from ksym.reports.about import About, time_of_day
from ksym.reports.analysis import Analysis
from ksym.reports.call_tree import grow
from ksym.reports.facts import definition, facts
from ksym.reports.groups import Group, Range, Shares, Subject, Write
from ksym.reports.hints import hints, writers
from ksym.reports.layout import BOLD, DIM, GAP, HINT, NAME, Column, Glyphs, Line, cut, flow, pad, table
from ksym.reports.pictures import STYLES, columns_for, timeline_lines, tree_lines
from ksym.reports.select import Selection
from ksym.reports.timeline import draw
from ksym.reports.words import count, cpu_list, value_text
from ksym.views.text import printable

_KINDS = ("R", "W", "RW", "X", "?")
"""In the order of their columns."""
_HEADS = {
    "function": "FUNCTION",
    "instruction": "FUNCTION",
    "task": "TASK-PID",
    "cpu": "CPU",
    "value": "VALUE",
    "stack": "STACK",
}
_COUNTED = {"access": "ACCESSES", "sample": "SAMPLES"}
_INDENT = 8
"""Of what stands under a row: behind SHARE."""
_LATEST = 5

SourceOf = Callable[[Site], "str | None"]
"""Where in the source an instruction comes from: ``prog.c:12``; None where nobody knows."""


@dataclass(frozen=True)
class Style:
    """How a report looks.

    Args:
        width: Columns of the terminal.
        glyphs: What is drawn with.
        by: What accesses are grouped by, of groups.KEYS.
        most: Rows of a table; 0: all.
        lanes: What has a lane in the timeline: ``cpu`` or ``task``; None: no timeline.
    """

    width: int
    glyphs: Glyphs
    by: tuple[str, ...]
    most: int
    lanes: str | None


class _Extra(NamedTuple):
    """What else a row tells: in a column of its own, or below the row behind a word."""

    head: str
    word: str
    style: str
    text: Callable[[Group], str]


class Terminal:
    """A report in lines.

    Args:
        about: The recording.
        analysis: What it says.
        selection: What was selected of it.
        style: How it looks.
        source: Finds source lines.
    """

    def __init__(
        self, about: About, analysis: Analysis, selection: Selection, style: Style, source: SourceOf
    ) -> None:
        self._about, self._analysis, self._selection = about, analysis, selection
        self._style, self._source = style, source
        self._noun = "sample" if analysis.sampled else "access"

    def lines(self) -> list[Line]:
        """All of it."""
        lines = self._head()
        subjects = self._analysis.subjects
        if len(subjects) > 1 and len(self._analysis):
            lines += [[], *self._overview()]
        for subject in subjects:
            if len(subject) or len(subjects) == 1:
                lines += [[], *self._subject(subject)]
        return lines

    # -- the head ------------------------------------------------------------------------------------

    def _head(self) -> list[Line]:
        lines: list[Line] = [[(printable(self._about.path), BOLD)]]
        for name, text in facts(self._about, self._analysis, self._selection):
            lines += self._entry(name, text, HINT if name == "cut" else "")
        return lines

    def _entry(self, name: str, text: str, style: str = "") -> list[Line]:
        indent = 11
        (first, *more) = flow([[(text, style)]], self._style.width, indent)
        return [[("  " + pad(name, indent - 2), DIM), *first[1:]], *more]

    def _overview(self) -> list[Line]:
        subjects = sorted(self._analysis.subjects, key=len, reverse=True)
        columns = self._numbers(
            [len(each) for each in subjects], [each.hits for each in subjects],
            [each.kinds for each in subjects], len(self._analysis),
        )  # fmt: skip
        names = [printable(subject.watch.name) for subject in subjects]
        return table([*columns, Column("SYMBOL", names, NAME)], width=self._style.width)

    # -- a variable ----------------------------------------------------------------------------------

    def _subject(self, subject: Subject) -> list[Line]:
        lines = self._title(subject)
        if not len(subject):
            return [*lines, [("  no accesses", "")]]
        style = self._style
        lines += [[], *self._groups(subject)]
        lines += hints(self._analysis.findings(subject), self._about, style.width, style.glyphs.bullet)
        if "value" not in style.by:
            lines += writers(subject.last_writes(_LATEST), style.width)
        start, end = self._analysis.span
        if style.lanes and start < end:
            columns = columns_for(style.width, style.lanes, len(subject))
            lines += timeline_lines(
                draw(subject, self._analysis.span, columns, style.lanes), style.glyphs, style.width
            )
        tree = grow(subject) if "stack" not in style.by else None
        return lines + (
            tree_lines(tree, len(subject), style.glyphs, style.width, sampled=self._analysis.sampled)
            if tree
            else []
        )

    def _title(self, subject: Subject) -> list[Line]:
        watch = subject.watch
        parts: list[Line] = [[(printable(watch.name), f"{BOLD} {NAME}")], [(definition(watch), "")]]
        counts = [f"{subject.kinds[KINDS.index(kind)]:,} {kind}" for kind in self._kinds([subject.kinds])]
        total = [[(f"{count(len(subject), self._noun)}: {', '.join(counts)}", "")]] if len(subject) else []
        values = [[(f"values: {self._range(subject.values)}", "")]] if subject.values else []
        return flow(parts, self._style.width, 0) + flow([*total, *values], self._style.width, 2)

    def _numbers(
        self, accesses: Sequence[int], hits: Sequence[int], kinds: Sequence[Sequence[int]], total: int
    ) -> list[Column]:
        """The columns of numbers; HITS where they are not the accesses."""
        columns = [Column(_COUNTED[self._noun], [f"{each:,}" for each in accesses], right=True)]
        if not self._analysis.sampled:
            shares = [f"{100 * each / total:.1f}%" for each in accesses]
            columns.insert(0, Column("SHARE", shares, BOLD, right=True))
        if list(accesses) != list(hits):
            columns.append(Column("HITS", [f"{each:,}" for each in hits], right=True))
        for kind in self._kinds(kinds):
            number = KINDS.index(kind)
            columns.append(Column(kind, [f"{each[number]:,}" for each in kinds], STYLES[kind], right=True))
        return columns

    def _kinds(self, kinds: Sequence[Sequence[int]]) -> list[str]:
        """The kinds that are told: reads and writes always but of executions, the others where there are any."""
        there = {kind for kind in _KINDS if any(each[KINDS.index(kind)] for each in kinds)}
        return [kind for kind in _KINDS if kind in (there if there == {"X"} else there | {"R", "W"})]

    def _groups(self, subject: Subject) -> list[Line]:
        by = self._style.by
        groups, different = subject.groups(by, self._style.most)
        accesses, hits = [group.accesses for group in groups], [group.hits for group in groups]
        kinds = [group.kinds for group in groups]
        labels = [
            [printable(cut(label, 200)) for label in texts]
            for texts in zip(*(g.label for g in groups), strict=True)
        ]
        left = different - len(groups)
        if left:
            accesses.append(len(subject) - sum(accesses))
            hits.append(subject.hits - sum(hits))
            kinds.append(
                tuple(
                    all_ - shown
                    for all_, shown in zip(subject.kinds, map(sum, zip(*kinds, strict=True)), strict=True)
                )
            )
            for number, texts in enumerate(labels):
                texts.append("" if number else f"{left:,} more; --top 0 shows all")
        columns = self._numbers(accesses, hits, kinds, len(subject))
        columns += [Column(_HEADS[key], texts, NAME) for key, texts in zip(by, labels, strict=True)]
        below = self._place(columns, self._extras(subject), groups, left)
        for lines, group in zip(below, groups, strict=False):
            lines += [[(" " * _INDENT + printable(frame), "")] for frame in group.frames[1:]]
        return table(columns, below, width=self._style.width, indent=_INDENT)

    def _place(
        self, columns: list[Column], extras: Sequence[_Extra], groups: Sequence[Group], left: int
    ) -> list[list[Line]]:
        """Add to ``columns`` what else is told, as long as there is room; the rest is what stands below each row."""
        room = self._style.width - 1 - sum(column.width + len(GAP) for column in columns) + len(GAP)
        below: list[list[Line]] = [[] for _ in range(len(groups) + bool(left))]
        for extra in extras:
            texts = [extra.text(group) for group in groups]
            if not any(texts):
                continue
            column = Column(extra.head, texts + [""] * bool(left), extra.style)
            room -= column.width + len(GAP)
            if room >= 0:
                columns.append(column)
                continue
            room = -1  # so that what follows is below, too
            for parts, text in zip(below, texts, strict=False):
                if text:
                    parts.append([(extra.word, DIM), (text, extra.style)])
        return [flow(parts, self._style.width, _INDENT) for parts in below]

    def _extras(self, subject: Subject) -> list[_Extra]:
        """What else is told of a group, where the groups are not made by it."""
        by = self._style.by
        found = []
        if "instruction" in by:
            found.append(_Extra("INSTRUCTION", "", "", lambda group: self._instruction(group.site)))
            found.append(_Extra("SOURCE", "", "", lambda group: printable(self._source(group.site) or "")))
        elif "function" not in by and "stack" not in by:
            found.append(
                _Extra("FROM", "from ", "", lambda group: self._shares(group.functions, group.accesses))
            )
        if "value" in by:
            found.append(_Extra("LAST WRITER", "last written ", "", lambda group: self._writer(group.writer)))
        if "cpu" not in by:
            found.append(_Extra("CPU", "CPU ", "", lambda group: cpu_list(group.cpus)))
        if "task" not in by:
            found.append(_Extra("TASKS", "by ", "", lambda group: self._shares(group.tasks, group.accesses)))
        if "value" not in by:
            found.append(_Extra("VALUES", "values ", "", lambda group: self._range(group.values)))
        found.append(
            _Extra("SILENT", "silent ", HINT, lambda group: f"{group.silent:,}" if group.silent else "")
        )
        return found

    def _instruction(self, site: Site) -> str:
        return printable(site.instruction.text) if site.instruction else ""

    def _shares(self, shares: Shares, total: int) -> str:
        several = shares.different > 1 and not self._analysis.sampled
        names = [
            printable(name) + (f" {100 * made / total:.0f}%" if several else "") for name, made in shares.top
        ]
        more = shares.different - len(names)
        return ", ".join(names) + (f", {more:,} more" if more else "")

    def _range(self, seen: Range | None) -> str:
        if seen is None:
            return ""
        if seen.different == 1:
            return value_text(seen.first)
        text = f"first {value_text(seen.first)}, last {value_text(seen.last)}, {seen.different:,} different"
        if seen.low is not None and seen.high is not None and seen.different > 2:
            text += f", {value_text(seen.low)} to {value_text(seen.high)}"
        return text

    def _writer(self, write: Write | None) -> str:
        if write is None:
            return ""
        task = f"{printable(write.comm)}-{write.tid}"
        return f"{time_of_day(write.time_ns)} by {task}, CPU {write.cpu}, {printable(str(write.site.named))}"
