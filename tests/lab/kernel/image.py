# SPDX-License-Identifier: BSD-2-Clause
"""What a kernel package holds: the kernel, unpacked, and its modules."""

from __future__ import annotations

import lzma
import struct
import subprocess
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.kernel import LabError
from lab.kernel.kernels import ARM64, X86


@dataclass(frozen=True)
class Image:
    """An unpacked kernel package.

    Attributes:
        directory: Where it was unpacked; named by the kernel's release, as ``uname -r`` says it.
    """

    directory: Path

    @property
    def release(self) -> str:
        """What ``uname -r`` will say."""
        return self.directory.name

    @property
    def machine(self) -> str:
        """Whose instructions it is made of, as ``uname -m`` will say it."""
        return ARM64 if self.release.endswith("-arm64") else X86

    @property
    def modules(self) -> Path:
        """The modules, with the tables that depmod made."""
        return self.directory / "lib/modules" / self.release

    @property
    def vmlinuz(self) -> Path:
        """The kernel as a boot loader starts it. Newer packages keep it beside the modules."""
        place = self.directory / "boot" / f"vmlinuz-{self.release}"
        return place if place.exists() else self.modules / "vmlinuz"

    @property
    def vmlinux(self) -> Path:
        """The kernel as ELF, which `unpack` made."""
        return self.directory / "vmlinux"

    def bootable(self, *, kaslr: bool) -> Path:
        """What QEMU is to start."""
        return self.vmlinuz if kaslr or self.machine == ARM64 else self.vmlinux

    def unpack(self) -> None:
        """Make what the package does not hold: vmlinux and the tables of the modules.

        QEMU starts an ELF kernel of x86 directly (by PVH). This saves the kernel's own decompressor, the
        slowest part of an emulated boot, and with it the randomisation of addresses. Kernels of arm64
        are not compressed.
        """
        library = self.directory / "lib"
        if not library.exists():
            library.symlink_to("usr/lib")
        if self.machine == X86:
            self.vmlinux.write_bytes(payload(self.vmlinuz.read_bytes()))
        subprocess.run(["/sbin/depmod", "-b", self.directory, self.release], check=True)

    def modules_for(self, names: Iterable[str]) -> list[tuple[str, bytes]]:
        """The named modules and all they need, in loading order, uncompressed.

        A name that modules.dep does not have is built into the kernel, or will be missed soon.
        """
        needs: dict[str, list[str]] = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            path, _, rest = line.partition(":")
            # depmod lists what a module needs with the deepest need last.
            needs[_module_name(path)] = [*reversed(rest.split()), path]
        order = dict.fromkeys(path for name in names for path in needs.get(name, []))
        return [(_module_name(path), self._module(path)) for path in order]

    def _module(self, path: str) -> bytes:
        content = (self.modules / path).read_bytes()
        return lzma.decompress(content) if path.endswith(".xz") else content


def _module_name(path: str) -> str:
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def payload(bzimage: bytes) -> bytes:
    """The ELF file that a bzImage would unpack when booted.

    The offsets are those of the x86 boot protocol, version 2.08 (Documentation/arch/x86/boot.rst).

    Raises:
        LabError: Not a bzImage, or compressed in a way that is not known here.
    """
    if bzimage[0x202:0x206] != b"HdrS":
        raise LabError("the kernel image has no x86 boot header")
    sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (sectors + 1) * 512 + offset
    packed = bzimage[start : start + length]
    if packed.startswith(b"\x1f\x8b"):
        elf = zlib.decompressobj(31).decompress(packed)
    elif packed.startswith(b"\xfd7zXZ\0"):
        elf = lzma.LZMADecompressor().decompress(packed)
    else:
        tools = {b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}
        tool = tools.get(packed[:4])
        if tool is None:
            raise LabError(f"the kernel image is packed in an unknown way ({packed[:4].hex()})")
        # The kernel's build appends the unpacked size in four bytes, which the tools take for garbage.
        elf = subprocess.run([tool, "-dcq"], input=packed[:-4], stdout=subprocess.PIPE, check=True).stdout
    if not elf.startswith(b"\x7fELF"):
        raise LabError("what the kernel image holds is not an ELF file")
    return elf
