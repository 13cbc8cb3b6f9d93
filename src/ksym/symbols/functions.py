# SPDX-License-Identifier: BSD-2-Clause
"""Where the code of a function lies: what ``ip in FUNCTION`` compares with."""

from __future__ import annotations

from ksym.errors import KsymError, RequestError
from ksym.symbols.kernel import Kernel
from ksym.symbols.loaded import Process
from ksym.symbols.nearest import suggestion
from ksym.symbols.symtab import find
from ksym.symbols.variable import Space

Range = tuple[int, int]
"""First address, and the one behind the last."""


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
        """All functions of that name: statics of several files may share it.

        Args:
            name: As the symbol tables have it.
            space: Where the variable lies.

        Raises:
            RequestError: there is none.
        """
        found: list[Range] = []
        if space is Space.USER and self._pid is not None:
            found = _of_process(self._pid, name)
        if space is Space.KERNEL or (self._kernel_accesses and not found):
            found += self._of_kernel(name)
        if not found:
            where = "the kernel" if space is Space.KERNEL else f"process {self._pid}"
            raise RequestError(
                f"cannot find function {name}", f"{where} has none of that name", self._advice(name, space)
            )
        return tuple(sorted(set(found)))

    def _of_kernel(self, name: str) -> list[Range]:
        table = self._kernel.kallsyms
        found = []
        for symbol in table.find(name):
            function = table.function_at(symbol.address)
            if function is not None and function.start == symbol.address:
                found.append((function.start, function.end))
        return found

    def _advice(self, name: str, space: Space) -> str:
        if space is Space.KERNEL:
            near = suggestion(name, self._kernel.kallsyms.names(text_only=True))
            if near:
                return near
        return "look at the FUNCTION column of a run without the condition"


def _of_process(pid: int, name: str) -> list[Range]:
    found = []
    with Process(pid) as process:
        paths = {mapping.path for mapping in process.maps() if mapping.executable and mapping.is_file}
        for path in paths:
            try:
                loaded = process.find_object(path)
            except KsymError:
                continue
            for symbol in find(loaded.tables, name):
                if symbol.is_function:
                    start = symbol.value + loaded.bias
                    found.append((start, start + max(symbol.size, 1)))
    return found
