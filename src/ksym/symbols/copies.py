# SPDX-License-Identifier: BSD-2-Clause
"""Which copy of a variable a library's code uses, where several objects of a process define it.

A variable that a library exports belongs to the first object, in the dynamic linker's order, that defines its name:
the program (which may have a copy of its own by R_*_COPY), LD_PRELOAD, then libraries. The library's relocations hold
the linker's answer: where they are done already, they are read. Before that the linker's rule is applied to what is
loaded so far; as objects are loaded in that order, all that could come first are there. What a library does not ask
the linker for (``-Bsymbolic``, protected or hidden symbols) is its own. Each namespace of dlmopen(3) is apart, with
copies of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ksym.linux.memory import MemoryFault
from ksym.linux.process_memory import ProcessMemory
from ksym.symbols.dynamic import Definition, Reference
from ksym.symbols.elf import ElfError
from ksym.symbols.linkmap import Linked, namespaces
from ksym.symbols.loaded import LoadedObject, Process
from ksym.symbols.symtab import STB_LOCAL, STT_OBJECT, ElfSymbol


@dataclass(frozen=True)
class Copy:
    """A variable's place in a process.

    Args:
        home: The object that it belongs to.
        symbol: Its symbol there.
        library: The library whose code uses it, at this place in memory.
        linked: Asks the library's relocations which address it uses; None once they were followed, or there are none.
        rival: An object that was opened before the library and has the variable, too. If it was opened with
            RTLD_GLOBAL, which only the dynamic linker knows, the library uses that one; None if there is none.
    """

    home: LoadedObject
    symbol: ElfSymbol
    library: LoadedObject
    linked: Callable[[], int | None] | None = field(default=None, compare=False)
    rival: LoadedObject | None = field(default=None, compare=False)

    @property
    def address(self) -> int:
        """Where it lies."""
        return self.symbol.value + self.home.bias

    @property
    def interposed(self) -> bool:
        """It is another object's."""
        return self.home.path != self.library.path


def in_use(process: Process, loaded: LoadedObject, symbol: ElfSymbol) -> list[Copy]:
    """All live copies of a library's variable: those that its code uses, wherever it is loaded in the process.

    Args:
        process: The process.
        loaded: The library.
        symbol: The variable's symbol in it.

    Returns:
        At least one; the first is that of the namespace in which the program is, if that has it.
    """
    linker = _Linker(process)
    found: dict[int, Copy] = {}
    libraries = process.instances(loaded)
    if len(libraries) > 1:
        libraries.sort(key=linker.namespace)
    for library in libraries:
        own = Copy(library, symbol, library)
        try:
            copies = _of(linker, own)
        except ElfError:
            copies = [own]  # a damaged table; what its symbol says is all that is known
        for copy in copies:
            found.setdefault(copy.address, copy)
    return list(found.values())


def _of(linker: _Linker, own: Copy) -> list[Copy]:
    """The copies that one library uses, at one place in memory."""
    library, symbol = own.library, own.symbol
    dynamic = library.elf.dynamic
    names = dynamic.definitions_at(symbol.value)
    exported = [
        each for each in names if each.symbol.name == symbol.name and dynamic.interposable(each.symbol)
    ]
    program = linker.program
    if not exported or program is None or program.path == library.path:
        return [own]
    references = dynamic.references({each.symbol.index for each in names})
    # Data that pointed to the variable at first may point elsewhere by now; the linker's table does not change.
    references = [each for each in references if each.is_slot] or references
    found = [linker.bound(own, names, each) for each in references]
    bound = [copy for copy in found if copy is not None]
    if not bound:
        bound = [_first(linker, own, exported, references)]
    if bound[0].address != own.address and dynamic.points_to(symbol.value):
        bound.append(own)  # part of its code goes by an alias
    return bound


def _first(linker: _Linker, own: Copy, exported: Sequence[Definition], references: list[Reference]) -> Copy:
    """The definition that comes first; the library's own where its code does not ask for that."""
    dynamic = own.library.elf.dynamic
    if not references and (dynamic.symbolic or _has_alias(own)):
        return own
    first = linker.first(own, exported)
    if first is None:
        slots = [each for each in references if each.is_slot]
        rival = linker.rival(own, exported) if slots else None
        return replace(own, linked=linker.asking(own, slots), rival=rival) if rival else own
    home, symbol = first
    return Copy(home, symbol, own.library, linker.asking(own, references) if references else None)


def _has_alias(own: Copy) -> bool:
    """True if the file has a hidden name for an exported variable, too, by which its code may reach it."""
    tables = [table for table in own.library.tables if table.name == ".symtab"]
    return any(
        each.bind == STB_LOCAL and each.type == STT_OBJECT and each.size == own.symbol.size
        for table in tables
        for each in table.defined_at(own.symbol.value)
    )


class _Linker:
    """What the dynamic linker has done in a process so far."""

    def __init__(self, process: Process) -> None:
        self._process, self._memory = process, ProcessMemory(process.pid)
        self.program = process.executable

    @cached_property
    def _spaces(self) -> list[list[Linked]]:
        return namespaces(self.program, self._memory) if self.program else []

    def namespace(self, library: LoadedObject) -> int:
        """Number of the namespace that a library is in; the last one where the linker does not have it yet."""
        places = (
            number for number, space in enumerate(self._spaces) for one in space if one.bias == library.bias
        )
        return next(places, len(self._spaces))

    def bound(self, own: Copy, names: Sequence[Definition], reference: Reference) -> Copy | None:
        """The copy that a relocated word leads to; None where it is not relocated, or holds something else."""
        address = self._word(own.library, reference)
        if address is None:
            return None
        if address == own.address:
            return own
        home = self._process.holder(address)
        if home is None:
            return None
        wanted = {each.symbol.name for each in names}
        try:
            there = home.elf.dynamic.definitions_at(address - home.bias)
        except ElfError:
            return None
        symbol = next((each.symbol for each in there if each.symbol.name in wanted), None)
        return None if symbol is None else Copy(home, symbol, own.library)

    def _word(self, library: LoadedObject, reference: Reference) -> int | None:
        size = library.elf.bits // 8
        try:
            data = self._memory.read(reference.address + library.bias, size)
        except MemoryFault:
            return None
        word = int.from_bytes(data, "little" if library.elf.little_endian else "big")
        return (word - reference.addend) % (1 << 8 * size)

    def asking(self, own: Copy, references: Sequence[Reference]) -> Callable[[], int | None]:
        """How to see later on which address the linker has set; None as long as it has set none."""
        before = {each: self._word(own.library, each) for each in references}
        found: int | None = None

        def now() -> int | None:
            nonlocal found
            set_since = (
                word for each, was in before.items() if (word := self._word(own.library, each)) != was
            )
            found = found or next((word for word in set_since if word), None)
            return found

        return now

    # -- the rule ------------------------------------------------------------------------------------

    def first(self, own: Copy, exported: Sequence[Definition]) -> tuple[LoadedObject, ElfSymbol] | None:
        """The first definition in the scope of a library that is not relocated yet; None: its own."""
        for home in self._scope(own.library):
            if home.path == own.library.path and home.bias == own.library.bias:
                return None
            symbol = _serving(home, exported)
            if symbol is not None:
                return home, symbol
        return None

    def rival(self, own: Copy, exported: Sequence[Definition]) -> LoadedObject | None:
        """The first object that has a definition, and may have been made global by dlopen(3)."""
        opened = self._up_to(own.library)[:-1]
        return next((each for each in opened if _serving(each, exported) is not None), None)

    def _scope(self, library: LoadedObject) -> list[LoadedObject]:
        """The objects in which the library's symbols are looked for, up to itself, in order.

        What was there when the program started serves everybody; what was opened later serves those that it brought
        along. (dlopen(3) can make more of it global, which only the linker knows: see ``rival``.)
        """
        objects = self._up_to(library)
        start = _started(objects)
        opened = [each for each in objects[start:-1] if library in _brought(each, objects)]
        return objects[:start] + [
            each for each in objects[start:-1] if any(each in _brought(root, objects) for root in opened)
        ]

    def _up_to(self, library: LoadedObject) -> list[LoadedObject]:
        """What its namespace has loaded before a library, and itself; nothing if it is in a namespace of its own."""
        space = next((s for s in self._spaces if any(one.bias == library.bias for one in s)), None)
        if space is None:
            # It is being loaded. If the first namespace has it already, this is another one.
            others = {other.bias for other in self._process.instances(library)} - {library.bias}
            if not self._spaces or any(one.bias in others for one in self._spaces[0]):
                return []
            space = self._spaces[0]
        objects = []
        for one in space:
            if one.bias == library.bias:
                break
            if (loaded := self._loaded(one)) is not None:
                objects.append(loaded)
        return [*objects, library]

    def _loaded(self, one: Linked) -> LoadedObject | None:
        return self._process.holder(one.dynamic, one.bias)


def _serving(home: LoadedObject, exported: Sequence[Definition]) -> ElfSymbol | None:
    """Return the first of an object's definitions that some of a library's own could be bound to."""
    for wanted in exported:
        for each in home.elf.dynamic.definitions(wanted.symbol.name):
            if each.serves(wanted.version):
                return each.symbol
    return None


def _brought(root: LoadedObject, objects: Sequence[LoadedObject]) -> list[LoadedObject]:
    """An object, and those among others that it needs."""
    names = {each.elf.soname or each.basename: each for each in objects}
    names |= {each.basename: each for each in objects}
    found = [root]
    for each in found:
        needed = (names.get(name.rpartition("/")[2]) for name in each.elf.dynamic.needed)
        found += [other for other in needed if other is not None and other not in found]
    return found


def _started(objects: Sequence[LoadedObject]) -> int:
    """How many objects were loaded at the program's start: all up to the last one that it, or one of these, needs."""
    count = 1
    while True:
        needed = {
            number
            for each in objects[:count]
            for other in _brought(each, objects)
            for number, one in enumerate(objects)
            if one is other
        }
        if max(needed, default=0) + 1 <= count:
            return count
        count = max(needed) + 1
