# SPDX-License-Identifier: BSD-2-Clause
"""Programs whose processes have memory in common, or copies of it, and know what each access must show."""

from __future__ import annotations

RELATIVES = """
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/wait.h>
/* Each process multiplies by a number of its own, so that the values tell who wrote after whom. */
int turn = 1; static char stack[1 << 16];
static int twin(void *by) { turn *= *(int *)by; return 0; }
static void wait_for(pid_t child) { if (waitpid(child, 0, __WALL) != child) abort(); }
int main(void) {
  int five = 5, eleven = 11; pid_t child;
  turn *= 2;
  if (!(child = fork())) {
    turn *= 3;                                                    /* the copy: 2 -> 6 */
    wait_for(clone(twin, stack + sizeof stack, CLONE_VM | SIGCHLD, &five)); /* in the copy: 6 -> 30 */
    turn *= 7;                                                    /* 30 -> 210 */
    if (!(child = fork())) { turn += 1; _exit(0); }               /* a copy of the copy: 210 -> 211 */
    wait_for(child); turn -= 10; _exit(0);                        /* 210 -> 200 */
  }
  wait_for(child);
  if (!(child = vfork())) { turn *= eleven; _exit(0); }           /* 2 -> 22 */
  wait_for(child); turn *= 13;                                    /* 22 -> 286 */
  return 0;
}
"""
RELATIVES_SHOWN = [(1, 2), (2, 6), (6, 30), (30, 210), (210, 211), (210, 200), (2, 22), (22, 286)]

HASTY = """
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/wait.h>
/* A thread goes on writing while another forks: what a child's copy holds, only the child can say. It leaves its
   complement, so that OLD and NEW of its row are complements of each other where OLD is right. */
volatile unsigned hot; volatile int over;
static void *busy(void *none) { while (!over) hot++; return none; }
int main(int count, char **words) {
  pthread_t thread; pthread_create(&thread, 0, busy, 0);
  while (hot < 10) ;
  for (int n = atoi(words[1]); n; n--) {
    pid_t child = fork(); if (!child) { hot = ~hot; _exit(0); } waitpid(child, 0, 0);
  }
  over = 1; pthread_join(thread, 0); return 0;
}
"""

SHORT_LIVED = """
#include <stdlib.h>
#include <unistd.h>
#include <spawn.h>
#include <sys/wait.h>
/* The kernel uses the structures of an address space again for the next one, also for that of another program. */
int mark = 7; extern char **environ;
int main(int count, char **words) {
  for (int n = 1; n <= atoi(words[1]); n++) {
    pid_t child = fork(); if (!child) { mark = 1000 + n; _exit(0); } waitpid(child, 0, 0);
    char *other[] = {"/bin/true", 0};
    if (n % 8 == 0 && !posix_spawn(&child, other[0], 0, 0, other, environ)) waitpid(child, 0, 0);
  }
  mark = 8; return 0;
}
"""

IN_COMMON = """
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>
/* Two processes write in turn into a page that both have, and each into a page of its own, once stdin ends; until then
   the first one ticks. */
struct page { volatile long shared; } *common; volatile long own, ticks;
static int ping[2], pong[2];
static void turn(int fd) { char c; if (read(fd, &c, 1) != 1) abort(); }
static void pass(int fd) { if (write(fd, "", 1) != 1) abort(); }
int main(void) {
  common = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (common == MAP_FAILED || pipe(ping) || pipe(pong)) return 1;
  int child = 0, early = !!getenv("EARLY"); if (early) child = !fork();
  if (!child) { struct pollfd go = {0, POLLIN}; puts("ready"); fflush(stdout); while (!poll(&go, 1, 1)) ticks++; }
  if (!early) child = !fork();
  for (int n = 0; n < 20; n++) {
    if (child) turn(ping[0]);
    common->shared += 1; own += child ? 100 : 1;
    pass(child ? pong[1] : ping[1]);
    if (!child) turn(pong[0]);
  }
  if (!child) wait(0);
  return 0;
}
"""

BY_THE_KERNEL = """
#include <stdlib.h>
#include <unistd.h>
/* Between the program's own accesses read(2) writes the variable. */
volatile int level = 4; volatile int sink; static int pipes[2];
static void put(int value) {
  if (write(pipes[1], &value, 4) != 4 || read(pipes[0], (void *)&level, 4) != 4) abort();
}
int main(void) {
  if (pipe(pipes)) return 1;
  level = 5; put(6); level = 6; put(9); level = 6; sink = level; return 0;
}
"""

BEHIND_ITS_BACK = """
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/wait.h>
/* A child writes its parent's variable through /proc, which no register sees. */
volatile int level = 4; volatile int sink;
static void poke(int value) {
  pid_t child = fork();
  if (!child) {
    char name[64]; snprintf(name, sizeof name, "/proc/%d/mem", getppid());
    int fd = open(name, O_RDWR);
    _exit(pwrite(fd, &value, sizeof value, (off_t)&level) != sizeof value);
  }
  int status; if (waitpid(child, &status, 0) != child || status) abort();
}
int main(void) { level = 5; poke(70); sink = level; level = 6; poke(71); return 0; }
"""

TICKING = """
#include <poll.h>
#include <stdio.h>
/* Writes the one variable until stdin ends, and the other never. */
volatile int level = 4, ticks;
int main(void) {
  struct pollfd go = {0, POLLIN}; printf("%p\\n", (void *)&level); fflush(stdout);
  while (!poll(&go, 1, 1)) ticks++;
  return 0;
}
"""

COVERED = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>
/* The program shares its own variable's page with its children, by a mapping over it that nobody has told of. */
int common[1024] __attribute__((aligned(4096))) = {5};
static void wait_for(pid_t child) { if (waitpid(child, 0, 0) != child) abort(); }
int main(void) {
  int file = memfd_create("common", 0); pid_t child;
  if (write(file, common, sizeof common) != sizeof common) abort();
  mmap(common, sizeof common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
  common[0] *= 3;
  if (!(child = fork())) {
    common[0] += 2;
    if (!(child = fork())) { common[0] *= 7; _exit(0); }
    wait_for(child); common[0] += 4; _exit(0);
  }
  wait_for(child); common[0] *= 9;
  return 0;
}
"""
COVERED_SHOWN = [(5, 15), (15, 17), (17, 119), (119, 123), (123, 1107)]
