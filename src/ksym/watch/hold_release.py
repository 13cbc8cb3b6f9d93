# SPDX-License-Identifier: BSD-2-Clause
"""Letting go all that the programs in the kernel hold, when they go away.

The keeper does it at its end. If the keeper is killed, ksym does it, which has a descriptor of the map for that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct

from ksym.linux import bpf
from ksym.linux.libc import syscall
from ksym.watch.hold_layout import WAITING_BYTES, Answer

_MEMBARRIER_GLOBAL = 1  # MEMBARRIER_CMD_GLOBAL, linux/membarrier.h: an RCU grace period (4.3)


def let_all_go(waiting: bpf.Map) -> None:
    """Answer each thread that is held, and continue each process that was stopped; no new ones may come.

    A program that had begun when its tracepoint was left may still hold, and stop its process when its bound is
    reached: what it holds is let go, all programs have ended after a grace period, and then nobody is held anew.

    Args:
        waiting: The map; programs must not be attached any more.
    """
    _sweep(waiting)
    with contextlib.suppress(OSError):
        syscall("membarrier", _MEMBARRIER_GLOBAL, 0, 0)
    _sweep(waiting)


def _sweep(waiting: bpf.Map) -> None:
    for thread, value in list(waiting.items(WAITING_BYTES)):
        state, since = struct.unpack("=QQ", value)
        if state not in (Answer.WAITS, Answer.STOPPED):
            continue
        with contextlib.suppress(FileNotFoundError):  # it has ended
            waiting.update(thread, struct.pack("=QQ", Answer.GO, since), only_if_there=True)
        # To one that waits, too: its program may have stopped it since.
        with contextlib.suppress(ProcessLookupError):
            os.kill(struct.unpack("=I", thread)[0], signal.SIGCONT)
