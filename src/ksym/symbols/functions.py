# SPDX-License-Identifier: BSD-2-Clause
"""Where the code of a function lies: what ``ip in FUNCTION`` compares with.

It agrees with what rows say: an address lies in the function that the FUNCTION column shows for it. Compilers put
parts of a function elsewhere and copy it, and name those ``foo.cold``, ``foo.part.0``, ``foo.isra.0.cold``. C has
no names with a dot, so all that goes on with one behind ``foo`` was made of ``foo``, and is meant with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

from ksym.errors import KsymError, NotPermitted, RequestError
from ksym.linux.maps import Mapping
from ksym.symbols.elf import ElfError, ElfFile
from ksym.symbols.kernel import Kernel
from ksym.symbols.loaded import Process, load_bias
from ksym.symbols.nearest import suggestion
from ksym.symbols.symtab import ElfSymbol, SymbolTable, find
from ksym.symbols.variable import Space

Range = tuple[int, int]
"""First address, and the one behind the last."""
_VDSO = "[vdso]"


class Functions:
    """The functions from which a variable may be accessed.

    Args:
        kernel: Those of the kernel.
        pid: The process whose functions are meant, too; None: of none.
        kernel_accesses: Whether a user variable's accesses by the kernel are seen.
    """

    def __init__(self, kernel: Kernel, pid: int | None, *, kernel_accesses: bool = False) -> None:
        self._kernel, self._pid, self._kernel_accesses = kernel, pid, kernel_accesses

    def ranges(self, name: str, space: Space) -> tuple[Range, ...]:
        """All functions of that name, and their parts: statics of several files may share it, programs and the kernel.

        Args:
            name: As the FUNCTION column has it.
            space: Where the variable lies.

        Raises:
            RequestError: there is none.
        """
        found: set[Range] = set()
        if space is Space.USER and self._pid is not None:
            found |= _of_process(self._pid, name)
        if space is Space.KERNEL or self._kernel_accesses:
            try:
                found |= self._of_kernel(name)
            except NotPermitted:  # then the kernel's addresses have no names in rows either
                if not found:
                    raise
        if not found:
            raise RequestError(
                f"cannot find function {name}",
                f"{self._where(space)} of that name",
                suggestion(name, {each.partition(".")[0] for each in self._names(space)})
                or "look at the FUNCTION column of a run without the condition",
            )
        return tuple(sorted(found))

    def _where(self, space: Space) -> str:
        if space is Space.KERNEL:
            return "the kernel has none"
        if self._kernel_accesses:
            return f"neither process {self._pid} nor the kernel has one"
        return f"process {self._pid} has none"

    def _of_kernel(self, name: str) -> set[Range]:
        table = self._kernel.kallsyms
        parts = re.findall(rb" (%s\.[^\s]+)" % re.escape(os.fsencode(name)), table.data)
        found = set()
        for each in {name, *(part.decode(errors="replace") for part in parts)}:
            for symbol in table.find(each):
                function = table.function_at(symbol.address)
                if function is not None and function.start == symbol.address:
                    found.add((function.start, function.end))
        return found

    def _names(self, space: Space) -> Iterator[str]:
        if space is Space.USER and self._pid is not None:
            with Process(self._pid) as process:
                for tables, _ in _objects(process):
                    for table in tables:
                        with suppress(ElfError):
                            yield from table.function_names()
        if space is Space.KERNEL or self._kernel_accesses:
            yield from self._kernel.kallsyms.names(text_only=True)


def _of_process(pid: int, name: str) -> set[Range]:
    found: set[Range] = set()
    with Process(pid) as process:
        for tables, bias in _objects(process):
            with suppress(ElfError):  # a damaged library does not keep the others from having it
                found |= {(start + bias, end + bias) for start, end in extents(tables, name)}
    return found


def extents(tables: Sequence[SymbolTable], name: str) -> set[Range]:
    """Link-time addresses of the functions of that name in a file, and of their parts.

    Args:
        tables: In the order in which an address is looked up in them: the first that has the name decides, as
            ``.dynsym`` does not know where a function without a size ends if the next one is not exported.
        name: As the FUNCTION column has it.
    """
    for table in tables:
        spans = [table.extent(symbol) for symbol in _symbols(table, name)]
        found = {span for span in spans if span is not None}
        if found:
            return found
    return set()


def _symbols(table: SymbolTable, name: str) -> list[ElfSymbol]:
    whole, dot, _ = name.partition(".")
    # Of a C++ function these have its parts, too.
    found = find([table], whole)
    raw = os.fsencode(whole) + b"."
    found += table.find_matching(raw, re.compile(re.escape(raw) + rb"[^\0]+"))
    if not dot:
        return found
    return [symbol for symbol in found if f"{symbol.function_name}.".startswith(f"{name}.")]


def _objects(process: Process) -> Iterator[tuple[Sequence[SymbolTable], int]]:
    # The symbol tables of each program and library of a process, and what is added to their addresses.
    maps = process.maps()
    for path in {mapping.path for mapping in maps if mapping.executable and mapping.is_file}:
        try:
            loaded = process.find_object(path)
            yield loaded.tables, loaded.bias
        except KsymError:
            continue
    for mapping in maps:
        if mapping.path == _VDSO:
            try:
                elf = _vdso(process.pid, mapping)
                bias = load_bias(elf, [mapping])
            except (ElfError, OSError, ValueError, OverflowError):
                continue
            if bias is not None:
                yield elf.tables, bias


def _vdso(pid: int, mapping: Mapping) -> ElfFile:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        return ElfFile(_VDSO, data=os.pread(memory.fileno(), mapping.end - mapping.start, mapping.start))
