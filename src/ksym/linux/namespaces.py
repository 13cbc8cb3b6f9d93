# SPDX-License-Identifier: BSD-2-Clause
"""Which pid namespace ksym is in: the numbers of processes that it types, reads and shows are those of that one."""

from __future__ import annotations

import os

_INITIAL = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h


def own_pid_namespace() -> int:
    """Inode of ksym's pid namespace; 0 where it is the initial one, or the kernel has none."""
    try:
        inode = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
    return 0 if inode == _INITIAL else inode
