# SPDX-License-Identifier: BSD-2-Clause
"""The guest's first programs, as the archive that the kernel unpacks into its memory.

Three shell scripts, run by busybox one after the other: ``init`` puts the root directory together,
``main`` carries output and exit status to the runner, ``job`` is the command itself. Under
emulation each process costs some 15 ms, so the scripts start few.
"""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.kernel.image import Image

MODULES = ("virtio_pci", "virtio_console", "virtiofs", "overlay")
APPLETS = (
    *("cp", "insmod", "ip", "mkdir", "mount", "poweroff"),
    *("sh", "switch_root", "sync", "timeout", "umount", "usleep"),
)
GRACE = 15
"""Seconds between the SIGINT that ends a command past its limit, which lets pytest still write its
report, and SIGKILL."""

INIT = """\
#!/bin/sh
fail() { echo "lab: $1"; poweroff -f; }
for module in /modules/*; do insmod $module || fail "insmod $module"; done
mount -t virtiofs -o ro root /lower || fail "mount root"
mount -t tmpfs -o mode=755 over /over
mkdir /over/up /over/work
mount -t overlay -o lowerdir=/lower,upperdir=/over/up,workdir=/over/work root /new || fail "mount overlay"
mount -t proc proc /proc
mount -a -T /fstab
mkdir -p /new/dev/pts /new/dev/shm /new/run/lab
mount -t devpts -o ptmxmode=666 devpts /new/dev/pts
mount -t tmpfs shm /new/dev/shm
cp -a /bin /main /job /new/run/lab
cp -a /links/. /new/dev
umount /proc
exec switch_root /new /run/lab/bin/sh /run/lab/main
"""

FSTAB = """\
proc /new/proc proc defaults 0 0
sysfs /new/sys sysfs defaults 0 0
dev /new/dev devtmpfs defaults 0 0
run /new/run tmpfs mode=755 0 0
cgroup2 /new/sys/fs/cgroup cgroup2 defaults 0 0
bpf /new/sys/fs/bpf bpf defaults 0 0
security /new/sys/kernel/security securityfs defaults 0 0
debug /new/sys/kernel/debug debugfs defaults 0 0
tracing /new/sys/kernel/tracing tracefs defaults 0 0
"""

# The ports are there a little after their driver. Their names begin with the index of the one
# device that has ports, which depends on the order of probing, and end with what boot.py gave them.
MAIN = """\
PATH=/run/lab/bin
fail() {{ echo "lab: $1" >/dev/console; poweroff -f; }}
tries=0
for port in 1 2 3; do
    until test -c /dev/vport*p$port; do
        tries=$((tries + 1)); test $tries -lt 1000 || fail "no port $port"
        usleep 5000
    done
done
set -- /dev/vport*p[123]
exec >$1 2>$2 3>$3
ip link set lo up
{mounts}
echo READY >&3
timeout -s INT -k {grace} {limit} sh /run/lab/job </dev/null 3>&-
status=$?
exec >/dev/console 2>&1
sync
{unmounts}
echo "EXIT $status" >&3
poweroff -f
"""


@dataclass(frozen=True)
class Job:
    """A command for the guest.

    Attributes:
        argv: The command. It finds the files of this machine where they are on this machine.
        cwd: Where it starts.
        environment: Added to a small fixed environment.
        readable: Directories of this machine that the guest's root does not have, and needs.
        writable: Directories whose content comes back.
        limit: Seconds until it is interrupted.
    """

    argv: Sequence[str]
    cwd: Path = field(default_factory=Path.cwd)
    environment: Mapping[str, str] = field(default_factory=dict)
    readable: Sequence[Path] = ()
    writable: Sequence[Path] = ()
    limit: float = 600

    def script(self) -> str:
        """The shell script that becomes the command."""
        environment = {
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "KSYM_GUEST": "1",
            **self.environment,
        }
        words = [f"{name}={value}" for name, value in environment.items()] + list(self.argv)
        return f"cd {shlex.quote(str(self.cwd))} || exit 126\nexec /usr/bin/env -i {shlex.join(words)}\n"


def build(image: Image, job: Job, root: Path) -> bytes:
    """The archive for one guest.

    Directories are shared as ``ro0``, ``ro1``, ..., and the writable ones as ``rw0``, ``rw1``, ...

    Args:
        image: The kernel.
        job: The command.
        root: The directory that becomes the guest's root.
    """
    places = [shlex.quote(str(place)) for place in job.writable]
    modules, home = f"/lib/modules/{image.release}", shlex.quote(str(image.modules))
    shares = [(f"-o ro ro{index}", shlex.quote(str(place))) for index, place in enumerate(job.readable)]
    shares += [(f"rw{index}", place) for index, place in enumerate(places)]
    mounts = [
        f"mkdir -p {place}; mount -t virtiofs {what} {place} || fail 'mount {what}'" for what, place in shares
    ]
    mounts.append(f"mkdir -p {modules}; mount --bind {home} {modules}")
    main = MAIN.format(
        mounts="\n".join(mounts),
        unmounts="\n".join(f"umount {place}" for place in places),
        grace=GRACE,
        limit=max(1, round(job.limit)),
    )
    archive = _Archive()
    archive.directories("bin", "dev", "links", "lower", "modules", "new", "over", "proc")
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.file("bin/busybox", (root / "bin/busybox").read_bytes())
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    for name, target in {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        archive.link(f"links/{name}", target)
    for index, (name, content) in enumerate(image.modules_for(MODULES)):
        archive.file(f"modules/{index:02}-{name}.ko", content)
    for name, text in {"init": INIT, "fstab": FSTAB, "main": main, "job": job.script()}.items():
        archive.file(name, text.encode())
    return archive.finish()


class _Archive:
    """A cpio archive in the format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        path = name.encode() + b"\0"
        inode = len(self._parts) + 1
        fields: Iterable[int] = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + path
        self._parts.append(_padded(head) + _padded(content))

    def directories(self, *names: str) -> None:
        for name in names:
            self.add(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, content: bytes) -> None:
        self.add(name, stat.S_IFREG | 0o755, content)

    def link(self, name: str, target: str) -> None:
        self.add(name, stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
