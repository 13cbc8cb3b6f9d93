# SPDX-License-Identifier: BSD-2-Clause
"""Serve the tracing directory: ftrace's ksym_tracer of 2009, for any shell.

    # mkdir /tmp/ksym; ksym mount --daemon /tmp/ksym; cd /tmp/ksym
    # echo pid_max:rw- > ksym_trace_filter; cat trace

The files are those of tracefs; README in the directory and ksym-mount(1) tell of each. Ctrl-C, SIGTERM or umount end it
and give every register back.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import time
import traceback

from ksym.commands.parser import add_vmlinux, percent
from ksym.errors import KsymError
from ksym.linux.cpus import CpuEvents
from ksym.linux.mounted import check_mounted
from ksym.tracing.files import TracingDirectory
from ksym.tracing.instance import Instance
from ksym.tracing.planted import How
from ksym.tracing.server import Server, Unmounted
from ksym.views.text import printable
from ksym.watch.guard import LOOK_SECONDS
from ksym.watch.run import ROUND_SECONDS, Signals

_MANY = 100
_BUSY_ROUND_SECONDS = ROUND_SECONDS / 10
"""After a round that found more than _MANY entries: who reads a file waits for the round to end."""


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("directory", metavar="DIR", help="an empty directory to mount it on")
    parser.add_argument(
        "-d", "--daemon", action="store_true", help="go into the background once it is mounted"
    )
    parser.add_argument("--no-bpf", action="store_true", help="plain perf events only: no values")
    parser.add_argument(
        "--guard", type=percent, metavar="PERCENT|off",
        help="disarm a watch whose hits take more of a CPU's time (default: 25)",
    )  # fmt: skip
    add_vmlinux(parser)


def run(args: argparse.Namespace) -> int:
    """Mount, and serve until it is unmounted or a signal comes."""
    check_mounted()
    vmlinux = args.vmlinux and os.path.abspath(args.vmlinux)
    how = How(bpf=not args.no_bpf, guard=args.guard, vmlinux=vmlinux)
    directory = TracingDirectory(lambda: Instance(how))
    # First of all: what is mounted belongs to the process that serves it.
    background = _Background(args.daemon)
    if background.child:
        return background.outcome(args.directory)
    with Signals() as signals:
        try:
            with Server(os.path.abspath(args.directory), directory.root, _report) as server:
                print(f"ksym: tracing directory on {printable(args.directory)}", file=sys.stderr, flush=True)
                background.ready()
                _Service(server, directory, signals).serve()
        finally:
            directory.close()
    return 0


def _report(error: Exception) -> None:
    print(f"ksym: the tracing directory has failed: {error!r}; this is a bug", file=sys.stderr)
    if os.environ.get("KSYM_DEBUG"):
        traceback.print_exception(error)


class _Service:
    """The loop: requests of the file system, rings that fill up, CPUs that come and go, signals."""

    def __init__(self, server: Server, directory: TracingDirectory, signals: Signals) -> None:
        self._server, self._directory, self._signals = server, directory, signals
        self._poll = select.poll()
        self._rings: set[int] = set()
        self._cpu_events: CpuEvents | None = None
        # Without the socket (a network namespace that has none), CPUs are not followed.
        with contextlib.suppress(OSError):
            self._cpu_events = CpuEvents()

    def serve(self) -> None:
        """Until it is unmounted or a signal comes."""
        sources = [self._server.fileno(), self._signals.fileno()]
        if self._cpu_events:
            sources.append(self._cpu_events.fileno())
        for source in sources:
            self._poll.register(source, select.POLLIN)
        due = look = 0.0
        with contextlib.suppress(Unmounted):
            while self._signals.received is None:
                watching = self._follow_rings()
                left = max(0.0, min(due - time.monotonic(), ROUND_SECONDS))
                woken = {fd for fd, _ in self._poll.poll(left * 1000 if watching else None)}
                self._signals.clear()
                if self._server.fileno() in woken:
                    self._server.serve_ready()
                if self._cpu_events and self._cpu_events.fileno() in woken:
                    changes = self._cpu_events.take()
                    for instance, _ in self._directory:
                        instance.follow_cpus(changes)
                    look = 0.0  # what came may tell of a module that goes
                now = time.monotonic()
                if now >= look:
                    look = now + LOOK_SECONDS
                    for instance, _ in self._directory:
                        instance.look()
                if now >= due or woken & self._rings:
                    many = self._collect()
                    due = now + (_BUSY_ROUND_SECONDS if many else ROUND_SECONDS)
        if self._cpu_events:
            self._cpu_events.close()

    def _collect(self) -> bool:
        """Take what was caught; returns whether it was so much that others would wait for long the next time."""
        most = 0
        for instance, pipe in self._directory:
            most = max(most, instance.collect())
            # What another file's access has collected is for who waits here, too.
            if pipe.taken and (instance.buffer.count() or not instance.on):
                self._server.wake(pipe)
        return most > _MANY

    def _follow_rings(self) -> bool:
        """Poll the rings that there are now; returns whether there is something to look after."""
        now = {fd for instance, _ in self._directory for fd in instance.ring_fds}
        for fd in self._rings - now:
            self._poll.unregister(fd)
        for fd in now - self._rings:
            self._poll.register(fd, select.POLLIN)
        self._rings = now
        return bool(now) or any(pipe.taken for _, pipe in self._directory)


class _Background:
    """A child without a terminal that goes on in the program's place, once there is one.

    Args:
        wanted: Whether there is to be one.
    """

    def __init__(self, wanted: bool) -> None:
        self.child: int | None = None
        """In the parent: the child."""
        self._pipe: tuple[int, int] | None = None
        if wanted:
            self._pipe = os.pipe()
            self.child = os.fork() or None
        if self._pipe and self.child is None:
            os.close(self._pipe[0])
            # A lock or a pipe that the caller happens to have open must not be held for weeks.
            for fd in map(int, os.listdir("/proc/self/fd")):
                if fd > 2 and fd != self._pipe[1]:
                    with contextlib.suppress(OSError):  # the listing's own
                        os.close(fd)

    def outcome(self, directory: str) -> int:
        """In the parent: wait until the child is ready, or has failed and said why; the exit status for it.

        Raises:
            KsymError: it was killed.
        """
        assert self._pipe is not None
        assert self.child is not None
        os.close(self._pipe[1])
        with os.fdopen(self._pipe[0], "rb") as pipe:
            if pipe.read(1):
                return 0
        status = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        if status < 0:
            by = signal.Signals(-status).name
            raise KsymError(
                f"cannot mount on {directory}",
                f"its server was ended by {by} before it was ready",
                "try again",
            )
        return status

    def ready(self) -> None:
        """In the child: all is well; leave the terminal and the folder to their owner."""
        if not self._pipe:
            return
        os.setsid()  # not before: Ctrl-C until here is for both
        os.chdir("/")
        sys.stderr.flush()
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(nothing, fd)
        os.close(nothing)
        os.write(self._pipe[1], b".")
        os.close(self._pipe[1])
        self._pipe = None
