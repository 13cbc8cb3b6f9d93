# SPDX-License-Identifier: BSD-2-Clause
"""C programs that write known values in a known order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sequence:
    """A variable and what is written to it, a value a turn.

    Args:
        name: The variable.
        declared: How C declares it.
        first: Its value at the start, as ksym shows it.
        stores: For each turn, C statements of a store each.
        shown: The variable's value after each of these stores, in order, as ksym shows it.
        member: What of the variable is watched.
        load: C statement that reads it once; "" for none.
        loads: Whether the stores read it, too.
        pieces: Registers that it takes.
    """

    name: str
    declared: str
    first: Any
    stores: tuple[str, ...]
    shown: tuple[Any, ...]
    member: str = ""
    load: str = "(void){name};"
    loads: bool = False
    pieces: int = 1

    @property
    def target(self) -> str:
        """What is watched."""
        return f"./prog:{self.name}{self.member}"


def _plain(name: str, kind: str, values: dict[str, Any], first: Any = 0) -> Sequence:
    stores = tuple(f"{name} = {value};" for value in values)
    return Sequence(name, f"{kind} volatile {name};", first, stores, tuple(values.values()))


def _number(name: str, kind: str, *values: int) -> Sequence:
    stores = tuple(f"{name} = ({kind}){value & 2**64 - 1:#x}ull;" for value in values)
    return Sequence(name, f"volatile {kind} {name};", 0, stores, values)


SEQUENCES = (
    _number("s1", "signed char", -1, 127, -128, 5, 5, 0),
    _number("u1", "unsigned char", 255, 127, 128, 5, 5, 0),
    _number("s2", "short", -2, 32767, -32768, 258, 258, 0),
    _number("u2", "unsigned short", 65534, 32767, 32768, 258, 258, 0),
    _number("s4", "int", -3, 2**31 - 1, -(2**31), 65537, 65537, 0),
    _number("u4", "unsigned", 2**32 - 3, 2**31 - 1, 2**31, 65537, 65537, 0),
    _number("s8", "long", -4, 2**63 - 1, -(2**63), 2**33 + 1, 2**33 + 1, 0),
    _number("u8", "unsigned long", 2**64 - 4, 2**63 - 1, 2**63, 2**53 + 1, 2**53 + 1, 0),
    _plain("real4", "float", {"0.5f": 0.5, "-1.5f": -1.5, "1e30f": 1e30, "0.1f": 0.1,
                              "1.0f / zero": "inf", "-0.0f": -0.0}, 0.0),
    _plain("real8", "double", {"0.1": 0.1, "-1.5": -1.5, "1e300": 1e300, "1.0 / 3": 1 / 3,
                               "-1.0 / zero": "-inf", "5e-324": 5e-324}, 0.0),
    _plain("truth", "_Bool", {"1": True, "0": False, "1u": True, "2": True, "zero": False, "1ul": True}, False),
    _plain("state", "enum state", {"BUSY": "BUSY", "BROKEN": "BROKEN", "77": 77, "IDLE": "IDLE", "0": "IDLE",
                                   "-1": "BROKEN"}, "IDLE"),
    _plain("letter", "char", {"'A'": 65, "'\\n'": 10, "-1": -1, "'z'": 122, "0": 0, "127": 127}),
    _plain("pointer", "void *", {"&object[0]": "object", "&object[2]": "object+0x10", "0": "0x0",
                                 "(void *)0x7777": "0x7777", "(char *)settle + 1": "settle+0x1",
                                 "&object[1]": "object+0x8"}, "0x0"),
    Sequence(
        "text", "char text[8] __attribute__((aligned(8)));", "",
        tuple(f'__builtin_memcpy(text, "{word}", 8);' for word in (
            r"abc\0\0\0\0", r"\0\0\0\0\0\0\0", "abcdefg", "12345678", r"\xff\"\\\0rest", r"n\n\0\0\0\0\0",
        )),
        ("abc", "", "abcdefg", "12345678", "\\xff\"\\", "n\n"), load="",
    ),
    Sequence(
        "triple", "volatile struct triple { int a; short b; short c; int d; } triple __attribute__((aligned(16)));",
        {"a": 0, "b": 0, "c": 0, "d": 0},
        ("triple.a = -1;", "triple.b = -2;", "triple.c = -3;", "triple.d = -4;", "triple.a = 7;", "triple.d = 8;"),
        ({"a": -1, "b": 0, "c": 0, "d": 0}, {"a": -1, "b": -2, "c": 0, "d": 0}, {"a": -1, "b": -2, "c": -3, "d": 0},
         {"a": -1, "b": -2, "c": -3, "d": -4}, {"a": 7, "b": -2, "c": -3, "d": -4},
         {"a": 7, "b": -2, "c": -3, "d": 8}),
        load="(void)triple.d;", pieces=2,
    ),
    Sequence(
        "fields", "volatile struct fields { unsigned flag : 1; int level : 5; unsigned rest : 10; } fields;", 0,
        ("fields.level = -16;", "fields.level = 15;", "fields.rest = 1023;", "fields.flag = 1;", "fields.level = -1;",
         "fields.level = 0;"),
        (-16, 15, 15, 15, -1, 0), member=".level", load="", loads=True,
    ),
)  # fmt: skip

TURNS = 6
"""Every sequence has as many stores."""

_THREADS = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
enum state { IDLE, BUSY = 5, BROKEN = -1 };
static volatile float zero;
long object[3];
static void settle(const char *name, int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set)) exit(77);
    prctl(PR_SET_NAME, name);
}
"""

_TURNS = r"""
static sem_t turns[2];
static char **cpus;
static void *work(void *number)
{
    long me = (long)number;
    settle(me ? "odd" : "even", atoi(cpus[1 + me]));
    for (int turn = me; turn < 6; turn += 2) {
        sem_wait(&turns[me]);
        take_turn(turn);
        sem_post(&turns[!me]);
    }
    return 0;
}
int main(int argc, char **argv)
{
    pthread_t even, odd;
    cpus = argv;
    sem_init(&turns[0], 0, 1);
    sem_init(&turns[1], 0, 0);
    pthread_create(&even, 0, work, (void *)0);
    pthread_create(&odd, 0, work, (void *)1);
    pthread_join(even, 0);
    pthread_join(odd, 0);
    return 0;
}
"""


def taking_turns() -> str:
    """Two threads, named ``even`` and ``odd``, on the CPUs of the first two arguments, that store in turn.

    In each turn every variable is read once, where it has a load, then written once.
    """
    lines = [_THREADS, *(each.declared for each in SEQUENCES)]
    lines.append("static void take_turn(int turn)\n{\n    switch (turn) {")
    for turn in range(TURNS):
        lines.append(f"    case {turn}:")
        for each in SEQUENCES:
            lines.append(f"        {each.load.format(name=each.name)} {each.stores[turn]}")
        lines.append("        break;")
    lines.append("    }\n}")
    return "\n".join([*lines, _TURNS])


RACES = 1500
"""How often each thread of RACING writes."""

RACING = (
    _THREADS
    + r"""
volatile unsigned long shared;
volatile struct pair { unsigned long first, second; } pair __attribute__((aligned(16)));
static pthread_barrier_t barrier;
static char **cpus;
static void *work(void *number)
{
    unsigned long me = (unsigned long)number;
    settle(me ? "odd" : "even", atoi(cpus[1 + me]));
    pthread_barrier_wait(&barrier);
    for (unsigned long i = 0; i < 1500; i++) shared = me << 32 | (i + 1);
    pthread_barrier_wait(&barrier);
    for (unsigned long i = 0; i < 1500; i++) { if (me) pair.second = i + 1; else pair.first = i + 1; }
    return 0;
}
int main(int argc, char **argv)
{
    pthread_t even, odd;
    cpus = argv;
    pthread_barrier_init(&barrier, 0, 2);
    pthread_create(&even, 0, work, (void *)0);
    pthread_create(&odd, 0, work, (void *)1);
    pthread_join(even, 0);
    pthread_join(odd, 0);
    return 0;
}
"""
)

FORKING = r"""
#include <sys/wait.h>
#include <unistd.h>
volatile int shared = 1;
static void chain(int step) { for (int i = 1; i <= 5; i++) shared += i * step; }
int main(void)
{
    int go[2], back[2];
    char c;
    if (pipe(go) || pipe(back)) return 1;
    shared = 2;
    if (!fork()) {
        chain(10);
        write(back[1], "x", 1);
        read(go[0], &c, 1);
        chain(10);
        if (!fork()) { chain(1000); _exit(0); }
        wait(0);
        chain(10);
        _exit(0);
    }
    read(back[0], &c, 1);
    chain(1);
    write(go[1], "x", 1);
    wait(0);
    chain(1);
    return 0;
}
"""
"""A process, its child and that one's child, each with a copy of its own, add 1 to 5 times 1, 10 and 1000 to it."""

READING = r"""
#include <unistd.h>
volatile long shared;
int main(void)
{
    int fds[2];
    if (pipe(fds)) return 1;
    for (long i = 1; i <= 5; i++) {
        long value = -i;
        if (write(fds[1], &value, 8) != 8 || read(fds[0], (void *)&shared, 8) != 8) return 1;
    }
    if (write(fds[1], (void *)&shared, 8) != 8) return 1;
    shared = 6;
    return 0;
}
"""
"""The kernel writes the variable five times and reads it once; the program writes it once."""

UNREADABLE = r"""
#include <sys/mman.h>
volatile struct {
    char before[4088];
    struct { long first, second; } both;
    char behind[4088];
} area __attribute__((aligned(4096)));
static int second_page(int access) { return mprotect((char *)&area + 4096, 4096, access); }
int main(void)
{
    area.both.first = 1;
    area.both.second = 2;
    if (second_page(PROT_NONE)) return 1;
    area.both.first = 3;
    if (second_page(PROT_READ | PROT_WRITE)) return 1;
    area.both.first = 4;
    if (munmap((char *)&area + 4096, 4096)) return 1;
    area.both.first = 5;
    return 0;
}
"""
"""A variable on two pages; the second one cannot be read at times."""

SPLIT = r"""
#include <string.h>
struct triple { int a, b, c; };
static int numbers[6][4] __attribute__((aligned(16))) = {
    {1, 2, 3}, {-1, -2, -3}, {-1, -2, -3}, {7, -2, -3}, {7, -2, 9}, {2147483647, -2147483647 - 1, 0}
};
struct { struct triple triple; int behind; } split __attribute__((aligned(16)));
int main(void)
{
    for (int i = 0; i < 6; i++)
        __asm__ volatile("movaps %1, %%xmm0\n movaps %%xmm0, %0" : "=m"(split) : "m"(numbers[i]) : "xmm0");
    for (int i = 0; i < 6; i++) {
        void *to = &split.triple, *from = numbers[i];
        long count = 12;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    }
    return 0;
}
"""
"""Writes 12 bytes, which take two registers, at once: by one store of 16 bytes, then byte by byte."""

POINTING = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
void *volatile pointer;
__attribute__((noipa)) void work(void) {}
int main(void)
{
    int local;
    pointer = work;
    pointer = stdout;
    pointer = puts;
    pointer = dlsym(dlopen("libm.so.6", RTLD_NOW), "signgam");
    pointer = malloc(1);
    pointer = &local;
    return 0;
}
"""
"""Points to its own code, to libraries, one of which is loaded meanwhile, to the heap and to the stack."""
