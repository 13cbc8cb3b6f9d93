# SPDX-License-Identifier: BSD-2-Clause
"""/proc/kallsyms: addresses of the kernel's symbols and of its modules', without sizes.

Lines are ``ADDRESS KIND NAME`` and, for a module's symbol, a tab and ``[MODULE]`` (kernel/kallsyms.c, s_show).
The text is kept as it is read and searched as bytes: most runs want one name out of 200,000.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from ksym.linux.files import read_bytes

TEXT_KINDS = b"TtWw"
"""Kinds (nm's letters) that stand for code; ``W`` is weak, in the kernel always a function."""


@dataclass(frozen=True)
class KernelSymbol:
    """One line of kallsyms."""

    address: int
    kind: str
    name: str
    module: str | None
    is_text: bool = False
    """Whether it is code rather than data."""

    def __str__(self) -> str:
        return f"{self.module}:{self.name}" if self.module else self.name


@dataclass(frozen=True)
class Function:
    """A named range of kernel text."""

    start: int
    end: int
    name: str
    module: str | None


class Kallsyms:
    """A kernel symbol table in kallsyms' (or System.map's) format.

    Args:
        data: The file's bytes.
        source: Its name, for people.
        slide: Added to every address of the kernel itself (KASLR, for a System.map).
    """

    _last: ClassVar[Kallsyms | None] = None

    def __init__(self, data: bytes, source: str = "/proc/kallsyms", slide: int = 0) -> None:
        self.data = data if data.endswith(b"\n") or not data else data + b"\n"
        self.source, self.slide = source, slide

    @classmethod
    def of_this_kernel(cls) -> Kallsyms:
        """Read /proc/kallsyms.

        Raises:
            OSError: there is none (CONFIG_KALLSYMS is off).
        """
        # Who watches for weeks asks often, and the table with what is found in it takes 30 MB.
        data = read_bytes("/proc/kallsyms")
        if cls._last is None or cls._last.data != data:
            cls._last = cls(data)
        return cls._last

    @classmethod
    def shown(cls) -> Kallsyms | None:
        """Read /proc/kallsyms; None where there is none, or it shows no addresses."""
        try:
            table = cls.of_this_kernel()
        except OSError:
            return None
        return None if table.hidden else table

    @property
    def hidden(self) -> bool:
        """Whether addresses are shown as zeros (kernel.kptr_restrict, or no privileges)."""
        return bool(self.data) and all(
            line[:16].strip(b"0") == b"" for line in self.data[:4096].split(b"\n")[:-1]
        )

    @cached_property
    def has_data(self) -> bool:
        """Whether variables are listed (CONFIG_KALLSYMS_ALL), by two that every kernel has."""
        return any(self.find(name) for name in ("jiffies", "init_task"))

    def find(self, name: str, module: str | None = None) -> list[KernelSymbol]:
        """All symbols of that name; of that module alone if one is given."""
        found = []
        needle = b" " + name.encode(errors="surrogateescape")
        at = self.data.find(needle)
        while at >= 0:
            end = at + len(needle)
            if self.data[end : end + 1] in (b"\n", b"\t"):
                symbol = self._line(self.data.rfind(b"\n", 0, at) + 1)
                if symbol and symbol.name == name and (module is None or symbol.module == module):
                    found.append(symbol)
            at = self.data.find(needle, end)
        return found

    def _line(self, start: int) -> KernelSymbol | None:
        fields = self.data[start : self.data.index(b"\n", start)].split()
        address = _number(fields[0]) if len(fields) > 2 else None
        if address is None:
            return None
        module = fields[3].decode(errors="replace").strip("[]") if len(fields) > 3 else None
        text = fields[1] in TEXT_KINDS and (module is not None or self._holds_code(fields[0]))
        return KernelSymbol(
            address + (0 if module else self.slide),
            chr(fields[1][0]),
            fields[2].decode(errors="replace"),
            module,
            text,
        )

    def at(self, address: int) -> list[KernelSymbol]:
        """All symbols at exactly that address."""
        found = []
        needle = b"%016x " % (address - self.slide)
        at = self.data.find(needle)
        while at >= 0:
            symbol = self._line(at) if at == 0 or self.data[at - 1] == 0x0A else None
            if symbol:
                found.append(symbol)
            at = self.data.find(needle, at + len(needle))
        return found

    def room(self, symbol: KernelSymbol) -> int | None:
        """Bytes from ``symbol`` to the next symbol: an upper bound of its size; None if it is the last."""
        addresses = self._module_addresses(symbol.module) if symbol.module else self._following(symbol)
        above = [address for address in addresses if address > symbol.address]
        return min(above) - symbol.address if above else None

    def _module_addresses(self, module: str) -> list[int]:
        mark = b"\t[" + module.encode() + b"]\n"
        addresses = []
        at = self.data.find(mark)
        while at >= 0:
            start = self.data.rfind(b"\n", 0, at) + 1
            address = _number(self.data[start:at].partition(b" ")[0])
            if address is not None:
                addresses.append(address)
            at = self.data.find(mark, at + len(mark))
        return addresses

    def _following(self, symbol: KernelSymbol) -> list[int]:
        """The first higher address behind the symbol's line: the kernel's own symbols are sorted by address."""
        text = f"{symbol.address - self.slide:016x} {symbol.kind} {symbol.name}\n".encode()
        at = self.data.find(text)
        while at >= 0:
            at = self.data.find(b"\n", at) + 1
            following = self._line(at) if at < len(self.data) else None
            if following is None or following.module:
                break
            if following.address > symbol.address:
                return [following.address]
        return []

    def names(self, *, text_only: bool = False) -> Iterator[str]:
        """Names for suggestions: of variables, or with ``text_only`` of functions."""
        for line in self.data.splitlines():
            fields = line.split()
            if len(fields) < 3:
                continue
            text = fields[1] in TEXT_KINDS and (len(fields) > 3 or self._holds_code(fields[0]))
            if text == text_only:
                yield fields[2].decode(errors="replace")

    def _holds_code(self, address: bytes) -> bool:
        """Whether an address, as it is printed, lies in the kernel's text.

        The letters do not tell on all kernels: 7.3 calls everything in ``.data`` ``T``.
        """
        ranges = self._code_ranges
        return not ranges or any(start <= address < end for start, end in ranges)

    @cached_property
    def _code_ranges(self) -> list[tuple[bytes, bytes]]:
        """Printed start and end of the kernel's text and its init text; addresses of one width compare as bytes."""
        found = []
        for first, last in ((b" _stext\n", b" _etext\n"), (b" _sinittext\n", b" _einittext\n")):
            start, end = self.data.find(first), self.data.find(last)
            if start >= 0 and end >= 0:
                found.append((self._address_before(start), self._address_before(end)))
        return found

    def _address_before(self, at: int) -> bytes:
        return self.data[self.data.rfind(b"\n", 0, at) + 1 : at].split(b" ", 1)[0]

    def edge(self, name: str) -> int | None:
        """Address of a section marker such as ``__stop___param``: those stand near the end, so search from there."""
        at = self.data.rfind(b" " + name.encode(errors="surrogateescape") + b"\n")
        address = _number(self._address_before(at)) if at >= 0 else None
        return None if address is None else address + self.slide

    def modules(self) -> set[str]:
        """The modules that are loaded and have symbols."""
        return {
            line.rsplit(b"\t[", 1)[1].rstrip(b"]").decode(errors="replace")
            for line in self.data.splitlines()
            if b"\t[" in line
        }

    @cached_property
    def _text(self) -> tuple[list[int], list[bytes]]:
        rows = []
        for line in self.data.splitlines():
            if line[16:17] == line[18:19] == b" " and line[17:18] in TEXT_KINDS:
                try:
                    rows.append((int(line[:16], 16), line[19:]))
                except ValueError:
                    continue
        rows.sort(key=lambda row: row[0])
        return [row[0] for row in rows], [row[1] for row in rows]

    def function_at(self, address: int) -> Function | None:
        """The function that holds ``address``; modules, BPF programs (``[bpf]``) and trampolines included."""
        starts, names = self._text
        at = bisect.bisect_right(starts, address) - 1
        if at < 0:
            return None
        first = bisect.bisect_left(starts, starts[at])
        after = bisect.bisect_right(starts, starts[at])
        end = starts[after] if after < len(starts) else starts[at] + (1 << 20)
        if address >= end:
            return None
        name, _, module = names[first].partition(b"\t")
        return Function(
            starts[at],
            end,
            name.decode(errors="replace"),
            module.strip(b"[]").decode(errors="replace") or None,
        )


def _number(digits: bytes) -> int | None:
    """An address; None where the line is not as kallsyms has it (a System.map may be any file)."""
    try:
        return int(digits, 16)
    except ValueError:
        return None
