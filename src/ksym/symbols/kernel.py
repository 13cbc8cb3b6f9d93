# SPDX-License-Identifier: BSD-2-Clause
"""The sources of knowledge about the running kernel, each opened when it is first needed."""

from __future__ import annotations

import errno
import os
from functools import cached_property
from typing import TYPE_CHECKING

from ksym.errors import SHORT_OF, KsymError, NotPermitted
from ksym.linux import privileges
from ksym.linux.files import StrPath
from ksym.linux.kernel_memory import BpfMemory, open_kernel_memory
from ksym.linux.libc import MACHINE
from ksym.linux.memory import Memory
from ksym.linux.mounted import check_mounted
from ksym.symbols.btf import Btf, BtfError
from ksym.symbols.image import KernelImage, installed_system_map, installed_vmlinux, open_system_map
from ksym.symbols.kallsyms import Kallsyms
from ksym.symbols.params import Parameters

if TYPE_CHECKING:
    from ksym.linux.direct_map import DirectMap
    from ksym.symbols.task_layout import TaskLayout


class Kernel:
    """What is known about the running kernel.

    Args:
        vmlinux: A vmlinux, or a System.map, that the user named.

    Raises:
        NotPermitted: /proc or /sys is not mounted.
    """

    def __init__(self, vmlinux: StrPath | None = None) -> None:
        check_mounted()
        self._given = vmlinux

    def check_given(self) -> None:
        """Read the file that the user named, though kallsyms may know all that is asked.

        Raises:
            KsymError: it cannot be used.
        """
        if self._given is not None:
            _ = self.image, self.system_map

    @cached_property
    def kallsyms(self) -> Kallsyms:
        """The kernel's own symbol table.

        Raises:
            NotPermitted: there is none, or its addresses are hidden.
            OSError: there are no descriptors or no memory left.
        """
        what = "cannot find kernel symbols"
        try:
            table = Kallsyms.of_this_kernel()
        except OSError as error:
            if error.errno in SHORT_OF:
                raise
            raise NotPermitted(
                what, "/proc/kallsyms cannot be read (CONFIG_KALLSYMS is off, or /proc is not mounted)",
                "use an address, or a kernel with kallsyms",
            ) from error  # fmt: skip
        if table.hidden and os.geteuid() != 0:
            raise NotPermitted(
                what, "kernel variables may be watched only by root (CAP_SYS_ADMIN)", "run it with sudo"
            )
        if table.hidden:
            why, todo = "as kernel.kptr_restrict hides the addresses", "sysctl kernel.kptr_restrict=1"
            # Up to 1 the sysctl hides them from whoever lacks this (kallsyms_show_value() in kernel/kallsyms.c).
            if (found := privileges.missing(privileges.SYSLOG)) is not None:
                why, todo = f"as {found[0]}", found[1]
            raise NotPermitted(what, f"/proc/kallsyms shows only zeros, {why}", todo)
        return table

    @cached_property
    def memory(self) -> Memory:
        """The kernel's memory.

        Raises:
            NotPermitted: it cannot be read here.
            OSError: there are no descriptors or no memory left.
        """
        try:
            return open_kernel_memory()
        except OSError as error:
            if error.errno in SHORT_OF:
                raise
            raise NotPermitted("cannot read kernel memory", *memory_refusal(error)) from error

    def close(self) -> None:
        """Close what was opened."""
        memory = self.__dict__.pop("memory", None)
        if memory is not None:
            memory.close()

    @cached_property
    def memory_or_none(self) -> Memory | None:
        """The kernel's memory, None where it cannot be read."""
        try:
            return self.memory
        except NotPermitted:
            return None

    @cached_property
    def btf(self) -> Btf | None:
        """Types of the kernel, None where it has no BTF."""
        try:
            return Btf.vmlinux()
        except BtfError:
            return None

    def module_btf(self, module: str) -> Btf | None:
        """Types of a loaded module; those of the kernel where it has none of its own."""
        if self.btf is None:
            return None
        try:
            return Btf.module(module, self.btf)
        except BtfError:
            return self.btf

    @cached_property
    def parameters(self) -> Parameters | None:
        """Module parameters, None where kernel memory cannot be read."""
        memory = self.memory_or_none
        return Parameters(self.kallsyms, memory) if memory else None

    @cached_property
    def image(self) -> KernelImage | None:
        """The vmlinux that the user named, or an installed one that belongs to this kernel.

        Raises:
            KsymError: the named one cannot be used.
        """
        if self._given is not None:
            return KernelImage(self._given, self.kallsyms) if _is_elf(self._given) else None
        found = installed_vmlinux()
        if found is None:
            return None
        try:
            return KernelImage(found, self.kallsyms)
        except KsymError:
            return None

    @cached_property
    def system_map(self) -> Kallsyms | None:
        """The System.map that the user named, or an installed one.

        Raises:
            KsymError: the named one cannot be used.
        """
        if self._given is not None:
            return None if _is_elf(self._given) else open_system_map(self._given, self.kallsyms)
        found = installed_system_map()
        if found is None:
            return None
        try:
            return open_system_map(found, self.kallsyms)
        except KsymError:
            return None

    @cached_property
    def direct_map(self) -> DirectMap | None:
        """The way from a task to its memory, None where it is not known."""
        memory = self.memory_or_none
        layout = self.tasks
        if MACHINE != "x86_64" or not isinstance(memory, BpfMemory) or layout is None:
            return None
        from ksym.linux.direct_map import find_direct_map

        return find_direct_map(memory, memory.current_task(), layout.mm, layout.pgd)

    @cached_property
    def tasks(self) -> TaskLayout | None:
        """How tasks are laid out, None where there is no BTF to tell."""
        from ksym.symbols.task_layout import task_layout

        return task_layout(self.btf) if self.btf else None

    def current_task(self) -> int | None:
        """Address of ksym's own task_struct; None where only /proc/kcore can be read."""
        memory = self.memory_or_none
        return memory.current_task() if isinstance(memory, BpfMemory) else None


def _is_elf(path: StrPath) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError as error:
        raise KsymError(
            f"cannot read {path}",
            error.strerror or "it fails",
            "give a vmlinux or a System.map of this kernel",
        ) from error


def memory_refusal(error: OSError) -> tuple[str, str]:
    """Why kernel memory cannot be read, and what to do; for the errno of BPF's refusal."""
    from ksym.linux.lockdown import CONFIDENTIAL, CONFIDENTIAL_CURE, is_confidential

    if is_confidential():
        return CONFIDENTIAL, CONFIDENTIAL_CURE
    # A filter may also answer ENOSYS, as container engines do for calls that they do not know.
    if error.errno in (errno.EPERM, errno.EACCES) or privileges.is_filtered("bpf"):
        found = privileges.refusal("bpf", privileges.BPF, privileges.SYS_ADMIN)
        found = found or privileges.refusal("bpf", privileges.PERFMON, privileges.SYS_ADMIN)
        if found is not None:
            return f"{found[0]}, and there is no readable /proc/kcore", found[1]
        return (
            "the kernel forbids BPF (a security module?), and there is no readable /proc/kcore",
            "see `dmesg`",
        )
    return (
        "this kernel has neither BPF system call programs (5.14) nor /proc/kcore",
        "give types and addresses explicitly, as in *(TYPE *)0xADDRESS",
    )
