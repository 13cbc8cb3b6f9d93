# SPDX-License-Identifier: BSD-2-Clause
"""A vmlinux file or a System.map of the running kernel: names and sizes that kallsyms may not have.

Addresses in them are link-time ones; the kernel may have been moved (KASLR). The slide is the distance
between ``_text`` there and ``_text`` in kallsyms.
"""

from __future__ import annotations

import os

from ksym.errors import KsymError
from ksym.linux.files import StrPath, read_bytes
from ksym.symbols.kallsyms import Kallsyms

_ANCHORS = ("_text", "_stext")


def installed_vmlinux() -> str | None:
    """The uncompressed kernel with symbols where distributions put it, if it is installed."""
    release = os.uname().release
    for place in (
        f"/usr/lib/debug/boot/vmlinux-{release}",
        f"/usr/lib/debug/lib/modules/{release}/vmlinux",
        f"/usr/lib/debug/usr/lib/modules/{release}/vmlinux",
        f"/lib/modules/{release}/build/vmlinux",
        f"/boot/vmlinux-{release}",
    ):
        if os.path.isfile(place):
            return place
    return None


def installed_system_map() -> str | None:
    """The running kernel's System.map, if it is a real one; Debian's is a stub of one line."""
    release = os.uname().release
    for place in (f"/boot/System.map-{release}", f"/lib/modules/{release}/System.map"):
        try:
            if os.path.getsize(place) > 4096:
                return place
        except OSError:
            continue
    return None


class KernelImage:
    """A vmlinux and how far the running kernel has been moved against it.

    Args:
        path: The file.
        kallsyms: The running kernel's symbols.

    Raises:
        KsymError: it is no ELF file, or not that of the running kernel.
    """

    def __init__(self, path: StrPath, kallsyms: Kallsyms) -> None:
        from ksym.symbols.elf import ElfFile  # most runs read no file

        self.path, self.elf = path, ElfFile(path)
        running = running_build_id()
        if running and self.elf.build_id and running != self.elf.build_id:
            raise KsymError(
                f"cannot use {path}",
                f"it is another kernel (build id {self.elf.build_id[:12]}, running is {running[:12]})",
                f"give the vmlinux of {os.uname().release}",
            )
        self.slide = _slide(
            str(path), kallsyms, {name: [symbol.value for symbol in self.elf.find(name)] for name in _ANCHORS}
        )


def open_system_map(path: StrPath, kallsyms: Kallsyms) -> Kallsyms:
    """A System.map as a symbol table at run-time addresses.

    Raises:
        KsymError: it cannot be read, or is no System.map.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise KsymError(
            f"cannot read {path}", error.strerror or "it fails", "give a readable file"
        ) from error
    table = Kallsyms(data, source=str(path))
    anchors = {name: [symbol.address for symbol in table.find(name)] for name in _ANCHORS}
    return Kallsyms(data, source=str(path), slide=_slide(str(path), kallsyms, anchors))


def _slide(path: str, kallsyms: Kallsyms, linked: dict[str, list[int]]) -> int:
    for name in _ANCHORS:
        running = kallsyms.find(name)
        if running and linked[name]:
            return running[0].address - linked[name][0]
    raise KsymError(
        f"cannot use {path}", "it has no symbol _text", "give a vmlinux or a System.map of this kernel"
    )


def running_build_id() -> str | None:
    """The running kernel's build id, from the ELF notes in /sys/kernel/notes."""
    try:
        data = read_bytes("/sys/kernel/notes")
    except OSError:
        return None
    at = 0
    while at + 12 <= len(data):
        name_size, size, kind = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (0, 4, 8))
        name = data[at + 12 : at + 12 + name_size]
        at += 12 + (name_size + 3) // 4 * 4
        if kind == 3 and name == b"GNU\0":  # NT_GNU_BUILD_ID, elf.h
            return data[at : at + size].hex()
        at += (size + 3) // 4 * 4
    return None
