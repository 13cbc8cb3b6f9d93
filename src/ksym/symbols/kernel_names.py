# SPDX-License-Identifier: BSD-2-Clause
"""Kernel names to objects: the chain of sources, each asked for what the ones before it did not know."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from ksym.errors import KsymError
from ksym.language.request import Symbol
from ksym.linux.memory import MemoryFault
from ksym.symbols import known, percpu
from ksym.symbols.ctext import parse_type
from ksym.symbols.kallsyms import Kallsyms, KernelSymbol
from ksym.symbols.kernel import Kernel
from ksym.symbols.params import Parameter
from ksym.symbols.tasks import TaskList
from ksym.symbols.types import Array, Type
from ksym.symbols.variable import Fact

_SECTIONS = {"d": ".data", "b": ".bss", "r": ".rodata", "t": ".text", "w": ".text"}
_ROOM_TRUSTED = 8
"""Where only the distance to the next symbol is known, an object no larger than this is taken to fill it."""
_ROOM_PADDING = 64
"""A distance up to this, a cache line, may be padding: then the object's first word is watched, with a remark."""


@dataclass
class Found:
    """What is known of a name so far; the links of the chain fill it in."""

    symbol: Symbol
    address: int = 0
    size: int = 0
    room: int | None = None
    """Upper bound of the size: the distance to the next symbol."""
    type: Type | None = None
    section: str | None = None
    text: bool = False
    per_cpu: dict[int, int] | None = None
    remark: str | None = None
    module: str | None = None
    facts: list[Fact] = field(default_factory=list)

    def learn(self, what: str, value: object, source: str) -> None:
        """Note a fact and where it is from."""
        self.facts.append(Fact(what, str(value), source))


class KernelNames:
    """Looks names up in everything that is known about the running kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def find(self, symbol: Symbol, *, typed: bool, execute: bool = False) -> Found:
        """Find a variable, function or parameter.

        Args:
            symbol: Its name.
            execute: A function is asked for; decides between data and code of a name, and what is suggested.
            typed: Its members are asked for, so that a type is worth a long search.

        Raises:
            NoSuchVariable: no source has it.
            KsymError: it is ambiguous, or the sources cannot be read.
        """
        self._kernel.check_given()
        found = (
            self._from_table(symbol, self._kernel.kallsyms, execute)
            or self._in_parameters(symbol)
            or self._in_image(symbol)
            or self._in_system_map(symbol, execute)
            or self._per_cpu_by_btf(symbol)
            or self._reachable(symbol)
        )
        if found is None:
            from ksym.symbols.missing import missing_function, missing_variable

            raise (
                missing_function(self._kernel, symbol) if execute else missing_variable(self._kernel, symbol)
            )
        if not found.text:
            self._add_type(found, typed=typed)
            self._add_size(found)
        return found

    # -- where it is ---------------------------------------------------------------------------

    def _in_system_map(self, symbol: Symbol, execute: bool) -> Found | None:
        table = self._kernel.system_map
        return self._from_table(symbol, table, execute) if table and symbol.scope is None else None

    def _from_table(self, symbol: Symbol, table: Kallsyms, execute: bool) -> Found | None:
        matches = table.find(symbol.name, symbol.scope)
        if not matches:
            return None
        chosen = self._choose(symbol, matches, execute)
        found = Found(
            symbol, chosen.address, text=chosen.is_text, room=table.room(chosen), module=chosen.module
        )
        owner = f" [{chosen.module}]" if chosen.module else ""
        if not chosen.is_text and percpu.is_per_cpu(self._kernel, chosen):
            found.per_cpu = percpu.copies(self._kernel, chosen)
            found.address = min(found.per_cpu.items())[1]
            found.section = percpu.SECTION
            found.learn("address", f"{chosen.address:#x} + __per_cpu_offset[CPU]", table.source + owner)
        else:
            found.section = _SECTIONS.get(chosen.kind.lower())
            found.learn("address", f"{chosen.address:#x}", table.source + owner)
        if found.section:
            found.learn("section", found.section, f"kind '{chosen.kind}' in {table.source}")
        return found

    def _choose(self, symbol: Symbol, matches: list[KernelSymbol], execute: bool) -> KernelSymbol:
        """One of several symbols of a name: what was asked for, data or code; the kernel's own before modules'."""
        fitting = [match for match in matches if match.is_text == execute] or matches
        own = [match for match in fitting if match.module is None] or fitting
        if len({match.address for match in own}) == 1:
            return own[0]
        if own[0].module is not None:
            choices = " or ".join(sorted(str(match) for match in own))
            raise KsymError(
                f"cannot tell which {symbol.name} is meant", "several modules have one", f"write {choices}"
            )
        places = ", ".join(f"{match.address:#x}" for match in own)
        raise KsymError(
            f"cannot tell which {symbol.name} is meant",
            f"the kernel has {len(own)} of that name, at {places}",
            f"watch {own[0].address:#x}:--x" if execute else f"watch *(TYPE *){own[0].address:#x}",
        )

    def _in_parameters(self, symbol: Symbol) -> Found | None:
        if symbol.scope is None or self._kernel.parameters is None:
            return None
        try:
            parameter = self._kernel.parameters.find(symbol.scope, symbol.name)
        except MemoryFault:
            return None
        return self._from_parameter(symbol, parameter) if parameter else None

    def _from_parameter(self, symbol: Symbol, parameter: Parameter) -> Found:
        found = Found(symbol, parameter.address, size=parameter.length, module=symbol.scope)
        source = f"module parameter {symbol.scope}.{symbol.name}"
        found.learn("address", f"{parameter.address:#x}", source)
        if parameter.type_name:
            element = parse_type(parameter.type_name)
            if parameter.count is not None:
                name = f"{element.name}[{parameter.count}]"
                found.type = Array(name, element.size * parameter.count, element, parameter.count)
            else:
                found.type = element
            found.learn("type", found.type.name, f"accessors of {source}")
        return found

    def _in_image(self, symbol: Symbol) -> Found | None:
        image = self._kernel.image
        if image is None or symbol.scope is not None:
            return None
        matches = image.elf.find(symbol.name)
        if not matches:
            return None
        addresses = {match.value for match in matches}
        if len(addresses) > 1:
            places = ", ".join(f"{(address + image.slide) % 2**64:#x}" for address in sorted(addresses))
            raise KsymError(
                f"cannot tell which {symbol.name} is meant", f"{image.path} has several, at {places}",
                f"watch one by its address, as in *(TYPE *){places.partition(',')[0]}",
            )  # fmt: skip
        match = matches[0]
        found = Found(symbol, (match.value + image.slide) % 2**64, size=match.size, text=match.is_function)
        found.section = match.section
        found.learn("address", f"{found.address:#x}", f"{image.path}, moved by {image.slide:#x}")
        if match.section == percpu.SECTION:
            entry = KernelSymbol(match.value, "d", match.name, None)
            found.per_cpu = percpu.copies(self._kernel, entry)
            found.address = min(found.per_cpu.items())[1]
        if match.section:
            found.learn("section", match.section, str(image.path))
        return found

    def _per_cpu_by_btf(self, symbol: Symbol) -> Found | None:
        btf = self._kernel.btf
        variable = btf.variable(symbol.name) if btf and symbol.scope is None else None
        if variable is None or variable.section != percpu.SECTION:
            return None
        addresses = percpu.copies_by_btf(self._kernel, variable.offset)
        found = Found(symbol, min(addresses.items())[1], per_cpu=addresses, section=percpu.SECTION)
        found.learn(
            "address",
            f"{variable.offset:#x} in each CPU's section",
            "BTF of vmlinux, by way of the run queues",
        )
        found.learn("section", percpu.SECTION, "BTF of vmlinux")
        return found

    def _reachable(self, symbol: Symbol) -> Found | None:
        """Globals that some task points to: for kernels whose kallsyms names no data."""
        path = known.REACHABLE.get(symbol.name)
        if path is None or symbol.scope is not None or self._kernel.memory_or_none is None:
            return None
        try:
            tasks = TaskList(self._kernel)
            address = tasks.init_task()
            for kind, member in path:
                address = tasks.pointer(address + tasks.offset(kind, member))
        except (KsymError, MemoryFault):
            return None
        found = Found(symbol, address)
        way = "".join(f"->{member}" for _, member in path)
        found.learn("address", f"{address:#x}", f"the list of tasks: init_task{way}")
        return found

    # -- what it is ------------------------------------------------------------------------------

    def _add_type(self, found: Found, *, typed: bool) -> None:
        name, scope = found.symbol.name, found.symbol.scope
        if found.type is not None:
            return
        if scope is not None and self._type_of_parameter(found, scope):
            return
        btf = self._kernel.module_btf(scope) if scope else self._kernel.btf
        variable = btf.variable(name) if btf else None
        if variable is not None and variable.type.size:
            found.type = variable.type
            found.learn("type", variable.type.name, f"BTF of {scope or 'vmlinux'}")
            return
        if scope is None and self._well_known(found):
            return
        if scope is None and typed:
            self._type_by_dwarf(found)

    def _type_of_parameter(self, found: Found, scope: str) -> bool:
        """A module's variable is often also its parameter, whose accessors tell the type."""
        parameters = self._kernel.parameters
        try:
            parameter = parameters.find(scope, found.symbol.name) if parameters else None
        except MemoryFault:
            return False
        if parameter is None or parameter.address != found.address or parameter.count is not None:
            return False
        known_here = self._from_parameter(found.symbol, parameter)
        if known_here.type is None:
            return False
        found.type = known_here.type
        found.facts += [fact for fact in known_here.facts if fact.what == "type"]
        return True

    def _well_known(self, found: Found) -> bool:
        text = known.TYPES.get(found.symbol.name)
        if text is None:
            return False
        element, bracket, rest = text.partition("[")
        try:
            kind = parse_type(element, self._kernel.btf)
        except KsymError:
            return False
        if bracket:
            count = int(rest.rstrip("]"))
            kind = Array(text, kind.size * count, kind, count)
        exact, room = found.size, found.room
        if not kind.size or (exact and exact != kind.size) or (room is not None and room < kind.size):
            return False
        found.type = kind
        found.learn(
            "type", kind.name, "ksym's table of well-known variables, checked against BTF and kallsyms"
        )
        return True

    def _type_by_dwarf(self, found: Found) -> None:
        image = self._kernel.image
        if image is None:
            return
        from ksym.symbols.dwarf import NotAvailable
        from ksym.symbols.dwarf import variable as dwarf_variable

        try:
            kind = dwarf_variable(image.elf, found.symbol.name)
        except NotAvailable as error:
            found.learn("type", "not looked for", f"DWARF of {image.path}: {error.why}")
            return
        if kind is not None and kind.size:
            found.type = kind
            found.learn("type", kind.name, f"DWARF of {image.path}")

    def _add_size(self, found: Found) -> None:
        if found.size:
            found.learn("size", found.size, found.facts[0].source)
            return
        if found.type is not None and found.type.size:
            found.size = found.type.size
            found.learn("size", found.size, "its type")
            return
        image = self._kernel.image
        matches = image.elf.find(found.symbol.name) if image and found.symbol.scope is None else []
        if image and matches and matches[0].size:
            found.size = matches[0].size
            found.learn("size", found.size, str(image.path))
            return
        if found.room and found.room <= _ROOM_PADDING:
            # Padding is touched by nobody, so a word too wide does no harm.
            found.size = min(1 << (found.room.bit_length() - 1), _ROOM_TRUSTED)
            while found.address % found.size:
                found.size //= 2
            found.learn("size", found.size, f"{found.room} bytes to the next symbol in /proc/kallsyms")
            if found.room > _ROOM_TRUSTED:
                found.remark = (
                    f"the size of {found.symbol.name} is not known (at most {found.room} bytes, by /proc/kallsyms): "
                    f"its first {found.size} are watched"
                )


def read_pointer(kernel: Kernel, address: int) -> int:
    """The pointer stored at a kernel address.

    Raises:
        KsymError: it cannot be read.
    """
    try:
        return int(struct.unpack("=Q", kernel.memory.read(address, 8))[0])
    except MemoryFault as error:
        raise KsymError(
            f"cannot read {address:#x}", "nothing is mapped there", "check the address"
        ) from error
