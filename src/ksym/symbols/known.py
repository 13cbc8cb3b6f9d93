# SPDX-License-Identifier: BSD-2-Clause
"""Well-known kernel globals: their types, and ways to those that some task leads to.

Most kernels' BTF describes types and per-CPU variables only (pahole before 1.28). An entry here is a
claim about source code that may have changed, so it is used only where BTF has the type and the room that
kallsyms leaves the symbol fits it.
"""

from __future__ import annotations

TYPES = {
    "avenrun": "unsigned long[3]",
    "cpu_info": "struct cpuinfo_x86",
    "init_cred": "struct cred",
    "init_files": "struct files_struct",
    "init_fs": "struct fs_struct",
    "init_mm": "struct mm_struct",
    "init_net": "struct net",
    "init_nsproxy": "struct nsproxy",
    "init_pid_ns": "struct pid_namespace",
    "init_signals": "struct signal_struct",
    "init_task": "struct task_struct",
    "init_user_ns": "struct user_namespace",
    "init_uts_ns": "struct uts_namespace",
    "jiffies": "unsigned long",
    "jiffies_64": "u64",
    "max_threads": "int",
    "modules": "struct list_head",
    "nr_threads": "int",
    "panic_on_oops": "int",
    "panic_timeout": "int",
    "pid_max": "int",
    "pid_max_max": "int",
    "pid_max_min": "int",
    "root_user": "struct user_struct",
    "runqueues": "struct rq",
    "softnet_data": "struct softnet_data",
    "sysctl_overcommit_memory": "int",
    "total_forks": "unsigned long",
    "vm_swappiness": "int",
}

REACHABLE: dict[str, tuple[tuple[str, str], ...]] = {
    "init_task": (),
    "init_net": (("task_struct", "nsproxy"), ("nsproxy", "net_ns")),
    "init_uts_ns": (("task_struct", "nsproxy"), ("nsproxy", "uts_ns")),
    "init_pid_ns": (("task_struct", "nsproxy"), ("nsproxy", "pid_ns_for_children")),
    "init_nsproxy": (("task_struct", "nsproxy"),),
    "init_files": (("task_struct", "files"),),
    "init_fs": (("task_struct", "fs"),),
}
"""Globals that ``init_task`` leads to, by the members on the way."""
