# SPDX-License-Identifier: BSD-2-Clause
"""What doctor finds, and how it is judged."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ksym.linux import privileges
from ksym.linux.libc import MACHINE
from ksym.linux.lockdown import CONFIDENTIAL_CURE, is_confidential
from ksym.watch.registers import holders

OK, LIMITED, BROKEN = "ok", "limited", "broken"


@dataclass(frozen=True)
class Finding:
    """One answer.

    Args:
        what: The question, in a few words.
        state: OK; LIMITED: less than elsewhere, but as expected of this machine and user; BROKEN: it should work.
        found: What was found.
        cure: What to do about it.
    """

    what: str
    state: str
    found: str
    cure: str = ""


def refused(*, secret: bool = False) -> str:
    """The state of what was refused: root should have it.

    Args:
        secret: It gives kernel memory away, so that lockdown is a good reason.
    """
    return LIMITED if os.geteuid() != 0 or (secret and is_confidential()) else BROKEN


def programs_refused(*, kernel: bool) -> str:
    """The state of programs that are refused.

    Args:
        kernel: They were to read kernel variables.
    """
    return LIMITED if MACHINE == "aarch64" else refused(secret=kernel)


def cure_for_secrets() -> str:
    """What to do where kernel memory may not be read."""
    if is_confidential():
        return CONFIDENTIAL_CURE
    found = privileges.refusal("bpf", privileges.BPF, privileges.SYS_ADMIN)
    if found is not None:
        return found[1]
    return "run it with sudo" if os.geteuid() != 0 else ""


def free_them() -> str:
    """What to do where registers are taken."""
    others = holders()
    if others:
        return "end " + ", ".join(map(str, others))
    return "somebody holds them; gdb, perf or bpftrace perhaps"
