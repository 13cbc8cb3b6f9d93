# SPDX-License-Identifier: BSD-2-Clause
"""The limit on open files (RLIMIT_NOFILE): asked before anything is begun, as later nothing could be told right.

Where a file cannot be opened for that limit alone, a name would be missing, or a process would pass for one that has
ended.
"""

from __future__ import annotations

import errno
import os
import resource

from ksym.errors import KsymError

LEAST_FILES = 64
"""Enough for any command; a run on many CPUs, or of many threads, needs more."""
_BESIDES = 32
"""What a run opens besides its events, once it is planted: its output, and files that names come from."""


def room_for(events: int) -> int:
    """Return how many open files must be allowed for a run that opens so many events now."""
    try:
        open_now = len(os.listdir("/proc/self/fd"))
    except OSError:
        open_now = _BESIDES
    return open_now + events + _BESIDES


def allow_files(needed: int, *, wanted: int = 0, what: str = "cannot begin") -> None:
    """Raise the soft limit as far as it may be raised.

    Args:
        needed: So many files must be allowed.
        wanted: So many are of use.
        what: What cannot be done with fewer.

    Raises:
        KsymError: if fewer than ``needed`` are allowed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(needed, wanted)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, max(soft, hard))
    if allowed < needed:
        why = f"it needs more open files than are allowed ({needed}, and RLIMIT_NOFILE is {allowed})"
        refused = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        raise KsymError(what, why, f"raise the limit: ulimit -n {needed}") from refused
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
