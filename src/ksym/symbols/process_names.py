# SPDX-License-Identifier: BSD-2-Clause
"""Names of user variables to objects in a process: ELF symbols, DWARF types, then the path."""

from __future__ import annotations

from dataclasses import replace

from ksym.errors import KsymError, NoSuchVariable
from ksym.language.request import Mode, Request, UserSymbol, written
from ksym.linux.process_memory import ProcessMemory
from ksym.symbols import dwarf
from ksym.symbols.elf import ElfFile
from ksym.symbols.loaded import Process
from ksym.symbols.originals import Originals
from ksym.symbols.path import Location, Way, facts_of
from ksym.symbols.scopes import split_name
from ksym.symbols.user import resolve_user
from ksym.symbols.variable import EXECUTED, Fact, Space, Variable


class ProcessNames:
    """Looks names up in the programs and libraries of one process.

    Args:
        pid: The process.
        originals: See Process.

    Raises:
        KsymError: there is no such process, or it may not be looked into.
    """

    def __init__(self, pid: int, originals: Originals | None = None) -> None:
        self._pid = pid
        self._process = Process(pid, originals)

    def close(self) -> None:
        """Close the files; types read from them cannot be looked into afterwards."""
        self._process.close()

    def find(self, request: Request, root: UserSymbol) -> Variable:
        """Find what ``request``, whose root is ``root``, means in the process.

        Raises:
            KsymError: it is not there, or cannot be watched.
        """
        text, path = request.target.text, request.target.path
        execute = request.mode is Mode.EXECUTE
        sized = request.target.length is None and not path
        found = resolve_user(root, self._process, execute=execute, sized=sized, place=request.place)
        if execute or not path:
            return Variable(
                text, found.address, EXECUTED if execute else found.size, Space.USER, found.type,
                section=found.section, remark=found.remark, executable=execute, facts=found.facts, again=found.again,
                instance=found.instance,
            )  # fmt: skip
        if found.type is None:
            raise _untyped(request, root, found.facts, self._process.find_object(root.object).elf)
        way = Way(ProcessMemory(self._pid), path, request.place)
        start = Location(found.address, found.type)
        location = way.walk(lambda: start)
        again, instance = way.again(text), None
        if again is None:
            offset = location.address - found.address
            again = found.again.part(offset) if found.again else None
            instance = found.instance and replace(found.instance, value=found.instance.value + offset)
        return Variable(
            text, location.address, location.length, Space.USER, location.type, location.bits,
            section=found.section, facts=(*found.facts, *facts_of(location, text)),
            remark=found.remark, again=again, instance=instance,
        )  # fmt: skip


def _untyped(request: Request, root: UserSymbol, facts: tuple[Fact, ...], loaded: ElfFile) -> KsymError:
    notes = [fact.source for fact in facts if fact.what == "type"]
    why = notes[0] if notes else f"{root.object} has no debug information"
    missing = "compile it with -g"
    if not dwarf.readable():
        why, missing = "DWARF is read by pyelftools, which is not installed", "pip install pyelftools"
    elif (elsewhere := dwarf.split_into(loaded)) is not None:
        why = f"its debug information is split off into files like {elsewhere}, which ksym does not read"
        missing = "compile it without -gsplit-dwarf"
    sizes = [int(fact.value) for fact in facts if fact.what == "size"]
    first = f"{written(root.object, *split_name(root.name))}/{min(8, *sizes, 8)}"
    return NoSuchVariable(
        f"cannot reach {request.target.text}", f"the type of {root.name} is not known: {why}",
        f"{missing}, or watch the variable's first bytes with {first}",
    )  # fmt: skip
