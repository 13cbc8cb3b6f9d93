# SPDX-License-Identifier: BSD-2-Clause
"""The program that is watched: it touches a variable of its own and one of the kernel, and tells how far it came."""

from __future__ import annotations

from pathlib import Path

from synthetic.compile import build

STARTED, DONE = "busy.started", "busy.done"
"""Files of its folder: it has started, with its pid; it has come to its end."""

SOURCE = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
volatile long counter;
static volatile long traps;
static void trapped(int number) { traps++; }
__attribute__((noinline)) void put(long value) { counter = value; }
__attribute__((noinline)) long get(void) { return counter; }
static void tell(const char *name, long number)
{
    FILE *file = fopen(name, "w");
    fprintf(file, "%ld\n", number);
    fclose(file);
}
static void asked(int number)
{
    tell("busy.done", -1); /* ksym ends COMMAND when a limit is reached */
    _exit(0);
}
/* busy ROUNDS PAUSE_US KERNEL_FILE */
int main(int count, char **words)
{
    char held[64];
    long rounds = atol(words[1]), pause = atol(words[2]);
    int file = open(words[3], O_RDWR);
    signal(SIGTRAP, trapped); /* hits that a hypervisor lets through as signals: docs/limits.md */
    signal(SIGTERM, asked);
    tell("busy.started", getpid());
    for (long i = 0; i < rounds; i++) {
        put(i);
        if (i % 4 == 0)
            get();
        if (i % 100 == 0)
            pwrite(file, held, pread(file, held, sizeof held, 0), 0);
        if (pause)
            usleep(pause);
    }
    tell("busy.done", traps);
    return 0;
}
"""


def build_busy(folder: Path) -> Path:
    """Compile it; the test is skipped where there is no compiler."""
    return build(folder, "busy", SOURCE, "-g", "-O1", "-fno-omit-frame-pointer", "-no-pie")
