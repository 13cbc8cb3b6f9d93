# SPDX-License-Identifier: BSD-2-Clause
"""What a reader elsewhere must be told of the recording machine: its kernel, its threads, what they had mapped.

perf asks for the same, as records in front of the data (tools/perf/util/synthetic-events.c).
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any

from ksym.linux.files import read_text
from ksym.linux.perf_record import MISC_KERNEL, MISC_USER, padded, record
from ksym.recording.perf_file import Feature, Kind, text
from ksym.symbols.image import running_build_id
from ksym.symbols.kallsyms import Kallsyms
from ksym.watch.synthetic import Trailer

_KERNEL_PID = 0xFFFFFFFF
_KERNEL_NAME = "[kernel.kallsyms]"


def kernel_records(kallsyms: Kallsyms, trailer: Trailer) -> Iterator[bytes]:
    """MMAP records of the kernel and its modules; none where their addresses are hidden."""
    start, end = kallsyms.edge("_text") or kallsyms.edge("_stext"), kallsyms.edge("_etext")
    if start and end:
        yield _mmap(start, end - start, start, f"{_KERNEL_NAME}_text", trailer)
    with contextlib.suppress(OSError):
        for line in read_text("/proc/modules").splitlines():
            name, size, *_, address = line.split()[:6]
            if int(address, 16):
                yield _mmap(int(address, 16), int(size), 0, f"[{name}]", trailer)


def _mmap(start: int, length: int, offset: int, name: str, trailer: Trailer) -> bytes:
    body = struct.pack("<IIQQQ", _KERNEL_PID, 0, start, length, offset) + padded(name)
    return record(Kind.MMAP, body + trailer(0, _KERNEL_PID, 0), MISC_KERNEL)


def all_processes() -> list[int]:
    """Those that live now."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def description() -> dict[str, Any]:
    """What is known of the machine from the start: of a recorder that is killed, too."""
    machine = os.uname()
    return {
        "hostname": machine.nodename,
        "release": machine.release,
        "cpus": os.sysconf("SC_NPROCESSORS_ONLN"),
    }


def features(build_ids: dict[str, str]) -> Iterator[tuple[Feature, bytes]]:
    """What perf's header tells of the machine.

    Args:
        build_ids: Of files, by path; the kernel's is added.
    """
    machine = os.uname()
    yield Feature.HOSTNAME, text(machine.nodename)
    yield Feature.OSRELEASE, text(machine.release)
    yield Feature.VERSION, text("ksym")
    yield Feature.ARCH, text(machine.machine)
    online = os.sysconf("SC_NPROCESSORS_ONLN")
    yield Feature.NRCPUS, struct.pack("<II", os.sysconf("SC_NPROCESSORS_CONF"), online)
    yield Feature.CMDLINE, struct.pack("<I", len(sys.argv)) + b"".join(text(word) for word in sys.argv)
    kernel = running_build_id()
    entries = [_build_id(_KERNEL_PID, MISC_KERNEL, kernel, _KERNEL_NAME)] if kernel else []
    entries += [_build_id(_KERNEL_PID, MISC_USER, value, path) for path, value in build_ids.items()]
    if entries:
        yield Feature.BUILD_ID, b"".join(entries)


def _build_id(pid: int, misc: int, value: str, path: str) -> bytes:
    """An entry (struct perf_record_header_build_id): header, pid, 20 bytes and their number, path."""
    digest = bytes.fromhex(value)[:20]
    # PERF_RECORD_MISC_BUILD_ID_SIZE: the byte behind the digest is its length
    body = struct.pack("<I20sBBH", pid, digest, len(digest), 0, 0)
    name = path.encode(errors="surrogateescape") + b"\0"
    return record(Kind.BUILD_ID, body + name.ljust(-(-len(name) // 64) * 64, b"\0"), misc | 1 << 15)
