# SPDX-License-Identifier: BSD-2-Clause
"""Mounting a FUSE file system of ours: mount(2), umount2(2), /dev/fuse, /proc/self/mountinfo.

Source of the numbers: include/uapi/linux/mount.h and umount2(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from ksym.errors import KsymError, NotPermitted
from ksym.linux.files import read_bytes

NAME = "ksym"
KIND = f"fuse.{NAME}"
"""The type in /proc/mounts: what stands behind the dot is the kernel's subtype, for people."""
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_DEVICE = "/dev/fuse"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


class Mount(NamedTuple):
    """A line of mountinfo: its own number, that of the mount below, the file system's device, and so on."""

    number: int
    parent: int
    device: str
    point: str
    kind: str
    source: str


def parse_mountinfo(data: bytes) -> list[Mount]:
    r"""Parse /proc/PID/mountinfo (proc(5)); blanks and backslashes in names are written as ``\040``."""
    found = []
    for line in data.splitlines():
        head, _, tail = line.partition(b" - ")
        fields, rest = head.split(b" "), tail.split(b" ")
        with contextlib.suppress(ValueError, IndexError):  # a line of another form is passed over
            found.append(
                Mount(
                    int(fields[0]), int(fields[1]), fields[2].decode(), _unescaped(fields[4]),
                    _unescaped(rest[0]), _unescaped(rest[1]),
                )
            )  # fmt: skip
    return found


def _unescaped(text: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-3][0-7]{2})", lambda octal: bytes([int(octal[1], 8)]), text))


def mount_at(path: str) -> Mount | None:
    """The mount whose root is seen at ``path``, an absolute path without symbolic links."""
    here = [mount for mount in parse_mountinfo(read_bytes("/proc/self/mountinfo")) if mount.point == path]
    below = {mount.parent for mount in here}
    return next((mount for mount in here if mount.number not in below), None)


class FuseMount:
    """A FUSE file system on a directory, and the device through which it is served.

    A mount of ours there whose server is dead is taken away first.

    Args:
        path: An empty directory.
        max_read: The most that the kernel asks for in a request.

    Raises:
        KsymError: it cannot be mounted there; nothing is left.
    """

    def __init__(self, path: str, *, max_read: int) -> None:
        self.path = os.path.realpath(path)
        with _told(path):
            detach_dead(self.path)
        place = _directory(path, self.path)
        try:
            # What was looked at is what is mounted on, though somebody may put a link to /etc in its place meanwhile.
            self.path = os.readlink(f"/proc/self/fd/{place}")
            self._attach(path, f"/proc/self/fd/{place}", max_read)
        finally:
            os.close(place)

    def _attach(self, path: str, place: str, max_read: int) -> None:
        self.device = _open_device(path)
        # Without allow_other the kernel itself turns away whoever is not root (EACCES), before a request is made.
        options = (
            f"fd={self.device},rootmode=40700,user_id=0,group_id=0,default_permissions,max_read={max_read}"
        )
        try:
            with _told(path):
                _call(
                    "mount", NAME.encode(), place.encode(), KIND.encode(),
                    _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options.encode(),
                )  # fmt: skip
                self._mount = mount_at(self.path)
        except BaseException:
            os.close(self.device)
            raise

    def close(self) -> None:
        """Unmount it, where nobody has yet; whoever still uses it gets ENOTCONN."""
        if self.device < 0:
            return
        # The device goes first: while it is open, a request of our own would wait for ourselves.
        ours = mount_at(self.path) == self._mount and self._mount is not None
        os.close(self.device)
        self.device = -1
        if ours:
            with contextlib.suppress(OSError):  # somebody was faster
                _call("umount2", os.fsencode(self.path), _MNT_DETACH | _UMOUNT_NOFOLLOW)


def detach_dead(path: str) -> bool:
    """Take away mounts of ours at ``path`` whose servers are dead; whether there were any.

    Raises:
        OSError: they cannot be taken away.
    """
    found = False
    while (mount := mount_at(path)) is not None and mount.kind == KIND:
        try:
            os.stat(path)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
                raise
        else:
            break
        _call("umount2", os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        found = True
    return found


def _directory(path: str, real: str) -> int:
    """Open it; raise for a place that is not fit."""
    what = _what(path)
    with _told(path):
        try:
            place = os.open(real, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise KsymError(what, "it does not exist", f"mkdir {path}") from None
        except NotADirectoryError:
            raise KsymError(what, "it is not a directory", "give an empty directory") from None
        try:
            _check(path, real, place)
        except BaseException:
            os.close(place)
            raise
    return place


def _check(path: str, real: str, place: int) -> None:
    mount = mount_at(real)
    if mount is not None and mount.kind == KIND:
        raise KsymError(_what(path), "a tracing directory is mounted there", f"use it, or umount {path}")
    with os.scandir(place) as entries:
        if next(entries, None) is not None:
            raise KsymError(
                _what(path), "it is not empty, and a mount would hide its files", "give an empty directory"
            )


def _open_device(path: str) -> int:
    """Open /dev/fuse, after loading its module where that is needed."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK
    missing = (errno.ENOENT, errno.ENODEV, errno.ENXIO)
    try:
        return os.open(_DEVICE, flags)
    except OSError as error:
        if error.errno not in missing:
            raise _translated(path, error) from None
    _load_module()
    try:
        return os.open(_DEVICE, flags)
    except OSError as error:
        if error.errno not in missing:
            raise _translated(path, error) from None
        why = f"there is no {_DEVICE}: this kernel has no FUSE, or its module could not be loaded"
        if b"\tfuse\n" in read_bytes("/proc/filesystems"):
            why = f"there is no {_DEVICE}, though this kernel has FUSE"
            raise KsymError(_what(path), why, f"mknod -m 600 {_DEVICE} c 10 229") from None
        raise KsymError(_what(path), why, "modprobe fuse; see CONFIG_FUSE_FS") from None


def _load_module() -> None:
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    with contextlib.suppress(OSError):  # no modprobe: the kernel may have no modules
        os.waitpid(os.posix_spawnp("modprobe", ["modprobe", "-q", "fuse"], os.environ, file_actions=null), 0)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _what(path: str) -> str:
    return f"cannot mount on {path}"


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translated(path, error) from None


def _translated(path: str, error: OSError) -> KsymError:
    if error.errno in (errno.EPERM, errno.EACCES):
        if os.geteuid():
            return NotPermitted(_what(path), "only root may mount", "run it as root")
        why = "mounting is not permitted here, not even to root"
        return NotPermitted(_what(path), why, "in a container: give it CAP_SYS_ADMIN and /dev/fuse")
    if error.errno == errno.ENODEV:
        return KsymError(_what(path), "this kernel has no FUSE", "see CONFIG_FUSE_FS")
    if error.errno == errno.ENOTCONN:
        return KsymError(_what(path), "the server of what is mounted there is dead", f"umount {path}")
    return KsymError(_what(path), error.strerror or str(error))
