# SPDX-License-Identifier: BSD-2-Clause
"""The guest tests, on each kernel of the lab.

One guest a kernel runs ``pytest tests/guest``, from this virtual environment where it can; each of its tests is
then told here as a subtest. ``KSYM_KERNELS`` chooses the kernels: names from
`lab.kernel.kernels`, or ``all``; by default the quick set. What they said stays in ``build/kernels``, from which
``scripts/matrix`` makes the table of docs/kernels.md.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab.conftest import ImageOf
from lab.kernel import boot
from lab.kernel.fetch import TREE, guest_root
from lab.kernel.initramfs import Job
from lab.kernel.kernels import Kernel, chosen

pytestmark = pytest.mark.lab

RESULTS = TREE / "build/kernels"
LIMIT = 1800
CPUS = int(os.environ.get("KSYM_CPUS", boot.CPUS))


@dataclass(frozen=True)
class Case:
    """One test of a guest: ``fate`` is ``passed``, ``skipped``, ``failure`` or ``error``."""

    name: str
    fate: str
    text: str


@pytest.mark.parametrize("kernel", chosen(os.environ.get("KSYM_KERNELS", "")), ids=lambda kernel: kernel.name)
def test_guest_tests(kernel: Kernel, image_of: ImageOf, tmp_path: Path, subtests: pytest.Subtests) -> None:
    image = image_of(kernel)
    root = guest_root(image)
    report = tmp_path / "report.xml"
    argv = [root.python, "-m", "pytest", "tests/guest", "-p", "no:cacheprovider"]
    argv += [f"--junitxml={report}", "-o", f"junit_suite_name={image.release}"]
    # Under emulation, importing the plugins that happen to be installed takes longer than most tests.
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    job = Job(argv, cwd=TREE, environment=environment, readable=root.needs, writable=[tmp_path], limit=LIMIT)
    with (tmp_path / "stdout").open("w+b") as out, (tmp_path / "stderr").open("w+b") as err:
        outcome = boot.run(image, job, out, err, kaslr=kernel.kaslr, root=root.directory, cpus=CPUS)
    for name in ("stdout", "stderr"):  # pytest shows what was printed when the test fails
        print((tmp_path / name).read_text(errors="replace"))
    assert outcome.end is boot.End.EXITED, f"{image.release}: {outcome.end.value}\n{outcome.tail}"
    assert report.exists(), f"{image.release}: pytest left no report, and status {outcome.status}"
    RESULTS.mkdir(parents=True, exist_ok=True)
    shutil.copy(report, RESULTS / f"{kernel.name}.xml")

    cases = read_report(report)
    for case in cases:
        with subtests.test(case.name):
            tell(case)
    counts = Counter(case.fate for case in cases)
    print(f"{image.release}: {dict(counts)}, {outcome.seconds:.0f} s")
    assert len(cases) > counts["skipped"], f"{image.release}: no guest test ran: {dict(counts)}"
    failed = counts["failure"] + counts["error"]
    assert (outcome.status == 0) == (not failed), f"{image.release}: pytest's status is {outcome.status}"


def read_report(report: Path) -> list[Case]:
    """The cases in a report of pytest's, in JUnit's format."""
    cases = []
    for node in ElementTree.parse(report).iter("testcase"):
        fates = [child for child in node if child.tag in ("skipped", "failure", "error")]
        name = f"{node.get('classname', '').removeprefix('tests.')}::{node.get('name')}"
        if fates:
            said = fates[0]
            text = said.get("message") if said.tag == "skipped" else said.text
            cases.append(Case(name, said.tag, text or ""))
        else:
            cases.append(Case(name, "passed", ""))
    return cases


def tell(case: Case) -> None:
    """Give a test of the guest's its fate here, too."""
    if case.fate == "skipped":
        pytest.skip(case.text)
    if case.fate != "passed":
        pytest.fail(case.text, pytrace=False)
