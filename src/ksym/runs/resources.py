# SPDX-License-Identifier: BSD-2-Clause
"""Everything that a run holds, given back at its end, and of which a forked child keeps nothing.

fork(2) copies descriptors, and the copies lead to the same open files: a child that disables "its" event disarms
the parent's watch, and a child that lives on keeps the registers of a parent that has ended. It does not copy the
mappings of perf's rings (VM_DONTCOPY, kernel/events/core.c, perf_mmap): reading one in the child is SIGSEGV. So the
child closes its copies before any other code runs in it. What acts on others (ending COMMAND, disarming) is left to
the parent.

That is said by os.register_at_fork, which os.fork, multiprocessing, and subprocess with a ``preexec_fn`` heed. A fork
that Python does not know of is found out at the latest when the run ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import cached_property
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

_alive: dict[int, Resources] = {}
"""Those that are entered and not left, by their id."""


class Resources(ExitStack):
    """What a run holds.

    Callbacks and contexts are for what acts on others: a forked child does not call them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._dropped: list[Callable[[], object]] = []
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        _alive[id(self)] = self
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> bool | None:
        if os.getpid() != self._owner:
            self.drop()
            return None
        try:
            return super().__exit__(kind, value, trace)
        finally:
            _alive.pop(id(self), None)

    def hold(self, close: Callable[[], object], *, drop: Callable[[], object] | None = None) -> None:
        """Call ``close`` at the end.

        Args:
            close: Gives descriptors and memory back.
            drop: Closes a forked child's copies, and does nothing to what they lead to; left out: ``close`` does.
        """
        self._dropped.append(drop or close)
        self.callback(close)

    def hold_context(self, manager: AbstractContextManager[T]) -> T:
        """Enter a context that has only to do with this process; left at the end, and in a forked child."""
        value = manager.__enter__()
        self.hold(lambda: manager.__exit__(None, None, None))
        return value

    def drop(self) -> None:
        """In a forked child: close the copies, and forget all else."""
        _alive.pop(id(self), None)
        self.pop_all()
        for drop in reversed(self._dropped):
            # Another thread may have been in the midst of something when this child was made. The others are closed.
            with suppress(Exception):
                drop()
        self._dropped.clear()


def _drop_copies() -> None:
    for resources in list(_alive.values()):
        resources.drop()


def _renew_locks() -> None:
    """Free the locks that another thread held when this child was forked.

    Before Python 3.12 functools.cached_property has one for each property, not for each object: a child of ksym's own
    that reads an ELF file would wait for ever for a thread that it does not have.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("ksym."):
            for kind in [each for each in vars(module).values() if isinstance(each, type)]:
                for each in vars(kind).values():
                    if isinstance(each, cached_property) and hasattr(each, "lock"):
                        each.lock = sys.modules["threading"].RLock()


_threads = [1]
"""How many threads there were at the last fork; a child has one."""


def _count_threads() -> None:
    threading = sys.modules.get("threading")  # few runs load it
    _threads[0] = threading.active_count() if threading else 1


def _in_child() -> None:
    _drop_copies()
    if _threads[0] > 1:
        _renew_locks()


os.register_at_fork(before=_count_threads, after_in_child=_in_child)
