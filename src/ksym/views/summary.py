# SPDX-License-Identifier: BSD-2-Clause
"""The last line of every run, on stderr: what was seen, what was missed, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ksym.views.text import printable


@dataclass
class Tally:
    """What a run saw. Hits shown + lost + hidden + rejected + suppressed are what the counters say.

    Args:
        names: The watches, in order.
        hits: Hits of each; for a run that only counts.
        accesses: Accesses shown of each; None for a run that only counts.
        shown: Hits that these accesses took.
        lost: Hits that the counters saw and no record told of.
        no_room: Of those, the ones for which a ring had no room.
        hidden: Hits seen, but not shown because the limit was reached.
        rejected: Hits that did not match a condition.
        suppressed: Hits between the guard's verdict and its watch's end.
        disarmed: Watches that the guard took off.
        notes: What was missed, in words.
    """

    names: Sequence[str]
    hits: Sequence[int]
    accesses: Sequence[int] | None
    shown: int = 0
    lost: int = 0
    no_room: int = 0
    hidden: int = 0
    rejected: int = 0
    suppressed: int = 0
    disarmed: int = 0
    notes: Sequence[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """``ksym: 3 accesses (10 hits), 0 lost, 0 disarmed; pid_max 3``, then a line for each note."""
        if self.accesses is None:
            head, each = number(sum(self.hits), "hit"), self.hits
        else:
            head = f"{number(sum(self.accesses), 'access')} ({number(self.shown, 'hit')})"
            each = self.accesses
        parts = ", ".join(f"{printable(name)} {count}" for name, count in zip(self.names, each, strict=True))
        lines = [f"ksym: {head}, {self.lost} lost, {self.disarmed} disarmed; {parts}"]
        if self.rejected:
            lines.append(f"ksym: {number(self.rejected, 'hit')} did not match the condition")
        if self.hidden:
            lines.append(f"ksym: {number(self.hidden, 'hit')} after the limit not shown")
        no_room = min(self.lost, self.no_room)
        if no_room:
            lines.append(
                f"ksym: {number(no_room, 'hit')} lost, the ring buffers were full; "
                "write less (-o FILE, no -g) or watch less (-C CPUS, -p PID)"
            )
        if self.lost > no_room:
            lines.append(
                f"ksym: {number(self.lost - no_room, 'hit')} counted, but the kernel made no record of them; "
                "see Counts in docs/limits.md"
            )
        if self.suppressed:
            lines.append(f"ksym: {number(self.suppressed, 'hit')} of disarmed watches not shown")
        lines.extend(f"ksym: {printable(note)}" for note in self.notes)
        return lines


def number(count: int, noun: str) -> str:
    """``1 access``, ``2 accesses``."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count} {noun}{'' if count == 1 else plural}"
