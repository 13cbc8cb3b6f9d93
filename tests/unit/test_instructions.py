# SPDX-License-Identifier: BSD-2-Clause
"""Finding the accessing x86 instruction, and what it does; capstone is asked the same."""

from __future__ import annotations

import pytest

from ksym.capture.instructions import READ, READ_WRITE, UNKNOWN, WRITE, Instruction, X86Decoder
from ksym.capture.sites import _is_rep_string

pytest.importorskip("iced_x86", reason="iced-x86 is not installed")

START = 0x401000
NOP = bytes.fromhex("0f1f440000")

TABLE = {
    "8b07": (READ, 4),  # mov eax, [rdi]
    "488907": (WRITE, 8),  # mov [rdi], rax
    "8807": (WRITE, 1),  # mov [rdi], al
    "c70705000000": (WRITE, 4),  # mov dword [rdi], 5
    "48ff07": (READ_WRITE, 8),  # inc qword [rdi]
    "0107": (READ_WRITE, 4),  # add [rdi], eax
    "0307": (READ, 4),  # add eax, [rdi]
    "3907": (READ, 4),  # cmp [rdi], eax
    "8507": (READ, 4),  # test [rdi], eax
    "f0480fc107": (READ_WRITE, 8),  # lock xadd [rdi], rax
    "f00fb10f": (READ_WRITE, 4),  # lock cmpxchg [rdi], ecx
    "488707": (READ_WRITE, 8),  # xchg [rdi], rax
    "0fb607": (READ, 1),  # movzx eax, byte [rdi]
    "486307": (READ, 4),  # movsxd rax, [rdi]
    "0f1007": (READ, 16),  # movups xmm0, [rdi]
    "0f2907": (WRITE, 16),  # movaps [rdi], xmm0
    "66480f7e07": (WRITE, 8),  # movq [rdi], xmm0
    "0f9407": (WRITE, 1),  # sete [rdi]
    "f00fba2f03": (READ_WRITE, 4),  # lock bts dword [rdi], 3
    "0fba2703": (READ, 4),  # bt dword [rdi], 3
}
CAPSTONE_ERRS = ("8507", "f00fb10f")
"""It knows no access of test, and forgets that cmpxchg writes (even one that fails does)."""

NONE = ("90", "488d07", "4889c8", "0f180f", "0f0b")
"""Nothing of these accesses memory: nop, lea, mov between registers, prefetch, ud2."""


def find(before: str, behind: str = "90", *, known: bool = True, prefix: bytes = NOP) -> Instruction | None:
    """What is found for a hit that reported the address between ``before`` and ``behind``."""
    code = prefix + bytes.fromhex(before) + bytes.fromhex(behind)

    def read(address: int, length: int) -> bytes:
        return code[address - START : address - START + length] if address >= START else b""

    ip = START + len(prefix) + len(before) // 2
    return X86Decoder(read).find(ip, START if known else None)


@pytest.mark.parametrize(("code", "expected"), TABLE.items())
def test_reads_and_writes(code: str, expected: tuple[str, int]) -> None:
    found = find(code)
    assert found is not None
    assert (found.access(writes_only=False), found.size) == expected
    assert found.address == START + len(NOP)


@pytest.mark.parametrize("code", TABLE)
def test_capstone_agrees(code: str) -> None:
    capstone = pytest.importorskip("capstone", reason="capstone is not installed")
    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    machine.detail = True
    (instruction,) = machine.disasm(bytes.fromhex(code), START)
    (operand,) = (each for each in instruction.operands if each.type == capstone.CS_OP_MEM)
    found = find(code)
    assert found is not None
    assert operand.size == found.size
    names = {1: READ, 2: WRITE, 3: READ_WRITE}
    if code not in CAPSTONE_ERRS:
        assert names[operand.access] == found.access(writes_only=False)


@pytest.mark.parametrize("code", NONE)
def test_no_access(code: str) -> None:
    assert find(code) is None


@pytest.mark.parametrize("code", ["e800000000", "c3", "eb00", "7400", "ff17", "ff27"])
def test_behind_a_jump_call_or_return_nothing_is_claimed(code: str) -> None:
    assert find(code) is None


@pytest.mark.parametrize(
    ("code", "access", "written", "size"),
    [
        ("f3a4", UNKNOWN, WRITE, 1), ("f348a5", UNKNOWN, WRITE, 8), ("f3ab", WRITE, WRITE, 4),
        ("f3a6", READ, UNKNOWN, 1), ("f2ae", READ, UNKNOWN, 1),
    ],
)  # fmt: skip
def test_repeated_string_instructions_report_their_own_address(
    code: str, access: str, written: str, size: int
) -> None:
    running, finished = find("90", code), find(code)
    for found in (running, finished):
        assert found is not None
        assert found.access(writes_only=False) == access
        assert found.access(writes_only=True) == written
        assert found.size == size
    assert running is not None
    assert running.address == START + len(NOP) + 1


def test_two_that_may_have_done_it() -> None:
    assert find("8b07", "f3a4") is None


def test_an_instruction_that_reads_one_place_and_writes_another() -> None:
    found = find("ff37")  # push [rdi]
    assert found is not None
    assert found.access(writes_only=False) == UNKNOWN
    assert found.access(writes_only=True) == WRITE


def test_without_the_functions_start_or_its_code_nothing_is_claimed() -> None:
    assert find("8b07", known=False) is None
    assert X86Decoder(lambda address, length: b"").find(START + 2, START) is None
    assert (
        find("8b07", prefix=b"\x8b") is None
    )  # out of step: the last one does not end at the reported address
    assert find("06") is None  # no instruction in 64-bit mode


@pytest.mark.parametrize(
    ("code", "bits", "text"),
    [
        ("a10cc00408", 32, "mov eax,[0x804c00c]"),
        ("a30cc00408", 32, "mov [0x804c00c],eax"),
        ("41498b11", 32, "mov edx,[ecx]"),
        ("8b11", 64, "mov edx,[rcx]"),
    ],
)
def test_code_is_decoded_by_its_bits(code: str, bits: int, text: str) -> None:
    data = bytes.fromhex(code)
    found = X86Decoder(lambda at, length: data[at - START :][:length], bits).find(START + len(data), START)
    assert found is not None
    assert found.text == text


def test_a_string_instruction_is_found_by_its_bits_without_a_decoder() -> None:
    """40 to 4f are prefixes of 64-bit code, and `inc` and `dec` in 32-bit code."""
    assert _is_rep_string(bytes.fromhex("f348a5"), 64)
    assert not _is_rep_string(bytes.fromhex("f348a5"), 32)
    assert _is_rep_string(bytes.fromhex("f3a5"), 32)
