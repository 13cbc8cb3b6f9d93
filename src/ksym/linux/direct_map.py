# SPDX-License-Identifier: BSD-2-Clause
"""Where the kernel has all physical memory mapped, and how a process's page tables lead there (x86-64).

A program in the kernel that reads a user variable by its own address trips over the register that watches it,
when that sees reads: the debug registers stay on in a trap from user mode (arch/x86/kernel/traps.c,
exc_debug_user), and copy_from_user() makes an access for each byte on processors with FSRM, each of them a
trap. The same bytes read through the kernel's own mapping have another address, which nobody watches. So the
program walks the page tables, as the processor did just before; interrupts are off meanwhile, which keeps
tables and page where they are (mm/gup.c explains why).

Nothing here is assumed: the place of the mapping is searched for with a page of our own whose number
/proc/self/pagemap tells, and a walk to that page must arrive.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple

from ksym.linux.files import read_text
from ksym.linux.memory import Memory, MemoryFault

PRESENT, WRITABLE, HUGE = 1 << 0, 1 << 1, 1 << 7
"""Bits of a page table entry (Intel SDM volume 3, 4.5)."""
_PAGE = 4096
_GIB = 1 << 30
_LOWEST = 0xFF00_0000_0000_0000
_SHIFTS = {4: (39, 30, 21, 12), 5: (48, 39, 30, 21, 12)}
_MAGIC_BYTES = 32


class DirectMap(NamedTuple):
    """How to get from a task to its memory.

    Args:
        base: Kernel address of physical address 0.
        mask: Bits of an entry that are a physical address.
        shifts: For each level of page tables, from the top, the first bit of its index.
        mm: Offset of ``mm`` in struct task_struct.
        pgd: Offset of ``pgd`` in struct mm_struct.
    """

    base: int
    mask: int
    shifts: tuple[int, ...]
    mm: int
    pgd: int


def find_direct_map(memory: Memory, task: int, mm: int, pgd: int) -> DirectMap | None:
    """Find it out; None where that fails (no privileges for page numbers, or memory is laid out in another way).

    Args:
        memory: The kernel's.
        task: Address of this thread's task_struct.
        mm: See DirectMap.
        pgd: See DirectMap.
    """
    with mmap.mmap(-1, _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
        magic = os.urandom(_MAGIC_BYTES)
        page[:_MAGIC_BYTES] = magic
        buffer = ctypes.c_char.from_buffer(page)
        address = ctypes.addressof(buffer)
        del buffer
        try:
            number = _page_number(address)
            top = _word(memory, _word(memory, task + mm) + pgd)
            mask = ((1 << _physical_bits()) - 1) & -_PAGE
        except (MemoryFault, OSError, ValueError):
            return None
        if not number:
            return None
        for base in _candidates(top):
            if _holds(memory, base + number * _PAGE, magic):
                for shifts in _SHIFTS.values():
                    found = DirectMap(base, mask, shifts, mm, pgd)
                    if _walk(memory, found, top, address) == base + number * _PAGE:
                        return found
    return None


def _page_number(address: int) -> int:
    """The physical page of our own at ``address``; 0 where it is hidden (Documentation/admin-guide/mm/pagemap.rst)."""
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        entry = int.from_bytes(os.pread(file.fileno(), 8, address // _PAGE * 8), "little")
    return entry & ((1 << 55) - 1) if entry >> 63 else 0


def _physical_bits() -> int:
    """Of ``address sizes : 46 bits physical, 48 bits virtual``; memory encryption's bit lies above them."""
    _, _, rest = read_text("/proc/cpuinfo").partition("address sizes")
    return int(rest.split(":", 1)[1].split()[0])


def _candidates(top: int) -> Iterator[int]:
    """Page tables lie in the mapping, so it starts below; it is aligned to 1 GiB (arch/x86/mm/kaslr.c)."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    base = top & -_GIB
    # Holes in physical memory lie below 4 GiB as a rule; twice the memory leaves room for others.
    for _ in range(2 * total // _GIB + 8):
        if base < _LOWEST:
            return
        yield base
        base -= _GIB


def _holds(memory: Memory, address: int, expected: bytes) -> bool:
    try:
        return memory.read(address, len(expected)) == expected
    except MemoryFault:
        return False


def _walk(memory: Memory, layout: DirectMap, table: int, address: int) -> int | None:
    for shift in layout.shifts:
        try:
            entry = _word(memory, table + (address >> shift & 511) * 8)
        except MemoryFault:
            return None
        if not entry & PRESENT:
            return None
        if shift in (30, 21) and entry & HUGE:
            inside = (1 << shift) - 1
            return layout.base + (entry & layout.mask & ~inside) + (address & inside)
        table = layout.base + (entry & layout.mask)
    return table + address % _PAGE


def _word(memory: Memory, address: int) -> int:
    return int.from_bytes(memory.read(address, 8), "little")
