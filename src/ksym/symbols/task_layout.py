# SPDX-License-Identifier: BSD-2-Clause
"""Where a task's memory and its numbers are, from BTF: what programs in the kernel need to tell tasks apart."""

from __future__ import annotations

from typing import NamedTuple

from ksym.symbols.btf import Btf
from ksym.symbols.types import Struct


class TaskLayout(NamedTuple):
    """Byte offsets of members of the kernel's structures.

    Args:
        mm: ``task_struct.mm``, the task's memory; 0 in a kernel thread.
        pgd: ``mm_struct.pgd``, its page tables.
        active_mm: ``task_struct.active_mm``, which a task that gives its memory up keeps for a moment.
        group_leader: ``task_struct.group_leader``.
        thread_pid: ``task_struct.thread_pid``, a ``struct pid``.
        signal: ``task_struct.signal``, which all threads of a process have in common.
        live: ``signal_struct.live``, how many threads have not ended.
        level: ``pid.level``, how deep the task's pid namespace is.
        numbers: ``pid.numbers``, a ``struct upid`` for each namespace from the initial one on.
        number_bytes: Size of ``struct upid``.
        number: ``upid.nr``.
        namespace: ``upid.ns``.
        inode: The number of the namespace's file in ``pid_namespace``.
        users: ``mm_struct.mm_users``; 0 once nobody can use that memory any more.
        files: From ``task_struct`` to the table of descriptors: ``files``, ``fdt`` and ``fd``.
        private_data: ``file.private_data``.
    """

    mm: int
    pgd: int
    active_mm: int
    group_leader: int
    thread_pid: int
    signal: int
    live: int
    level: int
    numbers: int
    number_bytes: int
    number: int
    namespace: int
    inode: int
    users: int
    files: tuple[int, int, int]
    private_data: int


def task_layout(btf: Btf) -> TaskLayout | None:
    """The layout of a kernel's tasks; None where its BTF lacks a part of it."""

    def offset(kind: str, *names: str) -> int:
        found = btf.offset(kind, *names)
        if found is None:
            raise LookupError(names)
        return found

    upid = btf.find("struct", "upid")
    if not isinstance(upid, Struct):
        return None
    task = "task_struct"
    try:
        return TaskLayout(
            offset(task, "mm"), offset("mm_struct", "pgd"), offset(task, "active_mm"), offset(task, "group_leader"),
            offset(task, "thread_pid"), offset(task, "signal"), offset("signal_struct", "live"),
            offset("pid", "level"), offset("pid", "numbers"), upid.size, offset("upid", "nr"), offset("upid", "ns"),
            offset("pid_namespace", "ns", "inum"), offset("mm_struct", "mm_users"),
            (offset(task, "files"), offset("files_struct", "fdt"), offset("fdtable", "fd")),
            offset("file", "private_data"),
        )  # fmt: skip
    except LookupError:
        return None
