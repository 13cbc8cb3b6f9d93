# SPDX-License-Identifier: BSD-2-Clause
"""What an arm64 instruction does to memory; capstone is asked the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksym.capture.a64 import decode
from ksym.capture.instructions import READ, READ_WRITE, WRITE

capstone = pytest.importorskip("capstone", reason="capstone is not installed")

TABLE = {
    0xB9400001: (READ, 4),  # ldr w1, [x0]
    0xF9000001: (WRITE, 8),  # str x1, [x0]
    0x39400001: (READ, 1),  # ldrb w1, [x0]
    0x79000001: (WRITE, 2),  # strh w1, [x0]
    0xB9800001: (READ, 4),  # ldrsw x1, [x0]
    0x3DC00000: (READ, 16),  # ldr q0, [x0]
    0xA9000801: (WRITE, 8),  # stp x1, x2, [x0]
    0x29400801: (READ, 4),  # ldp w1, w2, [x0]
    0x885F7C01: (READ, 4),  # ldxr w1, [x0]
    0x88027C01: (WRITE, 4),  # stxr w2, w1, [x0]
    0x88DFFC01: (READ, 4),  # ldar w1, [x0]
    0xC89FFC01: (WRITE, 8),  # stlr x1, [x0]
    0xC8A17C02: (READ_WRITE, 8),  # cas x1, x2, [x0]
    0xB821001F: (READ_WRITE, 4),  # stadd w1, [x0]
    0xF8218002: (READ_WRITE, 8),  # swp x1, x2, [x0]
    0x38BFC001: (READ, 1),  # ldaprb w1, [x0]
    0x58000001: (READ, 8),  # ldr x1, from the code
    0x4C007000: (WRITE, 0),  # st1 {v0.16b}, [x0]
    0xD50B7420: (WRITE, 0),  # dc zva, x0
}
NONE = (0xD503201F, 0x8B020020, 0xF9800000, 0xD65F03C0)
"""nop, add, prefetch, ret."""
# It has no accesses of most of these, but their names say enough. Those that move tags or 64 bytes are not known here.
RULES = (
    (r"prf|stg|st2g|stz|ld[g6]|ldgm|st64", ""),
    (r"cas|swp|(ld|st)(add|clr|eor|set|[su]max|[su]min)", READ_WRITE),
    (r"ld", READ),
    (r"st", WRITE),
)


@pytest.mark.parametrize(("word", "expected"), TABLE.items())
def test_reads_and_writes(word: int, expected: tuple[str, int]) -> None:
    found = decode(0x1000, word.to_bytes(4, "little"))
    assert found is not None
    assert (found.access(writes_only=False), found.size) == expected
    assert (found.address, found.text) == (0x1000, f".inst {word:#010x}")


@pytest.mark.parametrize("word", NONE, ids=hex)
def test_no_access(word: int) -> None:
    assert decode(0x1000, word.to_bytes(4, "little")) is None


def test_code_that_cannot_be_read() -> None:
    assert decode(0x1000, b"") is None
    assert decode(0x1000, b"\x01\x00\x40") is None


@settings(max_examples=3000)
@given(st.integers(0, 2**32 - 1))
def test_as_capstone_names_them(word: int) -> None:
    """Of words that encode a load or a store, which one bit set and one clear make likely."""
    code = (word & ~(1 << 25) | 1 << 27).to_bytes(4, "little")
    named = next(capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM).disasm_lite(code, 0), None)
    if named is None:
        return
    wanted = next((access for pattern, access in RULES if re.match(pattern, named[2])), "")
    found = decode(0, code)
    assert (found.access(writes_only=False) if found else "") == wanted, named
