# SPDX-License-Identifier: BSD-2-Clause
"""Starting COMMAND so that it is watched from its first instruction.

The child is forked early and waits; it runs COMMAND only when everything is armed. Where a variable of a
program or library is watched, its address is known only once that file is mapped: then the child is
traced (ptrace) up to the point where it is, stopped there, armed, and let go.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import struct
import time
from collections.abc import Callable, Sequence

from ksym.errors import KsymError
from ksym.linux import privileges, ptrace

CANNOT_RUN, NOT_FOUND = 126, 127
_GO, _ASK = b"g", b"a"
"""What the gate says: run COMMAND; first ask to be traced, as the parent may not do it unasked."""


class CommandError(KsymError):
    """COMMAND could not be started; the status tells shells why (126, 127)."""

    def __init__(self, what: str, why: str, todo: str, status: int) -> None:
        super().__init__(what, why, todo)
        self.status = status


class Command:
    """A child process that will become COMMAND.

    Args:
        argv: COMMAND and its arguments.
        traced: Stop it once it is mapped (``run_until``); else it starts with ``go``.

    Raises:
        CommandError: there is no such program, or it cannot be executed.
    """

    def __init__(self, argv: Sequence[str], *, traced: bool = False) -> None:
        self.argv = list(argv)
        self.status: int | None = None
        """Exit status as shells have it (128 + N for signal N), once it has ended."""
        self.reaped: dict[int, int] = {}
        """The same of other children of this process that ``poll`` came across; whoever started one takes it out."""
        self._traced = traced
        self._stopped: int | None = None
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
        raise CommandError(f"cannot run {name}", where, "check the spelling of COMMAND", NOT_FOUND)

    def _become(self, gate: int, failure: int) -> None:
        """In the child: wait for the gate, then run COMMAND."""
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # nohup is meant for COMMAND, too
                    signal.signal(number, signal.SIG_DFL)
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):  # Python ignores the first two
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            if word := os.read(gate, 1):
                if word == _ASK:
                    ptrace.trace_me()
                os.execvp(self.argv[0], self.argv)  # noqa: S606 - running COMMAND is what was asked for
        except OSError as error:
            with contextlib.suppress(OSError):
                os.write(failure, struct.pack("=i", error.errno or errno.EIO))
        except BaseException:  # noqa: S110 - the child must never return into the parent's code
            pass
        os._exit(CANNOT_RUN)

    def go(self) -> None:
        """Everything is armed: let COMMAND start (or go on).

        Raises:
            CommandError: exec failed.
        """
        if self._traced:
            if self._stopped is not None:
                ptrace.detach(self._stopped)
                self._stopped = None
            return
        self._open_gate()
        self._check_exec()

    def _open_gate(self) -> None:
        word = _GO
        if self._traced:
            try:
                ptrace.seize(self.pid)
            except PermissionError:
                word = _ASK
        os.write(self._gate, word)
        os.close(self._gate)
        self._gate = -1

    def _check_exec(self) -> None:
        failed = os.read(self._failure, 4)
        if failed:
            number = struct.unpack("=i", failed)[0]
            self._wait()
            status = NOT_FOUND if number == errno.ENOENT else CANNOT_RUN
            why, todo = os.strerror(number), "name a program"
            if number == errno.ENOENT:  # the file itself was found
                why, todo = "the interpreter that its first line names is not there", "mend that line"
            elif number == errno.ENOEXEC:
                why = "it is no program of this machine, and no script that names its interpreter (#!)"
                todo = "name a program, or an interpreter in front of it"
            elif self._traced and privileges.is_filtered("ptrace"):
                why, todo = privileges.refusal("ptrace", privileges.SYS_PTRACE) or (why, todo)
            raise CommandError(f"cannot run {self.argv[0]}", why, todo, status)

    def run_until(self, mapped: Callable[[int], bool], wait: Callable[[], bool]) -> int | None:
        """Run a traced COMMAND until ``mapped(pid)`` holds for it or for a process that it started.

        Args:
            mapped: Asked whenever a process may have mapped something.
            wait: Waits for any signal, SIGCHLD included; False if the user wants to end.

        Returns:
            The process, stopped; None if COMMAND ended without, or the user wants to end.

        Raises:
            CommandError: exec failed.
        """
        self._open_gate()
        started = False
        while True:
            pid, status = ptrace.wait_any(block=False)
            if pid == 0:
                if not wait():
                    return None
                continue
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                if pid != self.pid:
                    continue
                self._ended(status)
                if not started:
                    self._check_exec()
                return None
            if not started:
                if not ptrace.has_executed(status):  # a signal has come first
                    ptrace.go_on(pid, ptrace.signal_to_pass(status))
                    continue
                started = True
                self._check_exec()
                ptrace.follow_children(pid)
            if ptrace.may_have_mapped(pid, status) and mapped(pid):
                self._stopped = pid
                return pid
            ptrace.to_next_syscall(pid, ptrace.signal_to_pass(status))

    def poll(self) -> int | None:
        """Reap what has ended, let go of what is still traced; the status, or None while COMMAND runs."""
        # Other children of this process are somebody else's, as long as none can be a tracee.
        whom = -1 if self._traced else self.pid
        while self.status is None:
            try:
                pid, status = ptrace.wait_any(block=False, pid=whom)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if os.WIFSTOPPED(status):
                ptrace.detach(pid, ptrace.signal_to_pass(status))
            elif pid == self.pid:
                self._ended(status)
            else:
                self.reaped[pid] = _as_shells(status)
        return self.status

    def _ended(self, status: int) -> None:
        self.status = _as_shells(status)

    def _wait(self) -> None:
        with contextlib.suppress(ChildProcessError):
            self._ended(os.waitpid(self.pid, 0)[1])

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
        if self._stopped is not None:
            # It was never let go: signals must be there before it, or who waits for it, can run on.
            for pid in (self.pid, self._stopped):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            ptrace.detach(self._stopped)
            self._stopped = None
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

    def close(self) -> None:
        """Leave nothing behind: the child is ended if it still runs."""
        self.end()
        if self._failure >= 0:
            os.close(self._failure)
            self._failure = -1


def _as_shells(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
