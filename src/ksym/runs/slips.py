# SPDX-License-Identifier: BSD-2-Clause
"""Slips on the command line, told by what else stands there: whose variable is meant, where ``--`` is missing.

Each is looked for only once something has been refused, except for files that are not programs: COMMAND would run
to its end before that showed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ksym.errors import KsymError, NoSuchVariable, NotPermitted, NotWatchable, RequestError, UsageError
from ksym.language.parser import GDB_COMMANDS, parse_request
from ksym.language.request import Address, Request, Symbol, UserSymbol, written
from ksym.linux.files import find_program
from ksym.symbols.variable import KERNEL_HALF

_SOURCES = (
    ".c",
    ".h",
    ".cc",
    ".cpp",
    ".cxx",
    ".hh",
    ".hpp",
    ".rs",
    ".go",
    ".s",
    ".S",
    ".f90",
    ".d",
    ".zig",
    ".py",
)
_ET_REL, _ET_CORE = 1, 4  # elf.h


def misplaced_words(texts: Sequence[str], command: Sequence[str] | None) -> KsymError | None:
    """Explain requests of which one is not a request: a program apart from its variable, a COMMAND without ``--``.

    Args:
        texts: All requests, as they were typed.
        command: COMMAND; empty where one could have been given, None where none could.
    """
    for at, text in enumerate(texts[:-1]):
        if "/" in text and ":" not in text and re.match(r"[^\W\d]\w*([.:[-]|$)", texts[at + 1]):
            todo = f"write {written(text)}{texts[at + 1]}"
            return UsageError(f"cannot watch {text}", "the name of its variable stands apart", todo)
    return missing_dashes(texts) if command is not None and not command else None


def missing_dashes(words: Sequence[str]) -> KsymError | None:
    """Explain words of which one, after the first, is a program and not a request: ``--`` is missing before it."""
    for at, word in enumerate(words):
        if at and ":" not in word and find_program(word) is not None:
            todo = f"write {' '.join(words[:at])} -- {' '.join(words[at:])}"
            return UsageError("cannot read the command line", f"-- is missing before COMMAND {word}", todo)
    return None


def check_programs(requests: Sequence[Request], command: Sequence[str]) -> None:
    """Refuse files that no process can map as a program or library.

    Raises:
        NoSuchVariable: A request names one.
        NotPermitted: A request names one that this user may not read.
    """
    for request in requests:
        root = request.target.root
        if not isinstance(root, UserSymbol) or "/" not in root.object or not os.path.exists(root.object):
            continue
        kind = _kind(root.object)
        if not kind and os.path.isfile(root.object) and not os.access(root.object, os.R_OK):
            # Its processes may not be looked into either: would_dump() in fs/exec.c.
            what, why = f"cannot watch {request.target.text}", f"this user may not read {root.object}"
            raise NotPermitted(what, why, "run it with sudo", place=request.place(root.span))
        if not kind:
            continue
        stem = os.path.splitext(root.object)[0]
        programs = [path for path in (stem, *_command_files(command)) if _has(path, root.name)]
        others = f"write {_respelt(request, written(programs[0], *_name(root)))}" if programs else ""
        todo = others or "name the program that is made of it"
        if kind == _SCRIPT:
            todo = others or "name the program that it runs"
        end = "" if kind == _NEITHER else ", not a program"
        raise NoSuchVariable(
            f"cannot watch {request.target.text}", f"{root.object} is {kind}{end}", todo,
            place=request.place(root.span),
        )  # fmt: skip


_SCRIPT, _NEITHER = "a script", "neither a program nor a library"


def _kind(path: str) -> str:
    """Return what a file is that no process can map as a program; empty for programs, and what cannot be read."""
    if not os.path.isfile(path):
        return "a directory" if os.path.isdir(path) else ""  # a FIFO would wait
    try:
        with open(path, "rb") as file:
            head = file.read(18)
    except OSError:
        return ""
    if head[:4] == b"\x7fELF":
        kind = int.from_bytes(head[16:18], "big" if head[5:6] == b"\x02" else "little")
        return {_ET_REL: "an object file", _ET_CORE: "a core dump"}.get(kind, "")
    if path.endswith(_SOURCES):
        return "a source file"
    return _SCRIPT if head[:2] == b"#!" else _NEITHER


def explain(
    error: KsymError,
    request: Request,
    *,
    pid: int | None,
    command: Sequence[str] | None,
    texts: Sequence[str],
) -> KsymError:
    """Return a better error than ``error`` for a request that could not be resolved, where there is one.

    Args:
        error: What the symbol stage says.
        request: The request.
        pid: The process of the run, from -p.
        command: COMMAND; empty where one could have been given, None where none could.
        texts: All requests, as they were typed.
    """
    root = request.target.root
    files = _command_files(command) if command else _executable(pid)
    better: KsymError | None = None
    if isinstance(root, Symbol) and len(texts) > 1 and texts[0] == root.name in GDB_COMMANDS:
        try:
            parse_request(f"{texts[0]} {texts[1]}")
        except RequestError as refusal:
            return refusal
    if isinstance(root, Symbol) and _is_unknown(error, root):
        better = _of_a_program(request, root, files)
        if better is None and command is not None and not command and isinstance(error, NoSuchVariable):
            better = missing_dashes(texts)
    elif isinstance(root, Address) and root.value < KERNEL_HALF and command:
        better = _address_of_command(request, root, files)
    if better is None:
        return error
    better.place = better.place or request.place(root.span)
    return better


def _is_unknown(error: KsymError, root: Symbol) -> bool:
    """Return True if the name itself was not found; a member or a type that is missing is another matter."""
    if isinstance(error, NotWatchable):
        return root.scope is not None
    return isinstance(error, (NotPermitted, NoSuchVariable)) and not error.what.startswith("cannot reach")


def _of_a_program(request: Request, root: Symbol, files: Sequence[str]) -> KsymError | None:
    what = f"cannot watch {request.target.text}"
    if root.scope is None:
        for path in files:
            if _has(path, root.name):
                why = f"the kernel has no variable {root.name} that ksym can find, but {path} has one"
                return NoSuchVariable(what, why, f"write {_respelt(request, written(path, root.name))}")
        return _like_one_of_a_program(request, root, files)
    scope = request.text[root.span.start :].partition(":")[0]
    for path in (f"./{scope}", *(each for each in files if os.path.basename(each) == scope)):
        if _has(path, root.name):
            why = f"there is no module {scope}, but a program {path}"
            return NoSuchVariable(what, why, f"write {_respelt(request, written(path, root.name))}")
    return None


def _like_one_of_a_program(request: Request, root: Symbol, files: Sequence[str]) -> KsymError | None:
    """Explain a bare name that is a function of COMMAND, or resembles a variable of it; None if it is neither."""
    from ksym.symbols.nearest import did_you_mean, nearest

    what, unknown = (
        f"cannot watch {request.target.text}",
        f"the kernel has no variable {root.name} that ksym can find",
    )
    for path in files:
        symbols = _symbols(path)
        if any(name == root.name for name, is_function in symbols if is_function):
            return NoSuchVariable(
                what,
                f"it is a function of {path}",
                f"watch its execution with {written(path, root.name)}:--x",
            )
        if close := nearest(root.name, {name for name, is_function in symbols if not is_function}):
            forms = [_respelt(request, written(path, name)) for name in close]
            return NoSuchVariable(what, f"{unknown}, and {path} has none of that name", did_you_mean(forms))
    return None


def _address_of_command(request: Request, root: Address, files: Sequence[str]) -> KsymError:
    what, why = f"cannot watch {request.target.text}", "an address of COMMAND is not known before it runs"
    for path in files:
        name = _name_at(path, root.value)
        if name:
            end = f"/{root.length}" if root.length else ""
            todo = f"write {_respelt(request, written(path, name) + end)}"
            return KsymError(what, f"{why}, and {path} has {name} there", todo)
    return KsymError(
        what, why, "name the variable, as in PROGRAM:VARIABLE, or start it first and give -p PID"
    )


def never_mapped(programs: Sequence[str], command: Sequence[str], tracers: Sequence[str] = ()) -> KsymError:
    """Explain that COMMAND has run to its end without one of the programs or libraries that were asked for.

    Args:
        programs: The programs and libraries.
        command: COMMAND.
        tracers: Programs that COMMAND has run to trace others, which they could not as ksym traced COMMAND.
    """
    what, listed = f"cannot watch {', '.join(programs)}", " and ".join(programs)
    if tracers:
        return KsymError(
            what,
            f"{command[0]} ended without having it in memory: ksym traces COMMAND until it has, "
            f"so {tracers[-1]} cannot",
            "start it without ksym and use -p PID, or run ksym as root",
        )
    for path in programs:
        if "/" in path and not os.path.exists(path):
            from ksym.symbols.nearest import did_you_mean, nearest

            folder, _, name = path.rpartition("/")
            try:
                others = nearest(name, os.listdir(folder or "/"))
            except OSError:
                others = []
            close = [f"{folder}/{each}" for each in others if not _kind(f"{folder}/{each}")]
            return KsymError(what, f"there is no file {path}", did_you_mean(close) or "check the path")
    why = f"{command[0]} has ended, and {listed} never was in its memory, nor in that of what it started"
    return KsymError(
        what, why, f"name a program that COMMAND runs, as {command[0]}, or a library that it loads"
    )


def _respelt(request: Request, name: str) -> str:
    """Return the request with ``name`` in place of its root."""
    span = request.target.root.span
    start = 0 if isinstance(request.target.root, UserSymbol) else span.start  # its span lacks the program
    return request.text[:start] + name + request.text[span.end :]


def _name(root: UserSymbol) -> list[str]:
    from ksym.symbols.scopes import split_name

    return split_name(root.name)


def _command_files(command: Sequence[str]) -> list[str]:
    found = find_program(command[0]) if command else None
    return [found] if found else []


def _executable(pid: int | None) -> list[str]:
    try:
        return [os.readlink(f"/proc/{pid}/exe")] if pid is not None else []
    except OSError:
        return []


def _has(path: str, name: str) -> bool:
    """Return True if a file is a program that has a variable of that name."""
    from ksym.symbols.elf import ElfFile
    from ksym.symbols.symtab import find

    if not os.path.isfile(path):
        return False
    try:
        elf = ElfFile(path)
        try:
            return any(not symbol.is_function for symbol in find(elf.tables, name))
        finally:
            elf.close()
    except KsymError:
        return False


def _symbols(path: str) -> list[tuple[str, bool]]:
    """Return the names of a program's symbols, with True for those of functions; nothing if it cannot be read."""
    from ksym.symbols.elf import ElfFile

    try:
        elf = ElfFile(path)
        try:
            names = {(name, False) for table in elf.tables for name in table.variable_names()}
            return sorted(names | {(name, True) for table in elf.tables for name in table.function_names()})
        finally:
            elf.close()
    except KsymError:
        return []


def _name_at(path: str, address: int) -> str:
    """Return the name of the variable at exactly that address, in a program that lies where its file says."""
    from ksym.symbols.elf import ET_EXEC, ElfFile

    try:
        elf = ElfFile(path)
        try:
            if elf.type != ET_EXEC:
                return ""
            held = (table.holder_at(address) for table in elf.tables)
            return next((h[0].name for h in held if h and not h[1] and not h[0].is_function), "")
        finally:
            elf.close()
    except KsymError:
        return ""
