# SPDX-License-Identifier: BSD-2-Clause
"""Reading the running kernel's memory: a BPF program where there is BPF, else /proc/kcore."""

from __future__ import annotations

import ctypes
import os
import struct

from ksym.linux import bpf
from ksym.linux.bpf_asm import R0, R1, R2, R3, Assembler, Helper, Program
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
        self._window = bpf.Map(bpf.MAP_TYPE_ARRAY, value=_WINDOW, mapped=True)
        try:
            self._reader = self._load(_read_program())
            self._current = self._load(_current_program())
        except OSError:
            self.close()
            raise

    def _load(self, program: Program) -> int:
        code = program.encode({"window": self._window.fd})
        fd = bpf.load(bpf.PROG_TYPE_SYSCALL, code, flags=bpf.F_SLEEPABLE, name=program.name)
        self._fds.append(fd)
        return fd

    def read(self, address: int, length: int) -> bytes:
        """See Memory.read."""
        parts = []
        while length > 0:
            size = min(length, _WINDOW)
            struct.pack_into("=QQ", self._context, 0, address, size)
            if bpf.run(self._reader, self._context):
                raise MemoryFault(address)
            parts.append(self._bytes(size))
            address, length = address + size, length - size
        return b"".join(parts)

    def current_task(self) -> int:
        """Address of this task's ``struct task_struct``."""
        if bpf.run(self._current, self._context):
            raise MemoryFault(0)
        return int.from_bytes(self._bytes(8), "little")

    def _bytes(self, length: int) -> bytes:
        assert self._window.memory is not None
        return self._window.memory[:length]

    def close(self) -> None:
        """Give programs and map back."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        self._window.close()


def _read_program() -> Program:
    """``return probe_read_kernel(window, ctx[1], ctx[0])``, the length checked for the verifier's sake."""
    asm = Assembler()
    done = asm.new_label("done")
    asm.load(R3, R1, 0)
    asm.load(R2, R1, 8)
    asm.mov(R0, -1)
    asm.jump(done, R2, ">", _WINDOW)
    asm.map_value(R1, "window")
    asm.call(Helper.PROBE_READ_KERNEL)
    asm.place(done)
    asm.exit()
    return asm.finish("ksym_read")


def _current_program() -> Program:
    """``*window = current; return 0``."""
    asm = Assembler()
    asm.call(Helper.GET_CURRENT_TASK)
    asm.map_value(R1, "window")
    asm.store(R1, 0, R0)
    asm.mov(R0, 0)
    asm.exit()
    return asm.finish("ksym_current")


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
