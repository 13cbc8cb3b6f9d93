# SPDX-License-Identifier: BSD-2-Clause
"""The FUSE protocol: what the kernel and the server of a file system say to each other over /dev/fuse.

Source of every number and structure: include/uapi/linux/fuse.h. Each read(2) of the device gives one request, an
`InHeader` and what belongs to its opcode; each write(2) is one answer, an `OutHeader` and what belongs to the
request's opcode. Structures that grew with the protocol have their form of 7.12 here, which the later ones begin
with, except `InitOut`, which is cut to what the kernel knows.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

MAJOR = 7
MINOR = 31
"""The newest minor of which anything is used: FOPEN_STREAM."""
OLDEST_MINOR = 12  # Linux 2.6.31: polls, and the structures as they are here
ROOT_ID = 1
LARGEST_ERROR = 511
"""A larger errno in an answer is refused (fuse_dev_do_write, fs/fuse/dev.c)."""


class Opcode(enum.IntEnum):
    """enum fuse_opcode: what a request asks for.

    To those that are not here, ENOSYS is the right answer: the kernel does without, and does not ask again.
    """

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    READDIRPLUS = 44
    RENAME2 = 45


UNANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.NOTIFY_REPLY, Opcode.INTERRUPT})
"""Requests after which nobody waits. An INTERRUPT may be answered with EAGAIN or ENOSYS."""


class Notify(enum.IntEnum):
    """enum fuse_notify_code, in the error field of a message that answers nothing (unique is 0)."""

    POLL = 1


class Init(enum.IntFlag):
    """FUSE_*: what both sides can do, in the INIT request and its answer."""

    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    MAX_PAGES = 1 << 22


class Open(enum.IntFlag):
    """FOPEN_*: what the answer to an OPEN says of the open file."""

    DIRECT_IO = 1 << 0
    NONSEEKABLE = 1 << 2
    STREAM = 1 << 4


class SetAttr(enum.IntFlag):
    """FATTR_*: which fields of a SETATTR count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    FH = 1 << 6


POLL_SCHEDULE_NOTIFY = 1 << 0


class Malformed(ValueError):
    """A message is shorter than what it should hold."""


@dataclass
class Structure:
    """A structure of the protocol; ``layout`` has its fields in order, padding and unused ones as ``x``."""

    layout: ClassVar[struct.Struct]

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> Self:
        """Read one that starts at ``offset``; what follows it is left alone.

        Raises:
            Malformed: there are too few bytes.
        """
        try:
            return cls(*cls.layout.unpack_from(data, offset))
        except struct.error as error:
            raise Malformed(f"{cls.__name__}: {error}") from None

    def pack(self) -> bytes:
        """The bytes that the kernel takes.

        Raises:
            struct.error: a field does not fit.
        """
        return self.layout.pack(*vars(self).values())


@dataclass
class InHeader(Structure):
    """struct fuse_in_header, before every request; ``length`` counts itself and all that follows."""

    layout = struct.Struct("=IIQQIIIxxxx")
    length: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int


@dataclass
class OutHeader(Structure):
    """struct fuse_out_header, before every answer; ``error`` is 0 or a negative errno."""

    layout = struct.Struct("=IiQ")
    length: int
    error: int
    unique: int


@dataclass
class InitIn(Structure):
    """struct fuse_init_in; since 7.36 more flags follow."""

    layout = struct.Struct("=IIII")
    major: int
    minor: int
    max_readahead: int
    flags: int


@dataclass
class InitOut(Structure):
    """struct fuse_init_out; a kernel before 7.23 knows its first 24 bytes alone (FUSE_COMPAT_22_INIT_OUT_SIZE)."""

    layout, compat_22_size = struct.Struct("=IIIIHHIIH34x"), 24
    major: int
    minor: int
    max_readahead: int
    flags: int
    max_background: int
    congestion_threshold: int
    max_write: int
    time_gran: int
    max_pages: int


@dataclass
class Attr(Structure):
    """struct fuse_attr: what stat(2) tells."""

    layout = struct.Struct("=QQQQQQIIIIIIIIIxxxx")
    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int


@dataclass
class EntryOut(Structure):
    """struct fuse_entry_out, up to the `Attr` that ends it."""

    layout = struct.Struct("=QQQQII")
    nodeid: int
    generation: int
    entry_valid: int
    attr_valid: int
    entry_valid_nsec: int
    attr_valid_nsec: int


@dataclass
class AttrOut(Structure):
    """struct fuse_attr_out, up to the `Attr` that ends it."""

    layout = struct.Struct("=QIxxxx")
    attr_valid: int
    attr_valid_nsec: int


@dataclass
class ForgetIn(Structure):
    """struct fuse_forget_in."""

    layout = struct.Struct("=Q")
    nlookup: int


@dataclass
class ForgetOne(Structure):
    """struct fuse_forget_one."""

    layout = struct.Struct("=QQ")
    nodeid: int
    nlookup: int


@dataclass
class BatchForgetIn(Structure):
    """struct fuse_batch_forget_in; ``count`` times `ForgetOne` follow."""

    layout = struct.Struct("=Ixxxx")
    count: int


@dataclass
class SetAttrIn(Structure):
    """struct fuse_setattr_in; times are not used here."""

    layout = struct.Struct("=IxxxxQQ44xIxxxxIIxxxx")
    valid: int
    fh: int
    size: int
    mode: int
    uid: int
    gid: int


@dataclass
class MkdirIn(Structure):
    """struct fuse_mkdir_in; the name follows."""

    layout = struct.Struct("=II")
    mode: int
    umask: int


@dataclass
class OpenIn(Structure):
    """struct fuse_open_in; ``flags`` are those of open(2)."""

    layout = struct.Struct("=Ixxxx")
    flags: int


@dataclass
class OpenOut(Structure):
    """struct fuse_open_out."""

    layout = struct.Struct("=QIxxxx")
    fh: int
    open_flags: int


@dataclass
class HandleIn(Structure):
    """What struct fuse_release_in, fuse_flush_in, fuse_fsync_in and fuse_ioctl_in begin with."""

    layout = struct.Struct("=Q")
    fh: int


@dataclass
class ReadIn(Structure):
    """struct fuse_read_in; ``flags`` are the open file's."""

    layout = struct.Struct("=QQIIQIxxxx")
    fh: int
    offset: int
    size: int
    read_flags: int
    lock_owner: int
    flags: int


@dataclass
class WriteIn(Structure):
    """struct fuse_write_in; the bytes to write follow."""

    layout = struct.Struct("=QQIIQIxxxx")
    fh: int
    offset: int
    size: int
    write_flags: int
    lock_owner: int
    flags: int


@dataclass
class WriteOut(Structure):
    """struct fuse_write_out."""

    layout = struct.Struct("=Ixxxx")
    size: int


@dataclass
class StatfsOut(Structure):
    """struct fuse_statfs_out."""

    layout = struct.Struct("=QQQQQIII28x")
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    bsize: int
    namelen: int
    frsize: int


@dataclass
class InterruptIn(Structure):
    """struct fuse_interrupt_in: the request to give up."""

    layout = struct.Struct("=Q")
    unique: int


@dataclass
class PollIn(Structure):
    """struct fuse_poll_in; ``events`` is 0 before 7.21."""

    layout = struct.Struct("=QQII")
    fh: int
    kh: int
    flags: int
    events: int


@dataclass
class PollOut(Structure):
    """struct fuse_poll_out."""

    layout = struct.Struct("=Ixxxx")
    revents: int


@dataclass
class PollWakeup(Structure):
    """struct fuse_notify_poll_wakeup_out."""

    layout = struct.Struct("=Q")
    kh: int


@dataclass
class Dirent(Structure):
    """struct fuse_dirent; the name follows, and zeros up to a multiple of 8 bytes."""

    layout = struct.Struct("=QQII")
    ino: int
    off: int
    namelen: int
    type: int
