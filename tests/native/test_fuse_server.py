# SPDX-License-Identifier: BSD-2-Clause
"""A small tree, mounted, and used as people use it: with cat, echo, dd, find, poll, and kill -9."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ksym.errors import KsymError
from ksym.linux import mounts
from ksym.linux.mounts import mount_at
from ksym.tracing.nodes import Directory
from ksym.tracing.opened import MAX_READ, MAX_WRITE
from ksym.tracing.server import Server, Unmounted
from support.fuse_tree import ANSWER, LONG, MANY
from support.program import SOURCES

pytestmark = pytest.mark.native
TESTS = Path(__file__).resolve().parents[1]
NOBODY = 65534
LIMIT = 600  # against hanging for ever; emulated machines take their time


@pytest.fixture(autouse=True)
def _registers_come_back(root_only: None) -> None:
    """Nothing here takes a register."""


class Served:
    """The program that serves the tree, on ``at``."""

    def __init__(self, at: Path) -> None:
        self.at = at
        environment = {**os.environ, "PYTHONPATH": f"{SOURCES}:{TESTS}"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.fuse_tree", at],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=environment,
        )  # fmt: skip

    def said(self) -> str:
        """Its next line; waits for it."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], LIMIT)[0], "it says nothing"
        line = self.process.stdout.readline().decode().strip()
        assert line, self.process.communicate()
        return line

    def until(self, line: str) -> None:
        """Wait for a line that others may come before."""
        while self.said() != line:
            pass

    def feed(self, data: bytes) -> None:
        """Put data into ``pipe``."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def end(self) -> tuple[int, str]:
        """Let it end by itself: status and stderr."""
        _, err = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, err.decode()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    at = tmp_path / "it"
    at.mkdir()
    found = Served(at)
    try:
        assert found.said() == "mounted"
        yield found
        if found.process.returncode is None:
            assert found.end() == (0, "")
        assert mount_at(str(at)) is None
    finally:
        found.process.kill()
        found.process.communicate()
        while mount_at(str(at)) is not None:
            subprocess.run(["umount", "-l", at], check=True)


def sh(script: str, at: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a shell script in the directory ``at``; outputs are bytes."""
    return subprocess.run(
        ["sh", "-c", script], capture_output=True, cwd=at, timeout=LIMIT, env={**os.environ, "LC_ALL": "C"}
    )


def out(script: str, at: Path) -> bytes:
    done = sh(script, at)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@contextlib.contextmanager
def reader(at: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that reads ``pipe``."""
    with subprocess.Popen(
        [*(command or ("cat",)), at / "pipe"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def descriptor(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def test_it_shows_as_ours(served: Served) -> None:
    (line,) = [line for line in Path("/proc/mounts").read_text().splitlines() if str(served.at) in line]
    source, _, kind, options = line.split()[:4]
    assert (source, kind) == ("ksym", "fuse.ksym")
    assert {"nosuid", "nodev", "noexec", "default_permissions", "user_id=0"} <= set(options.split(","))
    assert "allow_other" not in options


def test_cat(served: Served) -> None:
    assert out("cat answer", served.at) == ANSWER
    assert out("cat long", served.at) == LONG
    assert out("stat -c '%a %s %U %F' answer", served.at) == b"400 0 root regular empty file\n"
    assert out("head -c 3 answer; tail -c 5 long", served.at) == ANSWER + LONG[-5:]


@pytest.mark.parametrize("size", [1, 7, 511, 4095, 4097, 100_003, 1 << 20])
def test_dd_of_odd_sizes(served: Served, size: int) -> None:
    count = min(1000, -(-len(LONG) // size))
    assert out(f"dd if=long bs={size} count={count} 2>/dev/null", served.at) == LONG[: size * count]
    assert (
        out(f"dd if=long of=note bs={size} count={count} 2>/dev/null; cat note", served.at)
        == LONG[: size * count]
    )


def test_echo(served: Served) -> None:
    assert out("echo one > note; cat note", served.at) == b"one\n"
    assert out("echo two >> note; cat note", served.at)[-4:] == b"two\n"
    assert out("cat calls", served.at).split(b"\n")[0] == b"truncate"
    assert out(": > note; cat note", served.at) == b""
    assert out("echo three > note; truncate -s 0 note; cat note", served.at) == b""
    assert out("touch note; cp answer note; cat note", served.at) == ANSWER


@pytest.mark.parametrize("start", [0, 1, 4000])
def test_a_long_write_arrives_whole(served: Served, start: int) -> None:
    """Wherever in its pages the buffer starts."""
    with mmap.mmap(-1, MAX_WRITE + mmap.PAGESIZE) as memory:
        part = memoryview(memory)[start : start + MAX_WRITE]
        with descriptor(served.at / "note", os.O_WRONLY) as fd:
            assert os.write(fd, part) == MAX_WRITE
        part.release()
    assert f"write {MAX_WRITE}" in (served.at / "calls").read_text().split("\n")


def test_a_write_of_a_megabyte(served: Served) -> None:
    data = LONG[:256] * 4096
    with descriptor(served.at / "note", os.O_WRONLY | os.O_TRUNC) as fd:
        assert os.write(fd, data) == 1 << 20
    calls = (served.at / "calls").read_text().split("\n")
    assert calls[:9] == ["truncate", *[f"write {MAX_WRITE}"] * 8]
    assert (served.at / "note").read_bytes() == data


def test_refusals(served: Served) -> None:
    for script, error in [
        ("echo x > answer", "Permission denied"),
        ("cat marker", "Permission denied"),
        ("echo x > new", "Permission denied"),
        ("/bin/echo x 1<> full", "No space left on device"),
        ("rm note", "Operation not permitted"),
        ("mv note x", "Operation not permitted"),
        ("ln -s note x", "Operation not permitted"),
        ("ln note x", "Operation not permitted"),
        ("chmod 644 note", "Operation not permitted"),
        ("chown 1 note", "Operation not permitted"),
        ("mkdir x", "Operation not permitted"),
        ("rmdir many", "Operation not permitted"),
        ("mknod x p", "Operation not permitted"),
        ("cat broken", "Input/output error"),
        ("cat unknown", "Input/output error"),
        ("cat nothing", "No such file or directory"),
    ]:
        done = sh(script, served.at)
        assert done.returncode, script
        assert error in done.stderr.decode(), script
    for name in ("broken", "unknown", "full"):
        with pytest.raises(OSError), descriptor(served.at / name, os.O_WRONLY | os.O_TRUNC):
            pass
    with descriptor(served.at / "note", os.O_RDWR) as fd:  # no file's ENOSYS has spoilt it for the others
        assert select.select([fd], [fd], [], 0) == ([fd], [fd], [])
        assert os.write(fd, b"x") == 1
        os.fsync(fd)
        assert os.lseek(fd, 0, os.SEEK_END) == 0
        assert not os.isatty(fd)
    with pytest.raises(OSError) as caught:
        os.getxattr(served.at / "note", "user.x")
    assert caught.value.errno == errno.EOPNOTSUPP


def test_directories(served: Served) -> None:
    assert (
        out(
            "mkdir instances/a instances/b; cat instances/a/answer; rmdir instances/a; ls instances",
            served.at,
        )
        == ANSWER + b"b\n"
    )
    with descriptor(served.at / "instances/b/answer") as fd:
        (served.at / "instances/b").rmdir()
        assert os.read(fd, 100) == ANSWER
    assert sh("mkdir instances/busy && rmdir instances/busy", served.at).stderr.endswith(
        b"Device or resource busy\n"
    )


def test_a_thousand_entries(served: Served) -> None:
    names = {f"file{n}" for n in range(MANY)}
    assert set(os.listdir(served.at / "many")) == names
    assert len(out("ls -l many", served.at).splitlines()) == MANY + 1
    assert {entry.inode() for entry in os.scandir(served.at / "many")} == {
        os.stat(served.at / "many" / name).st_ino for name in names
    }
    with descriptor(served.at / "many", os.O_RDONLY | os.O_DIRECTORY) as fd:
        assert len(os.listdir(fd)) == len(os.listdir(fd)) == MANY


def test_a_careless_user(served: Served) -> None:
    done = sh("find . -type f ! -name pipe ! -name calls | xargs cat", served.at)
    total = len(LONG) + len(ANSWER) + sum(len(f"{n}\n") for n in range(MANY))
    assert len(done.stdout) == total
    assert len(done.stderr.splitlines()) >= 4  # marker, full, unknown, broken


def test_ctrl_c_ends_a_blocked_reader(served: Served) -> None:
    with reader(served.at) as cat:
        assert served.said() == "pending 1"
        cat.send_signal(signal.SIGINT)
        assert cat.wait(LIMIT) == -signal.SIGINT
        assert served.said() == "pending 0"


def test_kill_ends_a_blocked_reader(served: Served) -> None:
    with reader(served.at) as cat:
        assert served.said() == "pending 1"
        cat.kill()
        assert cat.wait(LIMIT) == -signal.SIGKILL
        assert served.said() == "pending 0"


def test_a_stopped_reader_goes_on(served: Served) -> None:
    """A stop interrupts the read; cat tries again."""
    with reader(served.at) as cat:
        assert served.said() == "pending 1"
        cat.send_signal(signal.SIGSTOP)
        assert served.said() == "pending 0"
        cat.send_signal(signal.SIGCONT)
        assert served.said() == "pending 1"
        served.feed(b"on\n")
        assert cat.stdout is not None
        assert cat.stdout.read(3) == b"on\n"


def test_two_readers(served: Served) -> None:
    with reader(served.at, "head", "-n1") as one, reader(served.at, "head", "-n1") as two:
        served.until("pending 2")
        served.feed(b"a\n")
        assert served.said() == "pending 1"
        served.feed(b"b\n")
        assert served.said() == "pending 0"
        assert sorted(process.communicate(timeout=LIMIT)[0] for process in (one, two)) == [b"a\n", b"b\n"]


def test_two_readers_of_one_descriptor(served: Served) -> None:
    """Neither keeps the other from being killed."""
    with descriptor(served.at / "pipe") as fd:
        readers = [subprocess.Popen(["cat"], stdin=fd, stdout=subprocess.PIPE) for _ in range(2)]
        served.until("pending 2")
        for cat in reversed(readers):
            cat.kill()
            cat.communicate(timeout=LIMIT)
        served.until("pending 0")


def test_nonblocking(served: Served) -> None:
    with descriptor(served.at / "pipe", os.O_RDONLY | os.O_NONBLOCK) as fd:
        with pytest.raises(BlockingIOError):
            os.read(fd, 10)
        (served.at / "marker").write_bytes(b"said")
        assert os.read(fd, 10) == b"said"
        with pytest.raises(BlockingIOError):
            os.read(fd, 10)
    with descriptor(served.at / "pipe") as fd:
        os.set_blocking(fd, False)
        with pytest.raises(BlockingIOError):
            os.read(fd, 10)


def test_a_long_read_does_not_wait_with_data_in_hand(served: Served) -> None:
    (served.at / "marker").write_bytes(LONG)
    with descriptor(served.at / "pipe") as fd:
        assert os.read(fd, 1 << 20) == LONG[: MAX_READ - 1]
        assert os.read(fd, 1 << 20) == LONG[MAX_READ - 1 : 2 * MAX_READ - 2]


def selected(fd: int) -> Callable[[float], Any]:
    return lambda seconds: select.select([fd], [], [], seconds)[0]


def polled(fd: int) -> Callable[[float], Any]:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return lambda seconds: poll.poll(seconds * 1000)


def epolled(fd: int) -> Callable[[float], Any]:
    poll = select.epoll()
    poll.register(fd, select.EPOLLIN)
    return poll.poll


@pytest.mark.parametrize("way", [selected, polled, epolled])
def test_polls(served: Served, way: Callable[[int], Callable[[float], Any]]) -> None:
    with descriptor(served.at / "pipe") as fd:
        wait = way(fd)
        assert not wait(0)
        for text in (b"one", b"two"):
            served.feed(text)  # who polls is woken, or it comes before the poll
            assert wait(LIMIT)
            assert wait(0)
            assert os.read(fd, 10) == text
            assert not wait(0)


def test_an_edge_for_each_arrival(served: Served) -> None:
    with descriptor(served.at / "pipe") as fd, select.epoll() as poll:
        poll.register(fd, select.EPOLLIN | select.EPOLLET)
        assert not poll.poll(0)
        for text in (b"one", b"two"):
            served.feed(text)
            assert poll.poll(LIMIT)
        assert os.read(fd, 10) == b"onetwo"


def test_others_are_turned_away_at_the_door(served: Served) -> None:
    who = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups"
    served.at.parent.chmod(0o755)
    for parent in served.at.parents:
        if parent.stat().st_mode & 0o1 == 0:
            parent.chmod(parent.stat().st_mode | 0o1)
    for command in (
        "ls it",
        "cat it/answer",
        "stat it/answer",
        "mkdir it/x",
        "sh -c '> it/note'",
        "cat it/pipe",
    ):
        done = sh(f"{who} {command}", served.at.parent)
        assert done.returncode, command
        assert b"Permission denied" in done.stderr, command


def test_its_end_is_the_end_of_the_pipe(served: Served) -> None:
    with reader(served.at) as cat:
        assert served.said() == "pending 1"
        assert served.end() == (0, "")
        assert cat.wait(LIMIT) == 0
        assert cat.stderr is not None
        assert cat.stderr.read() == b""


def test_unmounted_from_outside(served: Served) -> None:
    subprocess.run(["umount", served.at], check=True, timeout=LIMIT)
    assert served.said() == "unmounted"
    assert served.end() == (0, "")


def test_a_busy_directory_is_not_unmounted_but_lazily(served: Served) -> None:
    with descriptor(served.at / "answer") as fd:
        assert subprocess.run(["umount", served.at], capture_output=True, timeout=LIMIT).returncode
        subprocess.run(["umount", "-l", served.at], check=True, timeout=LIMIT)
        assert os.read(fd, 10) == ANSWER
    assert served.said() == "unmounted"


def test_killed(served: Served, tmp_path: Path) -> None:
    with reader(served.at) as cat:
        assert served.said() == "pending 1"
        served.process.kill()
        assert cat.wait(LIMIT)
    with pytest.raises(OSError) as caught:
        os.listdir(served.at)
    assert caught.value.errno == errno.ENOTCONN
    served.process.communicate()
    subprocess.run(["umount", served.at], check=True, timeout=LIMIT)
    assert os.listdir(served.at) == []


def test_what_a_dead_server_left_is_taken_away(served: Served) -> None:
    served.process.kill()
    served.process.communicate()
    again = Served(served.at)
    assert again.said() == "mounted"
    assert out("cat answer", served.at) == ANSWER
    assert again.end() == (0, "")
    assert mount_at(str(served.at)) is None


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def refused(path: Path | str) -> str:
    """What is said of a place that is not fit, with nothing left behind."""
    before = descriptors(), Path("/proc/self/mountinfo").read_text()
    with pytest.raises(KsymError) as caught, Server(str(path), Directory()):
        pass
    assert (descriptors(), Path("/proc/self/mountinfo").read_text()) == before
    return caught.value.line()


def test_places_that_are_not_fit(served: Served, tmp_path: Path) -> None:
    cannot = f"cannot mount on {tmp_path}"
    assert refused(tmp_path / "no") == f"{cannot}/no: it does not exist; mkdir {tmp_path}/no"
    file = tmp_path / "file"
    file.touch()
    assert refused(file) == f"{cannot}/file: it is not a directory; give an empty directory"
    assert refused(file / "x") == f"{cannot}/file/x: it is not a directory; give an empty directory"
    assert (
        refused(tmp_path)
        == f"{cannot}: it is not empty, and a mount would hide its files; give an empty directory"
    )
    at = served.at
    assert refused(at) == f"{cannot}/it: a tracing directory is mounted there; use it, or umount {at}"
    assert out("cat answer", at) == ANSWER


def test_without_privileges(tmp_path: Path) -> None:
    at = tmp_path / "it"
    at.mkdir()
    for parent in at.parents:
        parent.chmod(parent.stat().st_mode | 0o1)
    at.chmod(0o755)
    come, go = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(go, refused(at).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(come, 1000).decode() == f"cannot mount on {at}: only root may mount; run it as root"
    os.close(come)
    os.close(go)


def test_without_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_DEVICE", str(tmp_path / "dev"))
    at = tmp_path / "it"
    at.mkdir()
    assert refused(at) == (
        f"cannot mount on {at}: there is no {tmp_path}/dev, though this kernel has FUSE; "
        f"mknod -m 600 {tmp_path}/dev c 10 229"
    )
    monkeypatch.setattr(mounts, "read_bytes", lambda path: b"")
    assert refused(at).endswith("its module could not be loaded; modprobe fuse; see CONFIG_FUSE_FS")


def test_a_name_with_blanks_behind_a_link(tmp_path: Path) -> None:
    at = tmp_path / "a b\\c\n"
    at.mkdir()
    link = tmp_path / "link"
    link.symlink_to(at)
    with Server(str(link), Directory()):
        mount = mount_at(str(at))
        assert mount is not None
        assert mount.kind == mounts.KIND
    assert mount_at(str(at)) is None


def test_what_others_mounted_since_is_left_alone(tmp_path: Path) -> None:
    with Server(str(tmp_path), Directory()) as server:
        mounts._call("umount2", os.fsencode(tmp_path), 0)  # umount(8) would look at it first
        with pytest.raises(Unmounted):
            server.serve_ready()
        subprocess.run(["mount", "-t", "tmpfs", "x", tmp_path], check=True, timeout=LIMIT)
    mount = mount_at(str(tmp_path))
    subprocess.run(["umount", tmp_path], check=True, timeout=LIMIT)
    assert mount is not None
    assert mount.kind == "tmpfs"
    assert mount_at(str(tmp_path)) is None


def test_a_refused_mount_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "KIND", "nosuchfs")
    assert refused(tmp_path) == f"cannot mount on {tmp_path}: this kernel has no FUSE; see CONFIG_FUSE_FS"
