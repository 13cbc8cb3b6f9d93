# SPDX-License-Identifier: BSD-2-Clause
"""Whether what is watched is still there.

A register watches an address, whatever lies there: when a module is unloaded, a task ends or a library is
unmapped, the same address may become something else, whose accesses must not be shown under the old name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from ksym.errors import KsymError
from ksym.language.request import TaskRoot
from ksym.linux.maps import read_maps
from ksym.symbols.variable import Space
from ksym.watch.plan import Plan, Watch

_MODULES = "/sys/module"
Check = tuple[int, str, Callable[[], bool]]
"""Number of a watch, what to say when it is gone, and whether it is there."""


class Presence:
    """Looks at what may go away.

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


def presence_checks(plan: Plan, pid: int | None) -> list[Check]:
    """What to look at for a plan; ``pid`` is the process of its user variables."""
    return [check for watch in plan.watches for check in _of(watch, pid)]


def _of(watch: Watch, pid: int | None) -> Iterable[Check]:
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
    if variable.space is Space.USER and pid is not None:
        before = _file_at(pid, variable.address)
        if before is not None:
            message = f"{name} is not watched any more: its memory was unmapped"
            yield watch.index, message, lambda: _file_at(pid, variable.address) in (before, _ENDED)


def _loaded(folder: str) -> int | None:
    """Which loading of a module it is: one that came back since is another one, elsewhere in memory.

    sysfs numbers its files in turn (fs/kernfs/dir.c), so the folder of another loading has another number.
    """
    try:
        return os.stat(folder).st_ino
    except OSError:
        return None


_ENDED = (0, 0, "ended")


def _file_at(pid: int, address: int) -> tuple[int, int, str] | None:
    """What is mapped at an address; ``_ENDED`` where the process is gone, or about to be: others see to that."""
    try:
        mappings = read_maps(pid)
    except KsymError:
        return _ENDED
    if not mappings:
        return _ENDED
    for mapping in mappings:
        if address in mapping:
            return mapping.file_key
    return None
