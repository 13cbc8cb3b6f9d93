# SPDX-License-Identifier: BSD-2-Clause
"""Holding processes right after they have mapped what is waited for, before any code runs that could touch it.

A small process of its own, the keeper, does it: it answers within a fraction of a millisecond whatever ksym is busy
with, has no children but its tracees, and if ksym is killed it ends, which lets everything go on. `Holder` is
ksym's end of it; `watch.keeper` is the keeper.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ksym.errors import KsymError
from ksym.linux.mounted import check_mounted
from ksym.watch.hold_way import LONGEST

if TYPE_CHECKING:
    from ksym.symbols.wanted import Wanted

_NOT_HELD = "part of the run is incomplete: later programs and libraries may have been watched too late"


class CannotHold(KsymError):
    """Processes cannot be held here."""


class Holder:
    """Holds each process that has mapped all wanted files, until it is released.

    A process that has them at another place than when it was released last (a library that came back, another
    program after exec) is held again. Where programs in the kernel hold, so is one that has just unmapped a wanted
    file.

    Args:
        wanted: The files.
        pids: The processes to look at: COMMAND's, before it has executed anything, or running ones. What they
            start later is held, too.
        tree: ``pids`` is COMMAND's process. Without privileges only it can be followed, by tracing it.
        meanwhile: Work of the caller's that is to be done anyway, while the keeper gets ready.

    Raises:
        CannotHold: Neither programs in the kernel nor ptrace(2) are allowed.
        NotPermitted: /proc is not mounted, so nothing could be seen of them.
    """

    def __init__(
        self, wanted: Wanted, pids: Sequence[int], *, tree: bool = True,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        what = f"cannot wait for {wanted}"
        check_mounted()
        from ksym.watch.keeper import keep  # the rest of what holds is loaded by the keeper, meanwhile

        self._held: list[int] = []
        self._waiting = -1
        """Descriptor of the map of those that programs in the kernel hold, from the keeper."""
        self._notes: list[str] = []
        self._names = wanted.names
        self._unmapped: defaultdict[int, set[str]] = defaultdict(set)
        self.tracers: list[str] = []
        """Programs of COMMAND that look as if they traced others, where ksym's own tracing keeps them from it."""
        self.warnings: list[str] = []
        """What being traced did to COMMAND."""
        self.ended = False
        """The keeper is gone; nobody is held any more."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._keeper = os.fork()
        except OSError as error:
            self._socket.close()
            theirs.close()
            raise CannotHold(
                what, f"no process can be started for it: {error.strerror}",
                "end others, or raise the limits (ulimit -u, pids.max of the cgroup)",
            ) from error  # fmt: skip
        if self._keeper == 0:
            keep(theirs, wanted, list(pids), tree=tree)
        theirs.close()
        try:
            meanwhile()
        except BaseException:
            self.close()
            raise
        word, _, text = self._receive().partition(" ")
        if word == "waiting":
            word, _, text = self._receive().partition(" ")
        self.traces = word == "tracing"
        """COMMAND and all that it starts is traced; nobody else can trace it meanwhile, and setuid has no effect."""
        why, _, todo = text.partition("; ")
        self.cause = why, todo
        """Why COMMAND is traced instead of held by programs in the kernel, and what to do about it."""
        if word not in ("tracing", "ready"):
            self.close()
            raise CannotHold(what, why or "the process that was started for it ended", todo)

    def fileno(self) -> int:
        """Readable when a process is held, or there is a note."""
        return self._socket.fileno()

    def held(self) -> list[int]:
        """Return the processes that are held now and not released yet."""
        while not self.ended and self._readable():
            self._hear()
        return list(self._held)

    def _hear(self) -> None:
        word, _, text = self._receive().partition(" ")
        if word == "held":
            self._held.append(int(text))
        elif word == "gone":
            with contextlib.suppress(ValueError):
                self._held.remove(int(text))
        elif word == "unmapped":
            pid, number = map(int, text.split())
            self._unmapped[pid].add(self._names[number])
        elif word == "note":
            self._notes.append(text)
        elif word == "warning" and text not in self.warnings:
            self.warnings.append(text)
        elif word == "refused":
            self._notes.append(f"{_NOT_HELD}, as the process that holds them failed: {text.partition('; ')[0]}")
        elif word == "tracer" and text not in self.tracers:
            self.tracers.append(text)

    def notes(self) -> list[str]:
        """Return what was missed and why, since the last call."""
        if self._keeper > 0:
            self.held()
        notes, self._notes = self._notes, []
        return notes

    def unmapped(self, pid: int) -> set[str]:
        """Return the wanted files that a process has unmapped, unheld, since the last call."""
        return self._unmapped.pop(pid, set())

    def release(self, pid: int) -> None:
        """Let a held process go on; one that has ended is passed over."""
        with contextlib.suppress(ValueError):
            self._held.remove(pid)
        with contextlib.suppress(OSError):
            self._socket.send(f"release {pid}".encode())

    def finish(self) -> None:
        """Release all and let the keeper end, without waiting for that."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Release all and wait for the end of the keeper, which leaves no probe; closing twice does nothing."""
        if self._keeper <= 0:
            return
        self.finish()
        while not self.ended:
            self._hear()
        self._socket.close()
        self._keeper = -1

    def _readable(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _receive(self) -> str:
        with contextlib.suppress(OSError):
            message, fds, _, _ = socket.recv_fds(self._socket, LONGEST, 1)
            if fds:
                self._waiting = fds[0]
            if message:
                return message.decode("utf-8", "surrogateescape")
        if not self.ended:
            self._reap()
        return ""

    def _reap(self) -> None:
        """Wait for the keeper, and do what it could not do if it was killed."""
        self.ended = True
        status = None
        with contextlib.suppress(ChildProcessError):  # SIGCHLD may be ignored: its status is lost
            _, status = os.waitpid(self._keeper, 0)
        if status != 0 and self._waiting >= 0:
            from ksym.linux.bpf import Map
            from ksym.watch.hold_layout import WAITING_BYTES
            from ksym.watch.hold_release import let_all_go

            let_all_go(Map.of(self._waiting, value=WAITING_BYTES))
        if status is not None and os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            self._notes.append(f"{_NOT_HELD}, as the process that holds them was killed ({name})")
        if self._waiting >= 0:
            os.close(self._waiting)
            self._waiting = -1
