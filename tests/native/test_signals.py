# SPDX-License-Identifier: BSD-2-Clause
"""Watches and signals: handlers that are watched, signals that come meanwhile, and those that a hit itself sends."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections import Counter
from pathlib import Path

import pytest

from ksym.linux.libc import MACHINE, syscall
from ksym.linux.perf_event import Attr, Flag, understands
from native.programs.exact import caught
from support.apart import apart
from support.registers import RW, USER, W, X, attr, count, opened, signals
from synthetic.compile import build

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(MACHINE != "x86_64", reason="on arm64 the trap comes before the access"),
]

FIRST, SECOND = signal.SIGRTMIN, signal.SIGRTMIN + 1

# ``work`` writes ``variable``. A handler for each of two signals; that of SIGTRAP keeps what it is told.
HANDLERS = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#define ADD_ONE(what) __asm__ volatile("incq %0" : "+m"(what))
volatile long variable, after, first_calls, second_calls, traps, seen[64];
__attribute__((noinline)) void second(int number) { second_calls++; }
__attribute__((noinline)) void first(int number) { first_calls++; }
static void trapped(int number, siginfo_t *info, void *context) {
    if (traps < 16) {
        seen[4 * traps] = info->si_code;
        seen[4 * traps + 1] = (long)info->si_addr;
        memcpy((void *)&seen[4 * traps + 2], (char *)info + 24, 8);  /* si_perf_data */
        seen[4 * traps + 3] = after;
    }
    traps++;
}
__attribute__((noinline)) void work(void) { ADD_ONE(variable); after++; }
void repeat(int times) { while (times--) work(); }
int install(int one, int two) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = trapped;
    return signal(one, first) == SIG_ERR || signal(two, second) == SIG_ERR || sigaction(SIGTRAP, &action, 0);
}
"""


@pytest.fixture(scope="module")
def handlers(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("handlers")
    return ctypes.CDLL(str(build(folder, "handlers.so", HANDLERS, "-shared", "-fPIC", "-O1")))


def at(library: ctypes.CDLL, name: str) -> int:
    """Where a variable or a function of the library lies."""
    return ctypes.addressof(ctypes.c_long.in_dll(library, name))


def value(library: ctypes.CDLL, name: str) -> int:
    return ctypes.c_long.in_dll(library, name).value


# -- signals that a hit sends ------------------------------------------------------------------------------


def test_handlers_that_are_watched_themselves(handlers: ctypes.CDLL) -> None:
    """Executions of ``work`` and writes of ``variable`` send a signal, whose handler's execution sends another.

    An instruction that was interrupted in front of its execution is not watched again when the handler returns to it.
    """

    def work() -> dict[str, int]:
        times = 20
        assert not handlers.install(FIRST, SECOND)
        watched = {"work": X, "variable": W, "first": X, "second": X}
        places = [attr(kind, at(handlers, name), 8, sample_period=1) for name, kind in watched.items()]
        with opened(*places) as events:
            for event, number in zip(events, (FIRST, FIRST, SECOND), strict=False):
                signals(event, number)
            handlers.repeat(times)
            counts = dict(zip(watched, map(count, events), strict=True))
        calls = {name: value(handlers, name) for name in ("first_calls", "second_calls", "variable", "traps")}
        return {**counts, **calls, "variable": counts["variable"], "made": calls["variable"]}

    assert apart(work) == {
        "work": 20, "variable": 20, "first": 40, "second": 40, "first_calls": 40, "second_calls": 40, "made": 20,
        "traps": 0,
    }  # fmt: skip


SIGTRAP_FLAG = Flag(1 << 37)
TRAP_PERF = 6
"""si_code, asm-generic/siginfo.h."""


def with_data(made: Attr, data: int) -> bytes:
    """The attributes with ``sig_data``, the last field of PERF_ATTR_SIZE_VER7 (128 bytes, 5.13)."""
    packed = bytearray(made.pack().ljust(120, b"\0"))
    packed[4:8] = struct.pack("=I", 128)
    return bytes(packed) + struct.pack("=Q", data)


def test_a_trap_for_each_access_before_the_next_instruction(handlers: ctypes.CDLL) -> None:
    """``sigtrap``: the program itself is told, synchronously, and with the watch's own number."""
    if not understands(flags=SIGTRAP_FLAG | Flag.REMOVE_ON_EXEC):
        pytest.skip("this kernel has no sigtrap (5.13)")

    def work() -> tuple[int, list[int]]:
        assert not handlers.install(FIRST, SECOND)
        place = at(handlers, "variable")
        flags = USER & ~Flag.DISABLED | SIGTRAP_FLAG | Flag.REMOVE_ON_EXEC
        made = attr(RW, place, 8, sample_period=1, flags=flags)
        fd = syscall("perf_event_open", with_data(made, 0x1234567890), 0, -1, -1, 8)
        handlers.repeat(3)
        counted = struct.unpack("=Q", os.read(fd, 8))[0]
        os.close(fd)
        handlers.repeat(1)
        told = list((ctypes.c_long * 12).in_dll(handlers, "seen"))
        assert value(handlers, "traps") == counted
        return counted, [*told[0::4], *(found - place for found in told[1::4]), *told[2::4], *told[3::4]]

    assert apart(work) == (3, [TRAP_PERF] * 3 + [0] * 3 + [0x1234567890] * 3 + [0, 1, 2])


def test_sigtrap_needs_remove_on_exec(handlers: ctypes.CDLL) -> None:
    """As the program that comes with exec knows nothing of it, and would die."""
    if not understands(flags=SIGTRAP_FLAG | Flag.REMOVE_ON_EXEC):
        pytest.skip("this kernel has no sigtrap (5.13)")
    made = attr(RW, at(handlers, "variable"), 8, sample_period=1, flags=USER | SIGTRAP_FLAG)
    with pytest.raises(OSError, match="Invalid argument"):
        syscall("perf_event_open", with_data(made, 0), 0, -1, -1, 8)


# -- what ksym shows ---------------------------------------------------------------------------------------

# Main and the handler of SIGUSR1 write ``watched``, a timer's handler ``ticks``; ``nested`` is written on another
# stack, by a handler that has interrupted a handler. A trap that reaches the program is told by its status.
PROGRAM = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#define ADD_ONE(what) __asm__ volatile("incq %0" : "+m"(what))
volatile long watched, ticks, nested;
static volatile long traps, done;
static char stack[65536];
__attribute__((noinline)) static void usr1(int number) { ADD_ONE(watched); raise(SIGUSR2); ADD_ONE(watched); }
__attribute__((noinline)) static void usr2(int number) { ADD_ONE(nested); }
__attribute__((noinline)) static void tick(int number) { ADD_ONE(ticks); }
static void trapped(int number) { traps++; }
__attribute__((noinline)) static void loop(void) { for (int i = 0; i < 500; i++) ADD_ONE(watched); }
static void *other(void *main) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, 0);
    for (int i = 0; i < 50; i++) pthread_kill(*(pthread_t *)main, SIGUSR1), sched_yield();
    done = 1;
    return 0;
}
int main(void) {
    struct itimerval every = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    struct sigaction action;
    stack_t on = {.ss_sp = stack, .ss_size = sizeof stack};
    pthread_t self = pthread_self(), thread;
    memset(&action, 0, sizeof action);
    sigaltstack(&on, 0);
    action.sa_handler = usr2;
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR2, &action, 0);
    signal(SIGTRAP, trapped);
    signal(SIGUSR1, usr1);
    signal(SIGALRM, tick);
    setitimer(ITIMER_REAL, &every, 0);
    for (int i = 0; i < 20; i++) raise(SIGUSR1);
    loop();
    pthread_create(&thread, 0, other, &self);
    while (!done) loop();
    pthread_join(thread, 0);
    setitimer(ITIMER_REAL, &never, 0);
    signal(SIGUSR1, SIG_IGN);
    FILE *out = fopen(COUNTS, "w");
    fprintf(out, "%ld %ld %ld\n", watched, ticks, nested);
    fclose(out);
    return traps ? 128 + SIGTRAP : 0;
}
"""


@pytest.mark.parametrize(("access", "bpf"), [("rw-", True), ("rw-", False), ("-w-", True)])
def test_every_access_of_main_and_of_handlers(tmp_path: Path, access: str, bpf: bool) -> None:
    """Signals come at any moment, also when a hit is being handled: it counts once, and the program gets no trap."""
    counts = tmp_path / "counts"
    program = build(
        tmp_path, "prog", PROGRAM, "-g", "-O1", "-pthread", "-no-pie", "-w", f'-DCOUNTS="{counts}"'
    )
    requests = [f"{{}}:{name}:{access}" for name in ("watched", "ticks", "nested")]
    rows = caught(program, *requests, twin="off", bpf=bpf)
    watched, ticks, nested = map(int, counts.read_text().split())
    made = [row for row in rows if row.access != "R"]
    by_function = Counter((row.symbol.rpartition(":")[2], row.function) for row in made)
    assert set(by_function) == {
        ("watched", "usr1"), ("watched", "loop"), ("ticks", "tick"), ("nested", "usr2"),
    }  # fmt: skip
    assert by_function["ticks", "tick"] == ticks > 0
    assert by_function["nested", "usr2"] == nested >= 20
    assert by_function["watched", "usr1"] == 2 * nested
    assert by_function["watched", "loop"] % 500 == 0
    assert len([row for row in made if row.symbol.endswith(":watched")]) == watched
    assert {row.hits for row in rows} == {1}
    assert {row.access for row in made} == {"RW"}
    assert len(rows) - len(made) == (3 if access == "rw-" else 0)  # of what main prints
