# SPDX-License-Identifier: BSD-2-Clause
"""Work in a process of its own, which may be watched, signalled, and die, without harm to the tests'."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def apart(work: Callable[[], _T]) -> _T:
    """Do it in a forked process, which ends with it; returns what it returns, which must be picklable.

    In virtual machines a few hits in millions reach the program as SIGTRAP and no tool, see ``bench/runner.py``:
    work that dies of it is done once more, from its beginning, so that no count need be less than exact.

    Raises:
        AssertionError: it raised something, whose traceback this has, or died.
    """
    status, data = _forked(work)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTRAP:
        print("once more, as it died of SIGTRAP", file=sys.stderr)
        status, data = _forked(work)
    assert status == 0, f"it ended with status {status:#x}"
    ok, value = pickle.loads(data)
    assert ok, value
    return value  # type: ignore[no-any-return]


def _forked(work: Callable[[], object]) -> tuple[int, bytes]:
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            with open(writing, "wb") as out:
                out.write(pickle.dumps(_outcome(work)))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as result:
        data = result.read()
    return os.waitpid(pid, 0)[1], data


def _outcome(work: Callable[[], object]) -> tuple[bool, object]:
    try:
        return True, work()
    except BaseException:
        return False, traceback.format_exc()
