# SPDX-License-Identifier: BSD-2-Clause
"""What a session answers to a kernel that is played here."""

from __future__ import annotations

import errno
import os
import select
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksym.linux import fuse
from ksym.linux.fuse import Opcode
from ksym.tracing.nodes import File
from ksym.tracing.opened import MAX_READ, MAX_WRITE
from ksym.tracing.session import ProtocolError, Session
from support.fuse_tree import LONG, MANY, Note, Pipe, tree

HEADER = fuse.OutHeader.layout.size
IN_EVENTS = select.POLLIN | select.POLLRDNORM
OUT_EVENTS = select.POLLOUT | select.POLLWRNORM


class Kernel:
    """Asks, and takes the answers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.bugs: list[Exception] = []
        self.root = tree(self._wake)
        self.session = Session(self.root, self.sent.append, self.bugs.append)
        self.unique = 0

    def _wake(self, file: File) -> None:
        self.session.wake(file)

    def send(self, opcode: int, node: int = 1, body: bytes = b"") -> int:
        self.unique += 2
        length = fuse.InHeader.layout.size + len(body)
        self.session.handle(fuse.InHeader(length, opcode, self.unique, node, 0, 0, 7).pack() + body)
        return self.unique

    def answers(self) -> list[tuple[int, int, bytes]]:
        """(unique, errno, body) of each message since the last call."""
        found = []
        for message in self.sent:
            header = fuse.OutHeader.unpack(message)
            assert header.length == len(message)
            assert header.unique == 0 or -fuse.LARGEST_ERROR <= header.error <= 0
            found.append((header.unique, abs(header.error), message[HEADER:]))
        self.sent.clear()
        return found

    def ask(self, opcode: int, node: int = 1, body: bytes = b"") -> bytes:
        """The body of the one answer; OSError where it is one."""
        unique = self.send(opcode, node, body)
        ((answered, error, answer),) = self.answers()
        assert answered == unique
        if error:
            raise OSError(error, os.strerror(error))
        return answer

    def refused(self, opcode: int, node: int = 1, body: bytes = b"") -> int:
        """The errno of the one answer."""
        with pytest.raises(OSError) as caught:
            self.ask(opcode, node, body)
        assert caught.value.errno
        return caught.value.errno

    def lookup(self, *path: str) -> int:
        node = 1
        for name in path:
            node = fuse.EntryOut.unpack(self.ask(Opcode.LOOKUP, node, name.encode() + b"\0")).nodeid
        return node

    def open(self, name: str, flags: int = os.O_RDWR) -> int:
        return fuse.OpenOut.unpack(self.ask(Opcode.OPEN, self.lookup(name), fuse.OpenIn(flags).pack())).fh

    def read(self, fh: int, size: int = 4096, offset: int = 0) -> bytes:
        return self.ask(Opcode.READ, 1, reading(fh, size, offset))


def reading(fh: int, size: int = 4096, offset: int = 0, flags: int = 0) -> bytes:
    return fuse.ReadIn(fh, offset, size, 0, 0, flags).pack()


def writing(fh: int, data: bytes, offset: int = 0) -> bytes:
    return fuse.WriteIn(fh, offset, len(data), 0, 0, 0).pack() + data


def init(major: int, minor: int, flags: int = 0) -> bytes:
    return fuse.InitIn(major, minor, 1 << 17, flags).pack()


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.mark.parametrize(("minor", "length"), [(12, 24), (22, 24), (23, 64), (31, 64), (45, 64)])
def test_init_speaks_the_kernels_minor(kernel: Kernel, minor: int, length: int) -> None:
    body = kernel.ask(Opcode.INIT, 0, init(7, minor, 0xFFFFFFFF) + bytes(48 if minor > 35 else 0))
    kernel.session.require_started()
    assert len(body) == length
    out = fuse.InitOut.unpack(body + bytes(64 - length))
    assert (out.major, out.minor, out.max_write) == (7, min(minor, fuse.MINOR), MAX_WRITE)
    wanted = fuse.Init(out.flags)
    assert fuse.Init.ATOMIC_O_TRUNC in wanted
    assert fuse.Init.MAX_PAGES in wanted


def test_init_takes_only_what_the_kernel_offers(kernel: Kernel) -> None:
    assert fuse.InitOut.unpack(kernel.ask(Opcode.INIT, 0, init(7, 31))).flags == 0


def test_init_of_a_later_major_is_asked_to_come_again(kernel: Kernel) -> None:
    assert fuse.InitOut.unpack(kernel.ask(Opcode.INIT, 0, init(8, 0))).major == 7
    with pytest.raises(ProtocolError):
        kernel.session.require_started()
    kernel.ask(Opcode.INIT, 0, init(7, 99))
    kernel.session.require_started()


@pytest.mark.parametrize("version", [(7, 11), (6, 50), (0, 0)])
def test_init_of_old_kernels_is_refused(kernel: Kernel, version: tuple[int, int]) -> None:
    assert kernel.refused(Opcode.INIT, 0, init(*version)) == errno.EPROTO
    with pytest.raises(ProtocolError, match=r"FUSE 7\.12"):
        kernel.session.require_started()


def test_nodes_are_known_until_all_lookups_are_forgotten(kernel: Kernel) -> None:
    node = kernel.lookup("answer")
    assert kernel.lookup("answer") == node
    kernel.send(Opcode.FORGET, node, fuse.ForgetIn(1).pack())
    kernel.ask(Opcode.GETATTR, node)
    kernel.send(Opcode.BATCH_FORGET, 0, fuse.BatchForgetIn(1).pack() + fuse.ForgetOne(node, 1).pack())
    assert kernel.refused(Opcode.GETATTR, node) == errno.ENOENT
    kernel.send(Opcode.FORGET, 1, fuse.ForgetIn(1 << 60).pack())
    kernel.ask(Opcode.GETATTR, 1)
    assert kernel.lookup("answer") == node


def test_attributes(kernel: Kernel) -> None:
    body = kernel.ask(Opcode.GETATTR, kernel.lookup("answer"))
    attr = fuse.Attr.unpack(body, fuse.AttrOut.layout.size)
    assert attr.mode == stat.S_IFREG | 0o400
    assert (attr.size, attr.nlink, attr.uid, attr.gid) == (0, 1, 0, 0)
    root = fuse.Attr.unpack(kernel.ask(Opcode.GETATTR), fuse.AttrOut.layout.size)
    assert (root.ino, root.mode) == (1, stat.S_IFDIR | 0o700)


def test_names(kernel: Kernel) -> None:
    assert kernel.refused(Opcode.LOOKUP, 1, b"nothing\0") == errno.ENOENT
    assert kernel.refused(Opcode.LOOKUP, 1, b"x" * 256 + b"\0") == errno.ENAMETOOLONG
    assert kernel.refused(Opcode.LOOKUP, 1, b"\xff\xfe\0") == errno.ENOENT
    assert kernel.refused(Opcode.LOOKUP, 1, b"no end") == errno.EINVAL
    assert kernel.refused(Opcode.LOOKUP, 1, b"\0") == errno.EINVAL
    assert kernel.refused(Opcode.LOOKUP, kernel.lookup("answer"), b"x\0") == errno.ENOTDIR


@pytest.mark.parametrize("plus", [False, True])
def test_listing_in_parts(kernel: Kernel, plus: bool) -> None:
    node = kernel.lookup("many")
    fh = fuse.OpenOut.unpack(kernel.ask(Opcode.OPENDIR, node, fuse.OpenIn(0).pack())).fh
    opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
    known = fuse.EntryOut.layout.size + fuse.Attr.layout.size if plus else 0
    names: list[str] = []
    numbers = []
    while part := kernel.ask(opcode, node, reading(fh, 1024, len(names))):
        assert len(part) <= 1024
        assert len(part) % 8 == 0
        at = 0
        while at < len(part):
            if plus:
                numbers.append(fuse.EntryOut.unpack(part, at).nodeid)
            entry = fuse.Dirent.unpack(part, at + known)
            at += known + fuse.Dirent.layout.size
            names.append(part[at : at + entry.namelen].decode())
            assert entry.off == len(names)
            at += -(-(fuse.Dirent.layout.size + entry.namelen) // 8) * 8 - fuse.Dirent.layout.size
    assert names == [".", "..", *(f"file{n}" for n in range(MANY))]
    if plus:
        assert numbers[:2] == [0, 0]
        kernel.send(Opcode.FORGET, numbers[2], fuse.ForgetIn(1).pack())
        assert kernel.refused(Opcode.GETATTR, numbers[2]) == errno.ENOENT
        kernel.ask(Opcode.GETATTR, numbers[-1])
    assert kernel.ask(opcode, node, reading(fh, 8, 0)) == b""
    kernel.ask(Opcode.RELEASEDIR, node, reading(fh))
    assert kernel.refused(opcode, node, reading(fh)) == errno.EBADF


def test_modes_hold_for_root(kernel: Kernel) -> None:
    for name, flags in [("answer", os.O_WRONLY), ("answer", os.O_RDWR), ("marker", os.O_RDONLY), ("pipe", 3)]:
        assert kernel.refused(Opcode.OPEN, kernel.lookup(name), fuse.OpenIn(flags).pack()) == errno.EACCES
    assert kernel.refused(Opcode.OPEN, 1, fuse.OpenIn(0).pack()) == errno.EISDIR
    assert kernel.refused(Opcode.OPENDIR, kernel.lookup("note"), fuse.OpenIn(0).pack()) == errno.ENOTDIR


def test_a_stream_is_opened_as_one(kernel: Kernel) -> None:
    flags = {
        name: fuse.Open(
            fuse.OpenOut.unpack(
                kernel.ask(Opcode.OPEN, kernel.lookup(name), fuse.OpenIn(0).pack())
            ).open_flags
        )
        for name in ("answer", "pipe")
    }
    assert flags["answer"] == fuse.Open.DIRECT_IO
    assert flags["pipe"] == fuse.Open.DIRECT_IO | fuse.Open.NONSEEKABLE | fuse.Open.STREAM


def test_text_is_the_same_until_it_is_read_from_its_start(kernel: Kernel) -> None:
    note = kernel.root.names["note"]
    assert isinstance(note, Note)
    note.content[:] = b"first"
    fh = kernel.open("note")
    assert kernel.read(fh, 2) == b"fi"
    note.content[:] = b"second"
    assert kernel.read(fh, 10, 2) == b"rst"
    assert kernel.read(fh, 10) == b"second"
    assert kernel.read(kernel.open("long", os.O_RDONLY), MAX_READ, 7) == LONG[7 : 7 + MAX_READ]


def test_writes_and_truncates(kernel: Kernel) -> None:
    note = kernel.root.names["note"]
    assert isinstance(note, Note)
    fh = kernel.open("note", os.O_WRONLY | os.O_TRUNC)
    assert fuse.WriteOut.unpack(kernel.ask(Opcode.WRITE, 1, writing(fh, b"abc"))).size == 3
    assert kernel.refused(Opcode.WRITE, 1, writing(fh, b"abc")[:-1]) == errno.EINVAL
    node = kernel.lookup("note")
    size = fuse.SetAttr.SIZE
    kernel.ask(Opcode.SETATTR, node, fuse.SetAttrIn(size, 0, 5, 0, 0, 0).pack())
    assert note.calls == ["truncate", "write 3"]
    kernel.ask(Opcode.SETATTR, node, fuse.SetAttrIn(size, 0, 0, 0, 0, 0).pack())
    assert note.calls == ["truncate", "write 3", "truncate", "close"]
    kernel.ask(Opcode.SETATTR, node, fuse.SetAttrIn(size | fuse.SetAttr.FH, fh, 0, 0, 0, 0).pack())
    assert note.calls[4:] == ["truncate"]
    answer = kernel.lookup("answer")
    assert kernel.refused(Opcode.SETATTR, answer, fuse.SetAttrIn(size, 0, 0, 0, 0, 0).pack()) == errno.EACCES
    for which in (fuse.SetAttr.MODE, fuse.SetAttr.UID, fuse.SetAttr.GID):
        assert (
            kernel.refused(Opcode.SETATTR, node, fuse.SetAttrIn(which, 0, 0, 0, 0, 0).pack()) == errno.EPERM
        )


def test_what_does_not_exist_here(kernel: Kernel) -> None:
    for opcode in (
        Opcode.SYMLINK,
        Opcode.MKNOD,
        Opcode.UNLINK,
        Opcode.RENAME,
        Opcode.RENAME2,
        Opcode.LINK,
    ):
        assert kernel.refused(opcode, 1, b"answer\0x\0") == errno.EPERM
    assert kernel.refused(Opcode.CREATE, 1, bytes(16) + b"x\0") == errno.EACCES
    assert kernel.refused(Opcode.IOCTL) == errno.ENOTTY
    getxattr, lseek = 22, 46
    for unknown in (getxattr, lseek, 999, 4096):
        assert kernel.refused(unknown) == errno.ENOSYS
    for opcode in (Opcode.ACCESS, Opcode.FSYNC, Opcode.FSYNCDIR, Opcode.DESTROY):
        assert kernel.ask(opcode) == b""
    assert fuse.StatfsOut.unpack(kernel.ask(Opcode.STATFS)).namelen == 255


def test_mkdir_and_rmdir(kernel: Kernel) -> None:
    node, body = kernel.lookup("instances"), fuse.MkdirIn(0o755, 0).pack()
    made = fuse.EntryOut.unpack(kernel.ask(Opcode.MKDIR, node, body + b"a\0")).nodeid
    assert kernel.lookup("instances", "a") == made
    assert kernel.refused(Opcode.MKDIR, node, body + b"a\0") == errno.EEXIST
    assert kernel.refused(Opcode.RMDIR, node, b"b\0") == errno.ENOENT
    assert kernel.refused(Opcode.RMDIR, made, b"answer\0") == errno.ENOTDIR
    kernel.ask(Opcode.MKDIR, node, body + b"busy\0")
    assert kernel.refused(Opcode.RMDIR, node, b"busy\0") == errno.EBUSY
    kernel.ask(Opcode.RMDIR, node, b"a\0")
    assert kernel.refused(Opcode.LOOKUP, node, b"a\0") == errno.ENOENT
    kernel.ask(Opcode.GETATTR, made)  # somebody may still be in there
    assert kernel.refused(Opcode.MKDIR, 1, body + b"a\0") == errno.EPERM
    assert kernel.refused(Opcode.RMDIR, 1, b"many\0") == errno.EPERM


def test_a_read_waits_for_its_turn(kernel: Kernel) -> None:
    pipe = kernel.root.names["pipe"]
    assert isinstance(pipe, Pipe)
    handles = [kernel.open("pipe", os.O_RDONLY) for _ in range(2)]
    first, second = (kernel.send(Opcode.READ, 1, reading(fh)) for fh in handles)
    assert kernel.answers() == []
    assert kernel.session.pending == 2
    pipe.feed(b"one")
    assert kernel.answers() == [(first, 0, b"one")]
    pipe.feed(b"two")
    assert kernel.answers() == [(second, 0, b"two")]
    assert kernel.session.pending == 0


def test_a_write_wakes_a_reader_before_it_is_answered(kernel: Kernel) -> None:
    waiting = kernel.send(Opcode.READ, 1, reading(kernel.open("pipe", os.O_RDONLY)))
    written = kernel.send(Opcode.WRITE, 1, writing(kernel.open("marker", os.O_WRONLY), b"said"))
    assert kernel.answers() == [(waiting, 0, b"said"), (written, 0, fuse.WriteOut(4).pack())]


def test_no_waiting_with_nonblock(kernel: Kernel) -> None:
    fh = kernel.open("pipe", os.O_RDONLY)
    assert kernel.refused(Opcode.READ, 1, reading(fh, flags=os.O_NONBLOCK)) == errno.EAGAIN
    assert kernel.session.pending == 0


def test_a_stream_never_fills_the_longest_read(kernel: Kernel) -> None:
    pipe = kernel.root.names["pipe"]
    assert isinstance(pipe, Pipe)
    pipe.feed(bytes(2 * MAX_READ))
    fh = kernel.open("pipe", os.O_RDONLY)
    assert len(kernel.read(fh, MAX_READ)) == MAX_READ - 1
    assert len(kernel.read(fh, MAX_READ - 1)) == MAX_READ - 1
    assert len(kernel.read(fh, MAX_READ)) == 2


def test_interrupts_before_while_and_after(kernel: Kernel) -> None:
    fh = kernel.open("pipe", os.O_RDONLY)
    coming = kernel.unique + 4
    assert kernel.refused(Opcode.INTERRUPT, 0, fuse.InterruptIn(coming).pack()) == errno.EAGAIN
    assert kernel.send(Opcode.READ, 1, reading(fh)) == coming
    kernel.send(Opcode.INTERRUPT, 0, fuse.InterruptIn(coming).pack())
    assert kernel.answers() == [(coming, errno.EINTR, b"")]
    assert kernel.session.pending == 0
    assert kernel.refused(Opcode.INTERRUPT, 0, fuse.InterruptIn(coming).pack()) == errno.EAGAIN


def test_polls_are_told_once_that_something_came(kernel: Kernel) -> None:
    pipe = kernel.root.names["pipe"]
    assert isinstance(pipe, Pipe)
    fh = kernel.open("pipe", os.O_RDONLY)

    def poll(events: int, flags: int = fuse.POLL_SCHEDULE_NOTIFY) -> int:
        return fuse.PollOut.unpack(
            kernel.ask(Opcode.POLL, 1, fuse.PollIn(fh, 77, flags, events).pack())
        ).revents

    assert poll(IN_EVENTS) == 0
    pipe.feed(b"x")
    pipe.feed(b"y")
    assert kernel.answers() == [(0, fuse.Notify.POLL, fuse.PollWakeup(77).pack())]
    assert poll(IN_EVENTS | OUT_EVENTS, 0) == IN_EVENTS | OUT_EVENTS
    assert poll(0) == IN_EVENTS | OUT_EVENTS  # a kernel before 7.21
    assert poll(select.POLLIN) == select.POLLIN
    kernel.session.wake(pipe)  # an edge, for who was told before that it is ready
    assert len(kernel.answers()) == 1


def test_failures_of_nodes(kernel: Kernel) -> None:
    for name, error in [("full", errno.ENOSPC), ("unknown", errno.EIO), ("broken", errno.EIO)]:
        fh = kernel.open(name)
        assert kernel.refused(Opcode.READ, 1, reading(fh)) == error
        assert kernel.refused(Opcode.WRITE, 1, writing(fh, b"x")) == error
        assert kernel.refused(Opcode.FLUSH, 1, reading(fh)) == error
        assert (
            kernel.refused(Opcode.POLL, 1, fuse.PollIn(fh, 1, fuse.POLL_SCHEDULE_NOTIFY, 1).pack()) == error
        )
        kernel.session.wake(file_of(kernel, name))  # the poll is told, and sees the error
        assert len(kernel.answers()) == 1
        assert kernel.refused(Opcode.RELEASE, 1, reading(fh)) == error
        assert kernel.refused(Opcode.READ, 1, reading(fh)) == errno.EBADF
    assert [str(bug) for bug in kernel.bugs] == ["a bug"] * 6


def file_of(kernel: Kernel, name: str) -> File:
    file = kernel.root.names[name]
    assert isinstance(file, File)
    return file


def test_the_end(kernel: Kernel) -> None:
    fh = kernel.open("pipe", os.O_RDONLY)
    waiting = kernel.send(Opcode.READ, 1, reading(fh))
    kernel.open("broken")
    kernel.session.end()
    assert kernel.answers() == [(waiting, 0, b"")]
    assert kernel.session.closing
    assert kernel.read(fh) == b""
    kernel.ask(Opcode.RELEASE, 1, reading(fh))
    assert not kernel.session.closing
    kernel.session.close()
    assert kernel.answers() == []


def test_messages_that_are_too_short_or_lie_about_their_length(kernel: Kernel) -> None:
    for length in range(fuse.InHeader.layout.size):
        kernel.session.handle(bytes(length))
    assert kernel.answers() == []
    kernel.session.handle(fuse.InHeader(41, Opcode.GETATTR, 5, 1, 0, 0, 0).pack())
    kernel.session.handle(fuse.InHeader(41, Opcode.FORGET, 6, 1, 0, 0, 0).pack())
    assert kernel.answers() == [(5, errno.EINVAL, b"")]
    for opcode in (Opcode.READ, Opcode.WRITE, Opcode.SETATTR, Opcode.OPEN, Opcode.INIT, Opcode.POLL):
        assert kernel.refused(opcode, kernel.lookup("note"), b"123") == errno.EINVAL


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    kernel = Kernel()
    kernel.session.handle(data)
    assert len(kernel.answers()) <= 1


NAMES = [
    "answer",
    "long",
    "note",
    "pipe",
    "marker",
    "full",
    "unknown",
    "broken",
    "many",
    "instances",
    "new",
    "busy",
]
small = st.integers(0, 12)
words = st.one_of(
    st.binary(max_size=100),
    st.sampled_from(NAMES).map(lambda name: name.encode() + b"\0"),
    st.sampled_from(NAMES).map(lambda name: bytes(8) + name.encode() + b"\0"),
    st.builds(reading, small, small, small, st.sampled_from([0, os.O_NONBLOCK])),
    st.builds(writing, small, st.binary(max_size=20), small),
    st.builds(lambda flags: fuse.OpenIn(flags).pack(), st.sampled_from([0, 1, 2, 3, os.O_TRUNC | os.O_WRONLY])),
    st.builds(lambda fh, kh: fuse.PollIn(fh, kh, 1, 1).pack(), small, small),
    st.builds(lambda unique: fuse.InterruptIn(unique * 2).pack(), small),
)  # fmt: skip
requests = st.tuples(
    st.one_of(st.sampled_from(sorted(Opcode)), st.integers(0, (1 << 32) - 1)), st.integers(0, 6), words
)


@given(st.lists(requests, max_size=40))
def test_each_request_is_answered_once_whatever_is_asked(asked: list[tuple[int, int, bytes]]) -> None:
    kernel = Kernel()
    # Nodes and files to hit: the tree's numbers go on from test to test, so that most of these are made here.
    nodes = [1, *(kernel.lookup(name) for name in NAMES[:10]), 0, 1 << 63]
    for name in ("note", "pipe", "pipe", "broken"):
        kernel.open(name, os.O_RDONLY)
    answered: list[int] = []
    wanted = []
    for opcode, node, body in asked:
        unique = kernel.send(opcode, nodes[node % len(nodes)], body)
        if opcode not in fuse.UNANSWERED:
            wanted.append(unique)
        answered += [number for number, _, _ in kernel.answers() if number]
        assert len([number for number in wanted if number not in answered]) == kernel.session.pending
    kernel.session.end()
    answered += [number for number, _, _ in kernel.answers() if number]
    kernel.session.close()
    assert sorted(set(answered)) == sorted(answered)
    assert set(wanted) <= set(answered)
    assert {str(bug) for bug in kernel.bugs} <= {"a bug"}
