# SPDX-License-Identifier: BSD-2-Clause
"""bpf(2): maps and programs, and the encoding of one instruction.

Source of every number: include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from ksym.linux.libc import syscall

MAP_CREATE, PROG_LOAD, PROG_TEST_RUN = 0, 5, 10
MAP_TYPE_ARRAY = 2
PROG_TYPE_SYSCALL = 31
F_MMAPABLE = 1 << 10
F_SLEEPABLE = 1 << 4
PSEUDO_MAP_VALUE = 2
FUNC_PROBE_READ_KERNEL = 113
FUNC_GET_CURRENT_TASK = 35

_LOG_SIZE = 1 << 16


class VerifierError(OSError):
    """The verifier refused a program; ``log`` is what it said."""

    def __init__(self, number: int, log: str) -> None:
        super().__init__(number, f"bpf: {os.strerror(number)}")
        self.log = log


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    """One instruction: ``struct bpf_insn``."""
    return struct.pack("=BBhi", code, dst | src << 4, off, imm)


def map_array(value_size: int, *, flags: int = 0) -> int:
    """Create an array map of one element; returns its descriptor.

    Raises:
        OSError: the kernel refused.
    """
    return syscall("bpf", MAP_CREATE, struct.pack("=IIIII", MAP_TYPE_ARRAY, 4, value_size, 1, flags), 20)


def load(kind: int, code: bytes, *, flags: int = 0) -> int:
    """Load a program; returns its descriptor.

    Raises:
        VerifierError: the verifier refused it.
        OSError: another refusal (EPERM without CAP_BPF, EINVAL for an unknown program type).
    """
    # bpf_probe_read_kernel and bpf_get_current_task are gpl_only helpers (kernel/trace/bpf_trace.c).
    program, licence = (
        ctypes.create_string_buffer(code, len(code)),
        ctypes.create_string_buffer(b"Dual BSD/GPL"),
    )

    def attr(log: ctypes.Array[ctypes.c_char] | None) -> bytes:
        level, size, at = (1, _LOG_SIZE, ctypes.addressof(log)) if log is not None else (0, 0, 0)
        return struct.pack(
            "=IIQQIIQII16s", kind, len(code) // 8, ctypes.addressof(program), ctypes.addressof(licence),
            level, size, at, 0, flags, b"ksym",
        )  # fmt: skip

    try:
        return syscall("bpf", PROG_LOAD, attr(None), 64)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL):
            raise
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:
            return syscall("bpf", PROG_LOAD, attr(log), 64)
        except OSError as again:
            if log.value and again.errno is not None:
                raise VerifierError(again.errno, log.value.decode(errors="replace")) from None
            raise again from None


def run(program: int, context: ctypes.Array[ctypes.c_char]) -> int:
    """Run a PROG_TYPE_SYSCALL program once on ``context``; returns its 32-bit result.

    Raises:
        OSError: the kernel refused to run it.
    """
    attr = ctypes.create_string_buffer(
        struct.pack(
            "=IIIIQQIIIIQQII",
            program,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            len(context),
            0,
            ctypes.addressof(context),
            0,
            0,
            0,
        ),
        80,
    )
    syscall("bpf", PROG_TEST_RUN, attr, 72)
    return int(struct.unpack_from("=I", attr, 4)[0])
