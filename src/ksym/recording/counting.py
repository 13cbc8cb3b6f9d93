# SPDX-License-Identifier: BSD-2-Clause
"""What each file of a recording says of its own hits.

Counters are read while hits are on their way. So what a file holds is counted by its records, together with what the
counters say that no record will come of; what is on its way counts for the file that it gets into.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ksym.language.request import Mode
from ksym.watch.arm import ArmedWatch
from ksym.watch.plan import Role

_OWN = ("no_room", "rejected", "suppressed")


class Counting:
    """Counts for the files of a recording, one after the other.

    Args:
        armed: What is planted.
    """

    def __init__(self, armed: ArmedWatch) -> None:
        self._armed = armed
        self._recorded = [0] * len(armed.plan.watches)
        self.files = 1
        self.earlier = 0
        """Hits recorded in the files before."""
        self.previous = 0
        """Of these, the ones in the last file before."""
        self._before: dict[str, Any] = {}

    @property
    def recorded(self) -> int:
        """Hits recorded in this file."""
        return sum(self._recorded)

    @property
    def removed(self) -> int:
        """Hits in files that are not kept."""
        return self.earlier - self.previous

    def take(self, samples: Mapping[int, int]) -> None:
        """Count samples, given by identifier.

        A write fires both registers of a twin, a read one; where no program tells, each writes a sample
        (`ArmedWatch.counts`).
        """
        for event, count in samples.items():
            planned = self._armed.planned.get((event, 0))
            if planned is None:
                continue
            if planned.role is Role.WRITES:
                count *= (planned.watch.mode is not Mode.READ) - self._armed.options.both_fire
            self._recorded[planned.watch.index] += count

    def own(self, counts: Mapping[str, Any], *, last: bool = False) -> dict[str, Any]:
        """What this file says of itself.

        Args:
            counts: What is counted of the whole run; ``away``: hits of each watch of which no record will come.
            last: Nothing is on its way any more.
        """
        own = {key: value for key, value in counts.items() if key != "away"}
        for key in _OWN:
            own[key] = max(0, counts.get(key, 0) - self._before.get(key, 0))
        if last:
            own["hits"] = self._since(counts, "hits")
            own["lost"] = max(0, counts.get("lost", 0) - self._before.get("no_room", 0))
        else:
            away = self._since(counts, "away")
            own["hits"] = [recorded + lacking for recorded, lacking in zip(self._recorded, away, strict=True)]
            own["lost"] = own["no_room"]
        return own | {"recorded": self.recorded, "file": self.files, "removed": self.removed}

    def _since(self, counts: Mapping[str, Any], key: str) -> list[int]:
        none = [0] * len(self._recorded)
        now, before = counts.get(key) or none, self._before.get(key) or none
        return [max(0, after - each) for after, each in zip(now, before, strict=False)]

    def rotated(self, counts: Mapping[str, Any]) -> dict[str, Any]:
        """The same for a file that another one follows, with which the one before it is removed."""
        own = self.own(counts) | {"removed": self.earlier, "continued": True}
        claimed = self._before.get("hits") or [0] * len(own["hits"])
        hits = [before + here for before, here in zip(claimed, own["hits"], strict=True)]
        self._before = dict(counts) | {"hits": hits}
        self.files += 1
        self.earlier, self.previous = self.earlier + self.recorded, self.recorded
        self._recorded = [0] * len(self._recorded)
        return own

    def stopped(self, counts: Mapping[str, Any], kept: int, why: str) -> dict[str, Any]:
        """The same for a file that cannot be written on; ``kept``: hits that are in it."""
        own = self.own(counts, last=True)
        unwritten = max(0, sum(own["hits"]) - sum(self._since(counts, "away")) - kept)
        return own | {"lost": own["no_room"], "recorded": kept, "unwritten": unwritten, "stopped": why}
