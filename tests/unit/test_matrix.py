# SPDX-License-Identifier: BSD-2-Clause
"""The support matrix: what scripts/matrix makes of reports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from lab.kernel.kernels import KERNELS

TREE = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- made by scripts/matrix; do not edit -->", "<!-- end of what scripts/matrix made -->"
NEW, OLD = KERNELS[1].name, KERNELS[0].name


def report(release: str, *cases: tuple[str, str, str]) -> str:
    """A report of pytest's, with a case for each (MODULE::TEST, fate, message)."""
    text = '<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests">'
    text += f'<testsuite name="{release}" timestamp="2026-11-23T12:00:00.000000+00:00">'
    for name, fate, message in cases:
        module, _, test = name.partition("::")
        inner = f"<{fate} message={quoteattr(message)}>where</{fate}>" if fate else ""
        text += f'<testcase classname="tests.guest.{module}" name={quoteattr(test)}>{inner}</testcase>'
    return text + "</testsuite></testsuites>"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "kernels.md"
    page.write_text(f"before\n\n{BEGIN}\nwhat was there\n{END}\n\nbehind\n")
    return page


def matrix(reports: Path, page: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, TREE / "scripts/matrix", reports, page], capture_output=True, text=True, timeout=60
    )


def test_table(tmp_path: Path, page: Path) -> None:
    """Kernels in the lab's order, groups in the script's; a module that it does not know is not left out."""
    (tmp_path / f"{NEW}.xml").write_text(
        report(
            "6.2.0-new",
            ("test_watch::test_a_name", "", ""),
            ("test_other::test_it", "failure", "E: no\nmore"),
        )
    )
    (tmp_path / f"{OLD}.xml").write_text(
        report(
            "6.1.0-old",
            ("test_watch::test_a_name", "", ""),
            ("test_watch::test_another", "skipped", "absent here"),
            ("test_values::test_conditions[a|b]", "skipped", "absent here"),
        )
    )  # fmt: skip
    (tmp_path / "gone.xml").write_text(report("1.0", ("test_watch::test_a_name", "", "")))
    done = matrix(tmp_path, page)
    assert (done.returncode, done.stderr) == (0, "")
    assert page.read_text().splitlines() == [
        "before", "", BEGIN, "",
        "| kernel | release | conditions | names | other |",
        "|---|---|---|---|---|",
        f"| `{OLD}` | 6.1.0-old | - | 1 of 2 | - |",
        f"| `{NEW}` | 6.2.0-new | - | 1 | **1 of 1 failed** |",
        "", "Run on 2026-11-23.", "",
        "Failed:", "", f"- E: no: `{NEW}`: `test_other::test_it`", "",
        "Skipped:", "",
        f"- absent here: `{OLD}`: `test_watch::test_another`, `test_values::test_conditions[a|b]`",
        "", END, "", "behind",
    ]  # fmt: skip
    assert matrix(tmp_path, page).returncode == 0
    assert page.read_text().count("conditions |") == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (None, "", "no reports in {reports}: run make test-kernels"),
        (f"{OLD}.xml", "<half", "{reports}/bookworm-6.1.xml is not a report in JUnit's format"),
        (f"{OLD}.xml", "<other/>", "{reports}/bookworm-6.1.xml is not a report in JUnit's format"),
    ],
)
def test_no_table(name: str | None, content: str, says: str, tmp_path: Path, page: Path) -> None:
    before = page.read_text()
    if name:
        (tmp_path / name).write_text(content)
    done = matrix(tmp_path, page)
    assert (done.returncode, done.stderr) == (1, f"matrix: {says.format(reports=tmp_path)}\n")
    assert page.read_text() == before


def test_page_without_a_place_for_it(tmp_path: Path) -> None:
    page = tmp_path / "other.md"
    page.write_text("text\n")
    (tmp_path / f"{OLD}.xml").write_text(report("6.1", ("test_watch::test_a_name", "", "")))
    done = matrix(tmp_path, page)
    assert done.stderr == "matrix: the page does not say where the matrix goes\n"
    assert page.read_text() == "text\n"


def test_page_of_the_docs_has_a_place_for_it() -> None:
    text = (TREE / "docs/kernels.md").read_text()
    assert text.index(BEGIN) < text.index(END)
