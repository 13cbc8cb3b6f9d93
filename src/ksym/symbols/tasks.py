# SPDX-License-Identifier: BSD-2-Clause
"""Finding a task's ``struct task_struct``: a walk over the kernel's list of tasks.

All offsets come from BTF. The list is read without its lock, so a task that ends meanwhile can lead astray:
then a read fails or the walk does not come back to its start, and it is done again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ksym.errors import KsymError
from ksym.linux.files import read_text
from ksym.linux.memory import MemoryFault
from ksym.linux.namespaces import own_pid_namespace
from ksym.symbols.kernel import Kernel

_MOST = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h
_TRIES = 5


class TaskList:
    """The kernel's tasks.

    Args:
        kernel: Its memory and BTF.

    Raises:
        KsymError: types or a first task are missing.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._memory = kernel.memory
        self._kernel = kernel
        if kernel.btf is None:
            raise KsymError(
                "cannot find tasks", "this kernel has no BTF, so the layout of task_struct is not known",
                "use a kernel with CONFIG_DEBUG_INFO_BTF",
            )  # fmt: skip
        self._btf = kernel.btf
        self._namespace = own_pid_namespace()
        self._tasks = self.offset("task_struct", "tasks")
        self._pid = self.offset("task_struct", "pid")
        first = kernel.current_task()
        if first is None:
            symbols = kernel.kallsyms.find("init_task")
            if not symbols:
                raise KsymError(
                    "cannot find tasks", "kallsyms has no init_task and there is no BPF to ask for the current task",
                    "run it on a kernel with CONFIG_KALLSYMS_ALL",
                )  # fmt: skip
            first = symbols[0].address
        self._first = first

    def offset(self, kind: str, *names: str) -> int:
        """Byte offset of a member, nested members one after the other."""
        found = self._btf.offset(kind, *names)
        if found is None:
            raise KsymError(
                "cannot find tasks", f"this kernel's {kind} has no {'.'.join(names)}",
                "report it with the kernel's version",
            )  # fmt: skip
        return found

    def pointer(self, address: int) -> int:
        """The pointer that is stored at ``address``."""
        return int(struct.unpack("=Q", self._memory.read(address, 8))[0])

    def number(self, address: int) -> int:
        """The int that is stored at ``address``."""
        return int(struct.unpack("=i", self._memory.read(address, 4))[0])

    def leaders(self) -> Iterator[int]:
        """Every process's first thread, and ``init_task``, which heads the list.

        A list must be walked from a thread group's leader: only those are linked.
        """
        start = self.pointer(self._first + self.offset("task_struct", "group_leader"))
        task = start
        for _ in range(_MOST):
            yield task
            task = self.pointer(task + self._tasks) - self._tasks
            if task == start:
                return
        raise MemoryFault(task)

    def init_task(self) -> int:
        """Address of ``init_task``, the one task in the list whose pid is 0."""
        return self._retry(self._find_init, "init_task")

    def _find_init(self) -> int | None:
        return next((task for task in self.leaders() if self.number(task + self._pid) == 0), None)

    def task(self, tid: int) -> int:
        """Address of the task_struct of thread ``tid``, as this process's pid namespace numbers it.

        Raises:
            KsymError: there is no such thread.
        """
        return self._retry(lambda: self._find(tid), f"task({tid})")

    def _retry(self, find: object, name: str) -> int:
        assert callable(find)
        for _ in range(_TRIES):
            try:
                found = find()
            except MemoryFault:
                continue
            if found is not None:
                return int(found)
            break
        raise KsymError(f"cannot find {name}", "there is no such task", "see ps -eL")

    def _find(self, tid: int) -> int | None:
        leader_pid = _leader(tid)
        if leader_pid is None:
            return None
        for task in self.leaders():
            if self._number_of(task) == leader_pid:
                return task if tid == leader_pid else self._find_thread(task, tid)
        return None

    def _find_thread(self, leader: int, tid: int) -> int | None:
        head = self.pointer(leader + self.offset("task_struct", "signal")) + self.offset(
            "signal_struct", "thread_head"
        )
        node = self.offset("task_struct", "thread_node")
        at = self.pointer(head)
        for _ in range(_MOST):
            if at == head:
                return None
            if self._number_of(at - node) == tid:
                return at - node
            at = self.pointer(at)
        return None

    def _number_of(self, task: int) -> int | None:
        """The thread's number in this process's pid namespace; None for one that is not in it.

        ``task->thread_pid->numbers[level]`` has the number at each level; level 0 is the initial namespace.
        """
        if not self._namespace:
            return self.number(task + self._pid)
        layout = self._kernel.tasks
        pid = self.pointer(task + layout.thread_pid) if layout else 0
        if layout is None or not pid:
            return None
        for level in range(1, self.number(pid + layout.level) + 1):
            entry = pid + layout.numbers + level * layout.number_bytes
            namespace = self.pointer(entry + layout.namespace)
            if self.number(namespace + layout.inode) & 0xFFFFFFFF == self._namespace:
                return self.number(entry + layout.number)
        return None


def _leader(tid: int) -> int | None:
    """The process that thread ``tid`` belongs to, from /proc."""
    try:
        status = read_text(f"/proc/{tid}/status")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    return None
