# SPDX-License-Identifier: BSD-2-Clause
"""The processes in which a run's user variables are watched, and where the variables lie in each of them.

What one process knows as ``./prog:counter`` lies at another address in the next one (a position-independent program, a
library that was loaded elsewhere), and at another one again after an exec. So each process is asked by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ksym.errors import KsymError
from ksym.language.request import Request, Root, UserSymbol
from ksym.linux.processes import program_of, threads_of
from ksym.symbols.resolver import Resolver
from ksym.symbols.variable import Space, Variable
from ksym.watch.plan import Place, split
from ksym.watch.presence import Hold, hold_at, maps_of

if TYPE_CHECKING:
    from ksym.language.condition import Condition

Found = Sequence[tuple[Request, Variable]]


class Places:
    """Where user variables lie.

    Args:
        found: The requests, and what they mean in the first process.
        conditions: Of each, bound to the code of the first process; empty where none has one.
        resolver: Resolves names.
        pids: The processes that are watched from the start.
        kernel_accesses: Accesses by the kernel count, too.
    """

    def __init__(
        self,
        found: Found,
        conditions: Sequence[Condition | None],
        resolver: Resolver,
        pids: Sequence[int],
        *,
        kernel_accesses: bool,
    ) -> None:
        self._found, self._conditions, self._resolver = found, conditions, resolver
        self._kernel_accesses = kernel_accesses
        self._user = [index for index, (_, variable) in enumerate(found) if variable.space is Space.USER]
        self._numbers = 0
        self.holds: dict[int, dict[int, Hold]] = {}
        """By number of the place, what holds each of its variables."""
        self.first = tuple(
            place for number, pid in enumerate(pids) for place in self._starting(pid, first=not number)
        )
        """The places that are planted from the start."""

    def _starting(self, pid: int, *, first: bool) -> list[Place]:
        try:
            return self.at(pid, None if first else self._in(pid)) or [self._place(pid, [], {})]
        except KsymError as error:
            if first or str(pid) in str(error):
                raise
            raise type(error)(f"{error.what} in process {pid}", error.why, error.todo) from error

    def _in(self, pid: int) -> dict[int, Variable]:
        """Resolve the user variables in a process.

        Raises:
            KsymError: one of them is not there.
        """
        resolver = self._resolver.beside(pid)
        return {index: resolver.resolve(self._found[index][0]) for index in self._user}

    def at(self, pid: int, variables: dict[int, Variable] | None = None) -> list[Place]:
        """Make the places of a process: one for each program or library whose variables are watched.

        Args:
            pid: The process.
            variables: By number of the watch, where each lies there; None: as it was found first.

        Raises:
            KsymError: a variable lies there as it cannot be watched together with the others.
        """
        if variables is None:
            variables = {index: self._found[index][1] for index in self._user}
        objects: dict[str | None, list[int]] = {}
        for index in variables:
            root = self._found[index][0].target.root
            objects.setdefault(root.object if isinstance(root, UserSymbol) else None, []).append(index)
        return [self._place(pid, group, variables) for group in objects.values()]

    def appeared(self, pid: int, there: Collection[int]) -> list[Place]:
        """Make places for those variables of a process that it has in its memory by now.

        Args:
            pid: The process.
            there: Numbers of the watches that are planted there already.

        Raises:
            KsymError: a variable is there, but cannot be watched.
        """
        missing = [index for index in self._user if index not in there and self.comes_back(index)]
        objects = {root.object for index in missing if isinstance(root := self._root(index), UserSymbol)}
        from ksym.symbols.loaded import Process  # needed where user variables are watched alone

        try:
            process = Process(pid, self._resolver.originals)
        except KsymError:  # it has ended
            return []
        with process:
            mapped = {each for each in objects if process.biases(each)}
        if not mapped:
            return []
        resolver = self._resolver.beside(pid)
        variables = {
            index: resolver.resolve(self._found[index][0])
            for index in missing
            if isinstance(root := self._root(index), UserSymbol) and root.object in mapped
        }
        return self.at(pid, variables)

    def file(self, place: Place) -> str | None:
        """Return the file that a place's variables belong to, as named in the request."""
        roots = [self._root(index) for index in place.addresses or ()]
        return next((root.object for root in roots if isinstance(root, UserSymbol)), None)

    def comes_back(self, index: int) -> bool:
        """Return True if a variable belongs to a file, which may be mapped again."""
        return isinstance(self._root(index), UserSymbol)

    def _root(self, index: int) -> Root:
        return self._found[index][0].target.root

    def _place(self, pid: int, group: list[int], variables: dict[int, Variable]) -> Place:
        mappings = maps_of(pid)
        for index in group:
            self._check(index, pid, variables[index])
        place = Place(
            pid,
            threads_of(pid),
            {index: variables[index].address for index in group},
            self._numbers,
            self._bound(pid, group, variables),
        )
        self._numbers += 1
        holds = {index: hold_at(mappings, variables[index].address) for index in group}
        program = program_of(pid)
        self.holds[place.number] = {
            index: hold._replace(program=program is not None and hold.key[1] == program[1])
            for index, hold in holds.items()
            if hold
        }
        return place

    def _check(self, index: int, pid: int, variable: Variable) -> None:
        """Refuse a variable whose pieces differ from those that are planned."""
        request, first = self._found[index]
        text = request.target.text
        if (variable.length, variable.bits) != (first.length, first.bits):
            raise KsymError(
                f"cannot watch {text} in process {pid}",
                f"it has {variable.length} bytes there and {first.length} in process {self._resolver.pid}",
                "watch the processes by two runs",
            )
        if not first.executable and split(variable.address, variable.length) != split(
            first.address, first.length
        ):
            raise KsymError(
                f"cannot watch {text} in process {pid}",
                f"it is aligned otherwise there ({variable.address:#x}) than in process {self._resolver.pid}",
                "watch the processes by two runs",
            )

    def _bound(
        self, pid: int, group: list[int], variables: dict[int, Variable]
    ) -> dict[int, Condition | None]:
        """Bind conditions to the code of a process, where that lies elsewhere than in the first one."""
        if all(self._found[index][0].condition is None for index in group):
            return {}
        if all(variables[index] is self._found[index][1] for index in group):
            return {}
        from ksym.runs.engines import bind_conditions
        from ksym.symbols.functions import Functions

        functions = Functions(self._resolver.kernel, pid, kernel_accesses=self._kernel_accesses)
        bound = bind_conditions([(self._found[index][0], variables[index]) for index in group], functions)
        return {
            index: condition
            for index, condition in zip(group, bound, strict=True)
            if condition != self._conditions[index]
        }
