# SPDX-License-Identifier: BSD-2-Clause
"""bpf(2): maps and programs.

Source of every number: include/uapi/linux/bpf.h. Instructions are put together by ``bpf_asm``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import struct
from collections.abc import Callable, Iterator

from ksym.linux.libc import syscall

_MAP_CREATE, _MAP_LOOKUP_ELEM, _MAP_UPDATE_ELEM, _MAP_DELETE_ELEM, _MAP_GET_NEXT_KEY = range(5)
_PROG_LOAD, _PROG_TEST_RUN, _RAW_TRACEPOINT_OPEN, _LINK_CREATE = 5, 10, 17, 28
_ATTACH_PERF_EVENT = 41
MAP_TYPE_HASH, MAP_TYPE_ARRAY, MAP_TYPE_PERF_EVENT_ARRAY, MAP_TYPE_PERCPU_HASH, MAP_TYPE_LRU_HASH = (
    1,
    2,
    4,
    5,
    9,
)
MAP_TYPE_PROG_ARRAY, MAP_TYPE_RINGBUF = 3, 27
PROG_TYPE_KPROBE, PROG_TYPE_PERF_EVENT, PROG_TYPE_RAW_TRACEPOINT, PROG_TYPE_SYSCALL = 2, 7, 17, 31
F_MMAPABLE = 1 << 10
NOEXIST, _EXIST = 1, 2  # BPF_NOEXIST, BPF_EXIST
F_SLEEPABLE = 1 << 4

_LOG_SIZE = 1 << 16


class VerifierError(OSError):
    """The verifier refused a program; ``log`` is what it said."""

    def __init__(self, number: int, log: str) -> None:
        super().__init__(number, f"bpf: {os.strerror(number)}")
        self.log = log


class Map:
    """One map, and its memory where that can be mapped.

    Args:
        kind: MAP_TYPE_*.
        key: Bytes of a key.
        value: Bytes of a value.
        entries: At most so many.
        mapped: It is an array whose bytes are to be shared with this process (5.5, commit fc9702273e2e).

    Raises:
        OSError: the kernel refused.
    """

    def __init__(
        self, kind: int, *, key: int = 4, value: int = 4, entries: int = 1, mapped: bool = False
    ) -> None:
        attr = struct.pack("=IIIII", kind, key, value, entries, F_MMAPABLE if mapped else 0)
        self.fd = _charged(lambda: syscall("bpf", _MAP_CREATE, attr, len(attr)))
        self._key, self._value = ctypes.create_string_buffer(key), ctypes.create_string_buffer(value)
        self.memory: mmap.mmap | None = None
        """The bytes of a mapped array; elements lie 8-byte aligned."""
        if mapped:
            size = -(-value // 8) * 8 * entries
            try:
                self.memory = mmap.mmap(self.fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
            except BaseException:
                os.close(self.fd)
                raise

    @classmethod
    def of(cls, fd: int, *, key: int = 4, value: int = 4) -> Map:
        """Return the map of a descriptor that another process has sent."""
        found = cls.__new__(cls)
        found.fd, found.memory = fd, None
        found._key, found._value = ctypes.create_string_buffer(key), ctypes.create_string_buffer(value)
        return found

    def update(self, key: bytes, value: bytes, flags: int = 0, *, only_if_there: bool = False) -> None:
        """Set an element.

        Args:
            key: Its key.
            value: Its value.
            only_if_there: Do not make a new element.
            flags: NOEXIST: do not change one that is there.

        Raises:
            OSError: the kernel refused (E2BIG: the map is full; ENOENT: the element is not there; EEXIST: it is).
        """
        self._key.raw, self._value.raw = key, value
        flags |= _EXIST if only_if_there else 0
        syscall("bpf", _MAP_UPDATE_ELEM, self._attr(self._key, self._value, flags), 32)

    def get(self, key: bytes) -> bytes | None:
        """The value of an element (not of a per-CPU map); None where there is none."""
        self._key.raw = key
        try:
            syscall("bpf", _MAP_LOOKUP_ELEM, self._attr(self._key, self._value), 32)
        except FileNotFoundError:
            return None
        return self._value.raw

    def delete(self, key: bytes) -> None:
        """Drop an element of a hash, if it is there."""
        self._key.raw = key
        with contextlib.suppress(FileNotFoundError):
            # what lies behind the key must be 0
            syscall("bpf", _MAP_DELETE_ELEM, self._attr(self._key, self._value)[:16] + bytes(16), 32)

    def items(self, value: int) -> Iterator[tuple[bytes, bytes]]:
        """All elements of a hash; entries that come or go meanwhile may be missed.

        Args:
            value: Bytes that the kernel gives: for a per-CPU map those of all possible CPUs, 8-byte aligned.
        """
        following, out = ctypes.create_string_buffer(len(self._key)), ctypes.create_string_buffer(value)
        key = None
        while True:
            try:
                syscall("bpf", _MAP_GET_NEXT_KEY, self._attr(key, following), 32)
            except FileNotFoundError:
                return
            key = ctypes.create_string_buffer(following.raw, len(following))
            with contextlib.suppress(FileNotFoundError):
                syscall("bpf", _MAP_LOOKUP_ELEM, self._attr(key, out), 32)
                yield key.raw, out.raw

    def _attr(
        self, key: ctypes.Array[ctypes.c_char] | None, value: ctypes.Array[ctypes.c_char], flags: int = 0
    ) -> bytes:
        at = 0 if key is None else ctypes.addressof(key)
        return struct.pack("=IxxxxQQQ", self.fd, at, ctypes.addressof(value), flags)

    def close(self) -> None:
        """Give it back; programs that use it keep it alive for themselves."""
        if self.fd >= 0:
            if self.memory is not None:
                self.memory.close()
            os.close(self.fd)
            self.fd = -1


def _charged(create: Callable[[], int]) -> int:
    """Create a map or program; again without a limit on locked memory where it may be that which refuses it.

    Before 5.11 (3ac1f01b43b6) they count as locked memory, of which 64 KiB are the default, for root too.
    """
    try:
        return create()
    except PermissionError:
        before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except (OSError, ValueError):
            pass  # without CAP_SYS_RESOURCE; so it was not for the limit alone
        else:
            try:
                return create()
            finally:
                resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
        raise


def load(kind: int, code: bytes, *, flags: int = 0, name: str = "ksym") -> int:
    """Load a program; returns its descriptor. ``name`` is what ``bpftool prog`` shows: 15 letters, digits, ``_``.

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
            level, size, at, 0, flags, name.encode()[:15],
        )  # fmt: skip

    try:
        return _charged(lambda: syscall("bpf", _PROG_LOAD, attr(None), 64))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL):
            raise
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:
            return _charged(lambda: syscall("bpf", _PROG_LOAD, attr(log), 64))
        except OSError as again:
            if log.value and again.errno is not None:
                raise VerifierError(again.errno, log.value.decode(errors="replace")) from None
            raise again from None


def link(program: int, event: int) -> int:
    """Attach a program to a perf event until the descriptor that this returns is closed (5.15, commit b89fbfbb854c).

    Raises:
        OSError: EINVAL where the kernel has no such links.
    """
    return syscall("bpf", _LINK_CREATE, struct.pack("=IIIIQ", program, event, _ATTACH_PERF_EVENT, 0, 0), 24)


def raw_tracepoint(program: int, name: str) -> int:
    """Run a PROG_TYPE_RAW_TRACEPOINT program at a tracepoint until the descriptor that this returns is closed (4.17).

    Raises:
        OSError: ENOENT where the kernel has no such tracepoint.
    """
    text = ctypes.create_string_buffer(name.encode())
    return syscall("bpf", _RAW_TRACEPOINT_OPEN, struct.pack("=QIxxxx", ctypes.addressof(text), program), 16)


def run(program: int, context: ctypes.Array[ctypes.c_char]) -> int:
    """Run a PROG_TYPE_SYSCALL program once on ``context``; returns its 32-bit result.

    Raises:
        OSError: the kernel refused to run it.
    """
    attr = ctypes.create_string_buffer(80)
    struct.pack_into("=I", attr, 0, program)
    struct.pack_into("=IIQ", attr, 40, len(context), 0, ctypes.addressof(context))
    syscall("bpf", _PROG_TEST_RUN, attr, 72)
    return int(struct.unpack_from("=I", attr, 4)[0])
