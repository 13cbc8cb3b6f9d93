# SPDX-License-Identifier: BSD-2-Clause
r"""The memory map of a process: ``/proc/PID/maps``.

A line is ``start-end perms offset major:minor inode      path`` (man 5 proc). The kernel escapes the
newline alone, as ``\012`` (``seq_file_path`` in fs/seq_file.c), so a path may hold spaces, and a file that
was removed since has `` (deleted)`` behind its name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ksym.errors import KsymError, NotPermitted
from ksym.linux import privileges

DELETED = " (deleted)"
"""What the kernel puts behind the name of a file that was removed (fs/d_path.c)."""


@dataclass(frozen=True)
class Mapping:
    """One range of a process's address space.

    ``path`` is what the kernel shows, without the mark of a removed file: an absolute path, a pseudo name
    such as ``[vdso]`` or ``[stack]``, or "" for anonymous memory. ``device`` is ``st_dev`` of the file.
    """

    start: int
    end: int
    perms: str
    offset: int
    device: int
    inode: int
    path: str
    deleted: bool = False

    def __contains__(self, address: object) -> bool:
        return isinstance(address, int) and self.start <= address < self.end

    @property
    def is_file(self) -> bool:
        """Backed by a file that has a path."""
        return self.inode != 0 and self.path.startswith("/")

    @property
    def executable(self) -> bool:
        """Its bytes may be executed."""
        return "x" in self.perms

    @property
    def basename(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def file_key(self) -> tuple[int, int, str]:
        """Equal for all mappings of one file."""
        return self.device, self.inode, self.path


def parse_maps(text: bytes) -> list[Mapping]:
    r"""Parse the content of a ``maps`` file; lines that are not in its format are passed over.

    >>> parse_maps(b"1000-2000 r--p 00000000 08:01 42    /usr/bin/my prog (deleted)\n")[0].path
    '/usr/bin/my prog'
    """
    found = []
    for line in text.split(b"\n"):
        parts = line.split(None, 5)
        if len(parts) < 5:
            continue
        try:
            start, end = (int(number, 16) for number in parts[0].split(b"-"))
            major, minor = (int(number, 16) for number in parts[3].split(b":"))
            offset, inode = int(parts[2], 16), int(parts[4])
            device = os.makedev(major, minor)
        except (ValueError, OverflowError):
            continue
        path = os.fsdecode(parts[5]) if len(parts) > 5 else ""
        # Taken away before the newline is put back, and only once: a file may be called "x (deleted)".
        deleted = path.startswith("/") and path.endswith(DELETED)
        if deleted:
            path = path[: -len(DELETED)]
        path = path.replace("\\012", "\n")
        perms = parts[1].decode("ascii", "replace")
        found.append(Mapping(start, end, perms, offset, device, inode, path, deleted))
    return found


def same_device(one: int, other: int) -> bool:
    """True if a file of one device may be on the other.

    On btrfs and overlayfs ``st_dev`` is an anonymous device (major 0), and the memory map may show another one.
    """
    return one == other or os.major(one) == 0 or os.major(other) == 0


def shared_memory(pid: int, address: int) -> tuple[int, int, int] | None:
    """What the memory at an address of a process is, where other processes may have the same memory.

    Returns:
        Device, inode and offset in the file, equal wherever the same byte is mapped to be shared (MAP_SHARED of a file
        or of nothing, memfd, shm); None where the memory is the process's own, or what it is cannot be read.
    """
    try:
        mappings = read_maps(pid)
    except KsymError:
        return None
    for mapping in mappings:
        if address in mapping:
            place = mapping.device, mapping.inode, mapping.offset + address - mapping.start
            return place if mapping.perms.endswith("s") else None
    return None


def processes_sharing(memory: tuple[int, int, int]) -> list[int]:
    """The processes that have mapped the byte that `shared_memory` tells of, as far as their maps may be read."""
    device, inode, offset = memory
    wanted = f" {os.major(device):02x}:{os.minor(device):02x} {inode} ".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/maps", "rb") as file:
                text = file.read()
        except OSError:
            continue
        if wanted in text and any(
            each.device == device and each.inode == inode and each.perms.endswith("s")
            and each.offset <= offset < each.offset + each.end - each.start
            for each in parse_maps(text)
        ):  # fmt: skip
            found.append(int(name))
    return sorted(found)


def read_maps(pid: int) -> list[Mapping]:
    """The mappings of a process, by address.

    Raises:
        KsymError: there is no such process.
        NotPermitted: the process belongs to somebody else (ptrace access is needed, man 5 proc).
    """
    what = f"cannot read the memory map of process {pid}"
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            return parse_maps(file.read())
    except (FileNotFoundError, ProcessLookupError):
        raise KsymError(what, "there is no such process", "check the PID with ps") from None
    except PermissionError:
        if os.geteuid() == 0:
            found = privileges.refusal("ptrace", privileges.SYS_PTRACE)
            why, todo = found or (
                "the kernel forbids it (PTRACE_MODE_READ in man 2 ptrace)",
                "see `dmesg` and the audit log for who refused it",
            )
        else:
            why, todo = "it belongs to another user", "run ksym as that user or as root"
        raise NotPermitted(what, why, todo) from None
    except OSError as error:
        raise KsymError(what, error.strerror or str(error)) from error
