# SPDX-License-Identifier: BSD-2-Clause
"""A program whose threads and children, of every way of starting one, write a variable so many times each."""

from __future__ import annotations

from pathlib import Path

from synthetic.compile import build

OLD = 5
"""Threads that there are before the program says that it waits."""

WRITES = {
    "old": 2 * OLD, "young": 3, "from_young": 5, "child": 7, "grandchild": 11, "vforked": 2, "of_thread": 17,
    "before_exec": 4, "parent": 13, "behind_exec": 2 * 19,
}  # fmt: skip
"""Writes by each function. Two processes execute the program again, and are watched again."""

_BEHIND = 19

_SOURCE = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#define ADD_ONE(what) __asm__ volatile("incq %0" : "+m"(what))
#define ACTOR(name, times) \
    __attribute__((noinline)) static void name(void) { for (int i = 0; i < (times); i++) ADD_ONE(shared); }
volatile long shared;
extern char **environ;
static sem_t start;
static char *self;
ACTOR(old, 2) ACTOR(young, 3) ACTOR(from_young, 5) ACTOR(child, 7) ACTOR(grandchild, 11) ACTOR(vforked, 2)
ACTOR(of_thread, 17) ACTOR(before_exec, 4) ACTOR(parent, 13) ACTOR(behind_exec, BEHIND) ACTOR(churned, 1)

static void wait_for(pid_t pid) { int status; if (waitpid(pid, &status, 0) != pid || status) _exit(9); }
static void *run_old(void *unused) { sem_wait(&start); old(); return 0; }
static void *run_from_young(void *unused) { from_young(); return 0; }
static void *run_churned(void *unused) { churned(); return 0; }
static void *run_young(void *unused) {
    pthread_t thread;
    pid_t pid;
    young();
    pthread_create(&thread, 0, run_from_young, 0);
    pthread_join(thread, 0);
    if (!(pid = fork())) { of_thread(); _exit(0); }
    wait_for(pid);
    return 0;
}
static void *run_exec(void *unused) {
    before_exec();
    execl(self, self, "behind", (char *)0);
    _exit(9);
}

static void family(void) {
    pthread_t thread;
    pid_t pid;
    char *words[] = {self, "behind", 0};
    pthread_create(&thread, 0, run_young, 0);
    pthread_join(thread, 0);
    if (!(pid = fork())) {
        child();
        if (!(pid = fork())) { grandchild(); _exit(0); }
        wait_for(pid);
        _exit(0);
    }
    wait_for(pid);
    if (!(pid = vfork())) { vforked(); _exit(0); }
    wait_for(pid);
    if (posix_spawn(&pid, self, 0, 0, words, environ)) exit(9);
    wait_for(pid);
    if (!(pid = fork())) {  /* a thread that is not the first one runs another program in place of all of them */
        pthread_create(&thread, 0, run_exec, 0);
        pthread_join(thread, 0);
        _exit(9);
    }
    wait_for(pid);
    parent();
}

int main(int count, char **words) {
    pthread_t threads[OLD], thread;
    char line[64];
    self = words[0];
    if (count > 1 && !strcmp(words[1], "behind")) { behind_exec(); return 0; }
    setvbuf(stdout, 0, _IOLBF, 0);
    for (int i = 0; i < OLD; i++) pthread_create(&threads[i], 0, run_old, 0);
    if (count > 1) {
        puts("waiting");
        while (!strcmp(words[1], "churn") && shared < 100000) {
            pthread_create(&thread, 0, run_churned, 0);
            pthread_join(thread, 0);
        }
        fgets(line, sizeof line, stdin);
    }
    for (int i = 0; i < OLD; i++) sem_post(&start);
    for (int i = 0; i < OLD; i++) pthread_join(threads[i], 0);
    family();
    return 0;
}
"""


def program(folder: Path) -> Path:
    """``prog``: with the argument ``wait`` it says ``waiting`` first, and goes on after a line.

    With ``churn`` it starts threads that write once each, one after the other, for ever.
    """
    flags = (f"-DOLD={OLD}", f"-DBEHIND={_BEHIND}")
    return build(folder, "prog", _SOURCE, "-g", "-O1", "-pthread", "-no-pie", "-w", *flags)
