# SPDX-License-Identifier: BSD-2-Clause
"""Processes held right after they have mapped what is waited for: by programs in the kernel, and by tracing."""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ksym.errors import SHORT_OF, KsymError
from ksym.linux import bpf
from ksym.linux.process_memory import ProcessMemory
from ksym.symbols.elf import ElfFile
from ksym.symbols.wanted import Wanted
from ksym.watch import hold_probes
from ksym.watch.hold_layout import WAITING_BYTES, Answer, Event, Moment
from ksym.watch.hold_release import let_all_go
from ksym.watch.hold_way import Refused
from ksym.watch.holding import CannotHold, Holder
from ksym.watch.keeper import _explained
from ksym.watch.launch import Command
from ksym.watch.run import Undisturbed
from synthetic.compile import build

# The variable tells how far it has come.
PROGRAM = r"""
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
volatile int held_stage = 0x11;
__attribute__((constructor)) static void early(void) { held_stage = 0x22; }
int main(int count, char **words) {
    held_stage = 0x33;
    if (count > 1 && words[1][0] == 'v') {
        int status;
        if (vfork() == 0) { execl(words[0], words[0], (char *)0); _exit(1); }
        wait(&status);
        return 40 + WEXITSTATUS(status);
    }
    if (count > 1 && words[1][0] == 'x') execl(words[0], words[0], (char *)0);
    return 7;
}
"""
LIBRARY = r"""
volatile int held_stage = 0x11;
__attribute__((constructor)) static void early(void) { held_stage = 0x22; }
int use(void) { held_stage = 0x33; return 9; }
"""
# Starts a thread, and then runs itself again, from the first thread or the other one, as many times as it is told.
THREADED = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
volatile int held_stage = 0x11;
static char **all;
static void *again(void *unused) {
    char left[12];
    int count = atoi(all[2]);
    snprintf(left, sizeof left, "%d", count - 1);
    if (count) execl(all[0], all[0], all[1], left, (char *)0);
    exit(7);
}
static void *nothing(void *unused) { return 0; }
int main(int count, char **words) {
    pthread_t thread;
    all = words;
    held_stage = 0x33;
    pthread_create(&thread, 0, words[1][0] == 't' ? again : nothing, 0);
    pthread_join(thread, 0);
    again(0);
}
"""
LINKED = "int use(void); int main(void) { return use(); }"
LOADING = r"""
#include <dlfcn.h>
#include <pthread.h>
static char *path;
static void *load(void *unused) {
    void *library = dlopen(path, RTLD_NOW);
    int (*use)(void) = (int (*)(void))dlsym(library, "use");
    long result = use();
    dlclose(library);
    return (void *)result;
}
int main(int count, char **words) {
    long sum = 0;
    path = words[1];
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        void *result;
        pthread_create(&thread, 0, load, 0);
        pthread_join(thread, &result);
        sum += (long)result;
    }
    return sum;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of each kind, and a library."""
    where = tmp_path_factory.mktemp("held")
    build(where, "pie", PROGRAM, "-pie", "-fPIE")
    build(where, "fixed", PROGRAM, "-no-pie")
    build(where, "static", PROGRAM, "-static")
    build(where, "libheld.so", LIBRARY, "-shared", "-fPIC")
    build(where, "linked", LINKED, str(where / "libheld.so"))
    build(where, "loading", LOADING, "-pthread")
    build(where, "threaded", THREADED, "-no-pie", "-pthread")
    (where / "script").write_text(f'#!/bin/sh\nexec env "{where}/pie"\n')
    (where / "script").chmod(0o755)
    return where


@pytest.fixture(params=["probes", "tracing"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways; that of the kernel is skipped where it is not allowed."""
    name = str(request.param)
    if name == "tracing":

        def refused(*unused: object, **unused_too: object) -> None:
            raise Refused("it is not to be")

        monkeypatch.setattr(hold_probes, "Probes", refused)
    else:
        holder = Holder(Wanted(["/nothing"]), [os.getpid()])
        traces = holder.traces
        holder.close()
        if traces:
            pytest.skip("programs in the kernel are not allowed, or there is one CPU")
    return name


only_probes = pytest.mark.parametrize("way", ["probes"], indirect=True)
"""Whoever is traced cannot be traced by somebody else."""


class Held:
    """COMMAND, run until it is held."""

    def __init__(self, command: Command, wanted: Wanted, file: Path) -> None:
        self.command, self._wanted, self._file = command, wanted, file
        with Undisturbed() as signals:
            self.pid = command.run_until(wanted, signals)

    def is_mapped(self) -> bool:
        """True unless the held process has just unmapped the file."""
        assert self.pid is not None
        return self._wanted.placement(self.pid) is not None

    def stage(self) -> int:
        """What the held process has in the variable."""
        assert self.pid is not None
        placement = self._wanted.placement(self.pid)
        assert placement is not None
        (bias,) = placement[0]
        with ElfFile(self._file) as elf:
            (symbol,) = {each.value for each in elf.find("held_stage")}
        return int(struct.unpack("=i", ProcessMemory(self.pid).read(symbol + bias, 4))[0])

    def status(self) -> int:
        """Let it go, and wait for its end."""
        self.command.go()
        return ended(self.command)


def ended(command: Command) -> int:
    while command.poll() is None:
        time.sleep(0.001)
    status = command.status
    command.close()
    assert status is not None
    return status


@pytest.fixture
def hold() -> Iterator[Callable[..., Held]]:
    """Runs a command until a file is mapped."""
    commands = []

    def run(file: Path, *words: object, name: str = "") -> Held:
        command = Command([str(word) for word in words])
        commands.append(command)
        return Held(command, Wanted([name or str(file)]), file)

    yield run
    for command in commands:
        command.close()


@pytest.mark.parametrize("kind", ["pie", "fixed", "static"])
def test_a_program_is_held_before_its_constructors(
    kind: str, folder: Path, way: str, hold: Callable[..., Held]
) -> None:
    held = hold(folder / kind, folder / kind)
    assert held.pid == held.command.pid
    assert held.stage() == 0x11
    assert held.status() == 7


@pytest.mark.parametrize(
    "words", [["sh", "-c", '"$0"; exit 5'], ["env", "sh", "-c", '(exec true) & wait; exec "$0"']]
)
def test_others_that_come_first_are_passed_over(
    words: list[str], folder: Path, way: str, hold: Callable[..., Held]
) -> None:
    held = hold(folder / "pie", *words, folder / "pie")
    assert held.stage() == 0x11
    assert held.status() == (5 if "exit 5" in words[-1] else 7)


def test_a_script_that_ends_in_the_program(folder: Path, way: str, hold: Callable[..., Held]) -> None:
    held = hold(folder / "pie", folder / "script")
    assert held.stage() == 0x11
    assert held.status() == 7


def test_a_library_of_the_program(folder: Path, way: str, hold: Callable[..., Held]) -> None:
    held = hold(folder / "libheld.so", "sh", "-c", '"$0"; exit $?', folder / "linked", name="libheld.so")
    assert held.stage() == 0x11
    assert held.status() == 9


def test_a_library_that_a_thread_loads_twice(folder: Path, way: str, hold: Callable[..., Held]) -> None:
    library = folder / "libheld.so"
    held = hold(library, folder / "loading", library)
    holder = held.command.holder
    assert holder is not None
    mapped = unmapped = 0
    while held.pid is not None:
        assert held.pid == held.command.pid  # not the thread's number
        if held.is_mapped():
            assert held.stage() == 0x11
            mapped += 1
        else:
            unmapped += 1
        holder.release(held.pid)
        held.pid = next_held(holder, held.command)
    assert mapped == 2
    assert unmapped == (2 if way == "probes" else 0)
    assert ended(held.command) == 18


def test_a_program_that_executes_itself_is_held_again(
    folder: Path, way: str, hold: Callable[..., Held]
) -> None:
    held = hold(folder / "fixed", folder / "fixed", "x")
    holder = held.command.holder
    assert holder is not None
    assert held.pid is not None
    holder.release(held.pid)
    assert next_held(holder, held.command) == held.pid
    assert held.stage() == 0x11
    holder.release(held.pid)
    assert ended(held.command) == 7


@pytest.mark.parametrize("who", ["first", "thread"])
def test_a_program_with_threads_that_executes_itself_is_held_each_time(
    who: str, folder: Path, way: str, hold: Callable[..., Held]
) -> None:
    held = hold(folder / "threaded", folder / "threaded", who, 3)
    holder, first, times = held.command.holder, held.pid, 0
    assert holder is not None
    while held.pid is not None:
        assert held.pid == first
        assert held.stage() == 0x11
        times += 1
        holder.release(held.pid)
        held.pid = next_held(holder, held.command)
    assert times == 4
    assert ended(held.command) == 7


def test_a_child_of_vfork_that_executes_it(folder: Path, way: str, hold: Callable[..., Held]) -> None:
    held = hold(folder / "static", folder / "static", "v")
    holder = held.command.holder
    assert holder is not None
    first = held.pid
    assert first is not None
    holder.release(first)
    held.pid = next_held(holder, held.command)
    assert held.pid not in (None, first)
    assert held.stage() == 0x11
    assert held.pid is not None
    holder.release(held.pid)
    assert ended(held.command) == 47


def next_held(holder: Holder, command: Command) -> int | None:
    """The next process that is held; None once COMMAND has ended."""
    poll = select.poll()
    poll.register(holder, select.POLLIN)
    while not (held := holder.held()):
        if command.poll() is not None:
            return None
        poll.poll(10)
    return held[0]


TRACERS = {
    "strace": ["strace", "-o", "/dev/null"],
    "strace -f": ["strace", "-f", "-o", "/dev/null"],
    "gdb": ["gdb", "-q", "-batch", "-nx", "-ex", "set startup-with-shell on", "-ex", "run", "--args"],
}


@only_probes
@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize("kind", ["pie", "static"])
def test_a_program_that_is_traced(
    tracer: str,
    kind: str,
    folder: Path,
    way: str,
    hold: Callable[..., Held],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Held at its own first instruction: its constructors have not run."""
    words = TRACERS[tracer]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    held = hold(folder / kind, *words, folder / kind)
    assert held.pid not in (None, held.command.pid)
    assert held.stage() == 0x11
    assert held.status() == (0 if tracer == "gdb" else 7)
    assert "exited with code 07" in capfd.readouterr().out or tracer != "gdb"


@only_probes
def test_a_library_of_a_traced_program(folder: Path, way: str, hold: Callable[..., Held]) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    held = hold(folder / "libheld.so", "strace", "-o", "/dev/null", folder / "linked")
    assert held.stage() == 0x11
    assert held.status() == 9


def test_many_at_once(folder: Path, way: str) -> None:
    """Each is held at its start, also those that come while another one is held; none is missed."""
    script = 'for i in 1 2 3 4 5 6; do "$0" & done; wait; exit 8'
    wanted = Wanted([str(folder / "static")])
    held = Held(Command(["sh", "-c", script, str(folder / "static")]), wanted, folder / "static")
    holder, pids = held.command.holder, set()
    assert holder is not None
    while held.pid is not None:
        assert held.stage() == 0x11
        pids.add(held.pid)
        holder.release(held.pid)
        held.pid = next_held(holder, held.command)
    assert len(pids) == 6
    assert held.command.missed() == []
    assert ended(held.command) == 8


def test_a_command_that_never_has_it(folder: Path, way: str, hold: Callable[..., Held]) -> None:
    held = hold(folder / "pie", "sh", "-c", "(exec true) & wait; exit 6")
    assert held.pid is None
    assert held.command.status == 6


def test_programs_that_want_to_trace_are_known(folder: Path, way: str, hold: Callable[..., Held]) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    held = hold(folder / "libheld.so", "strace", "-o", "/dev/null", "true")
    assert held.pid is None
    holder = held.command.holder
    assert holder is not None
    holder.held()
    named = [os.path.basename(path) for path in holder.tracers]
    assert named == (["strace"] if way == "tracing" else [])


def test_children_of_others_keep_their_statuses(folder: Path, way: str, hold: Callable[..., Held]) -> None:
    """Children that end before COMMAND is held, while it is, and after."""

    def other(status: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["sh", "-c", f"exit {status}"])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return process

    others = [other(21)]
    held = hold(folder / "pie", "sh", "-c", '(exec true) & wait; exec "$0"', folder / "pie")
    others.append(other(22))
    assert held.status() == 7
    others.append(other(23))
    assert held.command.poll() == 7
    assert [process.wait() for process in others] == [21, 22, 23]


@pytest.mark.parametrize("moment", ["held", "later"])
def test_what_is_killed_lets_everything_go_on(moment: str, folder: Path, way: str, tmp_path: Path) -> None:
    """Ksym is killed while COMMAND is held, and while COMMAND runs on and is followed."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    ksym = os.fork()
    if ksym == 0:
        try:
            script = (
                f'"{folder}/pie"; (exec true) & wait; (exec true) & wait; echo done > {fifo}; exec sleep 0'
            )
            held = Held(Command(["sh", "-c", script]), Wanted([str(folder / "pie")]), folder / "pie")
            if moment == "later" and held.command.holder and held.pid:
                held.command.holder.release(held.pid)
                os.waitid(os.P_PID, held.command.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(ksym, 0)
    assert select.select([reading], [], [], 20)[0], "COMMAND does not go on"
    assert os.read(reading, 100) == b"done\n"
    os.close(reading)


def test_a_killed_keeper_lets_everything_go_on(folder: Path, way: str) -> None:
    """Some of those that come at once are stopped when it is killed; none stays so, and it is told."""
    script = 'for i in 1 2 3 4 5 6 7 8; do "$0" & done; wait; exit 8'
    wanted = Wanted([str(folder / "static")])
    held = Held(Command(["sh", "-c", script, str(folder / "static")]), wanted, folder / "static")
    holder = held.command.holder
    assert holder is not None
    os.kill(holder._keeper, signal.SIGKILL)
    poll = select.poll()
    poll.register(holder, select.POLLIN)
    while not holder.ended:
        poll.poll()
        holder.held()
    (note,) = holder.notes()
    assert note.startswith("part of the run is incomplete: ")
    assert note.endswith("was killed (SIGKILL)")
    assert ended(held.command) == 8


@only_probes
def test_what_waits_or_is_stopped_is_let_go(way: str) -> None:
    waiting = bpf.Map(bpf.MAP_TYPE_HASH, value=WAITING_BYTES, entries=8)
    child = subprocess.Popen(["sleep", "1000"])
    try:
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        key = struct.pack("=I", child.pid)
        waiting.update(key, struct.pack("=QQ", Answer.STOPPED, 77))
        let_all_go(waiting)
        os.waitid(os.P_PID, child.pid, os.WCONTINUED)
        assert waiting.get(key) == struct.pack("=QQ", Answer.GO, 77)
    finally:
        child.kill()
        child.wait()
        waiting.close()


class Said:
    """What `hold_probes.Probes` says, where its kernel is played."""

    def __init__(self, state: bytes | None) -> None:
        self.words: list[str] = []
        self._state = state

    def say(self, text: str) -> None:
        self.words.append(text)

    def get(self, key: bytes) -> bytes | None:
        return self._state

    def placement(self, pid: int) -> tuple[frozenset[int], ...]:
        return (frozenset({4096}),)


@pytest.mark.parametrize("since", [None, 900], ids=["ended", "gone on"])
@pytest.mark.parametrize("kept", [Answer.WAITS, Answer.STOPPED, Answer.RUNS])
def test_an_event_that_is_past_is_passed_over(
    kept: Answer, since: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the thread's next mapping would be taken for the one of that event, and let go unwatched."""
    signalled: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signalled.append((pid, number)))
    said = Said(None if since is None else struct.pack("=QQ", Answer.WAITS, since))
    probes = hold_probes.Probes.__new__(hold_probes.Probes)
    vars(probes).update(_wanted=said, _voice=said, _maps={"waiting": said}, _held={}, _seen={30: (1, ())})
    probes._look(Event(31, 30, Moment.MAPPED, kept, 0, 1, 800))
    assert said.words == []
    assert (probes._held, probes._seen) == ({}, {})
    assert signalled == ([(30, signal.SIGCONT)] if kept == Answer.STOPPED and since is None else [])


def test_the_end_of_a_held_command(folder: Path, way: str, hold: Callable[..., Held]) -> None:
    held = hold(folder / "pie", folder / "pie")
    assert held.command.end() == 128 + signal.SIGTERM
    assert held.command.holder is None


def test_without_proc_nothing_is_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = Command(["touch", str(tmp_path / "ran")])
    monkeypatch.setattr(os.path, "exists", lambda path: not str(path).startswith("/proc"))
    with Undisturbed() as signals, pytest.raises(KsymError, match="/proc is not mounted"):
        command.run_until(Wanted(["/bin/true"]), signals)
    command.close()
    assert list(tmp_path.iterdir()) == []


def test_two_commands_in_two_threads(folder: Path, way: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def run(kind: str) -> tuple[int, int]:
        command = Command(["sh", "-c", '"$0"', str(folder / kind)])
        held = Held(command, Wanted([str(folder / kind)]), folder / kind)
        return held.stage(), held.status()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, ["pie", "static"])) == [(0x11, 7)] * 2


def test_a_tracer_of_ksym_is_named(folder: Path) -> None:
    """Where only tracing is left, and somebody else does that already."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    code = f"""
from ksym.watch import hold_probes
from ksym.watch.hold_way import Refused
from ksym.watch.keeper import _explained
from ksym.watch.launch import Command
from ksym.watch.run import Undisturbed
from ksym.symbols.wanted import Wanted
def refused(*unused, **unused_too):
    raise Refused("it is not to be")
hold_probes.Probes = refused
command = Command(["true"])
try:
    command.run_until(Wanted(["{folder}/pie"]), Undisturbed())
except Exception as error:
    print(error)
command.close()
"""
    words = ["strace", "-f", "-qq", "-e", "trace=none", "-o", "/dev/null", sys.executable, "-c", code]
    names = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    out = subprocess.run(words, env=names, capture_output=True, text=True, timeout=60).stdout
    assert out.startswith(f"cannot wait for {folder}/pie: strace (process ")
    assert "(TracerPid)" in out


def test_a_name_that_no_memory_map_has() -> None:
    assert Wanted(["/no/such/file"]).placement(os.getpid()) is None
    assert Wanted([sys.executable]).placement(2**22 + 1) is None
    assert Wanted([os.path.realpath(sys.executable)]).placement(os.getpid()) is not None


def test_it_is_an_error_of_ksym() -> None:
    assert issubclass(CannotHold, KsymError)


def test_a_keeper_that_lacks_memory_says_so() -> None:
    for error in (MemoryError(), OSError(errno.ENOMEM, "no memory")):
        why, todo = _explained(error)
        assert (why, todo) == SHORT_OF[errno.ENOMEM]
    assert _explained(ValueError("odd"))[0] == "ValueError: odd"
