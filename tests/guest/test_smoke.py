# SPDX-License-Identifier: BSD-2-Clause
"""The guest is what the other guest tests count on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.guest


def test_is_root_on_several_cpus() -> None:
    assert os.geteuid() == 0
    assert (os.cpu_count() or 1) > 1


def test_kernel_lists_data_symbols() -> None:
    with Path("/proc/kallsyms").open() as symbols:
        line = next(line.split() for line in symbols if line.split()[2] == "total_forks")
    assert line[1] in "bBdD"
    assert int(line[0], 16) > 0


def test_kernel_has_btf() -> None:
    assert Path("/sys/kernel/btf/vmlinux").read_bytes()[:2] == b"\x9f\xeb"


@pytest.mark.parametrize("place", ["/sys/kernel/tracing/README", "/sys/kernel/debug/sleep_time", "/dev/fd/0"])
def test_file_systems_are_mounted(place: str) -> None:
    assert Path(place).parent.is_dir()
    assert any(Path(place).parent.iterdir())


def test_modules_can_be_loaded() -> None:
    subprocess.run(["modprobe", "loop"], check=True)
    assert Path("/sys/module/loop").is_dir()


def test_writes_stay_in_the_guest(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    assert [kind for _, place, kind, *_ in mounts if place == "/"] == ["overlay"]
