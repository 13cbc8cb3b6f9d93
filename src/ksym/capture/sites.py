# SPDX-License-Identifier: BSD-2-Clause
"""The places in code that accesses come from: function, offset, instruction.

A run has few of them and many hits, so each is worked out once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ksym.capture.instructions import UNKNOWN, Instruction, X86Decoder, available
from ksym.capture.replaced import USER_SPACE
from ksym.linux.libc import MACHINE
from ksym.linux.memory import Memory, MemoryFault
from ksym.symbols.variable import KERNEL_HALF

if TYPE_CHECKING:
    from ksym.symbols.kallsyms import Kallsyms

_BEHIND = 16
"""Code bytes behind an address that are kept with it: one instruction's."""


@dataclass(frozen=True, slots=True)
class Named:
    """An address in code, named.

    ``owner`` is the kernel module, executable or library; None for the kernel itself. ``size`` is the
    function's, 0 if unknown. ``function`` is None where nothing is known, and ``offset`` the address then.
    With ``in_file`` no symbol holds the address: ``function`` is the file's name, ``offset`` the one in the file.
    """

    function: str | None
    offset: int
    size: int = 0
    owner: str | None = None
    in_file: bool = False

    @property
    def code(self) -> str:
        """The function without the offset; code that no symbol holds is told apart by its place."""
        if self.in_file:
            return f"{self.function}+{self.offset:#x}"
        text = self.function if self.function is not None else f"{self.offset:#x}"
        return text + (f" [{self.owner}]" if self.owner else "")

    def __str__(self) -> str:
        if self.in_file:
            return self.code
        if self.function is None:
            return f"{self.offset:#x}" + (f" [{self.owner}]" if self.owner else "")
        return f"{self.function}+{self.offset:#x}" + (f" [{self.owner}]" if self.owner else "")


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """Where hits come from; made once for each place, so told apart by identity.

    Args:
        ip: As the processor reported it: on x86 the instruction after the access.
        address: Start of the accessing instruction where it is known, else ``ip``.
        named: ``ip`` in words.
        instruction: The accessing instruction, where it could be found.
        size: Bytes that it touches, or one step of it; 0 if not known.
        repeats: It is a string instruction with ``rep``, and touches memory at each of its steps.
        bits: 32 for 32-bit code, else 64.
    """

    ip: int
    address: int
    named: Named
    instruction: Instruction | None
    size: int
    repeats: bool = False
    bits: int = 64

    def access(self, *, writes_only: bool) -> str:
        """READ, WRITE, READ_WRITE or UNKNOWN, as far as the instruction tells."""
        if self.instruction is None:
            return UNKNOWN
        return self.instruction.access(writes_only=writes_only)


class UserCode(Protocol):
    """What is asked about user-space code; ``capture.usernames`` has it."""

    def name(self, pid: int, ip: int) -> Named:
        """Name an address of a process."""
        ...

    def read(self, pid: int, address: int, length: int) -> bytes:
        """Code bytes of a process; fewer or none where they cannot be had."""
        ...

    def bits(self, pid: int, ip: int) -> int:
        """Return 32 if the file mapped there (in memory of no file: the program) holds 32-bit code, else 64."""
        ...


class Sites:
    """All sites of a run.

    Args:
        kallsyms: Makes the kernel's symbol table; called at the first hit, and again when an address is
            outside all known functions (a module or BPF program loaded meanwhile).
        memory: Gives the kernel's memory, or None where it cannot be read; called at the first need.
        users: Names for user-space code.
    """

    def __init__(
        self,
        kallsyms: Callable[[], Kallsyms | None],
        memory: Callable[[], Memory | None],
        users: UserCode | None,
    ) -> None:
        self._make_kallsyms, self._memory, self._users = kallsyms, memory, users
        self._kallsyms: Kallsyms | None = None
        self._loaded = False
        self._cache: dict[tuple[int, int, bool], Site] = {}
        self._names: dict[tuple[int, int], Named] = {}
        self._user_pids: set[int] = set()
        self._decoders: dict[tuple[int, int], X86Decoder] = {}
        self.traps_after = MACHINE == "x86_64"
        """Whether the machine reports an access by the address behind the instruction that made it."""

    def site(self, pid: int, ip: int, *, execute: bool, bits: int | None = None) -> Site:
        """Return the site that reported ``ip`` in ``pid``.

        Args:
            pid: Whose address, for one in user space.
            ip: The address.
            execute: The hit was an execution.
            bits: 32 or 64, where the hit told how the processor takes its code. Left out: as the file is made.
        """
        key = (0 if ip >= KERNEL_HALF else pid, ip, execute)
        site = self._cache.get(key)
        if site is None or (bits is not None and bits != site.bits):
            site = self._cache[key] = self._make(pid, ip, execute, bits)
        return site

    def forget(self, pid: int, addresses: range = USER_SPACE) -> bool:
        """Drop what is known of a process's user-space code; return True if there was anything.

        Args:
            pid: The process.
            addresses: Where other code has come to; left out: anywhere.
        """
        if pid not in self._user_pids:
            return False
        sites = [key for key in self._cache if key[0] == pid and key[1] - 1 in addresses]
        names = [key for key in self._names if key[0] == pid and key[1] in addresses]
        if addresses == USER_SPACE:
            self._user_pids.discard(pid)
        elif not (sites or names):
            return False
        for bits in (32, 64):
            self._decoders.pop((pid, bits), None)
        for site in sites:
            del self._cache[site]
        for name in names:
            del self._names[name]
        return True

    def _make(self, pid: int, ip: int, execute: bool, bits: int | None) -> Site:
        if bits is None:
            bits = 64 if ip >= KERNEL_HALF or self._users is None else self._users.bits(pid, ip)
        behind = self.traps_after and not execute
        named = self.name(pid, ip, behind=behind)
        instruction = None
        if behind and available():
            start = ip - named.offset if named.function else None
            instruction = self._decoder(pid, ip, bits).find(ip, start)
        elif not behind and not execute and MACHINE == "aarch64" and bits == 64:
            from ksym.capture import a64  # other machines have no need of it

            instruction = a64.decode(ip, self._read(pid, ip, a64.WORD))
        if behind and instruction is None:
            here = self.name(pid, ip)
            if here.function is not None and here.offset == 0:
                named = here  # control came there by the access: a call or jump through the variable
        if instruction is None:
            repeats = behind and _is_rep_string(self._read(pid, ip, 4), bits)
            return Site(ip, ip, named, None, 1 if repeats else 0, repeats, bits)
        return Site(ip, instruction.address, named, instruction, instruction.size, instruction.repeats, bits)

    def name(self, pid: int, ip: int, *, behind: bool = False) -> Named:
        """Name an address.

        Args:
            pid: Whose address, for one in user space.
            ip: The address.
            behind: ``ip`` is just behind what matters (a trap after the access, a return address), so that the
                function is the one that holds the byte before it.
        """
        back = 1 if behind else 0
        key = (0 if ip >= KERNEL_HALF else pid, ip - back)
        named = self._names.get(key)
        if named is None:
            named = self._kernel_name(ip - back) if ip >= KERNEL_HALF else self._user_name(pid, ip - back)
            named = replace(named, offset=named.offset + back)
            self._names[key] = named
        return named

    def code(self, pid: int, ip: int, most: int) -> tuple[int, bytes]:
        """The code that leads to an address and a little behind it, and where that starts.

        Args:
            pid: Whose code, for an address in user space.
            ip: The address.
            most: Of a function that is longer up to there, what is behind the address alone.
        """
        named = self.name(pid, ip, behind=True)
        start = ip - named.offset if named.function is not None and 0 < named.offset <= most else ip
        return start, self._read(pid, start, ip - start + _BEHIND)

    def _kernel_name(self, ip: int) -> Named:
        for fresh in (False, True):
            if fresh or not self._loaded:
                self._kallsyms, self._loaded = self._make_kallsyms(), True
            function = self._kallsyms.function_at(ip) if self._kallsyms else None
            if function:
                return Named(
                    function.name, ip - function.start, function.end - function.start, function.module
                )
        return Named(None, ip)

    def _user_name(self, pid: int, ip: int) -> Named:
        self._user_pids.add(pid)
        return self._users.name(pid, ip) if self._users else Named(None, ip)

    def _decoder(self, pid: int, ip: int, bits: int) -> X86Decoder:
        key = -1 if ip >= KERNEL_HALF else pid, bits
        decoder = self._decoders.get(key)
        if decoder is None:
            decoder = self._decoders[key] = X86Decoder(
                lambda address, length: self._read(pid, address, length), bits
            )
        return decoder

    def _read(self, pid: int, address: int, length: int) -> bytes:
        if address < KERNEL_HALF:
            return self._users.read(pid, address, length) if self._users else b""
        memory = self._memory()
        if memory is None:
            return b""
        try:
            return memory.read(address, length)
        except MemoryFault:
            return b""


def _is_rep_string(code: bytes, bits: int) -> bool:
    """Return True if x86 code starts with a repeated string instruction, which joins hits without a decoder, too.

    F2/F3, prefixes, then A4-A7 or AA-AF without A8/A9 (Intel SDM volume 2, MOVS, STOS, LODS, CMPS, SCAS). 40 to 4F are
    prefixes of 64-bit code only.
    """
    repeated = False
    for byte in code:
        if byte in (0xF2, 0xF3):
            repeated = True
        elif byte == 0x66 or (bits == 64 and 0x40 <= byte <= 0x4F):
            continue
        else:
            return repeated and (0xA4 <= byte <= 0xA7 or 0xAA <= byte <= 0xAF)
    return False
