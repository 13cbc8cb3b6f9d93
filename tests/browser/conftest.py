# SPDX-License-Identifier: BSD-2-Clause
"""A Chromium without a window, for all tests here; they are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser.tab import Tab, start

MISSING = "needs {}: apt-get install chromium chromium-driver"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("browser")


@pytest.fixture(scope="package")
def chromium() -> Iterator[Tab]:
    """One for all of them: starting it takes a second."""
    paths = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in paths.items():
        if path is None:
            pytest.skip(MISSING.format(name))
    tab = start(*map(str, paths.values()))
    yield tab
    tab.quit()


@pytest.fixture
def tab(chromium: Tab) -> Iterator[Tab]:
    """Its tab, in a light room; whatever the page complained of fails the test."""
    chromium.surroundings(dark=False, width=1400)
    chromium.complaints()
    yield chromium
    assert chromium.complaints() == []
