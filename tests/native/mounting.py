# SPDX-License-Identifier: BSD-2-Clause
"""``ksym mount`` as a process, and its directory used as people use it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from ksym.linux.libc import MACHINE
from ksym.linux.mounts import mount_at
from support.program import command, environment

LIMIT = 60
"""Seconds that anything may take."""
FILTER = "ksym_trace_filter"
_READ = "63" if MACHINE == "aarch64" else "0"
"""__NR_read, asm/unistd.h."""


class Mounted:
    """The program, serving ``at``."""

    def __init__(self, at: Path, *options: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(at)
        self.at = at
        self.process = subprocess.Popen(
            command("mount", *options, str(at)), stderr=subprocess.PIPE, bufsize=0, env=environment()
        )
        assert self.process.stderr is not None
        assert select.select([self.process.stderr], [], [], LIMIT)[0], "it does not mount"
        self.said = self.process.stderr.readline().decode()

    def end(self, number: signal.Signals | None = None) -> None:
        """It ends, with nothing to complain of, and nothing is mounted any more."""
        if number is not None:
            self.process.send_signal(number)
        _, error = self.process.communicate(timeout=LIMIT)
        assert (self.process.returncode, error) == (0, b"")
        assert mount_at(str(self.at)) is None
        assert list(self.at.iterdir()) == []

    def sh(self, script: str, *, shell: str = "sh") -> subprocess.CompletedProcess[str]:
        """Run a script in the directory."""
        return subprocess.run(
            [shell, "-c", script], cwd=self.at, capture_output=True, text=True, errors="replace", timeout=LIMIT,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip

    def out(self, script: str, *, shell: str = "sh") -> str:
        """What a script prints that has nothing to complain of."""
        done = self.sh(script, shell=shell)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def read(self, name: str) -> str:
        return (self.at / name).read_text()

    def write(self, name: str, text: str) -> None:
        fd = os.open(self.at / name, os.O_WRONLY | os.O_TRUNC)
        try:
            assert os.write(fd, text.encode()) == len(text.encode())
        finally:
            os.close(fd)

    def rows(self, name: str = "trace") -> list[tuple[str, str]]:
        """(TYPE, function) of what this process did."""
        return re.findall(rf"-{os.getpid()} +\[\d+\] \S+ (\S+) +(\w+)\+", self.read(name))

    @contextlib.contextmanager
    def reading(
        self, name: str = "trace_pipe", stdout: int = subprocess.PIPE
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Have ``cat`` read a file; it has it open, and waits for what trace_pipe does not hold yet."""
        process = subprocess.Popen(["cat", self.at / name], stdout=stdout, stderr=subprocess.PIPE, bufsize=0)
        try:
            until(lambda: str(self.at / name) in opened(process.pid))
            if name == "trace_pipe":
                until(lambda: reads(process.pid))
            yield process
        finally:
            process.kill()
            process.communicate()


def opened(pid: int) -> set[str]:
    """The files that a process has open."""
    with contextlib.suppress(OSError):  # it has closed one meanwhile
        return {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    return set()


def reads(pid: int) -> bool:
    """Whether a process waits in read(2)."""
    with contextlib.suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/syscall").read_text().split()[0] == _READ
    return False


def until(true: Callable[[], bool]) -> None:
    """Ask again until it is so, LIMIT seconds at most."""
    over = threading.Event()
    timer = threading.Timer(LIMIT, over.set)
    timer.start()
    try:
        while not true():
            assert not over.is_set(), "it does not happen"
    finally:
        timer.cancel()


@contextlib.contextmanager
def mounted(at: Path, *options: str) -> Iterator[Mounted]:
    it = Mounted(at, *options)
    try:
        assert it.said == f"ksym: tracing directory on {at}\n"
        yield it
        if it.process.returncode is None:
            it.end(signal.SIGTERM)
    finally:
        it.process.kill()
        it.process.communicate()
        while mount_at(str(at)) is not None:
            subprocess.run(["umount", "-l", at], check=True)


def write_back(file: Path) -> None:
    """Write what the file holds, in one write(2) of this process, which reads it once before."""
    fd = os.open(file, os.O_RDWR)
    try:
        os.pwrite(fd, os.pread(fd, 64, 0), 0)
    finally:
        os.close(fd)
