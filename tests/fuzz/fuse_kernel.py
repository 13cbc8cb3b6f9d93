# SPDX-License-Identifier: BSD-2-Clause
"""A kernel that asks a FUSE server for anything, and looks that each request gets exactly one answer."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence

from fuzz.contract import Broken
from ksym.linux import fuse
from ksym.linux.fuse import Opcode
from ksym.tracing.nodes import Directory, File
from ksym.tracing.session import Session

_OPCODES = (*Opcode, 0, 5, 21, 4096)
_NUMBERS = (0, 1, 2, 40, 4096, 131071, 131072, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 62, (1 << 64) - 1)
_IN_HEADER = fuse.InHeader.layout.size


class Bytes:
    """Takes an input apart; behind its end are zeros."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        """How many there are."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """So many."""
        found = self._data[self._at : self._at + count]
        self._at += len(found)
        return found

    def byte(self) -> int:
        """One."""
        at = self._at
        if at >= len(self._data):
            return 0
        self._at = at + 1
        return self._data[at]

    def number(self, known: Sequence[int] = ()) -> int:
        """A number that means something, or any."""
        kind = self.byte()
        if kind < 160 and known:
            return known[kind % len(known)]
        if kind < 240:
            return _NUMBERS[kind % len(_NUMBERS)]
        return int.from_bytes(self.take(8), "little")


class Kernel:
    """Asks.

    Args:
        root: What is served.
        names: Names that are worth a lookup.
        writes: What is worth writing.
    """

    def __init__(self, root: Directory, names: Sequence[str], writes: Sequence[bytes]) -> None:
        self.bugs: list[Exception] = []
        self.session = Session(root, self._answered, self.bugs.append)
        self._names, self._writes = names, writes
        self._nodes, self._handles = [1], [1]
        self._unique = 0
        self._waiting: dict[int, None] = {}
        self._answers: list[int] = []
        self._opcode = 0

    def wake(self, file: File) -> None:
        """See Session.wake; what was answered must have waited."""
        self.session.wake(file)
        self._settle(None)

    def ask(self, data: Bytes) -> None:
        """One request."""
        self._unique += 2
        kind = data.byte()
        if kind >= 248:
            message = data.take(data.byte())
            if len(message) >= _IN_HEADER:
                message = message[:8] + struct.pack("=Q", self._unique) + message[16:]
                opcode = struct.unpack_from("=I", message, 4)[0]
            else:
                opcode = None
        else:
            opcode = _OPCODES[kind % len(_OPCODES)]
            node, body = data.number(self._nodes), self._body(opcode, data)
            length = _IN_HEADER + len(body) + (data.byte() - 40 if kind % 31 == 3 else 0)
            pid = (os.getpid(), 0, 1)[kind % 3]
            message = fuse.InHeader(length, opcode, self._unique, node, 0, 0, pid).pack() + body
        self._opcode = opcode if opcode is not None else -1
        before = self.session.pending
        self.session.handle(message)
        self._settle(opcode)
        if self.session.pending > before:
            self._waiting[self._unique] = None
        if self.session.pending != len(self._waiting):
            raise Broken(f"{self.session.pending} wait, not {len(self._waiting)}")

    def finish(self) -> None:
        """Unmount."""
        self.session.end()
        self._settle(None)
        if self._waiting:
            raise Broken("a read was never answered")
        self.session.close()
        self._settle(None)

    def _body(self, opcode: int, data: Bytes) -> bytes:
        name = self._names[data.byte() % len(self._names)].encode() + b"\0"
        number = data.number
        match opcode:
            case Opcode.LOOKUP | Opcode.RMDIR | Opcode.UNLINK:
                return name if data.byte() < 230 else data.take(data.byte())
            case Opcode.FORGET:
                return fuse.ForgetIn(number()).pack()
            case Opcode.BATCH_FORGET:
                pairs = [fuse.ForgetOne(number(self._nodes), number()).pack() for _ in range(data.byte() % 4)]
                return fuse.BatchForgetIn(number((len(pairs),)) & 0xFFFFFFFF).pack() + b"".join(pairs)
            case Opcode.SETATTR:
                return fuse.SetAttrIn(data.byte(), number(self._handles), number((0,)), 0, 0, 0).pack()
            case Opcode.MKDIR:
                return fuse.MkdirIn(0, 0).pack() + name
            case Opcode.OPEN | Opcode.OPENDIR:
                return fuse.OpenIn(number((0, 1, 2, os.O_TRUNC | 1, os.O_APPEND | 1)) & 0xFFFFFFFF).pack()
            case Opcode.READ | Opcode.READDIR | Opcode.READDIRPLUS:
                size = number((4096, 131072)) & 0xFFFFFFFF
                flags = os.O_NONBLOCK if data.byte() > 200 else 0
                return fuse.ReadIn(number(self._handles), number((0, 1)), size, 0, 0, flags).pack()
            case Opcode.WRITE:
                kind = data.byte()
                text = self._writes[kind % len(self._writes)] if kind < 200 else data.take(data.byte())
                size = number((len(text),)) & 0xFFFFFFFF
                return fuse.WriteIn(number(self._handles), number((0,)), size, 0, 0, 0).pack() + text
            case Opcode.FLUSH | Opcode.RELEASE | Opcode.RELEASEDIR:
                return struct.pack("=QIIQ", number(self._handles), 0, 0, 0)
            case Opcode.INIT:
                return fuse.InitIn(
                    number((7,)) & 0xFFFFFFFF, number((31, 45)) & 0xFFFFFFFF, 0, 0xFFFFFFFF
                ).pack()
            case Opcode.INTERRUPT:
                return fuse.InterruptIn(number(tuple(self._waiting) or (0,))).pack()
            case Opcode.POLL:
                return fuse.PollIn(number(self._handles), number(), data.byte(), data.byte()).pack()
        return data.take(data.byte() % 64)

    def _answered(self, message: bytes) -> None:
        header = fuse.OutHeader.unpack(message)
        body = message[fuse.OutHeader.layout.size :]
        if header.length != len(message):
            raise Broken("an answer of another length than it says")
        if not header.unique:
            if header.error != fuse.Notify.POLL:
                raise Broken(f"notification {header.error}")
            return
        if not -fuse.LARGEST_ERROR <= header.error <= 0 or (header.error and body):
            raise Broken(f"error {header.error} with {len(body)} bytes")
        self._answers.append(header.unique)
        if header.unique != self._unique or header.error:
            return
        if self._opcode in (Opcode.LOOKUP, Opcode.MKDIR):
            self._nodes.append(fuse.EntryOut.unpack(body).nodeid)
        elif self._opcode in (Opcode.OPEN, Opcode.OPENDIR):
            self._handles.append(fuse.OpenOut.unpack(body).fh)

    def _settle(self, opcode: int | None) -> None:
        """Look at the answers since the last request; `opcode` None: there was none."""
        answers, self._answers = self._answers, []
        own = answers.count(self._unique) if opcode is not None else 0
        for unique in answers:
            if opcode is not None and unique == self._unique:
                continue
            if unique not in self._waiting:
                raise Broken(f"an answer to {unique}, which does not wait")
            del self._waiting[unique]
        if opcode is None:
            return
        if own > 1:
            raise Broken("two answers")
        wanted = opcode not in fuse.UNANSWERED
        if not wanted and own and opcode != Opcode.INTERRUPT:
            raise Broken("an answer for which nobody waits")
        if wanted and not own and opcode != Opcode.READ:
            raise Broken("no answer")
        if opcode == Opcode.READ and not own and self.session.pending == len(self._waiting):
            raise Broken("a read is neither answered nor waits")


def conversation(
    data: bytes, kernel: Kernel, between: Callable[[int, Bytes], None], *, most: int = 60
) -> None:
    """Requests as the input says, and now and then what else happens."""
    source = Bytes(data)
    for _ in range(most):
        if not source.left:
            break
        what = source.byte()
        if what >= 216:
            between(what, source)
        else:
            kernel.ask(source)
    kernel.finish()
