# SPDX-License-Identifier: BSD-2-Clause
"""Names for what came up first in a round of a recorder: code, call chains, what values point to.

Code is named while its process lives, which a reader elsewhere could not do.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ksym.capture.instructions import available
from ksym.capture.pipeline import USER_CODE
from ksym.capture.pointers import pointer_names, user_pointer_names
from ksym.capture.records import (
    CONTEXT_LEAST,
    CommRecord,
    DataRecord,
    ExitRecord,
    ForkRecord,
    MmapRecord,
    Record,
)
from ksym.capture.replaced import ended_address_space, replaced_code
from ksym.capture.sites import Sites
from ksym.capture.usernames import Loaded
from ksym.capture.users import Users
from ksym.language.request import Mode
from ksym.linux.libc import MACHINE
from ksym.recording.knowledge import named_data, site_data
from ksym.recording.scan import Chain, Found, Place, one_by_one
from ksym.symbols.kallsyms import Kallsyms
from ksym.symbols.variable import KERNEL_HALF
from ksym.watch.arm import ArmedWatch

_CODE_BYTES = 4096
"""Of a longer function, what leads to a hit is not kept; but where nothing here could decode it."""
_MOST_CODE_BYTES = 1 << 16
_IMAGE = 0xFFFFFFFF80000000 if MACHINE == "x86_64" else KERNEL_HALF
"""The kernel's variables and modules lie from here on; in front of it is what has no name, its heap above all."""
_CHAINS_KEPT, _NAMES_KEPT, _POINTERS_KEPT = 1 << 14, 1 << 17, 1 << 16
"""How much is remembered of what has been noted already; in vain for code that is made anew all the time."""


@dataclass
class _Part:
    """What happened between two moments at which addresses of a process took another meaning.

    Args:
        changes: In order of time; what ended the time before is the first one.
        places: Where hits came from, with the time of one of them where it matters.
        chains: Their call chains, likewise.
    """

    changes: list[Record] = field(default_factory=list)
    places: dict[Place, int | None] = field(default_factory=dict)
    chains: dict[Chain, int | None] = field(default_factory=dict)


class Namer:
    """Notes names, each once in a file.

    Args:
        armed: What is planted.
        sites: Names of code.
        users: Processes' code; told of what the records tell.
        pids: The process whose variables pointers may point to; of several none is taken, as they differ in it.
        note: Takes a note: its name and its content.
    """

    def __init__(
        self, armed: ArmedWatch, sites: Sites, users: Users, note: Callable[[str, Any], None]
    ) -> None:
        self._armed, self._sites, self._users, self._note = armed, sites, users, note
        self._known: set[Place] = set()
        self._chains: set[Chain] = set()
        self._names: set[tuple[int, int, bool]] = set()
        self._pointers: set[int] = set()
        self._pointers_noted: set[int] = set()
        self._pointer_name = user_pointer_names(self._loaded, pointer_names(Kallsyms.shown))

    def _loaded(self) -> Sequence[Loaded]:
        """The objects in the memory of the process that is watched; of several none, as they differ in them."""
        watched = self._armed.pids
        return self._users.loaded(min(watched) if len(watched) == 1 else 0)

    def forget(self) -> None:
        """Nothing is noted in the next file."""
        for each in (self._known, self._chains, self._names, self._pointers, self._pointers_noted):
            each.clear()

    def look(self, found: Sequence[Found], data: Sequence[bytes], others: Sequence[Record]) -> None:
        """Note what is new in a round.

        A short-lived process starts, hits and ends within one. So what started and was mapped is followed ahead of
        naming, what ended after it.

        Args:
            found: What there is in each ring.
            data: The same, as it is.
            others: Of all of them, what is no sample, in order of time.
        """
        values = set().union(*(each.values for each in found))
        for part in self._parts(found, data, others):
            for other in part.changes:
                if not isinstance(other, ExitRecord):
                    self._follow(other)
            places = {place: time for place, time in part.places.items() if place not in self._known}
            if places:
                self._known.update(places)
                sites = (self._site(*place, time) for place, time in sorted(places.items()))
                self._note("sites", [site for site in sites if site])
            if part.chains:
                self._name_chains(part.chains)
            if values:  # before its program is another one
                self._name_pointers(values)
                values = set()
            for other in part.changes:
                if isinstance(other, ExitRecord):
                    self._follow(other)

    def _parts(
        self, found: Sequence[Found], data: Sequence[bytes], others: Sequence[Record]
    ) -> Iterable[_Part]:
        splits = list(_splits(found, others))
        if not splits:
            places: set[Place] = set().union(*(each.places for each in found))
            chains: set[Chain] = set().union(*(each.chains for each in found))
            return [
                _Part(
                    list(others),
                    dict.fromkeys(places - self._known),
                    dict.fromkeys(chains - self._chains),
                )
            ]
        parts = [_Part()]
        for other in others:
            if len(parts) <= len(splits) and other is splits[len(parts) - 1]:
                parts.append(_Part())
            parts[-1].changes.append(other)
        times = [split.time for split in splits]
        chained, raw = self._armed.options.stacks, self._armed.engine is not None
        for piece in data:
            for time, place, chain in one_by_one(piece, chains=chained, raw=raw):
                part = parts[bisect_left(times, time)]
                part.places.setdefault(place, time)
                if chain is not None:
                    part.chains.setdefault(chain, time)
        return parts

    def _site(self, event: int, pid: int, ip: int, time: int | None) -> dict[str, Any] | None:
        planned = self._armed.planned.get((event, 0))
        if planned is None:
            return None
        site = self._sites.site(pid, ip, execute=planned.watch.mode is Mode.EXECUTE)
        code = self._sites.code(pid, ip, _CODE_BYTES if available() else _MOST_CODE_BYTES)
        data = site_data(pid, site, code) | {"watch": planned.watch.index}
        return data if time is None else data | {"time": time}

    def _name_chains(self, chains: Mapping[Chain, int | None]) -> None:
        """Note the names of code that call chains lead through, where they are new."""
        if len(self._chains) + len(chains) > _CHAINS_KEPT:
            self._chains.clear()
        names = []
        for each, time in chains.items():
            if each in self._chains:
                continue
            event, pid, chain = each
            planned = self._armed.planned.get((event, 0))
            execute = planned is not None and planned.watch.mode is Mode.EXECUTE
            for number, ip in enumerate(code_addresses(memoryview(chain).cast("Q"))):
                behind = number > 0 or not execute
                key = 0 if ip >= KERNEL_HALF else pid, ip, behind
                if key not in self._names:
                    if len(self._names) >= _NAMES_KEPT:
                        self._names.clear()
                    self._names.add(key)
                    # Noted as readers ask for it, who do not know where the machine traps.
                    behind = number > 0 or (self._sites.traps_after and not execute)
                    names.append([*key, time, *named_data(self._sites.name(pid, ip, behind=behind))])
        self._chains.update(chains)
        if names:
            self._note("names", names)

    def _name_pointers(self, values: set[int]) -> None:
        """Note what values point to that may be pointers to code or variables."""
        if len(self._pointers) + len(values) > _POINTERS_KEPT:
            self._pointers.clear()
        new = {value for value in values if value >= _IMAGE or value in USER_CODE} - self._pointers
        self._pointers |= new
        names = [
            [value, name]
            for value in sorted(new - self._pointers_noted)
            if (name := self._pointer_name(value))
        ]
        if names:
            self._pointers_noted |= new
            self._note("pointers", names)

    def _follow(self, other: Record) -> None:
        replaced = replaced_code(other)
        if replaced is not None and self._sites.forget(*replaced):
            pid, code = replaced
            self._known = {place for place in self._known if place[1] != pid or place[2] - 1 not in code}
            self._names = {name for name in self._names if name[0] != pid or name[1] - 1 not in code}
            self._chains = {chain for chain in self._chains if chain[1] != pid}
        if isinstance(other, (MmapRecord, DataRecord)):
            self._users.mapped(other)
        elif isinstance(other, (CommRecord, ForkRecord, ExitRecord)):
            self._users.changed(other)


def _splits(found: Sequence[Found], others: Sequence[Record]) -> Iterator[Record]:
    """The records in front of which hits are to be named, as their processes' addresses mean something else behind it.

    That is so where a process with hits, or one that it was forked from, runs another program, where its number is
    that of one that has just ended, and where it maps a file at the address of a hit: what has made the hit may be what
    was there before.
    """
    hits = {(pid, ip) for each in found for _, pid, ip in each.places}
    chained = {pid for each in found for _, pid, _ in each.chains}
    pids = {pid for each in found for places in (each.places, each.chains) for _, pid, _ in places}
    pids |= {other.parent_pid for other in others if isinstance(other, ForkRecord) and other.pid in pids}
    ended = set()
    for other in others:
        if isinstance(other, ExitRecord) and other.pid == other.tid:
            ended.add(other.pid)
        elif isinstance(other, MmapRecord):
            code = range(other.start, other.start + other.length)
            if other.pid in chained or any(pid == other.pid and ip - 1 in code for pid, ip in hits):
                yield other
        elif (
            isinstance(other, (CommRecord, ForkRecord))
            and ended_address_space(other) in pids
            and (isinstance(other, CommRecord) or other.pid in ended)
        ):
            yield other


def code_addresses(chain: Iterable[int]) -> list[int]:
    """The addresses of code in a call chain, without the kernel's markers and what can be no address."""
    return [ip for ip in chain if ip in USER_CODE or KERNEL_HALF <= ip < CONTEXT_LEAST]
