# SPDX-License-Identifier: BSD-2-Clause
"""Reading the running kernel's memory: a BPF program where there is BPF, else /proc/kcore."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

from ksym.linux import bpf
from ksym.linux.memory import Memory, MemoryFault

_WINDOW = 1 << 16


class BpfMemory:
    """Reads through bpf_probe_read_kernel(), which faults safely on bad addresses.

    A BPF_PROG_TYPE_SYSCALL program (5.14, commit 79a7f8bdb159) copies into an array map that is mapped here.

    Raises:
        OSError: BPF is not permitted or too old here (EPERM, EINVAL, ENOSYS).
    """

    def __init__(self) -> None:
        self._fds: list[int] = []
        self._context = ctypes.create_string_buffer(16)
        try:
            window = bpf.map_array(_WINDOW, flags=bpf.F_MMAPABLE)
            self._fds.append(window)
            self._map = mmap.mmap(window, _WINDOW, prot=mmap.PROT_READ)
            self._reader = self._load(self._read_program(window))
            self._current = self._load(self._current_program(window))
        except OSError:
            self.close()
            raise

    def _load(self, code: bytes) -> int:
        fd = bpf.load(bpf.PROG_TYPE_SYSCALL, code, flags=bpf.F_SLEEPABLE)
        self._fds.append(fd)
        return fd

    @staticmethod
    def _window_in(register: int, window: int) -> bytes:
        """``register = address of the map's bytes``: a two-slot load instruction."""
        return bpf.insn(0x18, register, bpf.PSEUDO_MAP_VALUE, 0, window) + bpf.insn(0)

    @classmethod
    def _read_program(cls, window: int) -> bytes:
        """``return probe_read_kernel(window, ctx[1], ctx[0])``, the length checked for the verifier's sake."""
        return (
            bpf.insn(0x79, 3, 1, 0)  # r3 = ctx[0], the address
            + bpf.insn(0x79, 2, 1, 8)  # r2 = ctx[1], the length
            + bpf.insn(0xB7, 0, 0, 0, -1)
            + bpf.insn(0x25, 2, 0, 3, _WINDOW)  # if r2 > window: exit
            + cls._window_in(1, window)
            + bpf.insn(0x85, 0, 0, 0, bpf.FUNC_PROBE_READ_KERNEL)
            + bpf.insn(0x95)
        )

    @classmethod
    def _current_program(cls, window: int) -> bytes:
        """``*window = current; return 0``."""
        return (
            bpf.insn(0x85, 0, 0, 0, bpf.FUNC_GET_CURRENT_TASK)
            + cls._window_in(1, window)
            + bpf.insn(0x7B, 1, 0)
            + bpf.insn(0xB7)
            + bpf.insn(0x95)
        )

    def read(self, address: int, length: int) -> bytes:
        """See Memory.read."""
        parts = []
        while length > 0:
            size = min(length, _WINDOW)
            struct.pack_into("=QQ", self._context, 0, address, size)
            if bpf.run(self._reader, self._context):
                raise MemoryFault(address)
            parts.append(self._map[:size])
            address, length = address + size, length - size
        return b"".join(parts)

    def current_task(self) -> int:
        """Address of this task's ``struct task_struct``."""
        if bpf.run(self._current, self._context):
            raise MemoryFault(0)
        return int(struct.unpack_from("=Q", self._map)[0])

    def close(self) -> None:
        """Give programs and map back."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


class CoreMemory:
    """Reads /proc/kcore, an ELF core image whose PT_LOAD headers map addresses to file offsets (man 5 proc).

    Raises:
        OSError: there is none, or it may not be read.
    """

    def __init__(self, path: str = "/proc/kcore") -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        header = self._file.read(64)
        if header[:6] != b"\x7fELF\x02\x01":
            self.close()
            raise OSError(8, f"{path} is no 64-bit ELF file")
        offset, size, count = *struct.unpack_from("<Q", header, 32), *struct.unpack_from("<HH", header, 54)
        self._segments = []
        table = os.pread(self._file.fileno(), size * count, offset)
        for at in range(0, len(table), size):
            kind, _, where, start, _, length = struct.unpack_from("<IIQQQQ", table, at)
            if kind == 1 and length:
                self._segments.append((start, length, where))

    def read(self, address: int, length: int) -> bytes:
        """See Memory.read."""
        for start, size, where in self._segments:
            if start <= address and address + length <= start + size:
                try:
                    data = os.pread(self._file.fileno(), length, where + address - start)
                except OSError:
                    break
                if len(data) == length:
                    return data
        raise MemoryFault(address)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_kernel_memory() -> Memory:
    """The best reader that this machine allows.

    Raises:
        OSError: none works; the errno is that of BPF's refusal.
    """
    try:
        return BpfMemory()
    except OSError as refusal:
        try:
            return CoreMemory()
        except OSError:
            raise refusal from None
