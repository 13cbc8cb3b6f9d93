# SPDX-License-Identifier: BSD-2-Clause
"""Processes that have nothing to look into, and machines without /proc or /sys; nothing is planted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ksym.errors import KsymError
from ksym.linux import process_status
from ksym.linux.process_status import check_process
from support.program import command, environment
from synthetic.compile import build, need, running

LEADER_GONE = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
int kept = 1;
static pthread_t first;
static void *stay(void *unused) { pthread_join(first, 0); puts("on"); fflush(stdout); getchar(); exit(kept - 1); }
int main(void) { pthread_t thread; first = pthread_self(); pthread_create(&thread, 0, stay, 0); pthread_exit(0); }
"""


def ksym(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, env=environment())


def zombie() -> int:
    """A child that has ended and whose status nobody has taken yet."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_a_process_that_has_ended_is_told_as_such() -> None:
    pid = zombie()
    said = f"ksym: cannot watch process {pid}: it has ended and waits for its parent, process {os.getpid()}, "
    try:
        for words in (["trace", "./any:thing"], ["stat", "pid_max"], ["resolve", "./any:thing"]):
            done = ksym(*words, "-p", str(pid))
            assert (done.returncode, done.stderr.startswith(said)) == (125, True), done
    finally:
        os.waitpid(pid, 0)
    with pytest.raises(KsymError, match=f"process {pid}: there is no such process; see ps -e"):
        check_process(pid)


def test_a_process_whose_first_thread_has_ended_lives(tmp_path: Path) -> None:
    need("gcc")
    with running(build(tmp_path, "headless", LEADER_GONE, "-pthread")) as (pid, _):
        while process_status._stat(pid)[0] != "Z":  # it has left its memory, and ends in a moment
            os.sched_yield()
        check_process(pid)
        with pytest.raises(
            KsymError, match="its first thread has ended, and with it what /proc shows of its memory"
        ):
            check_process(pid, user=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount and become another user")
def test_a_hidden_process_is_not_taken_for_none() -> None:
    need("unshare", "mount")
    # The sources may lie where another user cannot look: they are read before.
    code = (
        "import os, sys; sys.path.insert(0, os.environ['SOURCE']); from ksym.linux.process_status import check_process;"
        "os.setgroups([]); os.setgid(65533); os.setuid(65533); check_process(1)"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc || exit 77; exec "$@"', "sh",
         sys.executable, "-c", code],
        capture_output=True, text=True, env={**environment(), "SOURCE": str(Path(process_status.__file__).parents[2])},
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("proc cannot be mounted here")
    assert "it belongs to another user, and /proc is mounted with hidepid" in done.stderr


def test_kernel_threads_have_no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_status, "_stat", lambda pid, file="stat": ("S", 2, 0x00208040))
    check_process(os.getpid())
    with pytest.raises(KsymError, match="it is a kernel thread, which has no programs and libraries"):
        check_process(os.getpid(), user=True)


def test_names_cannot_hide_the_state(tmp_path: Path) -> None:
    need("gcc")
    with running(
        build(
            tmp_path,
            "a) Z 1 (b",
            'int puts(const char *), getchar(void); int main(void) { puts("on"); return 0; }',
        )
    ):
        check_process(os.getpid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may unmount")
@pytest.mark.parametrize(
    ("folder", "cure"), [("/proc", "mount -t proc proc /proc"), ("/sys", "mount -t sysfs sysfs /sys")]
)
def test_without_a_file_system_nothing_runs(tmp_path: Path, folder: str, cure: str) -> None:
    need("gcc", "unshare", "umount")
    program = build(
        tmp_path, "mark", 'int creat(const char *, int), n; int main(void) { return creat("ran", 0600) < 0; }'
    )
    words = [
        ["trace", "./mark:n", "--", "./mark"], ["stat", "pid_max", "--", "./mark"],
        ["record", "./mark:n", "--", "./mark"],
        ["resolve", "pid_max"], ["doctor"], ["selftest"], ["mount", "."], ["demo"],
    ]  # fmt: skip
    script = 'umount -l "$1" || exit 77; shift; exec "$@"'
    for each in words:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", folder, *command(*each)],
            capture_output=True, text=True, env=environment(), cwd=tmp_path,
        )  # fmt: skip
        if done.returncode == 77:
            pytest.skip(f"{folder} cannot be unmounted here")
        said = f"ksym: cannot look into this machine: {folder} is not mounted; {cure}\n"
        assert (done.returncode, done.stderr, done.stdout) == (125, said, ""), each
    assert not (tmp_path / "ran").exists(), f"{program} ran unwatched"
    # What it advises works.
    code = "from ksym.linux.mounted import check_mounted; check_mounted()"
    script = f'umount -l "{folder}" && {cure} && exec "$@"'
    resolved = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    assert (resolved.returncode, resolved.stderr) == (0, "")
