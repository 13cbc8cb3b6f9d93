# SPDX-License-Identifier: BSD-2-Clause
"""Holding by ptrace(2), where programs in the kernel are not allowed.

COMMAND and all that it starts is traced and stops at each exec(2). Only where a library is waited for does it stop
at system calls, too: at the end of mmap(2). A tracee cannot be traced by anybody else, and an exec gives it no
privileges: that is told.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections import Counter

from ksym.linux import privileges, ptrace
from ksym.symbols.wanted import Placement, Wanted
from ksym.watch.hold_placements import Placements
from ksym.watch.hold_way import Refused, Voice

_CAPABILITIES = "security.capability"
_ST_NOSUID = 2
_LARGEST = 1 << 26
"""Bytes of a program that is looked through for a call of ptrace(2)."""


class Tracing:
    """See the module.

    Args:
        wanted: What is waited for.
        pid: COMMAND's process, which has not executed anything yet.
        voice: To ksym.

    Raises:
        Refused: The process cannot be traced.
    """

    def __init__(self, wanted: Wanted, pid: int, voice: Voice) -> None:
        self._voice, self._pid = voice, pid
        self._placements = Placements(wanted, voice, begun=False)
        self._system_calls = wanted.may_be_library()
        self._held: dict[int, list[tuple[int, int]]] = {}
        """By process: threads that are stopped, and the status of each stop. The first one was told."""
        self._seen: dict[int, Placement] = {}
        self._execs: Counter[int] = Counter()
        """By process: how many programs it has executed."""
        self._wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        try:
            ptrace.seize(pid, children=True)
        except OSError as error:
            raise Refused(*_why_not(pid, error)) from error

    def fileno(self) -> int:
        """See Way."""
        return self._wake

    def turn(self) -> None:
        """See Way."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake, 4096):
                pass
        while True:
            try:
                pid, status = ptrace.wait(block=False)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._stopped(pid, status)
            else:
                self._ended(pid)

    def _stopped(self, tid: int, status: int) -> None:
        if ptrace.is_exec(status):
            self._seen.pop(tid, None)  # the thread is the process now
            self._execs[tid] += 1
            self._look_at_program(tid)
        elif not (self._system_calls and ptrace.is_after_mmap(tid, status)):
            ptrace.resume(tid, status, system_calls=self._system_calls)
            return
        pid = process_of(tid)
        placement = self._placements.of(pid, self._execs[pid])
        if placement is None:
            self._seen.pop(pid, None)  # it may come back to the same place
        if placement is None or placement == self._seen.get(pid):
            ptrace.resume(tid, status, system_calls=self._system_calls)
            return
        self._seen[pid] = placement
        self._placements.begin()
        self._held.setdefault(pid, []).append((tid, status))
        if len(self._held[pid]) == 1:
            self._voice.say(f"held {pid}")

    def _ended(self, pid: int) -> None:
        self._seen.pop(pid, None)
        if self._held.pop(pid, None) is not None:
            self._voice.say(f"gone {pid}")

    def _look_at_program(self, pid: int) -> None:
        for note in _privileges_lost(pid):
            self._voice.say(f"warning {note}")
        if calls_ptrace(f"/proc/{pid}/exe"):
            with contextlib.suppress(OSError):
                self._voice.say(f"tracer {os.readlink(f'/proc/{pid}/exe')}")

    def release(self, pid: int) -> None:
        """See Way."""
        if pid not in self._held:
            return
        tid, status = self._held[pid].pop(0)
        if self._held[pid]:
            self._voice.say(f"held {pid}")
        else:
            del self._held[pid]
        ptrace.resume(tid, status, system_calls=self._system_calls)

    def close(self) -> None:
        """See Way; the kernel lets tracees go on when their tracer ends."""
        self._placements.close()


def _why_not(pid: int, error: OSError) -> tuple[str, str]:
    tracer = tracer_of(pid)
    if tracer:
        return (
            f"{name_of(tracer)} (process {tracer}) traces ksym and what it starts (TracerPid), so ksym cannot",
            "start ksym without it, or run ksym as root",
        )
    known = privileges.no_tracing()
    return known or (f"tracing it is not permitted (ptrace: {error.strerror})", "run ksym as root")


def tracer_of(tid: int) -> int:
    """The process that traces a thread; 0 where there is none."""
    return _number(tid, b"TracerPid:")


def process_of(tid: int) -> int:
    """The process of a thread; the thread's own number where it has ended."""
    return _number(tid, b"Tgid:") or tid


def _number(tid: int, name: bytes) -> int:
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            for line in file:
                if line.startswith(name):
                    return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return 0


def name_of(pid: int) -> str:
    """The name of a process; "" when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def calls_ptrace(path: str) -> bool:
    """True if a program names ptrace(2) among its symbols: it wants to trace others."""
    return mentions_ptrace(path, b"\0ptrace\0")


def mentions_ptrace(path: str, word: bytes = b"ptrace") -> bool:
    """True if a program has the word in its file, as one has that traces others, whatever it is written in."""
    try:
        with open(path, "rb") as file:
            return word in file.read(_LARGEST)
    except OSError:
        return False


def _privileges_lost(pid: int) -> list[str]:
    """What the program of a tracee would have been given if it were not traced.

    At exec the kernel gives a traced process no privileges that its tracer lacks (LSM_UNSAFE_PTRACE,
    security/commoncap.c).
    """
    exe = f"/proc/{pid}/exe"
    try:
        path, status = os.readlink(exe), os.stat(exe)
        with open(f"/proc/{pid}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
        effective = {name: int(fields[name].split()[1]) for name in (b"Uid", b"Gid")}
        if os.statvfs(exe).f_flag & _ST_NOSUID or fields.get(b"NoNewPrivs", b"0").strip() != b"0":
            return []  # it would get none anyway
    except (OSError, KeyError, ValueError, IndexError):
        return []
    lost = []
    if status.st_mode & stat.S_ISUID and effective[b"Uid"] != status.st_uid:
        lost.append(f"setuid {_user(status.st_uid)}")
    if status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IXGRP and effective[b"Gid"] != status.st_gid:
        lost.append(f"setgid {_group(status.st_gid)}")
    with contextlib.suppress(OSError):
        if os.getxattr(exe, _CAPABILITIES):
            lost.append("given capabilities by its file")
    if not lost:
        return []
    what = " and ".join(lost)
    return [
        f"{path} is {what} and ran without {'them' if len(lost) > 1 or 'capab' in what else 'it'}, "
        "since it was watched; run ksym as root"
    ]


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _group(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return f"group {number}"
