# SPDX-License-Identifier: BSD-2-Clause
"""Starting COMMAND so that it is watched from its first instruction, and ending it.

The child is forked early and waits; it runs COMMAND only when everything is armed. Where a variable of a program or
library is watched, its address is known only once that file is mapped: then COMMAND runs up to the point where it is,
is held there (`watch.holding`), armed, and let go.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import struct
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from ksym.errors import KsymError
from ksym.linux.files import find_program
from ksym.linux.libc import allow_tracing

if TYPE_CHECKING:
    from ksym.symbols.wanted import Wanted
    from ksym.watch.holding import Holder

CANNOT_RUN, NOT_FOUND = 126, 127
_LOOK_MILLISECONDS = 20
"""Between two looks where the kernel cannot tell of COMMAND's end (pidfd_open(2), 5.3)."""


class Interruption(Protocol):
    """The signals of a run; see watch.run.Signals."""

    received: signal.Signals | None

    def fileno(self) -> int:
        """Readable after a signal."""

    def clear(self) -> None:
        """Consume the wake-ups."""


class CommandError(KsymError):
    """COMMAND could not be started; the status tells shells why (126, 127)."""

    def __init__(self, what: str, why: str, todo: str, status: int) -> None:
        super().__init__(what, why, todo)
        self.status = status


class Command:
    """A child process that will become COMMAND.

    It starts with `go`, or with `run_until`, which leaves it held until `go`.

    Args:
        argv: COMMAND and its arguments.

    Raises:
        CommandError: there is no such program, or it cannot be executed.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv = list(argv)
        self.status: int | None = None
        """Exit status as shells have it (128 + N for signal N), once it has ended."""
        self.holder: Holder | None = None
        """Holds processes that COMMAND has become or started, once `run_until` was asked for."""
        self.keeps_holder = False
        """Others want the holder after `go`, too; else it ends then."""
        self._missed: list[str] = []
        self.warnings: list[str] = []
        """What being watched did to COMMAND, for the user before anything else."""
        self._held: int | None = None
        self._find()
        gate, self._gate = os.pipe()
        self._failure, failure = os.pipe()
        try:
            self.pid = os.fork()
        except OSError as error:
            for fd in (gate, self._gate, self._failure, failure):
                os.close(fd)
            raise KsymError(
                f"cannot run {self.argv[0]}", f"no process can be started for it: {error.strerror}",
                "end others, or raise the limits (ulimit -u, pids.max of the cgroup)",
            ) from error  # fmt: skip
        if self.pid == 0:
            os.close(self._gate)
            self._become(gate, failure)
        os.close(gate)
        os.close(failure)

    def _find(self) -> None:
        name = self.argv[0]
        places = [name] if "/" in name else [os.path.join(folder, name) for folder in os.get_exec_path()]
        if any(os.path.isfile(place) and os.access(place, os.X_OK) for place in places):
            return
        if "/" in name and os.path.exists(name):
            why = "it is a directory" if os.path.isdir(name) else "it is not executable"
            raise CommandError(f"cannot run {name}", why, "name a program", CANNOT_RUN)
        where = "there is no such file" if "/" in name else "it is in no directory of PATH"
        todo = "check the spelling of COMMAND"
        if os.path.isfile(name) and os.access(name, os.X_OK):
            where, todo = f"{where}, but in this directory", f"write ./{name}"
        elif " " in name and find_program(name.split()[0]) is not None:
            todo = "give its arguments as words of their own, without quotes"
        raise CommandError(f"cannot run {name}", where, todo, NOT_FOUND)

    def _become(self, gate: int, failure: int) -> None:
        """In the child: wait for the gate, then run COMMAND."""
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup is meant for COMMAND, too
                    signal.signal(number, signal.SIG_DFL)
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):  # Python ignores the first two
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            allow_tracing()
            _close_what_exec_closes(gate, failure)
            if os.read(gate, 1):
                os.execvp(self.argv[0], self.argv)  # noqa: S606 - running COMMAND is what was asked for
        except OSError as error:
            with contextlib.suppress(OSError):
                os.write(failure, struct.pack("=i", error.errno or errno.EIO))
        except BaseException:  # noqa: S110 - the child must never return into the parent's code
            pass
        os._exit(CANNOT_RUN)

    def go(self) -> None:
        """Everything is armed: let COMMAND start, or go on from where `run_until` left it.

        Raises:
            CommandError: exec failed.
        """
        if self.holder is None:
            self._open_gate()
        elif self._held is not None:
            self.holder.release(self._held)
            self._held = None
            # Tracing is felt by COMMAND: it may not trace itself, and it is slower.
            if self.holder.traces or not self.keeps_holder:
                self.holder.finish()

    def _open_gate(self) -> None:
        os.write(self._gate, b"g")
        os.close(self._gate)
        self._gate = -1
        self._check_exec()

    def _check_exec(self) -> None:
        failed = os.read(self._failure, 4)
        if failed:
            number = struct.unpack("=i", failed)[0]
            self._wait()
            status = NOT_FOUND if number == errno.ENOENT else CANNOT_RUN
            why, todo = os.strerror(number), "name a program"
            if number == errno.ENOENT:  # the file itself was found
                why, todo = "its first line names an interpreter that does not exist", "correct that line"
            elif number == errno.ENOEXEC:
                why = "it is neither a program for this machine nor a script that names its interpreter (#!)"
                todo = "name a program, or an interpreter in front of it"
            raise CommandError(f"cannot run {self.argv[0]}", why, todo, status)

    def run_until(
        self, wanted: Wanted, signals: Interruption, meanwhile: Callable[[], object] = lambda: None
    ) -> int | None:
        """Run COMMAND until it, or a process that it started, has mapped the wanted files.

        Args:
            wanted: The files.
            signals: One that was received ends the wait.
            meanwhile: See Holder.

        Returns:
            The process, held; None if COMMAND ended without, or the user wants to end.

        Raises:
            CannotHold: COMMAND cannot be held, so it has not run.
            CommandError: exec failed.
        """
        from ksym.watch.holding import Holder  # late: needed for user variables alone

        self.holder = holder = Holder(wanted, [self.pid], meanwhile=meanwhile)
        self._open_gate()
        with _ChildWatch(self.pid) as ended:
            poll = select.poll()
            for fd in (holder.fileno(), signals.fileno(), *ended.fds):
                poll.register(fd, select.POLLIN)
            while signals.received is None:
                # In this order: what was held before COMMAND's end is told before it.
                status, held = self.poll(), holder.held()
                self.warnings = holder.warnings
                if held:
                    self._held = held[0]
                    return self._held
                if status is not None:
                    return None
                if holder.ended:
                    raise KsymError(f"cannot wait for {wanted}", "the process that holds COMMAND has ended")
                poll.poll(ended.milliseconds)
                signals.clear()
        return None

    def poll(self) -> int | None:
        """Reap COMMAND if it has ended; the status, or None while it runs.

        Other children of this process are not touched.
        """
        if self.status is None:
            self._reap(os.WNOHANG)
        return self.status

    def _reap(self, options: int) -> None:
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:
            # SIGCHLD is ignored, so the kernel has reaped it, or other code of this process has: it has ended, and
            # its status is lost. subprocess takes that for 0, too.
            pid, status = self.pid, 0
        if pid:
            self._ended(status)

    def _ended(self, status: int) -> None:
        self.status = _as_shells(status)

    def _wait(self) -> None:
        if self.status is None:
            self._reap(0)

    def end(self, *, asked: bool = False, patience: float = 10.0) -> int | None:
        """End COMMAND if it still runs: SIGTERM, then SIGKILL after ``patience`` seconds; returns its status.

        Args:
            asked: It may have been asked already (Ctrl-C reaches the whole foreground), so it gets a second first.
            patience: Seconds for an orderly end.
        """
        if self._gate >= 0:  # never started: a closed gate ends the child
            os.close(self._gate)
            self._gate = -1
            self._wait()
        if self._held is not None:
            # It was never let go: signals must be there before it, or who waits for it, can run on.
            for pid in (self.pid, self._held):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            self._held = None
        self._stop_holding()
        if asked:
            self._wait_for(1.0)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)
                    os.kill(self.pid, signal.SIGCONT)  # one that is stopped ends when it goes on
                self._wait_for(patience)
        return self.status

    def _wait_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)

    def missed(self) -> list[str]:
        """Return what was missed of COMMAND and why, for the summary."""
        if self.holder is not None:
            self._missed += self.holder.notes()
        return self._missed

    def _stop_holding(self) -> None:
        if self.holder is not None:
            self.holder.close()
            self._missed += self.holder.notes()
            self.holder = None

    def close(self) -> None:
        """Leave nothing behind: the child is ended if it still runs."""
        self.end()
        if self._failure >= 0:
            os.close(self._failure)
            self._failure = -1


def _close_what_exec_closes(*kept: int) -> None:
    """Close the descriptors that COMMAND will not get: another one's end of a pipe, held here, would never be seen."""
    with contextlib.suppress(OSError):
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in kept:
                with contextlib.suppress(OSError):  # that of the folder
                    if not os.get_inheritable(fd):
                        os.close(fd)


class _ChildWatch:
    """A descriptor that becomes readable when a child ends, where the kernel has such ones."""

    def __init__(self, pid: int) -> None:
        self.fds: list[int] = []
        with contextlib.suppress(OSError):  # pidfd_open(2) came in 5.3
            self.fds.append(os.pidfd_open(pid))
        self.milliseconds = None if self.fds else _LOOK_MILLISECONDS

    def __enter__(self) -> _ChildWatch:
        return self

    def __exit__(self, *unused: object) -> None:
        for fd in self.fds:
            os.close(fd)


def _as_shells(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
