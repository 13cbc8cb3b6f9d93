# SPDX-License-Identifier: BSD-2-Clause
"""What comes between ksym and the program that has the variable: other programs, tracers, privileges, no /proc."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.running import line, nobody, nobody_command, started, summary
from support.program import Result, command, environment, ksym
from synthetic.compile import build, need

pytestmark = pytest.mark.native

# Its exit status is its effective user, and group, so far as they are not root's.
PROGRAM = r"""
#include <unistd.h>
volatile long level;
__attribute__((noinline)) static void rise(long by) { level += by; }
int main(void) {
    rise(3);
    rise(4);
    return (geteuid() ? 1 : 0) + (getegid() ? 2 : 0);
}
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """The program, where everybody can run it."""
    where = Path("/tmp") / f"ksym-waiting-{os.getpid()}"
    where.mkdir(mode=0o755)
    try:
        build(where, "prog", PROGRAM, "-g", "-O1")
        (where / "prog").chmod(0o755)
        yield where
    finally:
        shutil.rmtree(where)


def values(result: Result) -> list[tuple[int, int]]:
    """OLD and NEW of each row."""
    return [(row["old"], row["new"]) for row in result.rows()]


@pytest.mark.parametrize(
    "words",
    [
        ["sh", "-c", "i=0; while [ $i -lt 50 ]; do (exec true); i=$((i+1)); done; exec ./prog"],
        ["strace", "-o", "/dev/null", "./prog"],
        ["strace", "-f", "-o", "/dev/null", "sh", "-c", "./prog"],
        ["gdb", "-q", "-nx", "-batch", "-ex", "run", "--args", "./prog"],
    ],
    ids=["others first", "strace", "strace -f", "gdb"],
)
def test_whatever_runs_the_program(words: list[str], folder: Path) -> None:
    need(words[0])
    result = ksym("trace", "--format", "json", "./prog:level:-w-", "--", *words, cwd=folder)
    assert values(result) == [(0, 3), (3, 7)], result
    assert result.status == 0
    assert summary(result.err).startswith("ksym: 2 accesses (2 hits), 0 lost, ")


# Maps the program that it is given, as one does that translates code: exit status 1 where its bytes differ from the
# file's, which a breakpoint does in memory alone.
TRANSLATOR = r"""
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **words) {
    struct stat status;
    int fd = open(words[1], O_RDONLY);
    fstat(fd, &status);
    char *file = sbrk(status.st_size);
    pread(fd, file, status.st_size, 0);
    char *code = mmap(0, status.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    int differs = memcmp(code, file, status.st_size) != 0;
    pid_t child = fork();
    if (!child) { execv(words[1], words + 1); _exit(9); }
    waitpid(child, 0, 0);
    return differs;
}
"""


@pytest.mark.parametrize(
    "words", [(), ("sh", "-c", 'true; "$0" "$@"; exit $?')], ids=["alone", "under a shell"]
)
def test_who_translates_code_finds_no_breakpoint_in_it(folder: Path, words: tuple[str, ...]) -> None:
    build(folder, "translate", TRANSLATOR, "-O1")
    result = ksym(
        "trace", "--format", "json", "./prog:level:-w-", "--", *words, "./translate", "./prog", cwd=folder
    )
    assert values(result) == [(0, 3), (3, 7)], result
    assert result.status == 0


# Starts a thread, and runs itself again from the other one: each of its programs adds 5 twice.
AGAIN = r"""
#include <pthread.h>
#include <unistd.h>
volatile long level;
static char **all;
__attribute__((noinline)) static void rise(long by) { level += by; }
static void *other(void *unused) {
    rise(5);
    if (all[1]) execv(all[0], all + 1);
    return 0;
}
int main(int count, char **words) {
    pthread_t thread;
    all = words;
    rise(5);
    pthread_create(&thread, 0, other, 0);
    pthread_join(thread, 0);
    return 0;
}
"""


@pytest.mark.parametrize("options", [("-no-pie",), ("-static",), ("-pie", "-fPIE")], ids=" ".join)
def test_a_program_with_threads_that_runs_itself_again(folder: Path, options: tuple[str, ...]) -> None:
    build(folder, "again", AGAIN, "-g", "-O1", "-pthread", *options)
    words = [str(folder / "again")] * 3
    result = ksym("trace", "--format", "json", "./again:level:-w-", "--", *words, cwd=folder)
    assert values(result) == [(0, 5), (5, 10)] * 3, result
    assert len({row["pid"] for row in result.rows()}) == 1


# Runs the program that it is given 60 times at once, and kills a process in the midst of it: exit status 1 where one of
# the programs has failed.
MANY = r"""
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **words) {
    int status, failed = 0;
    for (int left = 60; left; left--) {
        if (!fork()) { execl(words[1], words[1], (char *)0); _exit(9); }
        if (left == 30) kill(atoi(words[2]), SIGKILL);
    }
    while (wait(&status) > 0) failed |= status != 0;
    return failed;
}
"""


def test_a_killed_keeper_leaves_nobody_stopped(folder: Path) -> None:
    build(folder, "many", MANY, "-O1")
    os.mkfifo(folder / "fifo")
    script = "./prog; read keeper < fifo; exec ./many ./prog $keeper"
    with started(
        "trace", "--format", "json", "./prog:level:-w-", "--", "sh", "-c", script, cwd=folder
    ) as process:
        line(process)  # the first program was watched
        names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in children(process.pid)}
        (keeper,) = (pid for pid, name in names.items() if name != "sh")
        (folder / "fifo").write_text(f"{keeper}\n")
        _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    told = "part of the run is incomplete: later programs and libraries may have been watched too late"
    assert f"ksym: {told}, as the process that holds them was killed (SIGKILL)\n" in error.decode()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_under_a_tracer(folder: Path) -> None:
    need("strace")
    words = ["strace", "-f", "-qq", "-e", "trace=none", "-o", "/dev/null"]
    words += command("trace", "--format", "json", "./prog:level:-w-", "--", "./prog")
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)
    assert values(Result(done.returncode, done.stdout, done.stderr)) == [(0, 3), (3, 7)], done.stderr


BITS = {0o4755: ("setuid root", 2), 0o2755: ("setgid root", 1), 0o6755: ("setuid root and setgid root", 0)}


@pytest.mark.parametrize("mode", BITS, ids=lambda mode: f"{mode:o}")
def test_privileges_that_are_lost_are_told(mode: int, folder: Path) -> None:
    told, alone = BITS[mode]
    (folder / "prog").chmod(mode)
    prefix = nobody_command()[0][:-3]
    assert subprocess.run([*prefix, "./prog"], cwd=folder).returncode == alone
    result = nobody("trace", "-q", "./prog:level:-w-", "--", "sh", "-c", "./prog", cwd=folder)
    assert result.status == 3
    them = "them" if "and" in told else "it"
    assert (
        f"ksym: {folder}/prog is {told} and ran without {them}, since it was watched; run ksym as root\n"
    ) in result.err


def test_root_keeps_them(folder: Path) -> None:
    shutil.chown(folder / "prog", 65534, 65534)
    (folder / "prog").chmod(0o6755)
    result = ksym("trace", "-q", "./prog:level:-w-", "--", "./prog", cwd=folder)
    assert result.status == 3
    assert "ran without" not in result.err


def test_a_tracer_that_cannot_trace_is_named(folder: Path) -> None:
    need("strace")
    result = nobody("trace", "./prog:level:-w-", "--", "strace", "-o", "/dev/null", "./prog", cwd=folder)
    assert result.status == 125
    strace = os.path.realpath(str(shutil.which("strace")))
    assert (
        "ksym: cannot watch ./prog: strace ended without having it in memory: ksym traces COMMAND until it has, "
        f"so {strace} cannot; start it without ksym and use -p PID, or run ksym as root\n"
    ) in result.err


def test_without_proc_command_is_not_run(folder: Path) -> None:
    need("unshare")
    script = 'umount -l /proc && exec "$@"'
    words = ["unshare", "-m", "sh", "-c", script, "-"]
    words += command("trace", "-q", "./prog:level:-w-", "--", "sh", "-c", "echo ran; ./prog")
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 125
    assert done.stdout == ""
    assert "/proc is not mounted" in done.stderr
    assert "Traceback" not in done.stderr


# Rises by 1 and, with the library, by 2; the library is opened in between, unless it is to be left alone.
LOADS = r"""
#include <dlfcn.h>
#include <unistd.h>
volatile long level;
__attribute__((noinline)) static void rise(long by) { level += by; }
int main(int count, char **words) {
    rise(1);
    if (count > 1 && words[1][0] == 'a') return 0;
    void *library = dlopen("./libpart.so", RTLD_NOW);
    void (*part)(void) = (void (*)(void))dlsym(library, "part");
    part();
    rise(2);
    if (count > 1) execl(words[0], words[0], (char *)0);
    return 0;
}
"""
PART = "volatile long parts = 7; void part(void) { parts += 5; }"
LINKED = r"""
void part(void);
volatile long level;
int main(void) { level += 4; part(); return 0; }
"""
BOTH = ("./loads:level:-w-", "./libpart.so:parts:-w-")
NOT_SHOWN = "did with ./loads while ./libpart.so was not loaded is not shown; a run for each file shows it\n"


def build_loads(folder: Path) -> None:
    build(folder, "libpart.so", PART, "-g", "-O1", "-shared", "-fPIC")
    build(folder, "loads", LOADS, "-g", "-O1")


def named(result: Result) -> list[tuple[str, int, int]]:
    """SYMBOL, OLD and NEW of each row."""
    return [(row["symbol"], row["old"], row["new"]) for row in result.rows()]


def test_the_program_is_watched_before_it_loads_the_library_again(folder: Path) -> None:
    build_loads(folder)
    result = ksym("trace", "--format", "json", *BOTH, "--", "./loads", "twice", cwd=folder)
    level, parts = "./loads:level", "./libpart.so:parts"
    first = [(parts, 7, 12), (level, 1, 3)]
    assert named(result) == [*first, (level, 0, 1), *first], result
    assert result.err.count(NOT_SHOWN) == 1


def test_what_processes_did_without_the_library_is_told(folder: Path) -> None:
    build_loads(folder)
    script = "./loads alone; ./loads; ./loads alone"
    result = ksym("trace", "--format", "json", *BOTH, "--", "sh", "-c", script, cwd=folder)
    level, parts = "./loads:level", "./libpart.so:parts"
    assert named(result) == [(parts, 7, 12), (level, 1, 3), (level, 0, 1)], result
    assert f"ksym: what 2 processes {NOT_SHOWN}" in result.err


@pytest.mark.parametrize("words", [("stat",), ("record", "-o", "loads.ksym")], ids=["stat", "record"])
def test_other_runs_tell_it_too(words: tuple[str, ...], folder: Path) -> None:
    build_loads(folder)
    result = ksym(*words, *BOTH, "--", "./loads", cwd=folder)
    assert result.status == 0, result
    assert result.err.count(NOT_SHOWN) == 1, result


def test_who_is_traced_is_told_it_too(folder: Path) -> None:
    build_loads(folder)
    result = nobody("trace", *BOTH, "--", "./loads", cwd=folder)
    assert result.err.count(NOT_SHOWN) == 1, result


@pytest.mark.parametrize("flags", [("-pie", "-fPIE"), ("-no-pie",)], ids=["pie", "fixed"])
@pytest.mark.parametrize("before", [(), ("strace", "-o", "/dev/null")], ids=["alone", "strace"])
def test_nothing_is_missed_of_a_library_that_is_linked(
    before: tuple[str, ...], flags: tuple[str, ...], folder: Path
) -> None:
    for word in before[:1]:
        need(word)
    build_loads(folder)
    build(folder, "linked", LINKED, "-g", "-O1", *flags, "./libpart.so")
    requests = ("./linked:level:-w-", "./libpart.so:parts:-w-")
    result = ksym("trace", "--format", "json", *requests, "--", *before, "./linked", cwd=folder)
    assert named(result) == [("./linked:level", 0, 4), ("./libpart.so:parts", 7, 12)], result
    assert "is not shown" not in result.err


def test_a_program_that_was_renamed_is_the_same(folder: Path) -> None:
    build(
        folder,
        "new",
        PROGRAM.replace("volatile long level", "volatile long before[9], level = 20"),
        "-g",
        "-O1",
    )
    script = "mv prog old; ./old; cp new prog; ./prog; ./old"
    result = ksym("trace", "--format", "json", "./prog:level:-w-", "--", "sh", "-c", script, cwd=folder)
    assert values(result) == [(0, 3), (3, 7), (20, 23), (23, 27), (0, 3), (3, 7)], result
    assert [row["module"] for row in result.rows()] == ["old"] * 2 + ["prog"] * 2 + ["old"] * 2


def test_another_program_under_the_number_of_a_removed_one_is_not(folder: Path) -> None:
    build(folder, "new", PROGRAM, "-g", "-O1")
    script = "rm prog; cp new other; ./other; cp new prog; exec ./prog"
    result = ksym("trace", "--format", "json", "./prog:level:-w-", "--", "sh", "-c", script, cwd=folder)
    assert [row["module"] for row in result.rows()] == ["prog"] * 2, result
