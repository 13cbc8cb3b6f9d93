# SPDX-License-Identifier: BSD-2-Clause
"""The wheel of ``make dist``: what is in it, and that it runs in a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from ksym import __version__
from support.program import SOURCES

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("root_only")]

TREE = SOURCES.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It is built from a copy: the tree's own build folder may hold what was removed since."""
    pytest.importorskip("setuptools", "70.1")
    tree, target = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TREE / name, tree)
    shutil.copytree(SOURCES / "ksym", tree / "src/ksym", ignore=shutil.ignore_patterns("__pycache__"))
    words = (
        "wheel",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        target,
        tree,
    )
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return target / f"ksym-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command ksym in an environment that has the wheel, and from here the libraries that it needs."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    words = ("--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel)
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin/ksym"


def run(command: Path, *words: str, cwd: Path) -> str:
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run([command, *words], capture_output=True, text=True, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_what_is_in_it(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    about = f"ksym-{__version__}.dist-info/"
    own = {path for path in SOURCES.joinpath("ksym").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {name for name in names if not name.startswith(about)} == {
        path.relative_to(SOURCES).as_posix() for path in own
    }
    assert f"{about}licenses/LICENSE" in names


def test_it_runs_where_nothing_else_of_ksym_is(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "prog.c").write_text(
        "volatile long counter; int main(void) { counter = 6; return counter != 6; }\n"
    )
    subprocess.run(["gcc", "-O1", "-no-pie", "-o", "prog", "prog.c"], check=True, cwd=tmp_path)
    assert run(installed, "--version", cwd=tmp_path) == f"ksym {__version__}\n"
    where = "import ksym; print(ksym.__file__)"
    assert str(installed.parents[1]) in run(installed.with_name("python"), "-c", where, cwd=tmp_path)
    assert "\nok " in run(installed, "selftest", cwd=tmp_path)
    assert "2 accesses (2 hits)" in run(installed, "trace", "./prog:counter", "--", "./prog", cwd=tmp_path)
    assert "2 hits, 0 lost" in run(installed, "record", "./prog:counter", "--", "./prog", cwd=tmp_path)
    assert "2 accesses: 1 R, 1 W" in run(installed, "report", cwd=tmp_path)
    assert "2 accesses" in run(installed, "report", "--html", "page.html", cwd=tmp_path)
    assert "2 accesses" in run(installed, "export", "--to", "csv", cwd=tmp_path)
