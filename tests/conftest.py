# SPDX-License-Identifier: BSD-2-Clause
"""What holds for the whole suite.

Tests that reach a kernel skip, with a reason, where the machine does not let them. All of them
skipping would look like success. So a whole run as root, who lacks no privilege, fails unless at
least one of them ran.
"""

from __future__ import annotations

import contextlib
import os

import pytest

# Machines are shared and noisy: no test may depend on how long something takes. Guests have no hypothesis.
with contextlib.suppress(ImportError):
    from hypothesis import settings

    settings.register_profile("ksym", deadline=None)
    settings.load_profile("ksym")

KERNEL_SIDE = ("native", "lab")
SELECTING_OPTIONS = ("keyword", "markexpr", "deselect", "lf", "collectonly", "ignore", "ignore_glob")
NO_KERNEL = (
    "ksym: this run as root reached no kernel: every native and lab test was skipped. "
    "The summary has the reasons; scripts/setup-debian installs what the lab needs."
)

# Guest tests run inside a lab guest, where lab/test_kernels.py sets this.
collect_ignore = [] if os.environ.get("KSYM_GUEST") == "1" else ["guest"]


@pytest.fixture
def root_only() -> None:
    """Skip a test that only root can run."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


class KernelSideRule:
    """Fails a whole run as root in which no test reached a kernel."""

    def __init__(self) -> None:
        self.ran = 0
        self.broken = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what ran: skipped by a mark, a test has no call; skipped in its body, a skipped one."""
        kernel_side = any(mark in report.keywords for mark in KERNEL_SIDE)
        self.ran += kernel_side and report.when == "call" and not report.skipped

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn success into failure where the rule is broken."""
        if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED) and not self.ran:
            self.broken = True
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why."""
        if self.broken:
            terminalreporter.write_line(NO_KERNEL, red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Apply the rule to whole runs as root; a worker of a distributed run sees only a part."""
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS and not any(
        config.getoption(option, None) for option in SELECTING_OPTIONS
    )
    if whole and os.geteuid() == 0 and not hasattr(config, "workerinput"):
        config.pluginmanager.register(KernelSideRule())
