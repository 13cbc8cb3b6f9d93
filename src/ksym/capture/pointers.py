# SPDX-License-Identifier: BSD-2-Clause
"""What a pointer points to: ``tcp_prot``, ``init_task+0x10``, ``ext4_fops [ext4]``, ``stdout [libc.so.6]``.

/proc/kallsyms has no sizes, so an address belongs to the symbol in front of it only while nothing speaks
against that: see `KernelPointers.name`. The kernel's own symbols are searched in the table's text, as they are
sorted there; so a run that shows one pointer pays for no index of them. In user space symbols have sizes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from ksym.errors import KsymError
from ksym.symbols.kallsyms import TEXT_KINDS, Kallsyms
from ksym.symbols.readable import readable
from ksym.symbols.variable import KERNEL_HALF

if TYPE_CHECKING:
    from ksym.capture.decoders import Names
    from ksym.capture.usernames import Loaded

_REACH = 1 << 16
"""No pointer is named after a symbol that lies further in front of it."""
_PAGE = 4096
_NAMES_KEPT = 4096


def pointer_names(kallsyms: Callable[[], Kallsyms | None]) -> Names:
    """Names for kernel pointers, as `Values` takes them; the table is asked for at the first one."""
    table: KernelPointers | None = None
    missing = False

    def name(address: int) -> str | None:
        nonlocal table, missing
        if address < KERNEL_HALF or missing:
            return None
        if table is None:
            symbols = kallsyms()
            if symbols is None:
                missing = True
                return None
            table = KernelPointers(symbols)
        return table.name(address)

    return name


def user_pointer_names(loaded: Callable[[], Sequence[Loaded]], kernel: Names) -> Names:
    """Names for the pointers of a process, as `Values` takes them.

    Args:
        loaded: The programs and libraries in its memory, as `Users.loaded` gives them; asked at each pointer.
        kernel: Names those that point to the kernel.
    """
    pointers = UserPointers(loaded)
    return lambda address: pointers.name(address) if address < KERNEL_HALF else kernel(address)


class UserPointers:
    """Names of what lies at addresses of one process.

    Args:
        loaded: See `user_pointer_names`.
    """

    def __init__(self, loaded: Callable[[], Sequence[Loaded]]) -> None:
        self._asked = loaded
        self._newest: Sequence[Loaded] | None = None
        self._loaded: list[Loaded] = []
        self._starts: list[int] = []
        self._names: dict[int, str | None] = {}

    def name(self, address: int) -> str | None:
        """``symbol+0x10``, with `` [library]``; None for the heap, stacks, and whatever else has no symbol."""
        newest = self._asked()
        if newest is not self._newest:
            self._newest, self._loaded = newest, _apart(newest)
            self._starts = [each.start for each in self._loaded]
            self._names.clear()
        if address not in self._names:
            if len(self._names) >= _NAMES_KEPT:
                self._names.clear()
            self._names[address] = self._find(address)
        return self._names[address]

    def _find(self, address: int) -> str | None:
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._loaded[at].end:
            return None
        holder = self._loaded[at]
        for elf in holder.files:
            try:
                hit = elf.holder_at(address - holder.bias)
            except KsymError:
                continue
            if hit is not None:
                symbol, offset = hit
                name = symbol.function_name if symbol.is_function else symbol.readable_name
                return _shown(name, offset, holder.name)
        return None


def _apart(loaded: Sequence[Loaded]) -> list[Loaded]:
    """Sorted by address, without what lies where something newer, which comes first, was mapped."""
    kept: list[Loaded] = []
    for each in loaded:
        at = bisect_right(kept, each.start, key=lambda other: other.start)
        if (at == 0 or kept[at - 1].end <= each.start) and (at == len(kept) or each.end <= kept[at].start):
            kept.insert(at, each)
    return kept


def _shown(name: str, offset: int, owner: str | None) -> str:
    return name + (f"+{offset:#x}" if offset else "") + (f" [{readable(owner)}]" if owner else "")


class KernelPointers:
    """Names of what lies at kernel addresses.

    Args:
        kallsyms: The symbols; the kernel's own must be sorted by address, as the kernel has them.
    """

    def __init__(self, kallsyms: Kallsyms) -> None:
        self._kallsyms, self._data = kallsyms, kallsyms.data
        first_tab = self._data.find(b"\t")
        self._modules_at = len(self._data) if first_tab < 0 else self._line_start(first_tab)

    def name(self, address: int) -> str | None:
        """``symbol+0x10``, with `` [module]``; None for the heap, stacks, and whatever else has no symbol.

        A symbol reaches to the next one, but not further than 64 KiB, and the last one of a module to the end of
        its page. Without CONFIG_KALLSYMS_ALL nothing tells where variables lie, and code alone is named.
        """
        found = self._in_kernel(address) or self._in_modules(address)
        if found is None:
            return None
        start, name, owner = found
        return _shown(name, address - start, owner)

    def _in_kernel(self, address: int) -> tuple[int, str, None] | None:
        if self._code is not None and not self._code[0] <= address < self._code[1]:
            return None
        positions = range(self._modules_at)
        printed = b"%016x" % max(address - self._kallsyms.slide, 0)
        following = bisect_right(positions, printed, key=self._printed)
        if not 0 < following < self._modules_at:
            return None  # behind the last symbol, which marks the end
        printed = self._printed(following - 1)
        start = int(printed, 16) + self._kallsyms.slide
        if address - start >= _REACH:
            return None
        first = bisect_left(positions, printed, key=self._printed)
        lines = self._data[first : following - 1].split(b"\n")
        return start, _best([line[19:] for line in lines]), None

    def _in_modules(self, address: int) -> tuple[int, str, str] | None:
        starts, names, owners = self._modules
        following = bisect_right(starts, address)
        if not following:
            return None
        start, owner = starts[following - 1], owners[following - 1]
        end = start + _REACH
        if following == len(starts) or owners[following] != owner:
            end = min(end, (start | (_PAGE - 1)) + 1)
        if address >= end:
            return None
        first = bisect_left(starts, start)
        return start, _best(names[first:following]), owner.decode(errors="replace")

    def _line_start(self, position: int) -> int:
        return self._data.rfind(b"\n", 0, position) + 1

    def _printed(self, position: int) -> bytes:
        """The address in the line that a position of the text is in; those of one width compare as bytes."""
        start = self._line_start(position)
        return self._data[start : start + 16]

    @cached_property
    def _code(self) -> tuple[int, int] | None:
        """The kernel's text, where its variables are not listed."""
        if self._kallsyms.has_data:
            return None
        return self._kallsyms.edge("_stext") or 0, self._kallsyms.edge("_etext") or 0

    @cached_property
    def _modules(self) -> tuple[list[int], list[bytes], list[bytes]]:
        """Addresses, names and modules, sorted; each module's lines stand together, but in no order."""
        rows = []
        for line in self._data[self._modules_at :].splitlines():
            head, _, owner = line.partition(b"\t")
            name = head[19:]
            # arm64 marks data and code with $d and $x.
            if not owner or name.startswith(b"$") or (self._code and line[17:18] not in TEXT_KINDS):
                continue
            rows.append((int(line[:16], 16), name, owner.strip(b"[]")))
        rows.sort(key=lambda row: row[0])
        return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def _best(names: Sequence[bytes]) -> str:
    """Of several names for one address, the first without a ``_`` in front, as marks of sections have it."""
    best = next((name for name in names if not name.startswith(b"_")), names[0])
    return best.decode(errors="replace")
