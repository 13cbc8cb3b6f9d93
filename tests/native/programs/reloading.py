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


def levels(lives: int) -> list[tuple[int, int]]:
    """Old and new value of each write to ``level``: a life begins with what the file holds."""
    return [(5 + step * life, 5 + (step + 1) * life) for life in range(1, lives + 1) for step in range(2)]
