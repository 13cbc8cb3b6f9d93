# SPDX-License-Identifier: BSD-2-Clause
"""Variables of running programs: ``./prog:counter``, ``libc.so.6:environ``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ksym.errors import KsymError, NoSuchVariable, NotWatchable, Place, Span
from ksym.language.request import UserSymbol, written
from ksym.symbols import dwarf
from ksym.symbols.elf import ElfError, ElfFile
from ksym.symbols.loaded import LoadedObject, ObjectNotMapped, Process
from ksym.symbols.scopes import find_in_scope, spellings, split_name
from ksym.symbols.symtab import STT_NOTYPE, ElfSymbol, find
from ksym.symbols.types import Type
from ksym.symbols.variable import Fact

_CODE = frozenset({".text", ".init", ".fini", ".plt"})
"""Where a symbol without a type, from assembly, is a function."""


@dataclass(frozen=True)
class UserVariable:
    """A variable or function in a process's memory.

    ``type`` reads more of the program's DWARF when it is looked into: keep the ``Process`` open meanwhile.
    """

    name: str
    address: int
    size: int
    type: Type | None
    section: str | None
    is_function: bool
    facts: tuple[Fact, ...] = field(compare=False)


def resolve_user(
    symbol: UserSymbol,
    process: Process,
    *,
    execute: bool = False,
    typed: bool = True,
    sized: bool = True,
    place: Callable[[Span], Place] | None = None,
) -> UserVariable:
    """Find what a request means by ``object:name`` in a process; the caller follows the path behind it.

    Args:
        symbol: From the request.
        process: The process to look in.
        execute: A function is asked for.
        typed: Read the type from DWARF, where there is any.
        sized: Refuse what has no size; else 0 is given as such.
        place: Turns the symbol's span into the place of an error (``request.place``).

    Raises:
        ObjectNotMapped: the object is not, or not yet, in the process's memory.
        NoSuchVariable: it has no such symbol.
        NotWatchable: thread-local, ambiguous, of unknown size, or code where data is meant.
    """
    try:
        loaded = process.find_object(symbol.object)
        return locate(process, loaded, symbol.name, execute=execute, typed=typed, sized=sized)
    except KsymError as error:
        if place is not None and error.place is None:
            error.place = place(symbol.span)
        raise


def locate(
    process: Process,
    loaded: LoadedObject,
    name: str,
    *,
    execute: bool = False,
    typed: bool = True,
    sized: bool = True,
) -> UserVariable:
    """The variable ``name`` of an object, with ``execute`` the function; raises as `resolve_user` does."""
    label = f"{loaded.label}:{name}"
    symbol = _choose(loaded, name, label, execute)
    facts: list[Fact] = []
    home, found = loaded, symbol
    if not execute and not symbol.thread_local:
        copy = _copied_into(process, loaded, symbol)
        if copy is not None:
            home, found = copy
            source = (
                f"copy relocation of {home.elf.label}: the program and its libraries use this copy, "
                f"not the one in {loaded.label}"
            )
            facts.append(Fact("address", f"{found.value + home.bias:#x}", source))
    address = found.value + home.bias
    origin = f"{found.table} of {home.elf.label}"
    if found.table == ".symtab" and not home.elf.has_symtab and home.debug is not None:
        origin = f"{found.table} of {home.debug.label}"
    if not facts:
        facts.append(
            Fact("address", f"{address:#x}", f"{origin}, moved by {home.bias:#x}" if home.bias else origin)
        )
    size = symbol.size
    if size:
        facts.append(Fact("size", str(size), origin))
    if found.section:
        facts.append(Fact("section", found.section, origin))
    kind = None
    if typed and not execute:
        kind, note = _type(loaded, symbol)
        facts += note
    if not size and kind is not None and kind.size:
        size = kind.size
        facts.append(Fact("size", str(size), "its type"))
    if not size and not execute and sized:
        raise NotWatchable(
            f"cannot watch {label}",
            "its symbol has no size and there is no type",
            f"give a length: {written(loaded.label, *split_name(name))}/4",
        )
    return UserVariable(name, address, size, kind, found.section, execute, tuple(facts))


def _choose(loaded: LoadedObject, name: str, label: str, execute: bool) -> ElfSymbol:
    symbols = find(loaded.tables, name) or find_in_scope(loaded, name)
    if not symbols:
        raise _no_symbol(loaded, name, label)
    code = [s for s in symbols if s.is_function or (s.type == STT_NOTYPE and s.section in _CODE)]
    data = [s for s in symbols if s not in code]
    if not execute and not data:
        raise NotWatchable(
            f"cannot watch {label}",
            "it is a function",
            f"watch its execution with {written(loaded.label, *split_name(name))}:--x, or name a variable",
        )
    if execute and not code:
        todo = f"watch it with {written(loaded.label, *split_name(name))}:rw-"
        raise NotWatchable(f"cannot watch {label}:--x", "it is a variable", todo)
    wanted = code if execute else data
    if not execute and all(s.thread_local for s in wanted):
        last = split_name(name)[-1]
        raise NotWatchable(
            f"cannot watch {label}",
            "it is thread-local: every thread has its own copy, and the symbol holds no address",
            f"while it runs, let gdb -p PID print &{last} in the thread that matters, and give ksym that "
            f"0xADDRESS/{wanted[0].size or 4} with -p PID",
        )
    different = sorted({s.value: s for s in wanted}.values(), key=lambda s: s.value)
    if len(different) > 1:
        raise _ambiguous(loaded, different, name, label)
    return wanted[0]


_MOST_SHOWN = 8


def _ambiguous(loaded: LoadedObject, symbols: list[ElfSymbol], name: str, label: str) -> KsymError:
    what = f"cannot tell which {label} is meant"
    shown = symbols[:_MOST_SHOWN]
    names = spellings(loaded, shown, name)
    if names:
        *others, last = names
        more = ", and so on" if len(symbols) > len(shown) else ""
        return NotWatchable(what, f"there are {len(symbols)}", f"write {', '.join(others)} or {last}{more}")
    todo = "compile it with -g, which tells their source files and functions"
    return NotWatchable(
        what, f"there are {len(symbols)} of the same name, all of them in files of one name", todo
    )


def _no_symbol(loaded: LoadedObject, name: str, label: str) -> KsymError:
    from ksym.symbols.nearest import did_you_mean, nearest

    stripped = not loaded.elf.has_symtab and loaded.debug is None
    what = f"cannot watch {label}"
    close = nearest(name, {text for table in loaded.tables for text in table.variable_names()})
    hint = did_you_mean([written(loaded.label, *split_name(each)) for each in close])
    if stripped:
        build = f" (build id {loaded.elf.build_id})" if loaded.elf.build_id else ""
        todo = f"install its debug symbols{build}, or use a build that is not stripped"
        return NoSuchVariable(
            what, f"{loaded.label} is stripped and exports no such name", f"{todo}; {hint}".rstrip("; ")
        )
    functions = _functions_with(loaded, name)
    if functions:
        holders, last = " and ".join(functions[:3]), split_name(name)[-1]
        return NoSuchVariable(
            what, f"it is a local variable of {holders}, on the stack or in registers",
            f"while it runs, let gdb -p PID stop in {functions[0]} and print &{last}, and give ksym that "
            "0xADDRESS/LENGTH with -p PID",
        )  # fmt: skip
    return NoSuchVariable(
        what, f"{loaded.label} has no such symbol", hint or f"`nm {loaded.path}` lists its symbols"
    )


def _functions_with(loaded: LoadedObject, name: str) -> list[str]:
    """Return the functions that have a local variable of that name; with ``FUNCTION::NAME`` only that one."""
    *scopes, last = split_name(name) or [name]
    for elf in _with_dwarf(loaded):
        try:
            return [each for each in elf.dwarf.functions_with(last) if not scopes or each == scopes[-1]]
        except KsymError:
            break
    return []


def _copied_into(
    process: Process, loaded: LoadedObject, symbol: ElfSymbol
) -> tuple[LoadedObject, ElfSymbol] | None:
    # A program that was linked to use a library's variable directly has the variable itself, in its .bss, and
    # the dynamic linker makes every library use that one (System V ABI, R_*_COPY).
    program = process.executable
    if program is None or program.path == loaded.path:
        return None
    exported = [
        s for table in loaded.elf.tables if table.name == ".dynsym" for s in table.find(symbol.name.encode())
    ]
    if not any(s.value == symbol.value for s in exported):
        return None
    copies = program.elf.copy_relocations
    for table in program.elf.tables:
        if table.name == ".dynsym":
            for candidate in table.find(symbol.name.encode("utf-8", "surrogateescape")):
                if candidate.value in copies:
                    return program, candidate
    return None


def _type(loaded: LoadedObject, symbol: ElfSymbol) -> tuple[Type | None, list[Fact]]:
    # A type is a convenience: where it cannot be read, the size from the symbol does.
    for elf in _with_dwarf(loaded):
        try:
            found = dwarf.variable(elf, symbol.name, symbol.value)
        except dwarf.NotAvailable as error:
            return None, [Fact("type", "unknown", f"{error.why}: {error.todo}")]
        except ElfError as error:
            return None, [Fact("type", "unknown", error.why)]
        if found is not None:
            return found, [Fact("type", found.name, f"DWARF of {elf.label}")]
    return None, []


def _with_dwarf(loaded: LoadedObject) -> list[ElfFile]:
    if dwarf.has_dwarf(loaded.elf):
        return [loaded.elf]
    return [loaded.debug] if loaded.debug is not None and dwarf.has_dwarf(loaded.debug) else []


def is_mapped(pid: int, spec: str) -> bool:
    """Whether a process has mapped a program or library yet; False too when the process is gone."""
    try:
        with Process(pid) as process:
            return process.has_mapped(spec)
    except KsymError:
        return False


__all__ = [
    "LoadedObject",
    "ObjectNotMapped",
    "Process",
    "UserVariable",
    "is_mapped",
    "locate",
    "resolve_user",
]
