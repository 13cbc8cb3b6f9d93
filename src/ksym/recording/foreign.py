# SPDX-License-Identifier: BSD-2-Clause
"""Code of a recording that perf made, which tells nothing but where files were mapped.

What it leads to is asked of this machine, as far as that is the same: the kernel by its build id (or release), which
may lie elsewhere since it was started again; a file by its build id, or its path on the host of the same name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from functools import cached_property

from ksym.capture.records import CommRecord, ExitRecord, ForkRecord, MmapRecord
from ksym.capture.replaced import replaced_code
from ksym.capture.sites import Named, Site, Sites
from ksym.capture.usernames import UserNames
from ksym.capture.users import Image, Users, open_image
from ksym.linux.maps import same_device
from ksym.linux.memory import Memory
from ksym.recording.header import KERNEL, Machine
from ksym.recording.noted import Era
from ksym.recording.timeline import Ranked
from ksym.symbols.image import running_build_id
from ksym.symbols.kallsyms import Function, Kallsyms
from ksym.symbols.kernel import Kernel

_NO_FILES = ("/dev/", "/proc/", "/sys/")


class ForeignCode:
    """Names for the code of a recording.

    Args:
        machine: Where it was made.
        kernel: The mappings of its kernel.
        files: Files that it names may be opened here.
    """

    def __init__(self, machine: Machine, kernel: Sequence[MmapRecord], *, files: bool) -> None:
        self._users = _Files(machine, files)
        self._kernel = _RecordedKernel(machine, kernel)
        self._sites = Sites(self._kernel.symbols, self._kernel.memory, self._users)
        self._changes: Ranked = ()
        self._next = 0

    def follow(self, changes: Ranked) -> None:
        """See decode.Code."""
        self._changes, self._next = changes, 0

    def site(self, pid: int, ip: int, *, execute: bool, bits: int | None, era: Era, hit: int) -> Site | None:
        """See decode.Code."""
        self._advance(hit)
        return self._sites.site(pid, ip, execute=execute, bits=bits)

    def name(self, pid: int, ip: int, *, behind: bool, era: Era, hit: int) -> Named:
        """See decode.Code."""
        self._advance(hit)
        return self._sites.name(pid, ip, behind=behind)

    def _advance(self, hit: int) -> None:
        """Take in what had changed when a hit came."""
        while self._next < len(self._changes) and self._changes[self._next][0] <= hit:
            record = self._changes[self._next][1].record
            self._next += 1
            replaced = replaced_code(record)
            if replaced is not None:
                self._sites.forget(*replaced)
            if isinstance(record, MmapRecord):
                self._users.mapped(record)
            elif isinstance(record, (CommRecord, ForkRecord, ExitRecord)):
                self._users.changed(record)

    def close(self) -> None:
        """Close all files."""
        self._users.close()


class _Files(Users):
    """User-space code by the files that a recording names; no process of this machine is asked."""

    def __init__(self, machine: Machine, allowed: bool) -> None:
        super().__init__()
        self._allowed = allowed
        self._build_ids = machine.build_ids
        self._same_host = machine.hostname == os.uname().nodename

    def _read_map(self, pid: int) -> None:
        pass

    def _unrecorded(self, pid: int, record: MmapRecord | None) -> Iterable[UserNames]:
        return ()

    def _live_bytes(self, pid: int, address: int, length: int) -> bytes:
        return b""

    def _keep(self, record: MmapRecord) -> None:
        pass  # what its process had mapped is not here any more

    def _open(self, record: MmapRecord) -> Image | None:
        path = record.name
        wanted = record.build_id or self._build_ids.get(path)
        if not self._allowed or not (wanted or self._same_host) or not _is_file(path):
            return None
        if not wanted and not _same(path, record):
            return None
        image = open_image(path)
        if image and wanted and image.elf.build_id != wanted:
            for elf in image.tables:
                elf.close()
            return None
        if image and not wanted:
            # perf -z names no file that hits came from; what names the code has its source lines, too
            self._build_ids[path] = image.elf.build_id or ""
        return image


def _same(path: str, record: MmapRecord) -> bool:
    """False if another file than the recorded one has the path by now."""
    status = os.stat(path)
    return not record.inode or (status.st_ino == record.inode and same_device(status.st_dev, record.device))


def _is_file(path: str) -> bool:
    try:
        real = os.path.realpath(path)
        return not real.startswith(_NO_FILES) and stat.S_ISREG(os.stat(real).st_mode)
    except (OSError, ValueError):
        return False


class _RecordedKernel:
    """This machine's kernel, if it is the one that was recorded, at the addresses that it had then."""

    def __init__(self, machine: Machine, mappings: Sequence[MmapRecord]) -> None:
        recorded, running = machine.build_ids.get(KERNEL), running_build_id()
        same = recorded == running if recorded else machine.release == os.uname().release
        self._mappings = mappings if same else ()
        self._same = same

    @cached_property
    def _table(self) -> Kallsyms | None:
        return Kallsyms.shown() if self._same else None

    @cached_property
    def slide(self) -> int | None:
        """How much higher the kernel lay; None: this is not the kernel."""
        for mapping in self._mappings:
            if mapping.path.startswith(KERNEL) and self._table:
                # The offset is the address that the symbol behind the name had (machine__create_kernel_maps).
                now = self._table.edge(mapping.path.removeprefix(KERNEL) or "_text")
                if now is not None:
                    return mapping.offset - now
        return None

    def symbols(self) -> Kallsyms | None:
        """What names its code; see Sites."""
        return None if self._table is None or self.slide is None else _Moved(self._table, self.slide)

    def memory(self) -> Memory | None:
        """What reads its code."""
        if self.slide is None:
            return None
        memory = Kernel().memory_or_none
        return None if memory is None else _MovedMemory(memory, self.slide)


class _Moved(Kallsyms):
    """The kernel's functions at the addresses that they had."""

    def __init__(self, table: Kallsyms, slide: int) -> None:
        super().__init__(b"")
        self._now, self._moved = table, slide

    def function_at(self, address: int) -> Function | None:
        """See Kallsyms; modules have moved in ways of their own, and so are known only where nothing has moved."""
        found = self._now.function_at(address - self._moved)
        if found is None or (self._moved and found.module):
            return None
        return Function(found.start + self._moved, found.end + self._moved, found.name, found.module)


class _MovedMemory:
    def __init__(self, memory: Memory, slide: int) -> None:
        self._memory, self._slide = memory, slide

    def read(self, address: int, length: int) -> bytes:
        """See Memory."""
        return self._memory.read(address - self._slide, length)
