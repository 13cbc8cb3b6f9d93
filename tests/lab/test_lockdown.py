# SPDX-License-Identifier: BSD-2-Clause
"""A kernel that is locked down: what needs its memory is refused in one line, and the rest works.

Lockdown cannot be taken back, so it gets a guest of its own.
"""

from __future__ import annotations

import io
import re
import sys

import pytest

from lab.conftest import ImageOf
from lab.kernel import boot
from lab.kernel.fetch import TREE
from lab.kernel.initramfs import Job
from lab.kernel.kernels import chosen

pytestmark = pytest.mark.lab

CONFIDENTIAL = "kernel lockdown is in confidentiality mode"
NO_VALUES = f"ksym: no values (OLD -> NEW), and a plain perf event for each hit: {CONFIDENTIAL}"
SYSCTL = "sh -c 'sysctl kernel.pid_max; sysctl -q -w kernel.pid_max=40000'"
# A processor has twins unasked; in an emulator TYPE is decoded instead, for which the kernel's code must be read.
RUNS = {
    "rows": f"trace --twin on pid_max -- {SYSCTL}",
    "undecoded": f"trace --twin off pid_max -- {SYSCTL}",
    "reads": f"trace pid_max:r-- -- {SYSCTL}",
    "comm": f"trace --twin on 'pid_max if comm == \"sysctl\" && access == W' -- {SYSCTL}",
    "changed": f"trace 'pid_max if changed' -- {SYSCTL}",
    "functions": f"stat --twin on pid_max --by function -- {SYSCTL}",
    "task": f"trace 'task(self).comm' -- {SYSCTL}",
    "doctor": "doctor",
    "selftest": "selftest",
}


@pytest.fixture(scope="module")
def said(image_of: ImageOf) -> dict[str, str]:
    """What each run wrote, and its status at the end."""
    script = "echo confidentiality > /sys/kernel/security/lockdown\n"
    script += "\n".join(
        f"echo '== {name}'; {sys.executable} -m ksym {words} 2>&1; echo status $?" for name, words in RUNS.items()
    )  # fmt: skip
    out, err = io.BytesIO(), io.BytesIO()
    job = Job(["sh", "-c", script], cwd=TREE, environment={"PYTHONPATH": str(TREE / "src")}, limit=300)
    outcome = boot.run(image_of(chosen("")[0]), job, out, err)
    assert outcome.end is boot.End.EXITED, outcome.tail
    assert err.getvalue() == b""
    parts = re.split(r"^== (\w+)\n", out.getvalue().decode(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str, comm: str) -> list[str]:
    """TYPE and OLD -> NEW of a task's rows."""
    return re.findall(rf"^\S+ {comm}-\d+ +\d+  \S+ +(\S+ +\S+)", text, re.MULTILINE)


def test_rows_without_values(said: dict[str, str]) -> None:
    assert rows(said["undecoded"], "sysctl") == ["?     -"] * 2
    assert rows(said["rows"], "sysctl") == ["R     -", "W     -"]
    assert said["rows"].splitlines().count(NO_VALUES) == 1
    assert said["rows"].endswith("status 0\n")


def test_reads_alone(said: dict[str, str]) -> None:
    assert rows(said["reads"], "sysctl") == ["R     -"]
    assert NO_VALUES in said["reads"]


def test_condition_that_needs_no_value(said: dict[str, str]) -> None:
    assert rows(said["comm"], r"\S+") == ["W     -"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("changed", f"cannot judge the condition 'changed': it needs a program in the kernel: {CONFIDENTIAL}; "),
        ("task", f"cannot read kernel memory: {CONFIDENTIAL}; boot without lockdown=confidentiality"),
    ],
)  # fmt: skip
def test_refusal_is_one_line(name: str, message: str, said: dict[str, str]) -> None:
    line, status = said[name].splitlines()
    assert line.startswith(f"ksym: {message}")
    assert status == "status 125"


def test_counts_by_function(said: dict[str, str]) -> None:
    """They need no kernel memory."""
    assert re.search(r"^ +1 .* W +\w+$", said["functions"], re.MULTILINE)
    assert said["functions"].endswith("status 0\n")


def test_doctor_knows_it(said: dict[str, str]) -> None:
    found = f"no values of kernel variables, and no conditions on them: {CONFIDENTIAL}"
    assert f"limited  programs at watchpoints   {found}" in said["doctor"].splitlines()
    assert said["doctor"].endswith("status 0\n")


def test_selftest_skips_what_cannot_be(said: dict[str, str]) -> None:
    assert re.search(rf"^skipped .*, values, .*{CONFIDENTIAL}$", said["selftest"], re.MULTILINE)
    assert said["selftest"].endswith("status 0\n")
