# SPDX-License-Identifier: BSD-2-Clause
"""Kernel variables that any shell can read and write through a file, harmlessly: what demo and selftest watch.

Writing back the value that was read changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ksym.errors import KsymError, NotPermitted
from ksym.language.parser import parse_request
from ksym.symbols.resolver import Resolver

_PARAMETERS = "/sys/module/{}/parameters/{}"


@dataclass(frozen=True)
class Sample:
    """A variable, and the file through which the kernel reads and writes it."""

    request: str
    file: Path

    @property
    def script(self) -> str:
        """A shell script that reads the variable, then writes the same value back."""
        return f"cat {self.file}; echo {self.file.read_text().strip()} > {self.file}"


SYSCTLS = (
    Sample("pid_max", Path("/proc/sys/kernel/pid_max")),
    # Since 6.14 (commit 7863dcc72d0f) every pid namespace has its own.
    Sample("init_pid_ns.pid_max", Path("/proc/sys/kernel/pid_max")),
)
PARAMETERS = tuple(
    Sample(f"{module}:{name}", Path(_PARAMETERS.format(module, name)))
    for module, name in (
        ("workqueue", "panic_on_stall"),
        ("workqueue", "debug_force_rr_cpu"),
        ("rcupdate", "rcu_cpu_stall_timeout"),
        ("printk", "time"),
    )
)


def find_sample(candidates: Iterable[Sample]) -> Sample:
    """The first candidate that exists here and can be resolved.

    Raises:
        NotPermitted: not root, or the kernel's names or memory are out of reach.
        KsymError: none can be used here.
    """
    refused: KsymError | None = None
    resolver = Resolver()
    for sample in candidates:
        if not os.access(sample.file, os.R_OK | os.W_OK):
            continue
        try:
            resolver.resolve(parse_request(sample.request))
        except KsymError as error:
            refused = error
            continue
        return sample
    if os.geteuid() != 0:
        raise NotPermitted(
            "cannot watch a kernel variable", "kernel addresses may be watched only by root (CAP_SYS_ADMIN)",
            "run it with sudo",
        )  # fmt: skip
    if refused is not None:
        raise refused
    raise KsymError(
        "cannot choose a kernel variable", "none of the files that ksym knows can be written here (is /sys read-only?)",
        "name one yourself: ksym trace VARIABLE",
    )  # fmt: skip
