# SPDX-License-Identifier: BSD-2-Clause
"""A small tree of files, and a program that serves it: ``python -m support.fuse_tree DIR``.

It says what happens in lines on stdout (``mounted``, ``pending N`` where N has changed, ``unmounted``), and takes
orders on stdin: a line is fed into ``pipe``, the end of the file ends the program.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable

from ksym.tracing.nodes import Caller, Directory, File, Handle, Text, refusal
from ksym.tracing.server import Server, Unmounted

ANSWER = b"42\n"
LONG = bytes(range(256)) * 1200
MANY = 1000


class Reading(File):
    """Text, made anew for each reader."""

    def __init__(self, text: Callable[[], bytes]) -> None:
        super().__init__(0o400)
        self.text = text

    def open(self, flags: int, caller: Caller) -> Handle:
        return Text(self.text)


class Note(File):
    """Bytes that are kept, and how they came."""

    def __init__(self) -> None:
        super().__init__(0o600)
        self.content = bytearray()
        self.calls: list[str] = []

    def open(self, flags: int, caller: Caller) -> Handle:
        return _NoteHandle(self)


class _NoteHandle(Text):
    def __init__(self, note: Note) -> None:
        super().__init__(lambda: bytes(note.content))
        self.note = note

    def write(self, offset: int, data: bytes, caller: Caller) -> int:
        self.note.content[offset:] = data
        self.note.calls.append(f"write {len(data)}")
        return len(data)

    def truncate(self) -> None:
        self.note.content.clear()
        self.note.calls.append("truncate")

    def flush(self) -> None:
        self.note.calls.append("flush")

    def close(self) -> None:
        self.note.calls.append("close")


class Pipe(File):
    """A queue that its readers empty."""

    def __init__(self, wake: Callable[[File], object]) -> None:
        super().__init__(0o400, stream=True)
        self.queue, self._wake = b"", wake

    def feed(self, data: bytes) -> None:
        self.queue += data
        self._wake(self)

    def open(self, flags: int, caller: Caller) -> Handle:
        return _PipeHandle(self)


class _PipeHandle(Handle):
    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe

    def read(self, offset: int, size: int) -> bytes | None:
        data, self.pipe.queue = self.pipe.queue[:size], self.pipe.queue[size:]
        return data or None

    def ready(self) -> bool:
        return bool(self.pipe.queue)


class Marker(File):
    """What is written goes into a pipe."""

    def __init__(self, pipe: Pipe) -> None:
        super().__init__(0o200)
        self.pipe = pipe

    def open(self, flags: int, caller: Caller) -> Handle:
        return _MarkerHandle(self.pipe)


class _MarkerHandle(_PipeHandle):
    def write(self, offset: int, data: bytes, caller: Caller) -> int:
        self.pipe.feed(data)
        return len(data)


class Failing(File):
    """Every use of it raises, once it is open."""

    def __init__(self, error: Callable[[], Exception]) -> None:
        super().__init__(0o600)
        self.error = error

    def open(self, flags: int, caller: Caller) -> Handle:
        return _FailingHandle(self.error)


class _FailingHandle(Handle):
    def __init__(self, error: Callable[[], Exception]) -> None:
        self.error = error

    def read(self, offset: int, size: int) -> bytes:
        raise self.error()

    def write(self, offset: int, data: bytes, caller: Caller) -> int:
        raise self.error()

    def truncate(self) -> None:
        raise self.error()

    def ready(self) -> bool:
        raise self.error()

    def flush(self) -> None:
        raise self.error()

    def close(self) -> None:
        raise self.error()


class Instances(Directory):
    """Directories can be made and removed here."""

    def mkdir(self, name: str, caller: Caller) -> None:
        self.names[name] = Directory({"answer": Reading(lambda: ANSWER)})

    def rmdir(self, name: str, caller: Caller) -> None:
        if name == "busy":
            raise refusal(errno.EBUSY)
        del self.names[name]


def tree(wake: Callable[[File], object]) -> Directory:
    """One of each."""
    pipe, note = Pipe(wake), Note()
    return Directory(
        {
            "answer": Reading(lambda: ANSWER),
            "long": Reading(lambda: LONG),
            "note": note,
            "calls": Reading(lambda: "\n".join(note.calls).encode()),
            "pipe": pipe,
            "marker": Marker(pipe),
            "full": Failing(lambda: refusal(errno.ENOSPC)),
            "unknown": Failing(lambda: refusal(errno.ENOSYS)),
            "broken": Failing(lambda: ValueError("a bug")),
            "many": Directory({f"file{n}": Reading(f"{n}\n".encode) for n in range(MANY)}),
            "instances": Instances(),
        }
    )


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    wakes: list[File] = []
    root = tree(wakes.append)
    pipe = root.names["pipe"]
    assert isinstance(pipe, Pipe)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for the reader in the same process group
    with Server(sys.argv[1], root) as server:
        say("mounted")
        poll, pending = select.poll(), 0
        for descriptor in (0, server.fileno()):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if 0 in ready:
                order = os.read(0, 1 << 16)
                if not order:
                    return 0
                pipe.feed(order)
            try:
                server.serve_ready()
            except Unmounted:
                say("unmounted")
                return 0
            while wakes:
                server.wake(wakes.pop())
            if server.pending != pending:
                pending = server.pending
                say(f"pending {pending}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc()
        sys.exit(1)
