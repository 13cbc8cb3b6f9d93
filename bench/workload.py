# SPDX-License-Identifier: BSD-2-Clause
"""What is watched: a C program that writes a variable in a loop, and a variable of the kernel."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bench.runner import BenchError, ksym, run

# Position-dependent, so that perf and bpftrace, which take numbers alone, can be told the address beforehand.
# It times its own loop, so that no tool's start-up is in the figure, and tells when it started and ended.
_LOOP_SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

volatile long %(variables)s;

static long long now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 0;
    long long used = now(CLOCK_PROCESS_CPUTIME_ID), start = now(CLOCK_MONOTONIC);
    for (long i = 0; i < count; i++)
        %(assigned)s = i;
    long long end = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    double each = count ? 1.0 / count : 0.0;
    printf("loop %%lld %%lld %%lld %%.3f %%.3f\n", start, end, cpu, (end - start) * each, (cpu - used) * each);
    return 0;
}
"""


def loop_source(*variables: str) -> str:
    """The C text of a program that writes each of these variables, 8 bytes each, as often as it is told."""
    return _LOOP_SOURCE % {"variables": ", ".join(variables), "assigned": " = ".join(variables)}


# The same on several CPUs at once, until each has made so many or the time is over.
# In virtual machines a few hits in millions reach the program as SIGTRAP and no tool at all (see runner.retried):
# it counts these and goes on.
LOOPS_SOURCE = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

volatile long counter;
static volatile long traps;
static long most;
static long long until;

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void trapped(int signal)
{
    __atomic_fetch_add(&traps, 1, __ATOMIC_RELAXED);
}

static void *loop(void *cpu)
{
    long made;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET((long)cpu, &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
    for (made = 0; made < most && (made % 64 || now() < until); made++)
        counter = made;
    return (void *)made;
}

/* loops ACCESSES SECONDS CPU... */
int main(int argc, char **argv)
{
    pthread_t threads[argc];
    void *each;
    long made = 0;
    long long start = now();
    signal(SIGTRAP, trapped);
    most = atol(argv[1]);
    until = start + atol(argv[2]) * 1000000000LL;
    for (int i = 3; i < argc; i++)
        if (pthread_create(&threads[i], NULL, loop, (void *)atol(argv[i])))
            return 1;
    for (int i = 3; i < argc; i++) {
        pthread_join(threads[i], &each);
        made += (long)each;
    }
    printf("loops %lld %ld %ld\n", now() - start, made, traps);
    return 0;
}
"""

# Parameters that every kernel has built in, and a sysctl for kernels with full kallsyms.
KERNEL_VARIABLES = ("workqueue:panic_on_stall", "rcupdate:rcu_cpu_stall_timeout", "pid_max")


@dataclass(frozen=True)
class LoopTimes:
    """What the loop program printed: CLOCK_MONOTONIC nanoseconds, and its own CPU time with that of its traps.

    The CPU time of an access hardly depends on what else runs on the machine; nor does it hold what a tool
    does in a process of its own while the program waits for it.
    """

    start: int
    end: int
    cpu_seconds: float
    ns_per_access: float
    cpu_ns_per_access: float


@dataclass(frozen=True)
class Loop:
    """The compiled program; it writes ``counter``, 8 bytes at ``address``, as often as it is told."""

    path: Path
    address: int

    def command(self, accesses: int) -> list[str]:
        """A command line that writes the variable so often."""
        return [str(self.path), str(accesses)]

    @property
    def request(self) -> str:
        """The writes, as ksym takes them."""
        return f"{self.path}:counter:-w-"

    @property
    def request_read_write(self) -> str:
        """Reads as well, of which the program makes none."""
        return f"{self.path}:counter:rw-"

    @property
    def bpftrace_probe(self) -> str:
        """The writes for bpftrace, which cannot leave the kernel's out (exec makes some)."""
        return f"watchpoint:{self.address:#x}:8:w"

    @property
    def perf_event(self) -> str:
        """The writes for perf: in user mode alone, because ksym leaves a user variable's kernel accesses out."""
        return f"mem:{self.address:#x}/8:wu"


@dataclass(frozen=True)
class LoopsTimes:
    """What the loops on several CPUs printed.

    Args:
        seconds: From the first access to the last.
        accesses: Of all threads.
        traps: Hits that reached it as signals.
    """

    seconds: float
    accesses: int
    traps: int

    @property
    def hits(self) -> int:
        """What a tool can see of the accesses. Seen with perf 6.1 and ksym alike: none of the signals was a hit too."""
        return self.accesses - self.traps


@dataclass(frozen=True)
class Loops(Loop):
    """A thread on each of some CPUs, all writing the same ``counter``."""

    most: int = 2
    """Threads, where there are as many CPUs."""
    _EVER: ClassVar = 1_000_000

    def command(self, accesses: int) -> list[str]:
        """A command line that writes the variable so often, from all threads together."""
        return self._command(accesses // len(self.cpus), self._EVER)

    def command_for(self, seconds: int) -> list[str]:
        """A command line that writes the variable for so long."""
        return self._command(1 << 62, seconds)

    @property
    def cpus(self) -> list[int]:
        """Where the threads run: one alone where there is no other CPU."""
        return sorted(os.sched_getaffinity(0))[: self.most]

    def _command(self, each: int, seconds: int) -> list[str]:
        return [str(self.path), str(each), str(seconds), *map(str, self.cpus)]


@dataclass(frozen=True)
class KernelVariable:
    """A variable that hardly anyone touches: what arming costs without hits."""

    name: str
    address: int
    length: int

    @property
    def request(self) -> str:
        """Its writes, as ksym takes them."""
        return f"{self.name}:-w-"

    @property
    def bpftrace_probe(self) -> str:
        """The same for bpftrace."""
        return f"watchpoint:{self.address:#x}:{self.length}:w"

    @property
    def perf_event(self) -> str:
        """The same for perf."""
        return f"mem:{self.address:#x}/{self.length}:w"


@dataclass(frozen=True)
class Bench:
    """What all figures share.

    Args:
        folder: For files; removed at the end.
        loop: The program that is watched.
        loops: The one on two CPUs.
        variable: The kernel variable that is watched.
        quick: Fewer and shorter runs: enough to see that all works, not to compare versions.
    """

    folder: Path
    loop: Loop
    loops: Loops
    variable: KernelVariable
    quick: bool = False


def build_loop(folder: Path) -> Loop:
    """Compile the loop program.

    Raises:
        BenchError: there is no compiler, or it fails.
    """
    return Loop(*_build(folder / "loop", loop_source("counter")))


def build_loops(folder: Path) -> Loops:
    """Compile the one on several CPUs.

    Raises:
        BenchError: there is no compiler, or it fails.
    """
    return Loops(*_build(folder / "loops", LOOPS_SOURCE, "-pthread"))


def _build(path: Path, text: str, *options: str) -> tuple[Path, int]:
    """Compile a program, and find its variable."""
    source = path.with_suffix(".c")
    source.write_text(text)
    compiled(source, path, *options)
    return path, address(path, "counter")


def compiled(source: Path, path: Path, *options: str) -> None:
    """Make a program of a C or assembler file, at addresses that are known beforehand.

    Raises:
        BenchError: there is no compiler, or it fails.
    """
    _tool(["gcc", "-O1", "-no-pie", "-g", *options, "-o", str(path), str(source)])


def address(path: Path, name: str) -> int:
    """Where a program's variable is.

    Raises:
        BenchError: it has none of that name.
    """
    for line in _tool(["nm", str(path)]).splitlines():
        words = line.split()
        if words[-1] == name:
            return int(words[0], 16)
    raise BenchError("cannot build the program to watch: nm does not show its variable")


def _tool(argv: list[str]) -> str:
    try:
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    except OSError as error:
        raise BenchError(f"cannot build the program to watch: {error.filename}: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"cannot build the program to watch: {error.stderr}") from error


def find_kernel_variable() -> KernelVariable:
    """A variable that ksym can resolve here.

    Raises:
        BenchError: none can be.
    """
    why = ""
    for name in KERNEL_VARIABLES:
        done = run(ksym("resolve", "--json", name), check=False)
        if done.status == 0:
            found = json.loads(done.stdout)
            return KernelVariable(name, int(found["address"], 16), found["length"])
        why = done.stderr.strip()
    raise BenchError(f"no kernel variable can be watched here: {why}")


def loop_times(stdout: str) -> LoopTimes:
    """Find the loop program's line in what a tool and it printed.

    Raises:
        BenchError: it is not there.
    """
    for line in stdout.splitlines():
        words = line.split()
        if len(words) == 6 and words[0] == "loop":
            return LoopTimes(
                int(words[1]), int(words[2]), int(words[3]) / 1e9, float(words[4]), float(words[5])
            )
    raise BenchError(f"the watched program did not run: {stdout[-200:]!r}")


def loops_times(stdout: str) -> LoopsTimes:
    """The same of the loops on several CPUs.

    Raises:
        BenchError: the line is not there.
    """
    for line in stdout.splitlines():
        words = line.split()
        if len(words) == 4 and words[0] == "loops":
            return LoopsTimes(int(words[1]) / 1e9, int(words[2]), int(words[3]))
    raise BenchError(f"the watched program did not run: {stdout[-200:]!r}")


def online_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
