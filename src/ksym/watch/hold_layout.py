# SPDX-License-Identifier: BSD-2-Clause
"""What the programs that hold processes share with the keeper: records, answers, memory, the kernel's offsets."""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from ksym.errors import KsymError
from ksym.symbols.btf import Btf

MOST_MEMBERS = 1 << 14
EVENT = struct.Struct("=IIIII4xQQ")
"""A record of ``events``: thread, process, Moment, how the thread is kept (Answer), CPU, program (the process has it in
``members``), and the time in ns."""
TID_PID, MOMENT, KEPT, CPU, PROGRAM, SINCE = 0, 8, 12, 16, 24, 32
"""Where the members of a record are."""

COPY_BYTES = 1 << 20
"""Of the memory that a hold copies to spend its time; some 40 us a copy."""
NAME_BYTES = 16
"""Of a file's name, as programs compare it: at most 15, and a NUL."""
MEMBER_BYTES, WAITING_BYTES, RANGE_BYTES = 8, 16, 16
"""Of a value of ``members`` (the time in ns since when the process runs its program, so that no two programs have the
same; 0 for what ran before), of ``waiting`` (Answer, time of the event) and of ``ranges`` (first address of the wanted
files in a process, and the one after their last)."""


class Moment(enum.IntEnum):
    """Where a process is held."""

    EXEC, MAPPED, ENTRY = 1, 2, 3
    UNMAPPED = 4
    """At the end of a munmap(2) that took away what was wanted, or a part of it."""


class Answer(enum.IntEnum):
    """Values of ``waiting``."""

    WAITS = 1
    """No answer yet."""
    GO = 2
    """Go on; it is watched."""
    NOT_YET = 3
    """Go on; what is wanted is not there, or cannot be watched from here: the file's first instruction holds again."""
    EXPIRED = 4
    """The long hold has reached its bound; the thread runs."""
    STOPPED = 5
    """No answer: it was held for too long, or another thread was just then, and two could take the last CPU from ksym.
    It is stopped by SIGSTOP."""
    RUNS = 6
    """No answer: another thread was held just then, and this one could not be stopped: somebody traces it."""


class Event(NamedTuple):
    """A record of the ring; see EVENT."""

    tid: int
    pid: int
    moment: int
    kept: int
    cpu: int
    program: int
    since: int

    @classmethod
    def of(cls, record: bytes) -> Event:
        """Decode a record."""
        return cls(*EVENT.unpack(record))


class Control(enum.IntEnum):
    """Byte offsets in ``control``, the memory that programs share with ksym."""

    SPINNING = 0
    """Processes that are held; only one may be."""
    KEEPER_CPU = 8
    """The CPU that ksym's keeper runs on; a hold there has to send it to another one."""
    ALL_EXECS = 16
    """Hold at each exec, not only at those of files with a wanted name or number."""
    ALL_MMAPS = 24
    """Hold at each mmap in the same way."""
    SINCE = 32
    """When the long hold began, as its event has it."""
    COPIED = 40
    """What a hold copies to spend its time."""
    BYTES = 40 + COPY_BYTES


class Offsets(NamedTuple):
    """Offsets in the kernel's structures, from BTF.

    Args:
        tgid: Of struct task_struct.
        signal: Of struct task_struct.
        ptrace: Of struct task_struct: not 0 where somebody traces the thread.
        live: Of struct signal_struct: threads that have not ended.
        bprm_file: Of struct linux_binprm: the program.
        files: Of struct task_struct.
        fdt: Of struct files_struct.
        fd: Of struct fdtable: the open files.
        f_inode: Of struct file.
        f_dentry: Of struct file.
        i_ino: Of struct inode.
        d_name: Of struct dentry: the pointer to the name's characters.
    """

    tgid: int
    signal: int
    ptrace: int
    live: int
    bprm_file: int
    files: int
    fdt: int
    fd: int
    f_inode: int
    f_dentry: int
    i_ino: int
    d_name: int


class Files(NamedTuple):
    """How the kernel knows wanted files.

    Args:
        numbers: Of their inodes.
        names: How the last parts of their paths begin: at most NAME_BYTES, with the NUL at the end of a whole name.
    """

    numbers: tuple[int, ...]
    names: tuple[bytes, ...]


def kernel_offsets(kernel: Btf) -> Offsets:
    """Ask BTF.

    Args:
        kernel: The running kernel's.

    Raises:
        KsymError: A member is not there.
    """

    def offset(kind: str, *names: str) -> int:
        found = kernel.offset(kind, *names)
        if found is None:
            raise KsymError(f"cannot look into {kind}", f"this kernel's has no {'.'.join(names)}")
        return found

    return Offsets(
        tgid=offset("task_struct", "tgid"), signal=offset("task_struct", "signal"),
        ptrace=offset("task_struct", "ptrace"),
        live=offset("signal_struct", "live"), bprm_file=offset("linux_binprm", "file"),
        files=offset("task_struct", "files"), fdt=offset("files_struct", "fdt"), fd=offset("fdtable", "fd"),
        f_inode=offset("file", "f_inode"), f_dentry=offset("file", "f_path", "dentry"),
        i_ino=offset("inode", "i_ino"), d_name=offset("dentry", "d_name", "name"),
    )  # fmt: skip
