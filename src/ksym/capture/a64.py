# SPDX-License-Identifier: BSD-2-Clause
"""What an arm64 instruction does to memory.

There a watchpoint traps before the access and reports the address of the instruction itself, and loads and
stores have few encodings (Arm Architecture Reference Manual, chapter C4, "Loads and Stores"). So four bytes
tell, and no package is needed.
"""

from __future__ import annotations

from ksym.capture.instructions import READ, READ_WRITE, WRITE, Instruction

WORD = 4
"""Bytes of an instruction."""

_CLEAR_BLOCK, _NO_REGISTER = 0xD50B7420, 0xFFFFFFE0
"""DC ZVA, which memset() uses, and the mask that hides its register."""
_NONE = ("", 0)


def decode(address: int, code: bytes) -> Instruction | None:
    """The instruction at an address; None if it accesses no memory, or is not known here.

    Args:
        address: Where it lies.
        code: Its bytes; what follows them does not matter.
    """
    if len(code) < WORD:
        return None
    word = int.from_bytes(code[:WORD], "little")
    access, size = _effect(word)
    if not access:
        return None
    return Instruction(address, f".inst {word:#010x}", frozenset((access,)), size)


def _bits(word: int, high: int, low: int) -> int:
    return word >> low & (1 << high - low + 1) - 1


def _effect(word: int) -> tuple[str, int]:
    """The access that the instruction makes, "" for none, and the size of one of its elements, 0 if not known."""
    if word & _NO_REGISTER == _CLEAR_BLOCK:
        return WRITE, 0
    if _bits(word, 27, 27) != 1 or _bits(word, 25, 25) != 0:
        return _NONE
    loads = READ if _bits(word, 22, 22) else WRITE
    vector, width = _bits(word, 26, 26), _bits(word, 31, 30)
    match _bits(word, 29, 28), _bits(word, 24, 24):
        case 0, 0 if not vector:
            return _exclusive(word, loads)
        case 0, _ if vector and width < 2:
            return loads, 0  # structures of elements: LD1 to LD4, ST1 to ST4
        case 1, 0 if width < 3:  # relative to the program counter; 3 is a prefetch
            return READ, 4 << width if vector else (4, 8, 4)[width]
        case 1, 1 if not vector and _bits(word, 21, 21) == _bits(word, 11, 10) == 0:
            return _single(word)  # unscaled, with acquire or release
        case 2, _ if width < 3:
            return loads, 4 << width if vector else (4, 4, 8)[width]  # pairs
        case 3, 1:
            return _single(word)
        case 3, 0 if not _bits(word, 21, 21) or _bits(word, 11, 10) == 2:
            return _single(word)
        case 3, 0 if not vector:
            return _atomic(word)
    return _NONE


def _single(word: int) -> tuple[str, int]:
    """One register."""
    width, kind = _bits(word, 31, 30), _bits(word, 23, 22)
    if _bits(word, 26, 26):
        size = 16 if kind & 2 else 1 << width
        return (READ if kind & 1 else WRITE), size
    if (width, kind) in ((3, 2), (2, 3), (3, 3)):
        return _NONE  # a prefetch, and what means nothing
    return (READ if kind else WRITE), 1 << width


def _exclusive(word: int, loads: str) -> tuple[str, int]:
    """With a reservation, with acquire or release, compare and swap."""
    width = _bits(word, 31, 30)
    if not _bits(word, 21, 21):
        return loads, 1 << width
    if _bits(word, 23, 23):
        return READ_WRITE, 1 << width  # CAS
    size = 4 << (width & 1)
    return (loads, size) if width & 2 else (READ_WRITE, size)  # LDXP and STXP; CASP


def _atomic(word: int) -> tuple[str, int]:
    """One instruction that reads, changes and writes; and two loads that are encoded among them."""
    width, operation = _bits(word, 31, 30), _bits(word, 15, 12)
    if _bits(word, 10, 10):
        return (READ, 8) if width == 3 else _NONE  # a load by an authenticated pointer
    if operation <= 8:
        return READ_WRITE, 1 << width  # LDADD and its like; 8 is SWP
    if operation == 0xC and _bits(word, 23, 22) == 2:
        return READ, 1 << width  # LDAPR
    return _NONE
