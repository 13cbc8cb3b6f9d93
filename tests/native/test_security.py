# SPDX-License-Identifier: BSD-2-Clause
"""docs/security.md on this kernel: what ksym opens and makes, and what others can do to it."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksym.linux.libc import MACHINE
from native.running import ONE_LINE, as_nobody, ended, nobody, readable, sample, started, summary, touch
from support.program import Result, command, environment, ksym
from synthetic.compile import build
from synthetic.elf import Image

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="what can be watched elsewhere is less"),
]

STRANGER = 12345
# It maps every file of a folder as a library, and writes its variable for each byte that it reads.
PROGRAM = r"""
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>
volatile long counter;
int main(int count, char **words) {
    char c, name[4096];
    DIR *folder = opendir(words[count - 1]);
    for (struct dirent *each; folder && (each = readdir(folder));) {
        snprintf(name, sizeof name, "%s/%s", words[count - 1], each->d_name);
        int fd = open(name, O_RDONLY);
        if (each->d_name[0] != '.') mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
        close(fd);
    }
    puts("ready");
    fflush(stdout);
    while (read(0, &c, 1) == 1) { counter = c; if (write(1, "x", 1) != 1) return 1; }
    return 0;
}
"""
LIBRARY = r"""
volatile long counter;
__attribute__((noinline)) void write_it(long n) { counter = n; }
"""
# For each byte that it reads, a pointer into a library that it has loaded is written; never is one of it followed.
LOADER = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
void *volatile pointer;
int main(int count, char **words) {
    char c;
    void *inside = dlsym(dlopen(words[count - 1], RTLD_NOW), "write_it");
    puts(inside ? "ready" : "not loaded");
    fflush(stdout);
    while (read(0, &c, 1) == 1) { pointer = inside; if (write(1, "x", 1) != 1) break; }
    _exit(0);
}
"""
FEW_FILES = 1024
"""What most systems let a program open."""


class Target:
    """A program that makes an access when it is told to."""

    def __init__(self, *words: str | Path, unprivileged: bool = False) -> None:
        prefix, names = as_nobody() if unprivileged else ([], dict(os.environ))
        self.process = subprocess.Popen(
            [*prefix, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=names, bufsize=0
        )
        self.pid = self.process.pid
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def access(self) -> None:
        """One, made when this returns."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"a")
        assert self.process.stdout.read(1) == b"x", f"it ended with {self.process.wait()}"

    def close(self) -> None:
        """End it."""
        self.process.communicate(timeout=30)


def has_open(pid: int, file: Path) -> bool:
    """Whether a process has a file open."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/{pid}/fd/{fd}") == str(file):
                return True
    return False


@pytest.fixture(scope="module")
def prog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("security"), "prog", PROGRAM, "-g", "-O1")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can look into."""
    where = Path("/tmp") / f"ksym-test-{os.getpid()}"
    where.mkdir(mode=0o755)
    try:
        yield where
    finally:
        shutil.rmtree(where)


# -- what a program under study can do -----------------------------------------------------------------


@pytest.mark.parametrize("cut", [False, True])
def test_a_library_that_is_cut_while_it_is_watched_ends_nothing(tmp_path: Path, cut: bool) -> None:
    """Its owner may cut it though it is mapped, and a mapping of ksym's would be SIGBUS."""
    library = build(tmp_path, "libx.so", LIBRARY, "-O1", "-shared", "-fPIC")
    loader = build(tmp_path, "loader", LOADER, "-g", "-O1", "-ldl")
    target = Target(loader, library)
    words = ("trace", f"{loader}:pointer:-w-", "-p", str(target.pid), "--format", "json", "--limit", "1")
    with started(*words) as process:
        while not has_open(process.pid, library):
            assert process.poll() is None
        if cut:
            os.truncate(library, 0)
        while not readable(process) and process.poll() is None:
            target.access()
        out, error = ended(process)
    target.close()
    assert process.returncode == 0, error
    row = json.loads(out.splitlines()[0])
    assert (row["access"], row["pid"], row["function"]) == ("W", target.pid, "main")
    assert ("write_it" in str(row["new"])) is not cut


@pytest.mark.parametrize("verb", ["trace", "record"])
def test_a_program_that_maps_more_files_than_ksym_may_open(tmp_path: Path, prog: Path, verb: str) -> None:
    folder = tmp_path / "libs"
    folder.mkdir()
    data = Image(build_id=bytes(range(20))).write()
    for number in range(FEW_FILES + 500):
        (folder / f"lib{number}.so").write_bytes(data)
    target = Target(prog, folder)
    data_file = tmp_path / "x.data"
    words = ["--format", "json"] if verb == "trace" else ["-o", str(data_file), "-g"]
    words = [verb, f"{prog}:counter:-w-", "-p", str(target.pid), "--limit", "3", *words]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    process = subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (min(FEW_FILES, limits[1]),) * 2),
    )  # fmt: skip
    while process.poll() is None:
        target.access()
    out, err = process.communicate()
    target.close()
    assert process.returncode == 0, err
    assert summary(err) == f"ksym: 3 accesses (3 hits), 0 lost, 0 disarmed; {prog}:counter 3"
    if verb == "record":
        out = ksym("script", str(data_file), "--format", "json").out
    assert [row["function"] for row in Result(0, out, err).rows()] == ["main"] * 3


# -- what others can see, and stop ---------------------------------------------------------------------


def test_registers_that_nobody_takes_make_a_watch_of_root_fail_in_one_line(public: Path) -> None:
    """An unprivileged user can do that: registers are first come, first served (docs/limits.md)."""
    mine = build(public, "mine", PROGRAM.replace("counter;", "counter, b, c, d;"), "-g", "-O1")
    target = Target(mine, unprivileged=True)
    requests = [f"{mine}:{name}:-w-" for name in ("counter", "b", "c", "d")]
    with started("stat", *requests, "-p", str(target.pid), unprivileged=True, cwd=public) as holder:
        result = Result(0, "", "")
        while "held perhaps by" not in result.err:
            assert holder.poll() is None
            result = ksym("stat", sample().request, "--duration", "0.01")
    target.close()
    assert result.status == 125
    assert ONE_LINE.fullmatch(result.err)
    assert f"(pid {holder.pid}, perf events)" in result.err


def test_nobody_sees_no_address_of_the_kernel(public: Path) -> None:
    mine = build(public, "mine", PROGRAM, "-g", "-O1")
    for words in (
        ("trace", f"{mine}:counter", "-g", "--format", "json"),
        ("record", f"{mine}:counter", "-g", "-o", "/dev/null"),
        ("resolve", "init_task"),
        ("doctor",),
    ):
        run = ("--", "sh", "-c", f"echo a | {mine}") if words[0] in ("trace", "record") else ()
        result = nobody(*words, *run, cwd=public)
        assert result.out + result.err
        # But the marks in a call chain, which say whose code follows.
        assert not re.search(r"\bf{4}[89a-f][0-9a-f]{11}\b", result.out + result.err), result.out


def test_a_recording_is_roots_alone_while_it_grows(tmp_path: Path) -> None:
    place = tmp_path / "x.data"
    tmp_path.chmod(0o755)
    variable = sample()
    with started("record", variable.request, "-o", str(place), "-q") as process:
        while not place.exists():
            assert process.poll() is None
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        ended(process, signal.SIGINT)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


# -- what it makes and opens ---------------------------------------------------------------------------


EXPORTS = ("csv", "jsonl", "folded", "speedscope", "perfetto")


def make_all(folder: Path, umask: int) -> None:
    """Every file that ksym makes when it is asked to."""
    variable = sample()
    reader = ("--", "cat", str(variable.file))
    runs: list[tuple[str, ...]] = [
        ("record", variable.request, "-g", "-o", "x.data", *reader),
        ("record", variable.request, "--max-size", "1M", "-o", "y.data", *reader),
        ("trace", variable.request, "-o", "trace.txt", *reader),
        ("script", "x.data", "-o", "script.txt"),
        ("report", "x.data", "--html", "x.html"),
        *(("export", "x.data", "--to", to, "-o", f"x.{to}") for to in EXPORTS),
    ]  # fmt: skip
    names = environment() | {
        "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "home"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    for words in runs:
        done = subprocess.run(
            command(*words), cwd=folder / "here", env=names, capture_output=True, text=True, umask=umask
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("umask", [0, 0o077])
def test_what_it_makes_is_for_its_owner_alone_and_nothing_else_is_made(tmp_path: Path, umask: int) -> None:
    pytest.importorskip("numpy")
    for name in ("here", "home", "tmp"):
        (tmp_path / name).mkdir()
    make_all(tmp_path, umask)
    made = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "here").iterdir()}
    endings = (*EXPORTS, "html", "data")
    assert made == dict.fromkeys(
        ["y.data", "trace.txt", "script.txt", *(f"x.{each}" for each in endings)], 0o600
    )
    assert not [*(tmp_path / "home").iterdir(), *(tmp_path / "tmp").iterdir()]


# What opens for writing, makes, moves or removes something, or speaks to other machines.
CHANGES = re.compile(
    r"(?:open(?:at)?\(.*O_(?:WRONLY|RDWR|CREAT|TRUNC)|(?:creat|mkdir|mknod|unlink|rename|link|symlink|chmod|chown|mount"
    r"|truncate)(?:at|at2)?\(|socket\(AF_INET|connect\()"
)


@pytest.mark.parametrize("verb", ["resolve", "doctor", "stat", "trace", "script", "report"])
def test_what_only_looks_changes_nothing_and_speaks_to_nobody(tmp_path: Path, verb: str) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    words = [verb] if verb == "doctor" else [verb, sample().request]
    if verb in ("stat", "trace"):
        words += ["--duration", "0.05"]
    if verb in ("script", "report"):
        pytest.importorskip("numpy")
        recorded = str(tmp_path / "x.data")
        ksym("record", sample().request, "-o", recorded, "--", "cat", str(sample().file))
        words = [verb, recorded]
    log = tmp_path / "log"
    names = environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    traced = ["strace", "-f", "-qq", "-o", str(log), "-e", "trace=%file,%network", *command(*words)]
    done = subprocess.run(traced, env=names, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = log.read_text().splitlines()
    assert len(calls) > 50
    assert [
        call for call in calls if CHANGES.match(call.partition(" ")[2].lstrip()) and "/dev/null" not in call
    ] == []


def test_command_and_actions_get_no_descriptor_of_ksyms() -> None:
    """Else COMMAND, or what it starts with fewer privileges, could read hits or keep registers."""
    look = f"{sys.executable} -c 'import os; print(sorted(map(int, os.listdir(\"/proc/self/fd\"))))'"
    variable = sample()
    result = ksym("stat", variable.request, "--", "sh", "-c", look)
    # 3 is the folder that is being listed.
    assert ast.literal_eval(result.out.splitlines()[0]) == [0, 1, 2, 3]
    with started("trace", variable.request, "--limit", "1", "-q", "--on-hit", f"exec {look}") as process:
        while not readable(process):
            touch(variable.file)
        _, error = ended(process)
    assert "[0, 1, 2, 3]" in error.splitlines()


def test_actions_get_ksyms_environment_and_nothing_of_the_row() -> None:
    """A program calls itself what it likes: its name is data on the action's standard input, and no word of a shell."""
    look = f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    variable = sample()
    with started("trace", variable.request, "--limit", "1", "-q", "--on-hit", f"exec {look}") as process:
        while not readable(process):
            touch(variable.file)
        _, error = ended(process)
    (seen,) = [json.loads(line) for line in error.splitlines() if line.startswith("{")]
    of_the_shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert {name: seen[name] for name in seen.keys() - of_the_shell} == {
        name: text for name, text in environment().items() if name not in of_the_shell
    }


# Of a process of root's: what an unprivileged user gets of its files in /proc.
LOOK = """
import os, sys
for name in sys.argv[2:]:
    path = f"/proc/{sys.argv[1]}/{name}"
    try:
        os.listdir(path) if name == "fd" else open(path, "rb").read(1)
        print(name)
    except PermissionError:
        pass
"""


def test_others_see_the_command_line_of_a_run_but_nothing_that_it_holds() -> None:
    secret = ("fd", "environ", "maps", "mem", "auxv", "cwd/.", "exe")
    prefix, names = as_nobody()
    variable = sample()
    with started("trace", variable.request) as process:
        while not readable(process):  # the header: all is planted
            assert process.poll() is None
        look = [*prefix, "/usr/bin/python3", "-c", LOOK, str(process.pid), "cmdline", *secret]
        done = subprocess.run(look, env=names, capture_output=True, text=True)
        ended(process, signal.SIGINT)
    assert (done.stdout.split(), done.stderr) == (["cmdline"], "")


def test_a_server_in_the_background_holds_nothing_of_its_caller(tmp_path: Path) -> None:
    """No descriptor, no terminal, no folder that could not be unmounted."""
    place = tmp_path / "it"
    place.mkdir()
    kept = [os.open(tmp_path, os.O_RDONLY), *os.pipe()]
    mine = {os.readlink(f"/proc/self/fd/{fd}") for fd in kept}
    try:
        words = command("mount", "--daemon", str(place))
        done = subprocess.run(words, env=environment(), capture_output=True, cwd=tmp_path, pass_fds=kept)
        assert done.returncode == 0, done.stderr
        (pid,) = [
            int(each.parent.name) for each in Path("/proc").glob("[0-9]*/cmdline")
            if os.fsencode(place) in each.read_bytes().split(b"\0")
        ]  # fmt: skip
        held = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
        assert held.count(os.devnull) == 3
        assert not mine & set(held)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getsid(pid) == pid
    finally:
        for fd in kept:
            os.close(fd)
        subprocess.run(["umount", place], check=True)
