# SPDX-License-Identifier: BSD-2-Clause
"""Work of two stages at once: one makes the next thing in a thread while the other takes the last one.

numpy, zlib, pyarrow and reading let other threads work meanwhile; so a second processor is used.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from itertools import islice
from typing import TypeVar

_T = TypeVar("_T")

DEPTH = 2
"""Things that wait at most; one more may be in the making, and one is being taken."""
_ALONE = 2
"""The first ones are made here: with fewer it would take longer to start a thread than to do without."""


def ahead(things: Iterable[_T]) -> Generator[_T]:
    """The same things, of which the next ones are made in a thread; to be closed where not all are taken.

    What making them raises is raised here.
    """
    things, taken = iter(things), 0
    for each in islice(things, _ALONE):
        taken += 1
        yield each
    if taken < _ALONE:
        return
    waiting: queue.Queue[_T | _End] = queue.Queue(DEPTH)
    stop = threading.Event()

    def work() -> None:
        end = _End(None)
        try:
            for each in things:
                waiting.put(each)
                if stop.is_set():
                    break
        except BaseException as failure:
            end = _End(failure)
        waiting.put(end)

    thread = threading.Thread(target=work)
    thread.start()
    thing: _T | _End | None = None
    try:
        while not isinstance(thing := waiting.get(), _End):
            yield thing
    finally:
        stop.set()
        while not isinstance(thing, _End):
            thing = waiting.get()
        thread.join()
    if thing.failure:
        raise thing.failure


class _End:
    def __init__(self, failure: BaseException | None) -> None:
        self.failure = failure
