# SPDX-License-Identifier: BSD-2-Clause
"""``--json``: the report as one object, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ksym.recording.accesses import KINDS
from ksym.reports.about import About
from ksym.reports.analysis import NEAR_NS, Analysis, Findings
from ksym.reports.call_tree import chains
from ksym.reports.groups import Group, Range, Shares, Subject, Write
from ksym.reports.terminal import SourceOf
from ksym.reports.timeline import draw

_COLUMNS = 100
"""Of a timeline."""
_LATEST = 5


def report(
    about: About, analysis: Analysis, by: Sequence[str], most: int, lanes: str | None, source: SourceOf
) -> dict[str, Any]:
    """All of it; keys are only ever added.

    Args:
        about: The recording.
        analysis: What it says.
        by: What accesses are grouped by.
        most: Rows of a variable; 0: all.
        lanes: What has a lane in the timeline; None: no timeline.
        source: Finds source lines.
    """
    start, end = analysis.span
    return {
        "file": about.path,
        "made_by": about.made_by or None,
        "machine": about.machine,
        "start_ns": start if len(analysis) else about.start_ns,
        "end_ns": end if len(analysis) else None,
        "accesses": len(analysis),
        "hits": analysis.hits,
        "all_accesses": analysis.all,
        "lost": about.lost,
        "rejected": about.rejected,
        "suppressed": about.suppressed,
        "disarmed": about.disarmed,
        "removed": about.removed,
        "unwritten": about.unwritten,
        "cut": about.cut,
        "notes": list(about.notes),
        "sampled": about.sampled,
        "by": list(by),
        "variables": [_variable(subject, analysis, by, most, lanes, source) for subject in analysis.subjects],
    }


def _variable(
    subject: Subject, analysis: Analysis, by: Sequence[str], most: int, lanes: str | None, source: SourceOf
) -> dict[str, Any]:
    watch, variable = subject.watch, subject.watch.variable
    groups, different = subject.groups(by, most)
    return {
        "symbol": watch.name,
        "request": str(watch.request),
        "address": hex(variable.address),
        "length": variable.length,
        "type": variable.type.name if variable.type else None,
        "accesses": len(subject),
        "hits": subject.hits,
        "types": _kinds(subject.kinds),
        "values": _range(subject.values),
        "groups": different,
        "rows": [_group(group, by, None if analysis.sampled else len(subject), source) for group in groups],
        "findings": _findings(analysis.findings(subject)),
        "last_writers": [_write(write) for write in subject.last_writes(_LATEST)],
        "timeline": _timeline(subject, analysis, lanes) if lanes else None,
        "stacks": [
            {"accesses": accesses, "frames": [str(frame) for frame in frames]}
            for frames, accesses in chains(subject)
        ],
    }


def _kinds(counts: Sequence[int]) -> dict[str, int]:
    return dict(zip(KINDS, counts, strict=True))


def _group(group: Group, by: Sequence[str], total: int | None, source: SourceOf) -> dict[str, Any]:
    row = group.fields | {
        "share": group.accesses / total if total else None,
        "accesses": group.accesses,
        "hits": group.hits,
        "types": _kinds(group.kinds),
        "silent": group.silent,
        "first_ns": group.first_ns,
        "last_ns": group.last_ns,
        "tasks": _shares(group.tasks),
        "cpus": list(group.cpus),
        "functions": _shares(group.functions),
        "values": _range(group.values),
    }
    if "instruction" in by:
        row["source"] = source(group.site)
    if "value" in by:
        row["last_writer"] = _write(group.writer)
    return row


def _shares(shares: Shares) -> dict[str, Any]:
    return {
        "different": shares.different,
        "most": [{"name": name, "accesses": made} for name, made in shares.top],
    }


def _range(seen: Range | None) -> dict[str, Any] | None:
    if seen is None:
        return None
    return {
        "different": seen.different,
        "first": seen.first.plain,
        "last": seen.last.plain,
        "low": seen.low.plain if seen.low else None,
        "high": seen.high.plain if seen.high else None,
    }


def _write(write: Write | None) -> dict[str, Any] | None:
    if write is None:
        return None
    named = write.site.named
    return {
        "value": write.value.plain, "time_ns": write.time_ns, "comm": write.comm, "pid": write.pid, "tid": write.tid,
        "cpu": write.cpu, "function": named.function, "offset": named.offset if named.function is not None else None,
        "module": named.owner, "ip": hex(write.site.ip),
    }  # fmt: skip


def _findings(found: Findings) -> dict[str, Any]:
    silent, turns, near, unseen = found.silent, found.turns, found.near, found.unseen
    return {
        "silent_stores": silent
        and {
            "count": silent.count,
            "of": silent.of,
            "functions": [{"name": name, "count": made} for name, made in silent.functions],
        },
        "taking_turns": turns
        and {
            "count": turns.count,
            "of": turns.of,
            "cpus": [{"cpus": list(cpus), "count": made} for cpus, made in turns.cpus],
        },
        "close_together": near
        and {
            "count": near.count,
            "window_ns": NEAR_NS,
            "least_ns": near.least_ns,
            "places": [{"places": list(places), "count": made} for places, made in near.places],
        },
        "changed_unseen": unseen
        and {
            "count": unseen.count,
            "first_ns": unseen.first_ns,
            "found": unseen.found.plain if unseen.found else None,
            "in_doubt": unseen.in_doubt,
        },
    }


def _timeline(subject: Subject, analysis: Analysis, lanes: str) -> dict[str, Any]:
    timeline = draw(subject, analysis.span, _COLUMNS, lanes)
    return {
        "by": lanes,
        "start_ns": timeline.start_ns,
        "end_ns": timeline.end_ns,
        "lanes": [
            {"name": lane.who, "type": lane.kind, "counts": lane.counts.tolist()} for lane in timeline.lanes
        ],
    }
