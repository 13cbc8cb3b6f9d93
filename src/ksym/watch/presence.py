# SPDX-License-Identifier: BSD-2-Clause
"""Whether what is watched is still there.

A register watches an address, whatever lies there: when a module is unloaded, a task ends or a library is
unmapped, the same address may become something else, whose accesses must not be shown under the old name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ksym.errors import KsymError
from ksym.language.request import TaskRoot
from ksym.linux.maps import Mapping, read_maps
from ksym.watch.plan import Place, Plan, Watch

_MODULES = "/sys/module"
Check = tuple[int, str, Callable[[], bool]]
"""Number of a watch, what to say when it is gone, and whether it is there."""


class Presence:
    """Looks at what may go away, but for user variables (`Hold`).

    Args:
        checks: How.
    """

    def __init__(self, checks: Iterable[Check]) -> None:
        self._checks = list(checks)

    def __bool__(self) -> bool:
        return bool(self._checks)

    def look(self) -> list[tuple[int, str]]:
        """The watches that are gone since the last look, each with what to say."""
        gone = [(index, message) for index, message, there in self._checks if not there()]
        numbers = {index for index, _ in gone}
        self._checks = [check for check in self._checks if check[0] not in numbers]
        return gone


def presence_checks(plan: Plan) -> list[Check]:
    """Return what to look at for the kernel variables of a plan."""
    return [check for watch in plan.watches for check in _of(watch)]


def _of(watch: Watch) -> Iterable[Check]:
    variable, root = watch.variable, watch.request.target.root
    name = watch.name
    if variable.module is not None:
        folder = f"{_MODULES}/{variable.module.replace('-', '_')}"
        # Those built in have a folder only if they have parameters, or a version.
        loaded = _loaded(folder)
        if loaded is not None:
            message = f"{name} is not watched any more: module {variable.module} was unloaded"
            yield watch.index, message, lambda: _loaded(folder) == loaded
    if isinstance(root, TaskRoot) and root.pid is not None:
        task = f"/proc/{root.pid}"
        yield (
            watch.index,
            f"{name} is not watched any more: task {root.pid} ended",
            lambda: os.path.isdir(task),
        )


def _loaded(folder: str) -> int | None:
    """Which loading of a module it is: one that came back since is another one, elsewhere in memory.

    sysfs numbers its files in turn (fs/kernfs/dir.c), so the folder of another loading has another number.
    """
    try:
        return os.stat(folder).st_ino
    except OSError:
        return None


class Hold(NamedTuple):
    """What holds a user variable in a process's memory, as it was when the variable was found.

    Args:
        address: Of the variable.
        start: Where the file that it is part of begins in memory. Of memory that belongs to no file, ``address``.
        key: What is mapped there (`Mapping.file_key`).
        shared: True if the variable lies in memory that other processes may have, too.
        program: The file is the process's program, which is there until the next exec.
        offset: What part of the file lies at ``start``, by its first byte: another copy may reach there, too.
    """

    address: int
    start: int
    key: tuple[int, int, str]
    shared: bool
    program: bool = False
    offset: int = 0

    @property
    def has_file(self) -> bool:
        """True if a file is mapped there, not memory without a name."""
        return self.key[1] != 0

    def there(self, mappings: Sequence[Mapping]) -> bool:
        """Return True if the same is still mapped."""
        return any(
            self.start in mapping
            and mapping.file_key == self.key
            and (not self.has_file or mapping.offset + self.start - mapping.start == self.offset)
            for mapping in mappings
        )

    def among(self, mappings: Sequence[Mapping]) -> bool:
        """Return True if another process's memory has the same: the same file anywhere, or memory at that address."""
        if self.has_file:
            return any(mapping.file_key == self.key for mapping in mappings)
        return self.there(mappings)


def hold_at(mappings: Sequence[Mapping], address: int) -> Hold | None:
    """Return what holds the variable at ``address``; None where nothing is mapped.

    A loaded file begins with its first page. Zeroed data lies in memory without a name right behind the mappings of
    its file (fs/binfmt_elf.c, set_brk; the dynamic linker does the same).
    """
    at = next((number for number, mapping in enumerate(mappings) if address in mapping), None)
    if at is None:
        return None
    shared = "s" in mappings[at].perms
    front = at
    while not mappings[front].inode and front and mappings[front - 1].end == mappings[front].start:
        front -= 1
    key = mappings[front].file_key
    if shared or not mappings[front].is_file or (mappings[at].path and front != at):
        offset = mappings[at].offset + address - mappings[at].start
        return Hold(address, address, mappings[at].file_key, shared, offset=offset)
    for mapping in reversed(mappings[: front + 1]):
        if mapping.file_key == key and mapping.offset == 0:
            return Hold(address, mapping.start, key, shared)
    return Hold(address, mappings[front].start, key, shared, offset=mappings[front].offset)


def maps_of(pid: int) -> list[Mapping]:
    """Return the mappings of a process; none where it is gone, or about to be, or may not be looked into."""
    try:
        return read_maps(pid)
    except KsymError:
        return []


def place_is_there(place: Place, holds: dict[int, Hold]) -> bool:
    """Return False if what held a place's variables is not in its process's memory any more.

    A process that has ended, or is about to, still counts: others see to that.
    """
    mappings = maps_of(place.pid)
    return not mappings or all(hold.there(mappings) for hold in holds.values())
