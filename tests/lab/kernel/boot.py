# SPDX-License-Identifier: BSD-2-Clause
"""Boot a kernel under QEMU's software emulation and run one command in it.

Nothing of a run lies in the file system: the initramfs is a file in memory, the sockets of the
file servers have no path, and each process that is started dies with the runner, however that
ends.
"""

from __future__ import annotations

import enum
import os
import platform
import re
import selectors
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lab.kernel.image import Image
from lab.kernel.initramfs import GRACE, Job, build
from lab.kernel.kernels import ARM64, X86

QEMU = {X86: "qemu-system-x86_64", ARM64: "qemu-system-aarch64"}
FILE_SERVERS = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")
BOOT_LIMIT = 120.0
CPUS = 2
"""Of a guest, unless a test asks for more."""
COMMAND_LINE = (
    # A dead kernel ends the run: an oops is a panic, a panic resets, and QEMU exits on a reset.
    "quiet oops=panic panic=-1 unknown_nmi_panic "
    # What emulation makes slow or uncertain, and no test needs.
    "tsc=reliable cryptomgr.notests=1 audit=0 apparmor=0"
)
CONSOLES = {X86: "ttyS0", ARM64: "ttyAMA0"}
BOARDS = {
    # Paging in five levels (la57) slows Linux 6.12 and later, and makes no difference to ksym.
    X86: ("-machine", "q35,memory-backend=memory", "-cpu", "max,-la57"),
    # Of a processor without atomic instructions, the loops that stand for them never end under a watch:
    # the trap takes away the reservation that their store needs. And an interrupt between a trap in the kernel and its
    # access makes it trap again: where a clock that counts instructions stands in for a slow processor's, few come.
    ARM64: ("-machine", "virt,memory-backend=memory", "-cpu", "neoverse-n1", "-icount", "shift=0"),
}


class End(enum.Enum):
    """How a run ended."""

    EXITED = "the command exited"
    TIME_LIMIT = "the command was stopped at its time limit"
    HUNG = "the guest hung"
    DIED = "the guest died"


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        end: How it ended.
        status: The command's exit status, where it has one.
        ready: Seconds until the command was started, where that happened.
        seconds: Seconds in all.
        console: What the kernel said.
    """

    end: End
    status: int | None
    ready: float | None
    seconds: float
    console: str

    @property
    def tail(self) -> str:
        """The last lines of the console."""
        return "\n".join(self.console.replace("\r", "").splitlines()[-40:])


def missing(machine: str = X86) -> list[str]:
    """What this machine lacks to boot a guest of that kind, each as a few words."""
    lacks = [tool for tool in (QEMU[machine], "lz4", "zstd", "setpriv") if not shutil.which(tool)]
    lacks += [path for path in ("/bin/busybox", "/sbin/depmod") if not Path(path).exists()]
    if not _file_server():
        lacks.append("virtiofsd")
    if platform.machine() != "x86_64":
        lacks.append("an x86-64 machine (most guests run this machine's programs)")
    if os.geteuid() != 0:
        lacks.append("root (the guest's file server needs it)")
    return lacks


def run(
    image: Image,
    job: Job,
    out: BinaryIO,
    err: BinaryIO,
    *,
    kaslr: bool = False,
    root: Path = Path("/"),
    cpus: int = CPUS,
) -> Outcome:
    """Run a command in a guest; once more if the guest fails as emulation is known to.

    One boot in some hundreds ends before the command starts. And QEMU 7.2 seldom executes a
    breakpoint instruction that the guest has already removed from its code, which ends in
    "Oops: int3". What the program under test does wrong looks different, and is never tried again.

    Args:
        image: The kernel.
        job: The command.
        out: Takes the command's stdout as it comes.
        err: Takes its stderr.
        kaslr: Boot with randomised addresses.
        root: Becomes the guest's root directory.
        cpus: How many CPUs the guest has.
    """
    outcome = _Run(image, job, out, err, kaslr=kaslr, root=root, cpus=cpus).outcome()
    stale_code = outcome.end is End.DIED and "Oops: int3" in outcome.console
    if outcome.ready is None or stale_code:
        print(f"{outcome.tail}\nlab: the guest failed as emulation may; trying once more", file=sys.stderr)
        outcome = _Run(image, job, out, err, kaslr=kaslr, root=root, cpus=cpus).outcome()
    return outcome


def _file_server() -> str | None:
    return next((path for path in FILE_SERVERS if Path(path).exists()), shutil.which("virtiofsd"))


def _machine(machine: str, cpus: int) -> list[str]:
    """The command line of QEMU for the machine itself, without what is particular to a run.

    One thread emulates all CPUs where more threads are known to go wrong: before 8.1 a thread may
    execute code that another has changed, and watches miss read-modify-writes with a lock prefix.
    """
    text = subprocess.run([QEMU[machine], "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", text)
    threads = "multi" if found and (int(found[1]), int(found[2])) >= (8, 1) else "single"
    return [
        *(QEMU[machine], "-accel", f"tcg,thread={threads},tb-size=512", *BOARDS[machine]),
        *("-smp", str(cpus), "-m", "1G", "-object", "memory-backend-memfd,id=memory,size=1G,share=on"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-device", "virtio-serial-pci"),
    ]


class _Run:
    """One guest, from its start to its end."""

    def __init__(
        self, image: Image, job: Job, out: BinaryIO, err: BinaryIO, *, kaslr: bool, root: Path, cpus: int
    ) -> None:
        self._image, self._job, self._kaslr, self._root, self._cpus = image, job, kaslr, root, cpus
        self._sinks = {"out": out, "err": err}
        self._said = {"console": bytearray(), "status": bytearray()}
        self._start = time.monotonic()
        self._ready: float | None = None
        self._late = ""

    def outcome(self) -> Outcome:
        """Boot, wait for the end, and say what it was."""
        with ExitStack() as stack:
            self._stack = stack
            self._boot()
            self._follow()
        seconds = time.monotonic() - self._start
        exit_line = re.search(rb"EXIT (\d+)", self._said["status"])
        status = int(exit_line[1]) if exit_line else None
        if self._late:
            end = End.HUNG
        elif status is None:
            end = End.DIED
        elif status and self._ready and seconds - self._ready >= self._job.limit:
            end = End.TIME_LIMIT
        else:
            end = End.EXITED
        return Outcome(end, status, self._ready, seconds, self._said["console"].decode(errors="replace"))

    def _boot(self) -> None:
        self._pipes: dict[str, int] = {}
        far_ends = {name: self._pipe(name) for name in ("console", "out", "err", "status")}
        self._console = far_ends["console"]
        machine = self._image.machine
        initramfs = self._memory_file(build(self._image, self._job, self._root))
        told = f"console={CONSOLES[machine]} {COMMAND_LINE}"
        self._control, control = socket.socketpair()
        self._stack.enter_context(self._control)
        self._stack.enter_context(control)
        words = [
            *_machine(machine, self._cpus),
            *("-kernel", str(self._image.bootable(kaslr=self._kaslr))),
            *("-initrd", f"/proc/self/fd/{initramfs}", "-append", told),
            *("-chardev", f"socket,id=control,fd={control.fileno()}", "-mon", "chardev=control,mode=control"),
        ]
        for number, (name, end) in enumerate(far_ends.items()):
            words += ["-chardev", f"file,id={name},path=/proc/self/fd/{end},append=on"]
            port = ["-device", f"virtserialport,chardev={name},nr={number}"]
            words += port if number else ["-serial", f"chardev:{name}"]
        passed = [initramfs, control.fileno(), *far_ends.values()]
        shares = {"root": self._root}
        shares |= {f"ro{index}": place for index, place in enumerate(self._job.readable)}
        shares |= {f"rw{index}": place for index, place in enumerate(self._job.writable)}
        for tag, directory in shares.items():
            passed.append(self._share(tag, directory))
            words += ["-chardev", f"socket,id=share-{tag},fd={passed[-1]}"]
            words += ["-device", f"vhost-user-fs-pci,chardev=share-{tag},tag={tag}"]
        self._qemu = self._spawn(words, passed)
        for end in far_ends.values():
            os.close(end)
        control.close()

    def _pipe(self, name: str) -> int:
        """Open a pipe; the end for reading is kept, the end for the guest is given back."""
        self._pipes[name], far_end = os.pipe()
        self._stack.callback(os.close, self._pipes[name])
        return far_end

    def _memory_file(self, content: bytes) -> int:
        file = self._stack.enter_context(os.fdopen(os.memfd_create("initramfs"), "wb", buffering=0))
        file.write(content)
        return file.fileno()

    def _share(self, tag: str, directory: Path) -> int:
        """Start a file server for a directory, and give back the socket that QEMU reaches it by."""
        server = _file_server()
        assert server
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("")  # a name of the kernel's choice that is in no directory
            listener.listen(1)
            connection = self._stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(listener.getsockname())
            cache = "auto" if tag.startswith("rw") else "always"
            if "/qemu/" in server:  # the server that came with QEMU before 8.0 has a syntax of its own
                words = ["-f", "-o", f"source={directory},cache={cache},sandbox=chroot,log_level=err"]
            else:
                words = [
                    f"--shared-dir={directory}",
                    f"--cache={cache}",
                    "--sandbox=none",
                    "--log-level=error",
                ]
            self._spawn([server, f"--fd={listener.fileno()}", *words], [listener.fileno()])
        return connection.fileno()

    def _spawn(self, words: list[str], passed: list[int]) -> subprocess.Popen[bytes]:
        """Start a process that dies with the runner and complains on the guest's console."""
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *words],
            stdin=subprocess.DEVNULL,
            stdout=self._console,
            stderr=self._console,
            pass_fds=passed,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def _follow(self) -> None:
        """Carry what the guest says, and watch the clock, until QEMU has gone."""
        self._deadline, self._overdue = self._start + BOOT_LIMIT, "it did not start the command"
        with selectors.DefaultSelector() as selector:
            for name, end in self._pipes.items():
                selector.register(end, selectors.EVENT_READ, name)
            # The file servers hold the console, too, so its end does not come by itself.
            open_ends = set(self._pipes) - {"console"}
            while open_ends:
                keys = selector.select(max(0.0, self._deadline - time.monotonic()))
                for key, _ in keys:
                    said = os.read(key.fd, 1 << 16)
                    if said:
                        self._take(key.data, said)
                    else:
                        selector.unregister(key.fd)
                        open_ends.discard(key.data)
                if time.monotonic() >= self._deadline:
                    self._overrun()
        os.set_blocking(self._pipes["console"], False)
        try:
            while said := os.read(self._pipes["console"], 1 << 16):
                self._take("console", said)
        except BlockingIOError:
            pass

    def _take(self, name: str, said: bytes) -> None:
        if name in self._sinks:
            self._sinks[name].write(said)
            self._sinks[name].flush()
            return
        self._said[name] += said
        if name == "status" and b"EXIT" in self._said[name]:
            self._end_soon()
        elif name == "status" and self._ready is None and b"READY\n" in self._said[name]:
            self._ready = time.monotonic() - self._start
            # The guest stops the command by itself; this is for a guest that does not.
            self._deadline = time.monotonic() + self._job.limit + GRACE + 10
            self._overdue = "it did not stop the command"
        elif name == "console" and b"Kernel panic - not syncing" in self._said[name]:
            self._end_soon()

    def _end_soon(self) -> None:
        """The guest is about to go, and gets five seconds for it."""
        if self._overdue:
            self._deadline, self._overdue = time.monotonic() + 5, ""

    def _overrun(self) -> None:
        """The deadline has passed: ask each CPU of a guest that hangs where it is, and end it."""
        if self._overdue:
            self._late = self._overdue
            requests = b'{"execute":"qmp_capabilities"}{"execute":"inject-nmi"}'
            try:
                self._control.sendall(requests)
            except OSError:
                self._qemu.kill()
            self._end_soon()
        else:
            self._qemu.kill()
            self._deadline = time.monotonic() + 5
