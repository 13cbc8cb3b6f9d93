# SPDX-License-Identifier: BSD-2-Clause
"""A lock that threads get in the order in which they ask for it."""

from __future__ import annotations

import threading
from collections import deque

from ksym.errors import KsymError


class Turns:
    """A fair lock, as a context manager.

    A thread that waits for accesses asks again as soon as it has given the lock back. With `threading.Lock` it would
    mostly get it again, and others could starve.
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[int, threading.Lock]] = deque()
        """Threads that hold it (the first one) or wait for it, each with a lock that is free once it is its turn."""
        # A signal handler may ask in the midst of asking.
        self._mutex = threading.RLock()

    def __enter__(self) -> None:
        """Wait for the turn of this thread.

        Raises:
            KsymError: it has the turn already: a signal handler or a finalizer runs in the midst of it.
        """
        mine = (threading.get_ident(), threading.Lock())
        with self._mutex:
            if any(thread == mine[0] for thread, _ in list(self._queue)):
                raise KsymError(
                    "cannot take accesses", "this thread is just taking some, and was interrupted",
                    "let the signal handler set a flag, and take them after it",
                )  # fmt: skip
            if self._queue:
                mine[1].acquire()
            self._queue.append(mine)
        try:
            mine[1].acquire()
        except BaseException:  # Ctrl-C
            self._leave(mine)
            raise

    def __exit__(self, *exception: object) -> None:
        self._leave(self._queue[0])

    def _leave(self, place: tuple[int, threading.Lock]) -> None:
        with self._mutex:
            # The next one first: until this thread is out of the queue, its signal handlers are refused, not blocked.
            if self._queue[0] is place and len(self._queue) > 1:
                self._queue[1][1].release()
            self._queue.remove(place)
