# SPDX-License-Identifier: BSD-2-Clause
"""The tab of a Chromium that a test looks at, and acts on as a person does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

PATIENCE = 60
"""Seconds that a page may take to unpack, on whatever machine."""
# The page draws once before the next picture; by the one after that it has.
DRAWN = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"


def start(browser: str, driver: str) -> Tab:
    """A Chromium of its own, with a profile that is gone with it; without paths Selenium would download it."""
    options = Options()
    options.binary_location = browser
    # Root has no sandbox; a container's /dev/shm may be small.
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Tab(webdriver.Chrome(options=options, service=Service(driver)))


class Tab:
    """A tab with the report's page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def quit(self) -> None:
        self.driver.quit()

    # -- around the page

    def surroundings(self, *, dark: bool, width: int) -> None:
        """What the page finds: the system's colours, and the width of its window."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
        )

    def complaints(self) -> list[Any]:
        """What stands in the console, which is emptied."""
        return list(self.driver.get_log("browser"))  # type: ignore[no-untyped-call]

    def open(self, page: Path) -> None:
        """Load a page, until it shows its report."""
        self.driver.get(page.as_uri())
        WebDriverWait(self.driver, PATIENCE).until(lambda _: not self.one("#status").is_displayed())

    # -- looking

    def one(self, query: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, query)

    def all(self, query: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, query)

    def text(self, query: str) -> str:
        """As it is in the page, whether or not it can be seen."""
        return str(self.one(query).get_property("textContent")).strip()

    def script(self, words: str, *arguments: object) -> Any:
        return self.driver.execute_script(words, *arguments)

    def table(self, query: str) -> list[dict[str, str]]:
        """The rows of a table by its heads."""
        heads, *rows = self.script(
            "return [...document.querySelector(arguments[0]).querySelectorAll('tr')]"
            ".map(row => [...row.cells].map(cell => cell.textContent))",
            f"{query} table",
        )
        return [dict(zip(heads, row, strict=True)) for row in rows]

    @property
    def selected(self) -> int:
        """How many accesses are; all parts of the page must agree."""
        words = self.text("#selected")
        count = number(words)
        assert f" {count:,} " in f" {self.text('#rows .tools span')} ".replace("none", "0")
        assert f"Timeline of {count:,} access" in str(self.one("#timeline .plot").get_attribute("aria-label"))
        return count

    @property
    def chips(self) -> list[str]:
        """What is selected, as the buttons say that drop it."""
        return [chip.text.removesuffix(" \N{MULTIPLICATION SIGN}") for chip in self.all("#chips button")]

    # -- acting

    def drawn(self) -> None:
        self.driver.execute_async_script(DRAWN)

    def click(self, query: str, text: str | None = None) -> None:
        """Click the first element, or the one with this text."""
        found = next(
            element
            for element in self.all(query)
            if text is None or element.get_property("textContent") == text
        )
        self.show(found)
        found.click()
        self.drawn()

    def show(self, element: WebElement) -> None:
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)

    def choose(self, query: str, value: str) -> None:
        Select(self.one(query)).select_by_value(value)
        self.drawn()

    def press(self, query: str, *keys: str) -> None:
        """Press keys, one by one, on what can have the focus."""
        for key in keys:
            self.one(query).send_keys(key)
            self.drawn()

    def picture(self, section: str) -> WebElement:
        over = self.one(f"{section} .u-over")
        self.show(over)
        return over

    def drag(self, section: str, start: float, end: float) -> None:
        """Drag over a part of a picture's width."""
        over = self.picture(section)
        width = over.size["width"]
        mouse = ActionChains(self.driver, duration=20)
        mouse.move_to_element_with_offset(over, round((start - 0.5) * width), 0).click_and_hold()
        mouse.move_by_offset(round((end - start) * width), 0).release().perform()
        self.drawn()

    def click_at(self, section: str, x: float, y: float = 0.5) -> None:
        """Click a place in a picture: parts of its width and height."""
        over = self.picture(section)
        across, down = round((x - 0.5) * over.size["width"]), round((y - 0.5) * over.size["height"])
        mouse = ActionChains(self.driver, duration=20)
        mouse.move_to_element_with_offset(over, across, down).click().perform()
        self.drawn()


def number(words: str) -> int:
    """The first number in a text."""
    match = re.search(r"[\d,]+", words)
    assert match, words
    return int(match[0].replace(",", ""))
