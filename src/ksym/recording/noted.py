# SPDX-License-Identifier: BSD-2-Clause
"""Code as ksym's recorder described it, in notes that stand behind the records in which it came up first.

A process that runs another program may have other code at the same address. So an address may have several
descriptions, and the place of a note in the file tells for which time it holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from ksym.capture.sites import Named, Site
from ksym.errors import KsymError
from ksym.recording.knowledge import decoded_again, named_from, site_from
from ksym.recording.sideband import Damaged, Note
from ksym.symbols.variable import KERNEL_HALF

_Known = TypeVar("_Known")
_Entry = tuple[int, int | None, _Known]
"""Number of the note, time of a hit that it is about, if that matters, and what it says."""


class Era(NamedTuple):
    """The time in which a process's addresses meant the same, as numbers of records in the file.

    Args:
        start: That of the record that began it.
        end: That of the record that ended it.
        start_time: Time of the one that began it.
        end_time: Time of the one that ended it.
    """

    start: int
    end: int
    start_time: int = -1
    end_time: int = 1 << 64


ALWAYS = Era(0, 1 << 62)


class NotedCode:
    """What the notes of a recording tell of code.

    Args:
        notes: All notes.
        executes: Of each watch, whether it is on an execution.
        traps_after: Whether the machine reports a hit behind the access.

    Raises:
        Damaged: a note is not as ksym writes it.
    """

    def __init__(self, notes: Iterable[Note], executes: Sequence[bool], *, traps_after: bool) -> None:
        self._sites: dict[tuple[int, int, bool], list[_Entry[Site]]] = {}
        self._names: dict[tuple[int, int, bool], list[_Entry[Named]]] = {}
        self._code: dict[Site, Any] = {}
        self._traps_after = traps_after
        try:
            for note in notes:
                if note.name == "sites":
                    for data in note.content:
                        execute = executes[data["watch"]]
                        pid, site = site_from(data, traps_after=traps_after and not execute)
                        self._code[site] = data["code"]
                        entry = note.order, _time(data.get("time")), site
                        self._sites.setdefault((pid, site.ip, execute), []).append(entry)
                elif note.name == "names":
                    for pid, ip, behind, time, *data in note.content:
                        key = int(pid), int(ip), bool(behind)
                        self._names.setdefault(key, []).append((note.order, _time(time), named_from(data)))
        except (
            KeyError,
            TypeError,
            ValueError,
            IndexError,
            OverflowError,
            RecursionError,
            KsymError,
        ) as error:
            raise Damaged("a note of ksym's is damaged") from error

    def close(self) -> None:
        """See decode.Code."""

    def follow(self, changes: object) -> None:
        """See decode.Code: notes are told apart by eras."""

    def site(
        self, pid: int, ip: int, *, execute: bool, bits: int | None = None, era: Era = ALWAYS, hit: int = 0
    ) -> Site | None:
        """The site at an address (`Sites.site`); None where nothing was noted."""
        site = _of(self._sites.get((0 if ip >= KERNEL_HALF else pid, ip, execute)), era)
        if site is None or bits in (None, site.bits) or execute or not self._traps_after:
            return site
        return decoded_again(site, self._code[site], bits)

    def name(self, pid: int, ip: int, *, behind: bool, era: Era = ALWAYS, hit: int = 0) -> Named:
        """The name of an address (`Sites.name`)."""
        return _of(self._names.get((0 if ip >= KERNEL_HALF else pid, ip, behind)), era) or Named(None, ip)


def _time(data: object) -> int | None:
    if data is None or isinstance(data, int):
        return data
    raise TypeError(data)


def _of(found: list[_Entry[_Known]] | None, era: Era) -> _Known | None:
    """The one that holds for an era.

    Where a process ran another program meanwhile, a note has the time of a hit that it is about. One without mostly
    stands in its era. One about the last hits before the era's end stands behind that, as the recorder takes in records
    in bulk.
    """
    if not found:
        return None
    if len(found) == 1:
        return found[0][2]
    timed = [each for _, time, each in found if time is not None and era.start_time < time <= era.end_time]
    if timed:
        return timed[-1]
    found = [entry for entry in found if entry[1] is None] or found
    within = [each for order, _, each in found if era.start < order < era.end]
    if within:
        return within[-1]
    behind = [each for order, _, each in found if order >= era.end]
    return behind[0] if behind else found[-1][2]
