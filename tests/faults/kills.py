# SPDX-License-Identifier: BSD-2-Clause
"""ksym is killed (SIGKILL) at random moments, and at those where something has just begun; what it leaves is looked at.

After each kill: every register is free, no process of ksym's is left, what it watched goes on and is not stopped, a
recording can be read as far as it was written, by perf too, a file that is written as a whole is there as a whole or
not at all, what was there before is kept, and a mount is cleaned away.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.busy import DONE, STARTED, build_busy
from faults.cases import Case
from faults.files import Files
from faults.processes import MARK, go_on, has_ended, holds, marked, state, wait_for
from ksym.commands.samples import Sample
from ksym.linux.cpus import online_cpus
from ksym.linux.mounts import mount_at
from ksym.watch.registers import free_registers, holders
from support.program import command, environment

_CLIENT = """
until [ -e at/ksym_trace_filter ]; do [ -e killed ] && exit; sleep 0.01; done
cd at || exit
echo "$KERNEL:rw-" > ksym_trace_filter
cat "$KERNEL_FILE" trace ksym_profile
echo 16 > buffer_size_kb
mkdir instances/a; echo "$KERNEL:-w-" > instances/a/ksym_trace_filter
echo stacktrace > trace_options
cat "$KERNEL_FILE" trace
rmdir instances/a
cd ..
[ -e killed ] || umount at
"""
"""What a user does in a tracing directory, to its end."""

AT_RANDOM = "at random"


@dataclass(frozen=True)
class Kill:
    """What came of one kill.

    Args:
        case: The run.
        moment: When it was killed.
        hit: It was; else it had ended before.
        problems: What was found to be wrong afterwards.
    """

    case: Case
    moment: str
    hit: bool
    problems: list[str]


@dataclass
class Kit:
    """What all runs share.

    Args:
        folder: For their files.
        sample: A variable of the kernel.
        seconds: How long each case takes when nobody kills it.
        wholes: What those that write a file as a whole write into it.
    """

    folder: Path
    sample: Sample
    seconds: dict[Case, float] = field(default_factory=dict)
    wholes: dict[Case, bytes] = field(default_factory=dict)
    _runs: int = 0

    def __post_init__(self) -> None:
        self.busy = build_busy(self.folder)
        self.value = self.sample.file.read_text()
        words = ("record", "-q", "-g", "-o", "data", "./busy:counter", "--", "./busy", "8000", "0")
        done = subprocess.run(
            command(*words, str(self.sample.file)), cwd=self.folder, env=environment(), capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()

    def run(self, case: Case) -> Run:
        """A new run of a case, in a folder of its own."""
        self._runs += 1
        folder = self.folder / f"run{self._runs}"
        folder.mkdir()
        os.link(self.busy, folder / "busy")
        return Run(self, case, folder)

    def measure(self, case: Case) -> None:
        """Let a case run to its end once: how long that takes, and what it writes; it must leave all in order, too."""
        with self.run(case).started() as run:
            begun = time.monotonic()
            ended = wait_for(lambda: run.over, seconds=60)
            self.seconds[case] = time.monotonic() - begun
            assert ended, f"{case} does not end: {run.said}"
            if case.makes_file:
                self.wholes[case] = (run.folder / "out").read_bytes()
            assert not case.daemon or not run.said.count("cannot"), run.said
            problems = run.after()
            assert not problems, (str(case), problems, run.said)

    def kill(self, case: Case, moment: str, chance: random.Random) -> Kill:
        """Start a case, kill it then, and look."""
        if case not in self.seconds and (moment == AT_RANDOM or case.makes_file):
            self.measure(case)
        with self.run(case).started() as run:
            hit = run.kill(moment, chance)
            problems = run.after()
            if problems:
                problems.append(run.said)
        return Kill(case, run.killed_at, hit, problems)


class Run:
    """One run of a case.

    Args:
        kit: What it has in common with others.
        case: What runs.
        folder: Its own.
    """

    def __init__(self, kit: Kit, case: Case, folder: Path) -> None:
        self._kit, self.case, self.folder = kit, case, folder
        self.killed_at = ""
        self._mark = folder.name + f"-{os.getpid()}"
        self._files = Files(folder, case, kit.wholes.get(case))
        sample = kit.sample
        self._values = {
            "KERNEL_FILE": str(sample.file),
            "KERNEL": sample.request,
            "DATA": str(kit.folder / "data"),
        }
        self._beside: subprocess.Popen[bytes] | None = None
        self._client: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def started(self) -> Iterator[Run]:
        """Start it, with what runs beside it; all is gone in the end."""
        self._files.prepare()
        names = {**environment(), MARK: self._mark, "OPENBLAS_NUM_THREADS": "1"}
        if self.case.beside:
            words = ["./busy", "4000", "100", self._values["KERNEL_FILE"]]
            self._beside = subprocess.Popen(words, cwd=self.folder)
            self._values["PID"] = str(self._beside.pid)
            assert wait_for((self.folder / STARTED).exists)
        if self.case.verb == "mount":
            (self.folder / "at").mkdir()
            self._client = subprocess.Popen(
                ["sh", "-c", _CLIENT], cwd=self.folder, env={**os.environ, **self._values},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        with (self.folder / "said").open("wb") as said:
            self._ksym = subprocess.Popen(
                command(*self.case.arguments(self._values)),
                cwd=self.folder,
                env=names,
                stdout=said,
                stderr=said,
            )
        self._begun = time.monotonic()
        try:
            yield self
        finally:
            self._clear()

    def _clear(self) -> None:
        """Nothing of a run that failed is there for the next one."""
        for process in (self._ksym, self._client, self._beside):
            if process is not None:
                process.kill()
                process.wait()
        for pid in marked(self._mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while mount_at(str(self.folder / "at")) is not None:
            subprocess.run(["umount", "-l", self.folder / "at"], check=True)
        if self._kit.sample.file.read_text() != self._kit.value:
            self._kit.sample.file.write_text(self._kit.value)
        shutil.rmtree(self.folder)

    @property
    def said(self) -> str:
        """What it printed."""
        return (self.folder / "said").read_text(errors="replace")

    @property
    def over(self) -> bool:
        """Whether it has ended; what is stopped meanwhile is let go on."""
        if self.case.stops:
            for pid in self._watched():
                if state(pid) == "T":
                    go_on(pid)
        return self._ksym.poll() is not None and not (self.case.daemon and self._servers())

    def _watched(self) -> list[int]:
        return [pid for pid, name in marked(self._mark).items() if name == "busy"]

    def _servers(self) -> list[int]:
        """ksym's own processes besides the first one."""
        found = marked(self._mark)
        return [pid for pid, name in found.items() if name.startswith("python") and pid != self._ksym.pid]

    # -- when ------------------------------------------------------------------------------------------

    def moments(self) -> dict[str, Callable[[], bool]]:
        """Events at which it may be killed, besides any time at all."""
        case, at = self.case, self.folder
        found: dict[str, Callable[[], bool]] = {"it says something": lambda: bool(self.said)}
        if case.verb in ("trace", "stat", "record", "selftest", "demo", "mount"):
            found["it has an event"] = lambda: self._holds("anon_inode:[perf_event]")
            found["it has a program"] = lambda: self._holds("anon_inode:bpf-prog")
        if case.has_command:
            found["COMMAND is executed"] = lambda: any(
                not name.startswith("python") for name in marked(self._mark).values()
            )
        if "sh" in case.words:
            found["COMMAND runs"] = (at / "sh.started").exists
        if case.has_command or case.beside:
            found["the program starts"] = (at / STARTED).exists
            found["the program ends"] = (at / DONE).exists
        if case.verb == "mount":
            found["it is mounted"] = lambda: mount_at(str(at / "at")) is not None
        found |= self._files.moments()
        return found

    def _holds(self, kind: str) -> bool:
        return any(
            holds(pid, kind) for pid in (self._ksym.pid, *(self._servers() if self.case.daemon else ()))
        )

    def kill(self, moment: str, chance: random.Random) -> bool:
        """Kill it at a moment; False if it has ended before."""
        later = 0.0
        if moment == AT_RANDOM:
            seconds = chance.uniform(0, self._kit.seconds[self.case])
            true: Callable[[], bool] = lambda: time.monotonic() - self._begun >= seconds  # noqa: E731
            self.killed_at = f"after {seconds:.4f} s of {self._kit.seconds[self.case]:.4f}"
        else:
            true = self.moments()[moment]
            later = chance.choice((0.0, chance.uniform(0, 0.005)))
            self.killed_at = f"when {moment}, {later * 1000:.1f} ms later"
        while not true():
            if self.over:
                return False
            time.sleep(0.0005)
        if later:
            time.sleep(later)
        victim = self._ksym.pid
        if (
            self.case.daemon
            and (servers := self._servers())
            and (self._ksym.poll() is not None or chance.random() < 0.6)
        ):
            victim = servers[0]
            self.killed_at += " (the server)"
        if self._client:
            (self.folder / "killed").touch()
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            return False
        if victim != self._ksym.pid:
            return has_ended(victim)
        return self._ksym.wait() == -signal.SIGKILL

    # -- what is left ----------------------------------------------------------------------------------

    def after(self) -> list[str]:
        """What is wrong, in sentences."""
        problems = []
        if self._client and not has_ended(self._client.pid):
            problems.append("a user of the tracing directory hangs")
        if self.case.verb == "mount":
            problems += self._mount()
        problems += self._program()
        if not wait_for(lambda: not marked(self._mark)):
            problems.append(f"processes are left: {marked(self._mark)}")
        if self._ksym.poll() is None:
            problems.append("it runs")
        if not wait_for(lambda: all(free_registers(cpu=cpu) == 4 for cpu in online_cpus())):
            free = {cpu: free_registers(cpu=cpu) for cpu in online_cpus()}
            problems.append(f"registers are taken: {free} free, {list(map(str, holders()))}")
        if self._kit.sample.file.read_text() != self._kit.value:
            problems.append("the kernel's variable has another value")
        problems += self._files.look()
        if "Traceback" in self.said or "this is a bug" in self.said:
            problems.append("it says that it has failed")
        return problems

    def _program(self) -> list[str]:
        """What is watched goes on to its end: it was started by somebody else, or by ksym before it was killed."""
        problems = []
        for pid in self._watched():
            if state(pid) in "Tt":
                if not self.case.stops:
                    problems.append("the program is stopped")
                go_on(pid)
        if self._beside and not has_ended(self._beside.pid):
            problems.append("the program beside it does not end")
        wait_for(lambda: not self._watched())
        started = any((self.folder / name).exists() for name in (STARTED, "sh.started"))
        if (started or "COMMAND is executed" in self.killed_at) and not wait_for((self.folder / DONE).exists):
            problems.append(f"the program did not come to its end: {marked(self._mark)}")
        return problems

    def _mount(self) -> list[str]:
        """A mount without a server is cleaned away by umount, or by the next one."""
        at = self.folder / "at"
        if not self.killed_at.endswith("(the server)") and self.case.daemon and self.killed_at:
            # Its server may be just starting: it ends, as nobody waits for it, or serves.
            wait_for(lambda: not self._servers() or _serves(at), seconds=5)
        if _serves(at):
            if not self.case.daemon:
                return ["the directory is served, though its server was killed"]
            again = self._again(at)
            subprocess.run(["umount", at], check=True)
            refused = again.returncode == 125 and b"a tracing directory is mounted there" in again.stderr
            return [] if refused else [f"another one is not refused: {again.stderr!r}"]
        if mount_at(str(at)) is None:
            return [f"something is left in the directory: {left}"] if (left := os.listdir(at)) else []
        if int(self.folder.name[3:]) % 2:
            done = subprocess.run(["umount", at], capture_output=True)
        else:
            again = self._again(at)
            if again.returncode or not _serves(at):
                return [f"it cannot be mounted again: {again.stderr!r}"]
            done = subprocess.run(["umount", at], capture_output=True)
        return [f"it cannot be unmounted: {done.stderr!r}"] if done.returncode else []

    def _again(self, at: Path) -> subprocess.CompletedProcess[bytes]:
        names = {**environment(), MARK: self._mark}
        with contextlib.ExitStack() as stack:
            said = stack.enter_context((self.folder / "again").open("w+b"))
            done = subprocess.run(command("mount", "--daemon", str(at)), env=names, stderr=said)
            said.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, b"", said.read())


def _serves(at: Path) -> bool:
    """Whether the tracing directory is there, and answers."""
    if mount_at(str(at)) is None:
        return False
    try:
        return (at / "tracing_on").read_text() in ("0\n", "1\n")
    except OSError:
        return False


def campaign(kit: Kit, all_cases: list[Case], count: int, seed: int) -> Iterator[Kill]:
    """Kill ``count`` runs, each command in turn: half of them at any time, half when something has just begun.

    Args:
        kit: See Kit.
        all_cases: What to run.
        count: How many.
        seed: Of chance.
    """
    order = random.Random(f"{seed}").sample(all_cases, len(all_cases))
    done = turn = 0
    while done < count:
        chance, case = random.Random(f"{seed}:{turn}"), order[turn % len(order)]
        moments = sorted(Run(kit, case, kit.folder).moments())
        # By turns: the first time round one half of the cases at any time, the next time the other half.
        moment = AT_RANDOM if sum(divmod(turn, len(order))) % 2 else chance.choice(moments)
        kill = kit.kill(case, moment, chance)
        turn += 1
        done += kill.hit
        yield kill
        if turn > 4 * count + 20:
            print(f"only {done} of {turn} runs could be killed", file=sys.stderr)
            return
