# SPDX-License-Identifier: BSD-2-Clause
"""A recording from arm64, read on another machine: all that it says of instructions was found where it was made."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from lab.conftest import ImageOf
from lab.kernel import boot
from lab.kernel.fetch import TREE, guest_root
from lab.kernel.initramfs import Job
from lab.kernel.kernels import ARM64, chosen
from support.program import ksym

pytestmark = pytest.mark.lab

KERNELS = [kernel for kernel in chosen(os.environ.get("KSYM_KERNELS", "")) if kernel.machine == ARM64]
PID_MAX = "/proc/sys/kernel/pid_max"


@pytest.mark.skipif(not KERNELS, reason="KSYM_KERNELS asks for no arm64 kernel")
def test_recording_is_read_elsewhere(image_of: ImageOf, tmp_path: Path) -> None:
    image = image_of(KERNELS[0])
    root, file = guest_root(image), tmp_path / "file.data"
    script = f"value=$(cat {PID_MAX}); echo $value > {PID_MAX}"
    argv = [root.python, "-m", "ksym", "record", "-g", "-o", str(file), "pid_max", "--", "sh", "-c", script]
    job = Job(
        argv, environment={"PYTHONPATH": str(TREE / "src")}, readable=root.needs, writable=[tmp_path],
        cwd=tmp_path, limit=300,
    )  # fmt: skip
    out, err = io.BytesIO(), io.BytesIO()
    outcome = boot.run(image, job, out, err, root=root.directory)
    assert outcome.end is boot.End.EXITED, outcome.tail
    assert outcome.status == 0, err.getvalue().decode()
    result = ksym("script", "--format", "json", str(file))
    assert result.status == 0, result.err
    rows = [row for row in result.rows() if row["comm"] == "cat" or row["access"] == "W"]
    assert [(row["comm"], row["access"]) for row in rows] == [("cat", "R"), ("sh", "W")]
    assert all(row["stack"][0] == f"{row['function']}+{row['offset']:#x}" for row in rows)
    assert all("proc_sys_call_handler" in " ".join(row["stack"]) for row in rows)
