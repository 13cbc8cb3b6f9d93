# SPDX-License-Identifier: BSD-2-Clause
"""Where the keeper runs: a process that is held by a program does not give up its CPU."""

from __future__ import annotations

import contextlib
import os
import select
import signal

from ksym.linux.bpf_ring import BpfRing
from ksym.linux.cpus import online_cpus
from ksym.linux.libc import set_parent_death_signal


def allowed_cpus() -> list[int]:
    """The CPUs on which the keeper may run, whatever COMMAND is bound to."""
    bind(0, set(online_cpus()))
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return sorted(os.sched_getaffinity(0))


def bind(pid: int, cpus: set[int]) -> None:
    """Let a thread (0: this one) run on ``cpus`` alone; one that has ended is passed over."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(pid, cpus)


def ring_for(keeper: int, bell: BpfRing, cpus: set[int]) -> None:
    """At each ring of the bell, move the keeper to ``cpus``; ends with it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    set_parent_death_signal(signal.SIGKILL)
    poll = select.poll()
    poll.register(bell.fd, select.POLLIN)
    while os.getppid() == keeper:
        poll.poll()
        for _ in bell.take():
            bind(keeper, cpus)
