# SPDX-License-Identifier: BSD-2-Clause
"""A tracing directory without a machine under it: registers that are counted, and variables that are hit by order."""

from __future__ import annotations

import os
from collections.abc import Callable

from ksym.capture.access import Access
from ksym.capture.sites import Named
from ksym.errors import KsymError, NoRegisters, NoSuchVariable
from ksym.language.request import Mode, Request
from ksym.tracing.files import tree
from ksym.tracing.instance import Instance
from ksym.tracing.nodes import Caller, Directory, File, Handle, Node
from ksym.tracing.opened import open_file
from ksym.tracing.planted import How, Planted
from ksym.watch.plan import Watch
from support.accesses import make_site, make_watch

WRITER = Caller(os.getpid(), 0, 0)


class Machine:
    """Registers; ``r--`` takes two of them, all else one. Names that begin with ``no`` are not there."""

    def __init__(self, registers: int = 4) -> None:
        self.registers = registers
        self.planted: list[FakePlanted] = []
        self.refusal: Callable[[Request], Exception | None] = lambda request: None
        """Asked before each planting."""
        self.events: list[str] = []
        """What became of what is planted, in order."""
        self.now = 0

    def clock(self) -> int:
        """It goes on by one whenever somebody looks."""
        self.now += 1
        return self.now

    @property
    def used(self) -> int:
        return sum(each.cost - each.lent for each in self.planted)

    def plant(self, request: Request, how: How, instead: Planted | None = None) -> Planted:
        assert instead is None or isinstance(instead, FakePlanted)
        return FakePlanted(self, request, how, instead)

    def named(self, name: str) -> FakePlanted:
        (found,) = [each for each in self.planted if each.request.target.text == name]
        return found

    def hit(self, name: str, count: int = 1, *, cpu: int = 0, access: str = "W") -> None:
        """Let a variable be hit, if anything watches it."""
        for each in self.planted:
            if each.request.target.text == name:
                each.hit(count, cpu, access)


class FakePlanted(Planted):
    """A request in the registers of a Machine."""

    def __init__(
        self, machine: Machine, request: Request, how: How, instead: FakePlanted | None = None
    ) -> None:
        name = request.target.text
        if (error := machine.refusal(request)) is not None:
            raise error
        if name.startswith("no"):
            raise NoSuchVariable(f"cannot watch {name}", "there is no such variable")
        self.cost = 2 if request.mode is Mode.READ else 1
        self.lent, self.instead = 0, instead
        borrowed = min(self.cost, instead.cost) if instead else 0
        if machine.used + self.cost - borrowed > machine.registers:
            raise NoRegisters(f"cannot watch {name}", "there are not enough registers")
        self.enabled = self.was_enabled = False
        if instead:
            instead.lent, instead.was_enabled, instead.enabled = borrowed, instead.enabled, False
        self.machine, self.request, self.how = machine, request, how
        self.earlier = self.own = 0
        self.caught: list[Access] = []
        self.told: Callable[[str], None] = lambda note: None
        self.made = make_watch(name, access=str(request.mode))
        self.looked, self.cpus = 0, [("", 0)][:0]
        machine.planted.append(self)

    @property
    def watch(self) -> Watch:
        return self.made

    def follow(self, earlier: int, told: Callable[[str], None]) -> None:
        self.earlier, self.told = earlier, told
        self.instead = None

    def enable(self) -> None:
        self.enabled = True
        self.machine.events.append(f"{self.request} enabled")

    def disable(self) -> None:
        self.enabled = False

    def hit(self, count: int, cpu: int, access: str) -> None:
        if self.enabled:
            self.own += count
            self.caught += [
                make_access(self.made, self.machine.clock(), cpu=cpu, access=access) for _ in range(count)
            ]

    def take(self) -> list[Access]:
        caught, self.caught = self.caught, []
        return caught

    def look(self) -> None:
        self.looked += 1

    def follow_cpus(self, changes: list[tuple[str, int]]) -> None:
        self.cpus += changes

    @property
    def ring_fds(self) -> set[int]:
        return set()

    @property
    def hits(self) -> int:
        return self.earlier + self.own

    def close(self) -> None:
        if self.instead:
            self.instead.lent, self.instead.enabled = 0, self.instead.was_enabled
        self.machine.planted.remove(self)
        self.machine.events.append(f"{self.request} closed")


def make_access(
    watch: Watch, time_ns: int, *, cpu: int = 0, access: str = "W", comm: str = "sysctl", tid: int = 4711,
    stack: tuple[Named, ...] = (),
) -> Access:  # fmt: skip
    """An access to a variable of the kernel."""
    site = make_site("do_proc_dointvec_minmax_conv", 0x5B, owner=None)
    return Access(time_ns, cpu, tid, tid, comm, watch, watch.variable.address, access, site, stack)


class Files:
    """The files of an instance, to be used as a shell does."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.instance = Instance(How(), machine.plant, machine.clock)
        self.names, self.pipe = tree(self.instance)

    def node(self, path: str) -> File:
        node: Node = Directory(self.names)
        for name in path.split("/"):
            assert isinstance(node, Directory)
            node = node.names[name]
        assert isinstance(node, File)
        return node

    def open(self, path: str, flags: int = os.O_RDONLY, caller: Caller = WRITER) -> Handle:
        return open_file(self.node(path), flags, caller)

    def read(self, path: str, size: int = 1 << 17) -> str:
        """As ``cat`` does."""
        handle, parts = self.open(path), [b""]
        while (part := handle.read(sum(map(len, parts)), size)) or len(parts) == 1:
            assert part is not None
            assert len(part) <= size
            parts.append(part)
        handle.close()
        return b"".join(parts).decode()

    def write(
        self, path: str, *writes: str | bytes, flags: int = os.O_TRUNC, caller: Caller = WRITER
    ) -> None:
        """As ``echo >`` does, each of the writes by itself; the first error ends it."""
        handle = self.open(path, os.O_WRONLY | flags, caller)
        try:
            for data in writes:
                data = data.encode() if isinstance(data, str) else data
                assert handle.write(0, data, caller) == len(data)
        finally:
            handle.close()

    def error(self, path: str, *writes: str | bytes, flags: int = os.O_TRUNC) -> int | None:
        """The errno of a write that must fail."""
        try:
            self.write(path, *writes, flags=flags)
        except OSError as error:
            return error.errno
        raise AssertionError(f"{path} took {writes}")


def failing(*errors: KsymError | None) -> Callable[[Request], Exception | None]:
    """A Machine's refusals of the next requests, one after the other; those that come later are well."""
    left = list(errors)
    return lambda request: left.pop(0) if left else None
