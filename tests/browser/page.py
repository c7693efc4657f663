"""The live page as somebody sees it who looks at it in Chromium."""

from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.support.batches import wait_for

# Everything in one question: a page that changes while it is asked piece by piece fits nobody's expectation.
_READ = """
const text = (id) => document.getElementById(id)?.innerText.trim() ?? "";
const shown = (id) => !(document.getElementById(id)?.hidden ?? true);
const rows = [...document.querySelectorAll(".space > .job:not([hidden])")].map((row) => ({
  index: Number(row.ariaRowIndex), state: row.dataset.state, text: row.innerText.replace(/\\s+/g, " ").trim(),
}));
return {
  light: document.getElementById("light").dataset.state, words: text("light-words"), title: text("title"),
  status: text("status"), percent: parseInt(text("percent")) || 0, times: text("times"), shown: text("shown"),
  notice: shown("notice") ? text("notice") : "", summary: shown("summary") ? text("summary") : "",
  announced: document.getElementById("announcer").textContent,
  rows: rows.sort((a, b) => a.index - b.index),
  lines: [...document.querySelectorAll("#log .line")].map((line) => line.querySelector(".text").textContent),
};
"""


class Page:
    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, address: str) -> None:
        self.driver.get("about:blank")  # the same address with another fragment would be no navigation
        self.driver.get_log("browser")  # type: ignore[no-untyped-call]  # what others have left
        self.driver.get(address)

    def read(self) -> Any:
        return self.driver.execute_script(_READ)  # type: ignore[no-untyped-call]

    def wait(self, what: str, seconds: float = 20, **expected: Any) -> Any:
        """What is read once every one of `expected` is so: a value, or a function of the value."""

        def fits() -> Any:
            seen = self.read()
            for name, value in expected.items():
                if not (value(seen[name]) if callable(value) else seen[name] == value):
                    return None
            return seen

        return wait_for(fits, what, seconds)

    def click(self, css: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, css).click()

    def script(self, source: str) -> Any:
        return self.driver.execute_script(source)  # type: ignore[no-untyped-call]

    def emulate(self, **features: str) -> None:
        """`emulate(prefers_color_scheme="dark")`"""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": named})

    def complaints(self) -> list[str]:
        """What the browser found wrong: errors of scripts, and what the content security policy refused."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def photograph(self, path: Path) -> None:
        self.driver.save_screenshot(str(path))
