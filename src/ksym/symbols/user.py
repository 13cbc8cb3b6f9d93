# SPDX-License-Identifier: BSD-2-Clause
"""Variables of running programs: ``./prog:counter``, ``libc.so.6:environ``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ksym.errors import KsymError, NoSuchVariable, NotWatchable, Place, Span
from ksym.language.request import UserSymbol, written
from ksym.symbols import dwarf
from ksym.symbols.copies import Copy, in_use
from ksym.symbols.elf import ElfError, ElfFile
from ksym.symbols.loaded import LoadedObject, ObjectNotMapped, Process
from ksym.symbols.scopes import find_in_scope, lies_in, spellings, split_name
from ksym.symbols.symtab import STT_NOTYPE, ElfSymbol, find
from ksym.symbols.types import Type
from ksym.symbols.variable import Again, Fact, Instance

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
    remark: str | None = None
    """What a user should know of which copy this is."""
    again: Again | None = field(default=None, compare=False)
    instance: Instance | None = field(default=None, compare=False)


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
    remark = again = instance = None
    if not execute and not symbol.thread_local:
        copies = in_use(process, loaded, symbol)
        home, found = copies[0].home, copies[0].symbol
        remark, again = _remark(copies, symbol, process.pid), _again(copies[0], label)
        biases = frozenset(each.bias for each in process.instances(loaded))
        instance = Instance(loaded.path, symbol.value, biases)
        if copies[0].interposed:
            source = (
                f"{_linked_how(copies[0])} of {home.basename}: the program and its libraries use this copy, "
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
    return UserVariable(
        name, address, size, kind, found.section, execute, tuple(facts), remark, again, instance
    )


def _linked_how(copy: Copy) -> str:
    copied = copy.symbol.value in copy.home.elf.dynamic.copies
    return "copy relocation" if copied else f"definition in {copy.symbol.table}"


def _remark(copies: Sequence[Copy], symbol: ElfSymbol, pid: int) -> str | None:
    """Say which copy is watched, and which other ones there are."""
    first, name = copies[0], symbol.readable_name
    library = first.library.basename
    told = []
    if first.interposed:
        own = symbol.value + first.library.bias
        told.append(
            f"{name} of {library} is that of {first.home.basename}, which comes first for the dynamic linker; "
            f"the one in {library}, at {own:#x}, is not watched"
        )
    for other in copies[1:]:
        whose = "part of its code uses" if other.library.bias == first.library.bias else "a second one has"
        told.append(
            f"{name} of {library} has another copy: {whose} the one at {other.address:#x}, which is not watched; "
            f"see it with -p {pid} and {other.address:#x}/{symbol.size}"
        )
    return "; ".join(told) or None


def _again(copy: Copy, label: str) -> Again | None:
    """Ask once the dynamic linker has bound the library whether its choice is the one that was foreseen."""
    if copy.linked is None:
        return None
    told = (
        f"{label} is not the variable that was watched, at {copy.address:#x}: the dynamic linker has bound its library "
        "to the one at {now}; start the program and use -p PID"
    )
    unseen = ""
    if copy.rival is not None:
        unseen = (
            f"{copy.rival.basename} was opened before {copy.library.basename} and has {copy.symbol.readable_name}, "
            "too: which of both the dynamic linker chose is not known, as the process ended between two looks, "
            f"0.2 s apart; watch the other as {written(copy.rival.path, *split_name(copy.symbol.readable_name))}"
        )
    return Again(copy.linked, told, unseen=unseen)


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
    """Return the functions that have a local variable of that name, without a fixed address."""
    *scopes, last = split_name(name) or [name]
    for elf in _with_dwarf(loaded):
        try:
            around = [each for each in elf.dwarf.scopes_of_locals(last) if lies_in(each, scopes)]
            return list(dict.fromkeys(each[-1] for each in around))
        except KsymError:
            break
    return []


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


__all__ = [
    "LoadedObject",
    "ObjectNotMapped",
    "Process",
    "UserVariable",
    "locate",
    "resolve_user",
]
