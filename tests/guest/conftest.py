# SPDX-License-Identifier: BSD-2-Clause
"""What the tests inside a guest share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from guest.running import PID_MAX
from ksym.linux.cpus import online_cpus
from ksym.linux.libc import MACHINE
from ksym.symbols.kallsyms import Kallsyms
from ksym.watch.registers import free_registers

collect_ignore = [] if MACHINE == "aarch64" else ["test_arm64.py"]


CPUS = online_cpus()


@pytest.fixture(autouse=True)
def _registers_come_back() -> Iterator[None]:
    yield
    assert {cpu: free_registers(cpu=cpu) for cpu in online_cpus()} == dict.fromkeys(CPUS, 4)


@pytest.fixture(scope="session")
def kallsyms() -> Kallsyms:
    return Kallsyms.of_this_kernel()


@pytest.fixture(scope="session")
def pid_max(kallsyms: Kallsyms) -> str:
    """How this kernel calls it: since 6.14 each pid namespace has one."""
    return "pid_max" if kallsyms.find("pid_max") else "init_pid_ns.pid_max"


@pytest.fixture
def programs() -> None:
    """Skip a test of what only programs at watchpoints can do."""
    if MACHINE == "aarch64":
        pytest.skip("on arm64 ksym runs no programs at watchpoints")


@pytest.fixture
def at_32768() -> Iterator[None]:
    """``pid_max`` holds 32768, and again what it held in the end."""
    before = PID_MAX.read_text()
    PID_MAX.write_text("32768")
    yield
    PID_MAX.write_text(before)
