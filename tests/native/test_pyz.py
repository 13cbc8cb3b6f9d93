# SPDX-License-Identifier: BSD-2-Clause
"""ksym.pyz, one file with the standard library alone, does the main job on this kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ksym.commands.samples import PARAMETERS, find_sample
from ksym.errors import KsymError
from support.program import SOURCES

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("root_only")]


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist") / "ksym.pyz"
    builder = SOURCES.parent / "scripts" / "build-pyz"
    subprocess.run([sys.executable, builder, target], check=True, capture_output=True)
    return target


def test_its_licenses_are_in_it(pyz: Path) -> None:
    names = zipfile.ZipFile(pyz).namelist()
    assert {"LICENSE", "ksym/reports/page/uplot/LICENSE"} <= set(names)


def run(pyz: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        [sys.executable, "-I", "-S", pyz, *words], capture_output=True, text=True, cwd="/", env=environment
    )


def test_a_kernel_variable_is_watched_and_what_is_missing_is_said(pyz: Path) -> None:
    try:
        sample = find_sample(PARAMETERS)
    except KsymError as error:
        pytest.skip(str(error))
    words = ("--format", "json", "--", "sh", "-c", f"{{ {sample.script}; }}")
    # Two registers tell without a decoder; one does not, and then nothing is claimed.
    for options, kinds in ((("--twin", "on"), {"R", "W"}), (("--twin", "off", "--no-bpf"), {"?"})):
        done = run(pyz, "trace", sample.request, *options, *words)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert [row["comm"] for row in rows if row["comm"] in ("cat", "sh")] == ["cat", "sh"]
        assert all(row["function"] for row in rows)
        assert {row["access"] for row in rows} == kinds
        assert "2 accesses (2 hits), 0 lost" in done.stderr
        missing = "iced-x86, which is not installed: pip install iced-x86"
        assert (missing in done.stderr) == ("?" in kinds)


def test_selftest_and_doctor(pyz: Path) -> None:
    selftest = run(pyz, "selftest")
    assert selftest.returncode == 0, selftest.stdout + selftest.stderr
    doctor = run(pyz, "doctor")
    assert "pyelftools is not installed: symbols work, members do not" in doctor.stdout
    assert "iced-x86 is not installed" in doctor.stdout
