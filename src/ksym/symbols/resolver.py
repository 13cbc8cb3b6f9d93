# SPDX-License-Identifier: BSD-2-Clause
"""From a request to the variable it means: the entry of the symbol stage."""

from __future__ import annotations

import os
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from ksym.errors import KsymError, NoSuchVariable, NotWatchable
from ksym.language.request import Address, Cast, Mode, Request, Symbol, TaskRoot, UserSymbol
from ksym.linux.files import StrPath
from ksym.linux.memory import Memory
from ksym.linux.process_memory import ProcessMemory
from ksym.symbols.ctext import parse_type
from ksym.symbols.kernel import Kernel
from ksym.symbols.kernel_names import Found, KernelNames, read_pointer
from ksym.symbols.path import Location, Way, facts_of
from ksym.symbols.tasks import TaskList
from ksym.symbols.types import Type
from ksym.symbols.variable import EXECUTED, KERNEL_HALF, Fact, Space, Variable

if TYPE_CHECKING:
    from ksym.symbols.originals import Originals
    from ksym.symbols.process_names import ProcessNames

_HASHED_MOST = 1 << 32
"""printk's %p prints 32 random bits on 64-bit machines (lib/vsprintf.c, ptr_to_id)."""


class Resolver:
    """Resolves requests against this machine.

    Args:
        vmlinux: A vmlinux or System.map that the user named.
        pid: The process in which user variables lie; None where none was given.
        self_pid: What ``task(self)`` stands for.
        can_start: Whether COMMAND could be given to start a process.
        originals: See symbols.loaded.Process.
    """

    def __init__(
        self,
        *,
        vmlinux: StrPath | None = None,
        pid: int | None = None,
        self_pid: int | None = None,
        can_start: bool = True,
        originals: Originals | None = None,
    ) -> None:
        self.kernel = Kernel(vmlinux)
        self.pid = pid
        self.originals = originals
        self._self_pid, self._can_start = self_pid, can_start
        self._names = KernelNames(self.kernel)
        self._process: ProcessNames | None = None
        self._others: dict[int, Resolver] = {}

    def beside(self, pid: int) -> Resolver:
        """Return one for the user variables of another process, or of this one's next program.

        It is closed with this one, or when another is asked for.
        """
        before = self._others.get(pid)
        if before is not None and before._process is not None:
            before._process.close()
        other = self._others[pid] = copy(self)
        other.pid, other._process, other._others = pid, None, {}
        return other

    def resolve(self, request: Request) -> Variable:
        """Find what a request means.

        Raises:
            KsymError: it cannot be found, or not be watched; ``place`` says where in the request.
        """
        root = request.target.root
        try:
            variable = _first_bytes(request, self._resolve(request))
            _check(request, variable)
            return variable
        except KsymError as error:
            if error.place is None:
                error.place = request.place(root.span)
            raise

    def close(self) -> None:
        """Close what was opened."""
        for each in (self, *self._others.values()):
            if each._process is not None:
                each._process.close()
        self.kernel.close()

    def _resolve(self, request: Request) -> Variable:
        root = request.target.root
        if isinstance(root, UserSymbol):
            return self._user(request, root)
        if isinstance(root, Address):
            return self._address(request, root)
        if isinstance(root, TaskRoot):
            return self._task(request, root)
        if isinstance(root, Cast):
            return self._cast(request, root)
        return self._kernel_symbol(request, root)

    # -- kernel ------------------------------------------------------------------------------------

    def _kernel_symbol(self, request: Request, root: Symbol) -> Variable:
        execute = request.mode is Mode.EXECUTE
        found = self._names.find(root, typed=bool(request.target.path), execute=execute)
        if found.text:
            return self._function(request, found)
        if execute:
            raise NotWatchable(
                f"cannot watch {request.target.text}:--x", "it is a variable, not a function",
                f"watch its accesses: {request.target.text}:rw-",
            )  # fmt: skip
        if not request.target.path:
            return self._whole(request, found)
        if found.type is None or not found.type.size:
            raise self._untyped(request, root)
        return self._part(request, found, found.type)

    def _function(self, request: Request, found: Found) -> Variable:
        text = request.target.text
        if request.mode is not Mode.EXECUTE:
            raise NotWatchable(
                f"cannot watch {text}",
                "it is a function, not a variable",
                f"watch its execution with {text}:--x",
            )
        if request.target.path:
            raise NotWatchable(f"cannot watch {text}", "a function has no members", "name only the function")
        return Variable(
            text, found.address, EXECUTED, Space.KERNEL, section=found.section, module=found.module, executable=True,
            facts=tuple(found.facts),
        )  # fmt: skip

    def _whole(self, request: Request, found: Found) -> Variable:
        if not found.size and request.target.length is None:
            name = request.target.text
            room = f"at most {found.room} bytes" if found.room else "any size"
            guess = "u64" if not found.room or found.room >= 8 else "u8"
            raise KsymError(
                f"cannot watch {name}", f"its size is not known ({room}, by /proc/kallsyms)",
                f"watch a part of it, as in *({guess} *)&{name}, or give --vmlinux FILE",
            )  # fmt: skip
        return self._variable(request, found, Location(found.address, found.type or Type("", found.size)))

    def _part(self, request: Request, found: Found, kind: Type) -> Variable:
        way = Way(self.kernel.memory, request.target.path, request.place)

        def part(base: int) -> Location:
            return way.walk(lambda: Location(base, kind))

        cpu = request.target.cpu
        if not found.per_cpu:
            location = part(found.address)
            return replace(self._variable(request, found, location), again=way.again(request.target.text))
        chosen = {cpu: found.per_cpu[cpu]} if cpu in found.per_cpu else found.per_cpu
        # A pointer on the way leads elsewhere on each CPU.
        parts = {number: part(base) for number, base in chosen.items()}
        found.per_cpu = {number: location.address for number, location in parts.items()}
        found.address = min(found.per_cpu.items())[1]
        variable = self._variable(request, found, next(iter(parts.values())))
        return replace(variable, again=way.again(request.target.text))

    def _variable(self, request: Request, found: Found, location: Location) -> Variable:
        typed = location.type if location.type.name else None
        facts = list(found.facts)
        if request.target.path:
            facts += facts_of(location, request.target.text)
        variable = Variable(
            request.target.text, location.address, location.length, Space.KERNEL, typed, location.bits,
            found.per_cpu, found.section, found.remark, found.module, facts=tuple(facts),
        )  # fmt: skip
        cpu = request.target.cpu
        if cpu is None:
            return variable
        if not found.per_cpu:
            raise NotWatchable(
                f"cannot watch {request.target.text}", "it is not a per-CPU variable", f"leave out @cpu{cpu}"
            )
        if cpu not in found.per_cpu:
            cpus = ", ".join(map(str, found.per_cpu))
            raise NotWatchable(
                f"cannot watch {request.target.text}", f"there is no CPU {cpu}", f"choose one of {cpus}"
            )
        return replace(variable, address=found.per_cpu[cpu], per_cpu=None)

    def _untyped(self, request: Request, root: Symbol) -> KsymError:
        text = request.target.text
        rest = (
            text[root.span.end - root.span.start :]
            if text.startswith(request.text[root.span.start : root.span.end])
            else ""
        )
        if rest.startswith("["):
            # A cast makes a pointer, and the language does not count out a pointer's elements.
            todo = (
                f"give --vmlinux FILE with DWARF, or watch 0xADDRESS/LENGTH: "
                f"`ksym resolve '*(u8 *)&{root.name}'` shows where the array begins"
            )
        else:
            todo = f"write its type: ((struct TYPE *)&{root.name})->{rest.lstrip('.->')}"
        return NoSuchVariable(
            f"cannot reach {text}",
            f"the type of {root.name} is not known (no BTF variable, no vmlinux with DWARF, not in ksym's table)",
            todo,
        )

    def _task(self, request: Request, root: TaskRoot) -> Variable:
        pid = root.pid if root.pid is not None else self._self_pid or os.getpid()
        tasks = TaskList(self.kernel)
        address = tasks.task(pid)
        kind = parse_type("struct task_struct", self.kernel.btf)
        fact = Fact("address", f"{address:#x}", f"the kernel's list of tasks, task {pid}")
        if not request.target.path:
            raise NotWatchable(
                f"cannot watch {request.target.text}", f"the whole task_struct has {kind.size} bytes",
                f"name a member: {request.target.text}.comm",
            )  # fmt: skip
        if request.target.cpu is not None:
            raise NotWatchable(
                f"cannot watch {request.target.text}", "a task is not per-CPU", "leave out @cpu"
            )
        way = Way(self.kernel.memory, request.target.path, request.place)
        location = way.walk(lambda: Location(address, kind))
        return Variable(
            request.target.text, location.address, location.length, Space.KERNEL, location.type, location.bits,
            facts=(fact, *facts_of(location, request.target.text)), again=way.again(request.target.text),
        )  # fmt: skip

    # -- addresses and casts -------------------------------------------------------------------------

    def _space(self, request: Request, address: int) -> Space:
        if address >= KERNEL_HALF:
            return Space.KERNEL
        if self.pid is not None:
            return Space.USER
        text = request.target.text
        if address < _HASHED_MOST:
            raise NotWatchable(
                f"cannot watch {text}",
                f"{address:#x} is not a kernel address; printk's %p prints hashed values like this one",
                "use the address that %px prints, or /proc/kallsyms; for a user address add -p PID",
            )
        raise NotWatchable(
            f"cannot watch {text}", f"{address:#x} lies in user space and no process is given", "add -p PID"
        )

    def _address(self, request: Request, root: Address) -> Variable:
        space = self._space(request, root.value)
        text = request.target.text
        length = EXECUTED if request.mode is Mode.EXECUTE else root.length
        if length is None:
            raise KsymError(
                f"cannot watch {text}", "an address by itself has no length",
                f"write {text}/4 for four bytes, or *(TYPE *){text}",
            )  # fmt: skip
        facts = (Fact("address", f"{root.value:#x}", "the request"), Fact("size", str(length), "the request"))
        return Variable(text, root.value, length, space, executable=request.mode is Mode.EXECUTE, facts=facts)

    def _cast(self, request: Request, root: Cast) -> Variable:
        operand = root.operand
        facts: list[Fact] = []
        per_cpu = section = pointer = None
        if isinstance(operand, Address):
            base, space = operand.value, self._space(request, operand.value)
            facts.append(Fact("address", f"{base:#x}", "the request"))
        else:
            found = self._names.find(operand, typed=False)
            base, space, per_cpu, section = found.address, Space.KERNEL, found.per_cpu, found.section
            facts += [fact for fact in found.facts if fact.what in ("address", "section")]
            if root.by_value:
                pointer = base
                base, per_cpu, section = read_pointer(self.kernel, base), None, None
                facts.append(Fact("address", f"{base:#x}", f"the pointer in {operand.name}"))
        memory: Memory = self.kernel.memory_or_none or ProcessMemory(0)
        lookup = self.kernel.btf
        if space is Space.USER and self.pid is not None:
            memory, lookup = ProcessMemory(self.pid), None
        kind = parse_type(root.type_name, lookup, request.place(root.span))
        facts.append(Fact("type", kind.name, "the request"))
        if not kind.size and not request.target.path:
            raise NotWatchable(
                f"cannot watch {request.target.text}", f"{kind.name} has no size", "name a complete type"
            )
        if per_cpu:
            shell = Found(operand, base, type=kind, per_cpu=per_cpu, section=section, facts=facts)  # type: ignore[arg-type]
            return self._part(request, shell, kind)
        way = Way(memory, request.target.path, request.place)

        def start() -> Location:
            return Location(base if pointer is None else read_pointer(self.kernel, pointer), kind)

        location = way.walk(start)
        if not request.target.path and base % _alignment(kind.size):
            raise NotWatchable(
                f"cannot watch {request.target.text}",
                f"{base:#x} is not aligned to the {kind.size} bytes of {kind.name}, as every object of that type is",
                f"check the address; {base:#x}/{kind.size} watches these bytes with more registers",
            )
        return Variable(
            request.target.text, location.address, location.length, space, location.type, location.bits,
            section=section, facts=(*facts, *_after_cast(request, location)),
            again=way.again(request.target.text, always=pointer is not None),
        )  # fmt: skip

    def _user(self, request: Request, root: UserSymbol) -> Variable:
        if self.pid is None:
            raise KsymError(
                f"cannot watch {request.target.text}", "a user variable lies in a process and none is given",
                "add -p PID or -- COMMAND" if self._can_start else "add -p PID",
            )  # fmt: skip
        if self._process is None:
            from ksym.symbols.process_names import ProcessNames  # ELF and DWARF: for user variables alone

            self._process = ProcessNames(self.pid, self.originals)
        return self._process.find(request, root)


def _alignment(size: int) -> int:
    return size if size in (2, 4, 8) else 1


def _after_cast(request: Request, location: Location) -> list[Fact]:
    if request.target.path:
        return facts_of(location, request.target.text)
    return [Fact("size", str(location.length), "its type")]


def _first_bytes(request: Request, variable: Variable) -> Variable:
    """Return as much of a variable as ``NAME/LENGTH`` asks for."""
    length = request.target.length
    if length is None or variable.executable:
        return variable
    if not request.target.path and variable.length and length > variable.length and not variable.remark:
        whole = request.target.text.rpartition("/")[0]
        raise NotWatchable(
            f"cannot watch {request.target.text}", f"{whole} has {variable.length} bytes",
            f"write {whole}/{variable.length}",
        )  # fmt: skip
    facts = (*variable.facts, Fact("size", str(length), "the request"))
    return replace(variable, length=length, type=None, bits=None, remark=None, facts=facts)


def _check(request: Request, variable: Variable) -> None:
    if not variable.length:
        raise NotWatchable(
            f"cannot watch {request.target.text}", "it has no bytes (a flexible array or an empty struct)",
            f"name an element: {request.target.text}[0]",
        )  # fmt: skip
