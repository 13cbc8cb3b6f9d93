# SPDX-License-Identifier: BSD-2-Clause
"""What tests need that load BPF programs."""

from __future__ import annotations

import os

import pytest

from ksym.linux import bpf
from ksym.linux.bpf_asm import R0, Assembler


def need_programs(*kinds: int) -> None:
    """Skip where BPF programs of these kinds (``bpf.PROG_TYPE_*``) may not be loaded."""
    asm = Assembler()
    asm.mov(R0, 0)
    asm.exit()
    code = asm.finish("nothing").encode({})
    try:
        for kind in kinds:
            os.close(bpf.load(kind, code, flags=bpf.F_SLEEPABLE if kind == bpf.PROG_TYPE_SYSCALL else 0))
    except OSError as error:
        pytest.skip(f"BPF programs cannot be loaded here: {error}")
