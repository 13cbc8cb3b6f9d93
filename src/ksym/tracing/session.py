# SPDX-License-Identifier: BSD-2-Clause
"""Answers to the kernel's requests about a tree of nodes: bytes in, bytes out, no device.

Rules that hold whatever comes in: nothing is raised, and each request for which somebody waits is answered exactly
once, at once, but a read that has to wait. Such a read is answered by `wake`, or with EINTR when its reader gets a
signal (an INTERRUPT request), so that Ctrl-C ends a blocked ``cat`` immediately.

Nothing is cached by the kernel: times for which names and attributes are valid are 0, and reads and writes go past
the page cache (FOPEN_DIRECT_IO), which knows no files without a size.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ksym.linux import fuse
from ksym.linux.fuse import Opcode
from ksym.tracing.inodes import BLOCK, NAME_MAX, Inodes, Listing
from ksym.tracing.nodes import Caller, Directory, File, Handle, Node, refusal
from ksym.tracing.opened import MAX_WRITE, OpenFile, Read, open_file

_READABLE = select.POLLIN | select.POLLRDNORM
_WRITABLE = select.POLLOUT | select.POLLWRNORM
_FEATURES = (
    fuse.Init.ATOMIC_O_TRUNC | fuse.Init.BIG_WRITES | fuse.Init.DO_READDIRPLUS | fuse.Init.READDIRPLUS_AUTO
    | fuse.Init.MAX_PAGES
)  # fmt: skip


class ProtocolError(Exception):
    """The kernel speaks another FUSE protocol."""


@dataclass(frozen=True)
class _Request:
    unique: int
    nodeid: int
    caller: Caller
    body: bytes
    plus: bool = False  # a READDIRPLUS

    def name(self, offset: int = 0) -> str:
        """The name that starts at ``offset`` and ends in a zero."""
        name, end, _ = self.body[offset:].partition(b"\0")
        if not name or not end:
            raise fuse.Malformed("no name")
        if len(name) > NAME_MAX:
            raise refusal(errno.ENAMETOOLONG)
        return os.fsdecode(name)


class Session:
    """The server's end of one mount.

    Args:
        root: The tree.
        send: Takes a whole message for the kernel; it does not raise.
        report: Told of what a node raised that is no OSError, which is a bug; the caller gets EIO.
    """

    def __init__(
        self, root: Directory, send: Callable[[bytes], object], report: Callable[[Exception], object]
    ) -> None:
        self._send, self._report = send, report
        self._inodes = Inodes(root)
        self._files: dict[int, OpenFile] = {}
        self._listings: dict[int, Listing] = {}
        self._waiting: dict[int, Read] = {}
        self._ending: set[int] | None = None
        self._numbers = itertools.count(1)
        self._minor: int | None = None

    @property
    def pending(self) -> int:
        """Reads that wait."""
        return len(self._waiting)

    def require_started(self) -> None:
        """Check that the kernel has introduced itself, which it does first of all.

        Raises:
            ProtocolError: it did not, or speaks another protocol.
        """
        if self._minor is None:
            raise ProtocolError(f"the kernel does not speak FUSE {fuse.MAJOR}.{fuse.OLDEST_MINOR} or later")

    def handle(self, message: bytes) -> None:
        """Deal with one request."""
        try:
            header = fuse.InHeader.unpack(message)
        except fuse.Malformed:
            return  # it has no number under which it could be answered
        request = _Request(
            header.unique, header.nodeid, Caller(header.pid, header.uid, header.gid),
            message[fuse.InHeader.layout.size :], header.opcode == Opcode.READDIRPLUS,
        )  # fmt: skip
        operation = _OPERATIONS.get(header.opcode)
        if operation is None:
            self._answer(header.unique, error=errno.ENOSYS)
            return
        answered = header.opcode not in fuse.UNANSWERED
        with self._refusals(header.unique if answered or header.opcode == Opcode.INTERRUPT else None):
            if header.length != len(message):
                raise fuse.Malformed("length")
            answer = operation(self, request)
            if answered and answer is not None:
                self._answer(header.unique, answer)

    @contextlib.contextmanager
    def _refusals(self, unique: int | None) -> Iterator[None]:
        """Let nothing out that is raised meanwhile; it is the answer to ``unique``, where there is to be one."""
        number = 0
        try:
            yield
        except fuse.Malformed:
            number = errno.EINVAL
        except OSError as error:
            number = error.errno or errno.EIO
            # By ENOSYS the kernel would learn that no file of this mount has the operation.
            if not 0 < number <= fuse.LARGEST_ERROR or number == errno.ENOSYS:
                number = errno.EIO
        except Exception as error:
            self._report(error)
            number = errno.EIO
        if number and unique is not None:
            self._answer(unique, error=number)

    def _answer(self, unique: int, body: bytes = b"", error: int = 0) -> None:
        self._send(fuse.OutHeader(fuse.OutHeader.layout.size + len(body), -error, unique).pack() + body)

    # Names and attributes.

    def _lookup(self, request: _Request) -> bytes:
        return self._inodes.entry(self._child(request, request.name()))

    def _child(self, request: _Request, name: str) -> Node:
        node = self._inodes.directory(request.nodeid).names.get(name)
        if node is None:
            raise refusal(errno.ENOENT)
        return node

    def _forget(self, request: _Request) -> None:
        self._inodes.forget(request.nodeid, fuse.ForgetIn.unpack(request.body).nlookup)

    def _batch_forget(self, request: _Request) -> None:
        at = fuse.BatchForgetIn.layout.size
        for _ in range(fuse.BatchForgetIn.unpack(request.body).count):
            one = fuse.ForgetOne.unpack(request.body, at)
            self._inodes.forget(one.nodeid, one.nlookup)
            at += fuse.ForgetOne.layout.size

    def _getattr(self, request: _Request) -> bytes:
        return fuse.AttrOut(0, 0).pack() + self._inodes.attributes(self._inodes.node(request.nodeid))

    def _setattr(self, request: _Request) -> bytes:
        """Times are not kept, and a size but 0 means nothing, as in tracefs."""
        wanted = fuse.SetAttrIn.unpack(request.body)
        if wanted.valid & (fuse.SetAttr.MODE | fuse.SetAttr.UID | fuse.SetAttr.GID):
            raise refusal(errno.EPERM)
        if wanted.valid & fuse.SetAttr.SIZE and not wanted.size:
            if wanted.valid & fuse.SetAttr.FH:
                self._file(wanted.fh).handle.truncate()
            else:
                file = self._inodes.file(request.nodeid)
                self._close_quietly(open_file(file, os.O_WRONLY | os.O_TRUNC, request.caller))
        return self._getattr(request)

    # Directories.

    def _mkdir(self, request: _Request) -> bytes:
        name = request.name(fuse.MkdirIn.layout.size)
        directory = self._inodes.directory(request.nodeid)
        if name in directory.names:
            raise refusal(errno.EEXIST)
        directory.mkdir(name, request.caller)
        return self._inodes.entry(self._child(request, name))

    def _rmdir(self, request: _Request) -> bytes:
        name = request.name()
        if not isinstance(self._child(request, name), Directory):
            raise refusal(errno.ENOTDIR)
        self._inodes.directory(request.nodeid).rmdir(name, request.caller)
        return b""

    def _opendir(self, request: _Request) -> bytes:
        number = next(self._numbers)
        self._listings[number] = Listing(self._inodes, self._inodes.directory(request.nodeid))
        return fuse.OpenOut(number, 0).pack()

    def _readdir(self, request: _Request) -> bytes:
        wanted = fuse.ReadIn.unpack(request.body)
        if wanted.fh not in self._listings:
            raise refusal(errno.EBADF)
        return self._listings[wanted.fh].read(wanted.offset, wanted.size, plus=request.plus)

    def _releasedir(self, request: _Request) -> bytes:
        self._listings.pop(fuse.HandleIn.unpack(request.body).fh, None)
        return b""

    # Files.

    def _file(self, number: int) -> OpenFile:
        if number not in self._files:
            raise refusal(errno.EBADF)
        return self._files[number]

    def _open(self, request: _Request) -> bytes:
        file = self._inodes.file(request.nodeid)
        handle = open_file(file, fuse.OpenIn.unpack(request.body).flags, request.caller)
        number = next(self._numbers)
        self._files[number] = OpenFile(number, file, handle)
        flags = fuse.Open.DIRECT_IO
        if file.stream:
            flags |= fuse.Open.NONSEEKABLE | fuse.Open.STREAM
        return fuse.OpenOut(number, flags).pack()

    def _read(self, request: _Request) -> bytes | None:
        wanted = fuse.ReadIn.unpack(request.body)
        read = Read(self._file(wanted.fh), wanted.offset, wanted.size)
        data = read.data()
        if data is None:
            if self._ending is not None:
                return self._end(read)
            if wanted.flags & os.O_NONBLOCK:
                raise refusal(errno.EAGAIN)
            self._waiting[request.unique] = read
        return data

    def _write(self, request: _Request) -> bytes:
        wanted = fuse.WriteIn.unpack(request.body)
        data = request.body[fuse.WriteIn.layout.size :][: wanted.size]
        if len(data) != wanted.size:
            raise fuse.Malformed("data")
        taken = self._file(wanted.fh).handle.write(wanted.offset, data, request.caller)
        if not 0 <= taken <= wanted.size:
            raise ValueError(f"{taken} of {wanted.size} bytes were written")
        return fuse.WriteOut(taken).pack()

    def _poll(self, request: _Request) -> bytes:
        wanted = fuse.PollIn.unpack(request.body)
        opened = self._file(wanted.fh)
        if wanted.flags & fuse.POLL_SCHEDULE_NOTIFY:
            opened.poller = wanted.kh
        events = _WRITABLE | (_READABLE if opened.handle.ready() else 0)
        return fuse.PollOut(events & (wanted.events or events)).pack()

    def _flush(self, request: _Request) -> bytes:
        self._file(fuse.HandleIn.unpack(request.body).fh).handle.flush()
        return b""

    def _release(self, request: _Request) -> bytes:
        opened = self._files.pop(fuse.HandleIn.unpack(request.body).fh, None)
        if opened is not None:
            opened.handle.close()
        return b""

    def _close_quietly(self, handle: Handle) -> None:
        """Close what nobody has a descriptor of."""
        with self._refusals(None):
            handle.close()

    # Those who wait.

    def wake(self, file: File) -> None:
        """Ask again for reads of ``file`` that wait, the oldest first, and tell those who poll it."""
        for unique, waiting in list(self._waiting.items()):
            if waiting.opened.file is file and unique in self._waiting:
                self._try_again(unique, waiting)
        for opened in list(self._files.values()):
            if opened.file is file and opened.poller is not None and self._is_ready(opened.handle):
                self._answer(0, fuse.PollWakeup(opened.poller).pack(), -fuse.Notify.POLL)
                opened.poller = None  # it asks again when it wants to know more

    def _try_again(self, unique: int, waiting: Read) -> None:
        waits = False
        with self._refusals(unique):
            data = waiting.data()
            waits = data is None
            if data is not None:
                self._answer(unique, data)
        if not waits:
            self._waiting.pop(unique, None)

    def _is_ready(self, handle: Handle) -> bool:
        with self._refusals(None):
            return handle.ready()
        return True  # who polls has to hear of an error, too

    def _interrupt(self, request: _Request) -> None:
        """End a read that waits.

        Where it has been answered, the kernel pays no heed to this answer; where it has not come yet, EAGAIN has the
        interrupt sent again (Documentation/filesystems/fuse, "Interrupting filesystem operations").
        """
        unique = fuse.InterruptIn.unpack(request.body).unique
        if self._waiting.pop(unique, None) is None:
            raise refusal(errno.EAGAIN)
        self._answer(unique, error=errno.EINTR)

    # The mount.

    def _init(self, request: _Request) -> bytes:
        kernel = fuse.InitIn.unpack(request.body)
        if kernel.major > fuse.MAJOR:  # it sends another INIT after this answer
            return fuse.InitOut(fuse.MAJOR, fuse.MINOR, 0, 0, 0, 0, 0, 0, 0).pack()
        if kernel.major < fuse.MAJOR or kernel.minor < fuse.OLDEST_MINOR:
            raise refusal(errno.EPROTO)
        self._minor = min(kernel.minor, fuse.MINOR)
        out = fuse.InitOut(
            fuse.MAJOR, self._minor, kernel.max_readahead, kernel.flags & _FEATURES,
            max_background=0, congestion_threshold=0,  # the kernel's own
            max_write=MAX_WRITE, time_gran=1,
            max_pages=MAX_WRITE // mmap.PAGESIZE + 1,  # a buffer may start within a page
        ).pack()  # fmt: skip
        return out if self._minor >= 23 else out[: fuse.InitOut.compat_22_size]

    def _statfs(self, _request: _Request) -> bytes:
        return fuse.StatfsOut(0, 0, 0, 0, 0, bsize=BLOCK, namelen=NAME_MAX, frsize=BLOCK).pack()

    def _nothing(self, _request: _Request) -> bytes:
        return b""

    def _forbid(self, _request: _Request) -> bytes:
        raise refusal(errno.EPERM)

    def _create(self, _request: _Request) -> bytes:
        raise refusal(errno.EACCES)  # what open(2) says where a file system creates no files, tracefs for one

    def _ioctl(self, _request: _Request) -> bytes:
        raise refusal(errno.ENOTTY)

    def end(self) -> None:
        """From now on nobody waits: reads that would get the end of the file."""
        self._ending = set()
        for unique, read in self._waiting.items():
            self._answer(unique, self._end(read))
        self._waiting.clear()

    def _end(self, read: Read) -> bytes:
        assert self._ending is not None
        self._ending.add(read.opened.number)
        return b""

    @property
    def closing(self) -> bool:
        """After `end`: whether those who were told have still to close the file."""
        return bool(self._ending and self._ending & self._files.keys())

    def close(self) -> None:
        """Close what is open."""
        for opened in self._files.values():
            self._close_quietly(opened.handle)
        self._files.clear()
        self._listings.clear()


_OPERATIONS: dict[int, Callable[[Session, _Request], bytes | None]] = {
    Opcode.LOOKUP: Session._lookup,
    Opcode.FORGET: Session._forget,
    Opcode.GETATTR: Session._getattr,
    Opcode.SETATTR: Session._setattr,
    Opcode.SYMLINK: Session._forbid,
    Opcode.MKNOD: Session._forbid,
    Opcode.MKDIR: Session._mkdir,
    Opcode.UNLINK: Session._forbid,
    Opcode.RMDIR: Session._rmdir,
    Opcode.RENAME: Session._forbid,
    Opcode.LINK: Session._forbid,
    Opcode.OPEN: Session._open,
    Opcode.READ: Session._read,
    Opcode.WRITE: Session._write,
    Opcode.STATFS: Session._statfs,
    Opcode.RELEASE: Session._release,
    Opcode.FSYNC: Session._nothing,
    Opcode.FLUSH: Session._flush,
    Opcode.INIT: Session._init,
    Opcode.OPENDIR: Session._opendir,
    Opcode.READDIR: Session._readdir,
    Opcode.RELEASEDIR: Session._releasedir,
    Opcode.FSYNCDIR: Session._nothing,
    Opcode.ACCESS: Session._nothing,
    Opcode.CREATE: Session._create,
    Opcode.INTERRUPT: Session._interrupt,
    Opcode.DESTROY: Session._nothing,
    Opcode.IOCTL: Session._ioctl,
    Opcode.POLL: Session._poll,
    Opcode.NOTIFY_REPLY: Session._nothing,
    Opcode.BATCH_FORGET: Session._batch_forget,
    Opcode.READDIRPLUS: Session._readdir,
    Opcode.RENAME2: Session._forbid,
}
