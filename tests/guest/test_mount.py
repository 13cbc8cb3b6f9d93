# SPDX-License-Identifier: BSD-2-Clause
"""The tracing directory on a stock kernel, used from a shell: the walk of docs/mount.md, as it is shown there."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guest.running import LIMIT, PID_MAX, check_hits, hitting
from ksym.linux.libc import MACHINE
from ksym.linux.mounts import mount_at
from support.docs import fenced
from support.program import environment, ksym

pytestmark = pytest.mark.guest
AT = Path("/tmp/ksym")
OOPS = Path("/proc/sys/kernel/panic_on_oops")


@pytest.fixture(scope="module")
def mounted() -> Iterator[Path]:
    """The directory, mounted once: under emulation, a Python takes seconds to start."""
    at = Path("/tmp/mounted")
    at.mkdir()
    result = ksym("mount", "--daemon", "--guard", "off", str(at))
    assert (result.status, result.out, result.err) == (0, "", f"ksym: tracing directory on {at}\n")
    try:
        yield at
    finally:
        with away(at):
            subprocess.run(["umount", at], check=True)


@pytest.fixture
def it(mounted: Path) -> Iterator[Path]:
    """The directory; what a test has made there is cleared."""
    yield mounted
    write(mounted / "ksym_trace_filter", "0")
    write(mounted / "trace", "")
    for instance in (mounted / "instances").iterdir():
        instance.rmdir()


@contextlib.contextmanager
def away(at: Path) -> Iterator[None]:
    """Wait for the server of what is unmounted meanwhile to end: it holds the registers."""
    servers = [
        os.pidfd_open(int(entry.name))
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and cmdline(entry).endswith(f"\0{at}\0".encode())
    ]
    yield
    for server in servers:
        assert select.select([server], [], [], LIMIT)[0]
        os.close(server)
    assert mount_at(str(at)) is None


def cmdline(entry: Path) -> bytes:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        return (entry / "cmdline").read_bytes()
    return b""


def rows(file: Path) -> list[tuple[str, str]]:
    """(SYMBOL, TYPE) of what this process did."""
    return re.findall(rf"-{os.getpid()} +\[\d+\] (\S+)\+0x\S+ (\S+) ", file.read_text())


def write(file: Path, text: str) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


@pytest.mark.usefixtures("programs")
def test_the_walk(pid_max: str) -> None:
    """Commands of the page run in one shell; what it says is what the page shows, but for numbers."""
    if pid_max != "pid_max":
        pytest.skip("the page shows kernels before 6.14, which have one pid_max")
    before = PID_MAX.read_text(), OOPS.read_text()
    shown = list(examples("".join(fenced("mount.md", "console"))))
    assert len(shown) > 20
    module = f"{sys.executable} -m ksym"
    script = "".join(f"echo {MARK}; {line}\n" for line, _ in shown[:-1])
    last = shown[-1][0]
    try:
        done = subprocess.run(
            ["bash", "-c", f'exec 2>&1; ksym() {{ {module} "$@"; }}; {script}'],
            env={**environment(), "LC_ALL": "C"}, capture_output=True, text=True, timeout=LIMIT,
        )  # fmt: skip
        said = done.stdout.split(f"{MARK}\n")[1:]
        for (line, expected), found in zip(shown[:-1], said, strict=True):
            assert normal(found) == normal(expected), line
        with away(AT):
            subprocess.run(["bash", "-c", last], check=True)
        assert list(AT.iterdir()) == []
    finally:
        if mount_at(str(AT)) is not None:
            subprocess.run(["umount", AT], check=True)
        PID_MAX.write_text(before[0])
        OOPS.write_text(before[1])


MARK = "--------"


def examples(text: str) -> Iterator[tuple[str, str]]:
    """Command lines, each with the lines that are shown behind it."""
    # A table's own lines begin with # as well, but no table has a command.
    parts = re.split(r"(?m)^# (?!tracer|entries-in-buffer)(\S.*)\n", text)
    return zip(parts[1::2], parts[2::2], strict=True)


def normal(text: str) -> str:
    """Without what differs from run to run and from kernel to kernel: times, PIDs, CPUs, counts, sizes of code.

    What a kernel's own thread does meanwhile is left out: kthreadd needs PIDs, too.
    """
    text = re.sub(r"(?m)^ *kthreadd-.*\n", "", text)
    text = re.sub(r"line \d+: ", "", text)
    text = re.sub(r"-\d+ +\[\d+\]", "-PID [CPU]", text)
    text = re.sub(r"(?<=[RWX] )( +\w+)\+0x[0-9a-f]+/0x[0-9a-f]+", r"\1+OFFSET/SIZE", text)
    text = re.sub(r"(?m)(?<=written: )\d+/\d+", "N/N", text)
    text = re.sub(r"(?m)#P:\d+$", "#P:N", text)
    text = re.sub(r"(?m)(?<=^  [RW ]{14}\w)(\w+ +)\d+$", r"\1N", text)
    return re.sub(r"(?m)^\[ *\d+\.\d{6}\]", "[TIME]", text)


def test_the_selftest_of_2009(it: Path, pid_max: str) -> None:
    """Watched to be read and written, read once and written once: two entries exactly."""
    write(it / "ksym_trace_filter", f"{pid_max}:rw-")
    value = PID_MAX.read_text()
    fd = os.open(PID_MAX, os.O_WRONLY)
    os.write(fd, value.encode())
    os.close(fd)
    assert [kind for _, kind in rows(it / "trace")][:2] == ["R", "W"]
    assert len(rows(it / "trace")) == 2


def test_two_sets_at_the_same_time(it: Path) -> None:
    (it / "instances/a").mkdir()
    write(it / "ksym_trace_filter", "panic_timeout:rw-")
    write(it / "instances/a/ksym_trace_filter", "panic_on_oops:-w-")
    Path("/proc/sys/kernel/panic").read_text()
    OOPS.write_text(OOPS.read_text())
    assert rows(it / "trace") == [("panic_timeout", "R")]
    assert rows(it / "instances/a/trace") == [("panic_on_oops", "W")]
    write(it / "instances/a/ksym_trace_filter", "panic_on_warn:rw-")
    Path("/proc/sys/kernel/panic_on_warn").read_text()
    assert rows(it / "instances/a/trace") == [("panic_on_oops", "W"), ("panic_on_warn", "R")]
    (it / "instances/a").rmdir()
    assert (it / "ksym_trace_filter").read_text() == "panic_timeout:rw-\n"


def test_a_change_in_place_and_one_that_fails(it: Path) -> None:
    filters = it / "ksym_trace_filter"
    write(filters, "panic_timeout:rw-\npanic_on_oops:-w-\npanic_on_warn:-w-")
    write(filters, "panic_timeout:-w-")
    Path("/proc/sys/kernel/panic").read_text()
    assert rows(it / "trace") == []
    listed = filters.read_text()
    assert listed == "panic_on_warn:-w-\npanic_on_oops:-w-\npanic_timeout:-w-\n"
    # Three of four registers are taken; these need three more, or none can be where they want to.
    for text in ("init_task.comm:-w-\ninit_task.flags:-w-", "init_task.flags:-w-\nno_such_variable:-w-"):
        with pytest.raises(OSError):
            write(filters, text)
        assert filters.read_text() == listed


def test_a_change_where_no_register_is_free(it: Path, pid_max: str) -> None:
    """Its register is taken over, or given up for a moment where the kernel cannot exchange programs (before 5.15)."""
    filters, panic = it / "ksym_trace_filter", Path("/proc/sys/kernel/panic")
    write(filters, f"panic_on_oops:-w-\npanic_on_warn:-w-\n{pid_max}:-w-\npanic_timeout:-w-")
    write(panic, panic.read_text())
    write(filters, "panic_timeout:rw-")
    panic.read_text()
    write(panic, panic.read_text())
    write(filters, "panic_timeout:-w-")
    write(panic, panic.read_text())
    assert [kind for _, kind in rows(it / "trace")] == ["W", "R", "R", "W", "W"]
    assert re.search(r"(?m)^  W +panic_timeout +5$", (it / "ksym_profile").read_text())
    assert (it / "error_log").read_text().count(
        "no register was free beside it: for a moment nothing was seen"
    ) == 2


def test_a_module_that_is_unloaded(it: Path) -> None:
    subprocess.run(["modprobe", "loop"], check=True)
    write(it / "ksym_trace_filter", "loop:max_part:rw-")
    subprocess.run(["rmmod", "loop"], check=True)
    text = ""
    while "unloaded" not in text:
        text = (it / "error_log").read_text()
    assert (
        "error: loop:max_part is not watched any more: module loop was unloaded\n  Command: loop:max_part:rw-\n"
        in text
    )


@pytest.mark.skipif(MACHINE == "aarch64", reason="there a write may trap more than once")
def test_a_cpu_that_goes_while_it_is_hit(it: Path, tmp_path: Path) -> None:
    write(it / "ksym_trace_filter", "panic_on_oops:-w-")
    subprocess.run(["sh", "-c", hitting(it / "error_log", tmp_path)], check=True, timeout=LIMIT)
    hits = int((it / "ksym_profile").read_text().split()[-1])
    check_hits(hits)
    assert f"entries-in-buffer/entries-written: {hits}/{hits}" in (it / "trace").read_text()


def test_execution(it: Path) -> None:
    write(it / "ksym_trace_filter", "proc_dostring:--x")
    Path("/proc/sys/kernel/hostname").read_text()
    Path("/proc/sys/kernel/modprobe").read_text()
    assert set(rows(it / "trace")) == {("proc_dostring", "X")}
    assert (it / "ksym_profile").read_text().splitlines()[2].split()[:2] == ["X", "proc_dostring"]
