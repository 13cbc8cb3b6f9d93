# SPDX-License-Identifier: BSD-2-Clause
"""Where the keeper runs: a process that is held by a program does not give up its CPU."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable, Sequence

from ksym.linux.bpf_ring import BpfRing
from ksym.linux.cpus import online_cpus
from ksym.linux.libc import set_parent_death_signal


def allowed_cpus() -> list[int]:
    """The CPUs on which the keeper may run, whatever COMMAND is bound to."""
    bind(0, set(online_cpus()))
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return sorted(os.sched_getaffinity(0))


class Cpus:
    """Lets no held process keep the CPU on which the keeper is woken: it does not give it up.

    The keeper stays on one CPU, and only one process is held at a time. If that is on the keeper's CPU, the bell wakes
    a second process, which stays on the others: it moves the keeper to them until the turn is over. The scheduler
    would leave a woken keeper where it is for as long as the hold lasts.

    Args:
        cpus: Those that the keeper may run on, two or more; it stays on the last one.
        bell: Rung by a hold on that.
        closed: Descriptors that the second process gives back.
    """

    def __init__(self, cpus: Sequence[int], bell: BpfRing, closed: Iterable[int]) -> None:
        self._cpu = cpus[-1]
        self._moved: dict[int, set[int]] = {}
        """CPUs of ksym's threads as they were."""
        keeper, others = os.getpid(), set(cpus) - {self._cpu}
        self._ringer = os.fork()
        if self._ringer == 0:
            try:
                for fd in closed:
                    os.close(fd)
                bind(0, others)
                _ring_for(keeper, bell, others)
            finally:
                os._exit(0)
        bind(0, {self._cpu})

    def keep_ksym_off(self, cpu: int) -> None:
        """Move ksym away from a CPU where a process spins until ksym has done its work; `go_back` undoes it."""
        with contextlib.suppress(OSError):
            for tid in map(int, os.listdir(f"/proc/{os.getppid()}/task")):
                before = os.sched_getaffinity(tid)
                if cpu in before and len(before) > 1:
                    self._moved[tid] = before
                    bind(tid, before - {cpu})

    def go_back(self) -> None:
        """Return to the keeper's own CPU, and let ksym use all of its own."""
        bind(0, {self._cpu})
        for tid, cpus in self._moved.items():
            bind(tid, cpus)
        self._moved.clear()

    def close(self) -> None:
        """End the second process."""
        os.kill(self._ringer, signal.SIGKILL)
        os.waitpid(self._ringer, 0)


def bind(pid: int, cpus: set[int]) -> None:
    """Let a thread (0: this one) run on ``cpus`` alone; one that has ended is passed over."""
    with contextlib.suppress(OSError):
        os.sched_setaffinity(pid, cpus)


def _ring_for(keeper: int, bell: BpfRing, cpus: set[int]) -> None:
    """At each ring of the bell, move the keeper to ``cpus``; ends with it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    set_parent_death_signal(signal.SIGKILL)
    poll = select.poll()
    poll.register(bell.fd, select.POLLIN)
    while os.getppid() == keeper:
        poll.poll()
        for _ in bell.take():
            bind(keeper, cpus)
