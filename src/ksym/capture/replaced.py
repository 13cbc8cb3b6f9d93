# SPDX-License-Identifier: BSD-2-Clause
"""Code that is replaced by other code, and who is told of it."""

from __future__ import annotations

from typing import Protocol

from ksym.capture.records import CommRecord, DataRecord, ExitRecord, ForkRecord, MmapRecord, Record
from ksym.symbols.variable import KERNEL_HALF

USER_SPACE = range(-1, KERNEL_HALF)
"""All addresses of a process; a site's is that of the byte before it."""


class Follower(Protocol):
    """Told of what changes a process's address space."""

    def mapped(self, record: MmapRecord | DataRecord) -> bool:
        """A process has mapped something; return True if addresses may have other names from now on."""
        ...

    def changed(self, record: CommRecord | ForkRecord | ExitRecord) -> None:
        """A process forked, ran a new program, or ended."""
        ...


def replaced_code(record: Record) -> tuple[int, range] | None:
    """Return the process and the addresses at which other code may lie from a record on; None where nothing changed.

    The process is new, runs a new program, has ended, or has mapped a file. A file's own segments come one over the
    other, too: nothing was known of them by then.
    """
    if isinstance(record, MmapRecord):
        return record.pid, range(record.start, record.start + record.length)
    pid = ended_address_space(record)
    return None if pid is None else (pid, USER_SPACE)


def ended_address_space(record: Record) -> int | None:
    """The process of whose addresses nothing holds any more, as it is new, runs a new program, or has ended."""
    if isinstance(record, CommRecord):
        return record.pid if record.exec else None
    if isinstance(record, ForkRecord):
        return record.pid if record.pid != record.parent_pid else None  # else a thread, in the same memory
    return record.pid if isinstance(record, ExitRecord) and record.pid == record.tid else None
