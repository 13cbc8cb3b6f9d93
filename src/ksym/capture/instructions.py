# SPDX-License-Identifier: BSD-2-Clause
"""Which instruction made an access, and whether it reads or writes.

On x86 the trap comes after the access and reports the next instruction's address, so the one in front has to
be found: by decoding forward from the start of the function (iced-x86, where it is installed). The
exception is a ``rep`` string instruction that is not finished yet: it reports its own address.

A hit whose reported address was reached by a jump, a call, a return or an interrupt has no accessing
instruction in front of it; then nothing is claimed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE, READ_WRITE, EXECUTE, UNKNOWN = "R", "W", "RW", "X", "?"

_LONGEST = 15
"""Bytes of the longest x86 instruction."""
_FUNCTION_MOST = 1 << 16
"""A larger function is not decoded from its start."""


@dataclass(frozen=True)
class Instruction:
    """One instruction that accesses memory.

    Args:
        address: Where it lies.
        text: As an assembler writes it (Intel syntax).
        accesses: READ, WRITE or READ_WRITE of each of its memory operands, implicit ones included.
        size: Bytes that one of its accesses touches; the smallest, if they differ. 0 if not known.
        repeats: It is a string instruction with ``rep``, and makes an access for each element.
    """

    address: int
    text: str
    accesses: frozenset[str]
    size: int
    repeats: bool = False

    def access(self, *, writes_only: bool) -> str:
        """The access that a watch saw.

        Args:
            writes_only: The watch sees writes alone, so a write it must have been.
        """
        accesses = self.accesses - {READ} if writes_only else self.accesses
        return next(iter(accesses)) if len(accesses) == 1 else UNKNOWN


@functools.cache
def available() -> bool:
    """Whether x86 code can be decoded here."""
    try:
        import iced_x86  # noqa: F401
    except ImportError:
        return False
    return True


class X86Decoder:
    """Finds the accessing instruction of a hit.

    Args:
        read: Reads code bytes: (address, length) -> bytes, shorter or empty where there are none.
        bits: 64 or 32: what the processor takes the code for.
    """

    def __init__(self, read: Callable[[int, int], bytes], bits: int = 64) -> None:
        import iced_x86

        self._iced = iced_x86
        self._read, self._bits = read, bits
        self._info = iced_x86.InstructionInfoFactory()
        self._formatter = iced_x86.Formatter(iced_x86.FormatterSyntax.INTEL)
        self._formatter.hex_prefix, self._formatter.hex_suffix = "0x", ""
        self._formatter.uppercase_hex = False
        self._formatter.first_operand_char_index = 0
        kinds = iced_x86.OpAccess
        self._kinds = {
            kinds.READ: READ, kinds.COND_READ: READ,
            kinds.WRITE: WRITE, kinds.COND_WRITE: WRITE,
            kinds.READ_WRITE: READ_WRITE, kinds.READ_COND_WRITE: READ_WRITE,
        }  # fmt: skip

    def find(self, ip: int, start: int | None) -> Instruction | None:
        """The instruction that made the access which reported ``ip``.

        Args:
            ip: As reported.
            start: Start of the function that holds the byte before ``ip``, if known.
        """
        current = self._repeating(ip)
        before = self._before(ip, start)
        if current and not before:
            return current
        # Both may have done it: the string instruction, or the one in front of it.
        return None if current else before

    def _repeating(self, ip: int) -> Instruction | None:
        code = self._read(ip, _LONGEST)
        if not code:
            return None
        instruction = self._iced.Decoder(self._bits, code, ip=ip).decode()
        return self._describe(instruction) if _repeats(instruction) else None

    def _before(self, ip: int, start: int | None) -> Instruction | None:
        if start is None or not 0 < ip - start <= _FUNCTION_MOST:
            return None
        code = self._read(start, ip - start)
        if len(code) != ip - start:
            return None
        last = None
        for instruction in self._iced.Decoder(self._bits, code, ip=start):
            last = instruction
        if last is None or last.is_invalid or last.next_ip != ip:
            return None
        flow = self._iced.FlowControl
        if last.flow_control not in (flow.NEXT, flow.XBEGIN_XABORT_XEND):
            return None  # control came from elsewhere, and the access with it
        return self._describe(last)

    def _describe(self, instruction: Any) -> Instruction | None:
        memory = [
            operand for operand in self._info.info(instruction).used_memory() if operand.access in self._kinds
        ]
        if not memory:
            return None
        size_of = self._iced.MemorySizeExt.size
        # iced leaves a repeated operand's size open, as it depends on rcx; one step of it is what traps.
        step = size_of(instruction.memory_size)
        return Instruction(
            instruction.ip,
            self._formatter.format(instruction),
            frozenset(self._kinds[operand.access] for operand in memory),
            min(size_of(operand.memory_size) or step for operand in memory),
            _repeats(instruction),
        )


def _repeats(instruction: Any) -> bool:
    repeated = instruction.has_rep_prefix or instruction.has_repne_prefix
    return bool(instruction.is_string_instruction and repeated)
