# SPDX-License-Identifier: BSD-2-Clause
"""Tasks that read and write a variable when they are told to: this thread, another one, and a forked process."""

from __future__ import annotations

import ctypes
import os
import pickle
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from ksym.linux.libc import MACHINE

BYTES = 16
_SETRESUID = 147 if MACHINE == "aarch64" else 117
_UNCHANGED = -1


class Touch(NamedTuple):
    """One access: element ``place`` of the variable's bytes as an array of ``format``; None reads it."""

    format: str
    place: int
    value: int | None


class Memory:
    """A variable of this process, and a forked one's copy of it; each access is one instruction."""

    def __init__(self) -> None:
        self._bytes = (ctypes.c_uint64 * (BYTES // 8))()
        self.address = ctypes.addressof(self._bytes)
        self._views = {each: memoryview(self._bytes).cast("B").cast(each) for each in "BHIQ"}  # type: ignore[call-overload]

    def touch(self, touches: list[Touch]) -> None:
        """Make these accesses."""
        for each, place, value in touches:
            view = self._views[each]
            if value is None:
                view[place]
            else:
                view[place] = value

    def content(self) -> bytes:
        """The bytes; this reads them."""
        return bytes(self._bytes)


@dataclass
class Task:
    """Somebody who makes accesses."""

    pid: int
    tid: int
    cpu: int
    uid: int
    comm: str

    def touch(self, touches: list[Touch]) -> None:
        """Make these accesses, and return when they are made."""
        raise NotImplementedError


class _Here(Task):
    memory: Memory

    def touch(self, touches: list[Touch]) -> None:
        self.memory.touch(touches)


class _Thread(Task):
    def __init__(self, memory: Memory, cpu: int, uid: int, comm: str) -> None:
        self._orders: queue.SimpleQueue[list[Touch] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._memory = memory
        self._thread = threading.Thread(target=self._run, args=(cpu, uid, comm))
        self._thread.start()
        super().__init__(os.getpid(), self._done.get(timeout=30), cpu, uid, comm)

    def _run(self, cpu: int, uid: int, comm: str) -> None:
        _become(cpu, uid, comm)
        self._done.put(threading.get_native_id())
        while (touches := self._orders.get()) is not None:
            self._memory.touch(touches)
            self._done.put(0)

    def touch(self, touches: list[Touch]) -> None:
        self._orders.put(touches)
        self._done.get(timeout=30)

    def end(self) -> None:
        self._orders.put(None)
        self._thread.join()


class _Fork(Task):
    def __init__(self, memory: Memory, cpu: int, uid: int, comm: str) -> None:
        self._here, there = Pipe()
        pid = os.fork()
        if not pid:
            try:
                self._here.close()
                _become(cpu, uid, comm)
                _obey(memory, there)
            finally:
                os._exit(0)
        there.close()
        super().__init__(pid, pid, cpu, uid, comm)
        self.touch([])

    def touch(self, touches: list[Touch]) -> None:
        self._here.send_bytes(pickle.dumps(touches))
        assert self._here.poll(30)
        self._here.recv_bytes()

    def end(self) -> None:
        self._here.close()
        os.waitpid(self.pid, 0)


def _obey(memory: Memory, orders: Connection[bytes, bytes]) -> None:
    try:
        while True:
            memory.touch(pickle.loads(orders.recv_bytes()))
            orders.send_bytes(b".")
    except EOFError:
        pass


def _become(cpu: int, uid: int, comm: str) -> None:
    os.sched_setaffinity(0, {cpu})
    Path("/proc/thread-self/comm").write_text(comm)
    # The system call itself, which changes one thread; the C library's function changes all of them.
    if ctypes.CDLL(None).syscall(_SETRESUID, uid, _UNCHANGED, _UNCHANGED):
        raise OSError("setresuid")


@contextmanager
def tasks(memory: Memory) -> Iterator[list[Task]]:
    """This thread, another one of another name and user on another CPU, and a forked process."""
    before = os.sched_getaffinity(0)
    first, last = min(before), max(before)
    os.sched_setaffinity(0, {first})
    comm = Path("/proc/thread-self/comm").read_text().rstrip("\n")
    here = _Here(os.getpid(), threading.get_native_id(), first, os.getuid(), comm)
    here.memory = memory
    fork = _Fork(memory, first, 2**32 - 2, "ksym-fork")
    thread = _Thread(memory, last, 1234, "fifteen-letters")
    try:
        yield [here, thread, fork]
    finally:
        thread.end()
        fork.end()
        os.sched_setaffinity(0, before)
