# SPDX-License-Identifier: BSD-2-Clause
"""A program that loads and unloads a library again and again, and what each life of its variable must show."""

from __future__ import annotations

PLUGIN = "volatile long level = 5; volatile long zeroed; void step(long by) { level += by; zeroed += by; }"
HOST = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
int main(int count, char **words) {
    int foreign = count > 2;
    for (int life = 1; life <= atoi(words[1]); life++) {
        void *plugin = dlopen("./libplug.so", RTLD_NOW);
        if (!plugin) return 9;
        void (*step)(long) = (void (*)(long))dlsym(plugin, "step");
        volatile long *level = dlsym(plugin, "level");
        step(life);
        step(life);
        dlclose(plugin);
        if (foreign) {
            void *page = (void *)((uintptr_t)level & -4096);
            int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
            if (mmap(page, 4096, PROT_READ | PROT_WRITE, flags, -1, 0) != page) return 8;
            for (int i = 0; i < 25; i++) *level = i;
            munmap(page, 4096);
        }
        /* the next life lies elsewhere */
        if (life % 2) mmap(0, 1 << 16, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    return 0;
}
"""

PARTING = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
static void *plugin;
static void (*step)(long);
static volatile long *level;
static void load(void) {
    plugin = dlopen("./libplug.so", RTLD_NOW);
    step = (void (*)(long))dlsym(plugin, "step");
    level = dlsym(plugin, "level");
}
/* words: "moved": it comes back elsewhere; "foreign": other memory is at its address meanwhile */
static void reload(const char *words) {
    void *page = (void *)((uintptr_t)level & -4096);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, use = PROT_READ | PROT_WRITE;
    dlclose(plugin);
    if (strstr(words, "moved") || strstr(words, "foreign")) {
        if (mmap(page, 4096, use, flags, -1, 0) != page) _exit(8);
    }
    if (strstr(words, "foreign")) for (int i = 0; i < 25; i++) *level = i;
    if (!strstr(words, "moved")) munmap(page, 4096);
    load();
}
int main(int count, char **words) {
    int go[2];
    char c;
    load();
    step(1);
    if (pipe(go)) return 7;
    if (!strcmp(words[1], "child")) {
        if (!fork()) {
            step(1);
            reload(words[2]);
            *level = 7;
            _exit(0);
        }
        wait(0);
        step(1);
    } else if (!strcmp(words[1], "parent")) {
        if (!fork()) {
            if (read(go[0], &c, 1) != 1) _exit(9);
            step(1);
            _exit(0);
        }
        reload(words[2]);
        for (int i = 0; i < 3; i++) step(1);
        if (write(go[1], "g", 1) != 1) return 9;
        wait(0);
    } else {
        if (!fork()) {
            pid_t middle = getpid();
            if (fork()) _exit(0);
            close(go[0]);
            while (getppid() == middle) sched_yield();
            step(1);
            reload(words[2]);
            for (int i = 0; i < 10; i++) step(1);
            _exit(0);
        }
        wait(0);
        close(go[1]);
        if (read(go[0], &c, 1)) return 9;  /* the daemon has ended */
    }
    return 0;
}
"""
PARTING_SHOWN = {
    "child": [[(5, 6), (6, 7)], [(6, 7), (5, 7)]],
    "parent": [[(5, 6), (5, 6), (6, 7), (7, 8)], [(6, 7)]],
    "daemon": [[(5, 6)], [(6, 7), *((n, n + 1) for n in range(5, 15))]],
}
"""By who unloads the library and loads it again: the writes of the first process, and of the one that it forked."""


def levels(lives: int) -> list[tuple[int, int]]:
    """Old and new value of each write to ``level``: a life begins with what the file holds."""
    return [(5 + step * life, 5 + (step + 1) * life) for life in range(1, lives + 1) for step in range(2)]
