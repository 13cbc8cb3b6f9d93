# SPDX-License-Identifier: BSD-2-Clause
"""Module parameters: kernel variables with names, even on kernels that list no data symbols.

Built-in ones lie in an array of ``struct kernel_param`` between the symbols ``__start___param`` and
``__stop___param``, which kallsyms has on every kernel; a loaded module's have a symbol ``__param_NAME``
each, where CONFIG_KALLSYMS_ALL is on. Layout: include/linux/moduleparam.h, unchanged since 4.2::

    name, module, ops: pointers; perm: u16; level: s8; flags: u8; union { arg; str; arr }: a pointer
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ksym.linux.memory import Memory, MemoryFault
from ksym.symbols.kallsyms import Kallsyms

_PARAM = struct.Struct("=QQQHbB4xQ")
_NAME_MOST = 128
_PAGE = 4096

# The kernel's standard accessors name the variable's type (kernel/params.c).
_TYPE_OF_GETTER = {
    "param_get_bool": "bool",
    "param_get_invbool": "bool",
    "param_get_byte": "unsigned char",
    "param_get_short": "short",
    "param_get_ushort": "unsigned short",
    "param_get_int": "int",
    "param_get_uint": "unsigned int",
    "param_get_long": "long",
    "param_get_ulong": "unsigned long",
    "param_get_ullong": "unsigned long long",
    "param_get_hexint": "unsigned int",
    "param_get_charp": "char *",
}
_STRING_GETTER, _ARRAY_GETTER = "param_get_string", "param_array_get"


@dataclass(frozen=True)
class Parameter:
    """One parameter and the variable behind it.

    ``type_name`` is the C type of the variable (of an element, if ``count`` is set), None if the parameter
    has accessors of its own, which do not tell. ``length`` is in bytes, 0 if unknown.
    """

    scope: str
    name: str
    address: int
    type_name: str | None
    length: int
    count: int | None = None

    def __str__(self) -> str:
        return f"{self.scope}:{self.name}" if self.scope else self.name


class Parameters:
    """The parameters of the running kernel.

    Args:
        kallsyms: Where the array is.
        memory: The kernel's memory.
    """

    def __init__(self, kallsyms: Kallsyms, memory: Memory) -> None:
        self._kallsyms, self._memory = kallsyms, memory
        self._pages: dict[int, bytes] = {}
        self._getters: dict[int, str] = {}

    def find(self, scope: str, name: str) -> Parameter | None:
        """The parameter ``scope.name``, of a built-in or loaded module; ``-`` and ``_`` are the same in it."""
        wanted = (_plain(scope), _plain(name))
        for full, entry in self._builtin:
            owner, _, own = full.rpartition(".")
            if (_plain(owner), _plain(own)) == wanted:
                return self._parameter(owner, own, entry)
        for symbol in self._kallsyms.find(f"__param_{name}", scope):
            return self._parameter(scope, name, self._memory.read(symbol.address, _PARAM.size))
        return None

    def all(self) -> Iterator[Parameter]:
        """Every built-in parameter whose variable is known."""
        for full, entry in self._builtin:
            owner, _, own = full.rpartition(".")
            parameter = self._parameter(owner, own, entry)
            if parameter is not None:
                yield parameter

    @cached_property
    def _builtin(self) -> list[tuple[str, bytes]]:
        """(full name, raw entry) of each entry of the array."""
        start, stop = self._kallsyms.edge("__start___param"), self._kallsyms.edge("__stop___param")
        if start is None or stop is None or not 0 < stop - start < 1 << 20:
            return []
        try:
            table = self._memory.read(start, (stop - start) // _PARAM.size * _PARAM.size)
        except MemoryFault:
            return []
        found = []
        for at in range(0, len(table), _PARAM.size):
            entry = table[at : at + _PARAM.size]
            name = self._string(_PARAM.unpack(entry)[0])
            if name:
                found.append((name, entry))
        return found

    def _string(self, address: int) -> str:
        """The C string at ``address``; names lie close together, so whole pages are read and kept."""
        text = b""
        while b"\0" not in text and len(text) < _NAME_MOST:
            at = address + len(text)
            page = self._page(at & -_PAGE)
            text += page[at % _PAGE :]
            if not page:
                break
        return text.partition(b"\0")[0][:_NAME_MOST].decode(errors="replace")

    def _page(self, start: int) -> bytes:
        if start not in self._pages:
            try:
                self._pages[start] = self._memory.read(start, _PAGE)
            except MemoryFault:
                self._pages[start] = b""
        return self._pages[start]

    def _pointers(self, address: int, count: int) -> tuple[int, ...]:
        return struct.unpack(f"={count}Q", self._memory.read(address, 8 * count))

    def _parameter(self, scope: str, name: str, entry: bytes) -> Parameter | None:
        _, _, ops, _, _, _, argument = _PARAM.unpack(entry)
        if not argument:
            return None
        try:
            getter = self._getter(ops)
            if getter == _STRING_GETTER:
                # struct kparam_string: unsigned int maxlen; char *string
                size, at = struct.unpack("=I4xQ", self._memory.read(argument, 16))
                return Parameter(scope, name, at, "char", size, size)
            if getter == _ARRAY_GETTER:
                # struct kparam_array: unsigned int max, elemsize; unsigned int *num; ops; void *elem
                most, size, _, inner, at = struct.unpack("=IIQQQ", self._memory.read(argument, 32))
                element = _TYPE_OF_GETTER.get(self._getter(inner))
                return Parameter(scope, name, at, element, most * size, most)
        except MemoryFault:
            return None
        return Parameter(scope, name, argument, _TYPE_OF_GETTER.get(getter), 0)

    def _getter(self, ops: int) -> str:
        """Name of ``ops->get``; struct kernel_param_ops: unsigned int flags; set, get, free."""
        if ops not in self._getters:
            (getter,) = self._pointers(ops + 16, 1)
            names = [symbol.name for symbol in self._kallsyms.at(getter)]
            self._getters[ops] = names[0] if names else ""
        return self._getters[ops]


def _plain(name: str) -> str:
    return name.replace("-", "_")
