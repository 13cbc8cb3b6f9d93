# SPDX-License-Identifier: BSD-2-Clause
"""What is left of a condition for ksym to judge: what needs the decoded instruction, or all of it without programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ksym.capture.records import SampleRecord
from ksym.capture.sites import Site
from ksym.language.request import Mode
from ksym.linux.libc import MACHINE
from ksym.program.layout import Hit
from ksym.watch.plan import Watch

if TYPE_CHECKING:
    from ksym.language.condition import Condition
    from ksym.watch.arm import ArmedWatch

Judge = Callable[[SampleRecord, Site, str, str], bool]
"""Whether to keep a hit: (record, where it came from, access, comm)."""


def judges(armed: ArmedWatch) -> list[Judge | None]:
    """For each watch, who judges its hits; None where nothing is left to judge."""
    return [_judge_for(watch, in_kernel=armed.engine is not None) for watch in armed.plan.watches]


def _judge_for(watch: Watch, *, in_kernel: bool) -> Judge | None:
    if watch.condition is None:
        return None
    if in_kernel:
        from ksym.program.conditions import decided_in_kernel
        from ksym.program.engine import sees

        if decided_in_kernel(watch.condition, sees(watch)):
            return None
    return judge_of(watch, watch.condition, traps_after=MACHINE == "x86_64")


def judge_of(watch: Watch, condition: Condition, *, traps_after: bool) -> Judge:
    """Who judges all that a condition says.

    Args:
        watch: Whose hits.
        condition: One that ``bind`` made.
        traps_after: Whether the machine reports a hit behind the access.
    """
    from ksym.program.verdict import Seen, could_match

    length = watch.variable.length
    back = 1 if traps_after and watch.mode is not Mode.EXECUTE else 0

    def judge(record: SampleRecord, site: Site, access: str, comm: str) -> bool:
        old = record.old[:length] if record.flags & Hit.OLD else None
        new = record.new[:length] if record.flags & Hit.NEW else None
        known = old is not None and new is not None
        seen = Seen(
            old, new, bool(record.flags & Hit.CHANGED) if known else None, record.pid, record.tid, record.cpu,
            record.uid, comm, access, record.ip, site.ip - back,
        )  # fmt: skip
        return could_match(condition, seen)

    return judge
