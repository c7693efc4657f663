"""The documentation page in a real browser that reaches nothing but this machine."""

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from shared.errors import all_errors
from tests.browser.page import Page
from tests.support.batches import wait_for
from tests.support.running import Run

pytestmark = pytest.mark.browser

LOADED = "return performance.getEntries().map((entry) => entry.name).filter((name) => name.includes(':'))"


@pytest.fixture
def page(run: Run, chromium: webdriver.Chrome) -> Page:  # a Headway to look at
    return Page(chromium)


def test_every_operation_is_shown_and_can_be_looked_at(run: Run, page: Page) -> None:
    address = run.running.address
    page.open(f"{address}/docs")

    def operations() -> list[str]:
        return [element.text for element in page.driver.find_elements(By.CSS_SELECTOR, ".opblock-summary")]

    shown = wait_for(operations, "the operations")
    assert any("POST" in text and "/api/batches" in text for text in shown)
    assert any("/api/batches/{id}/stream" in text for text in shown)
    page.click("#operations-Batches-createBatch .opblock-summary-control")
    body = wait_for(
        lambda: page.driver.find_elements(By.CSS_SELECTOR, "#operations-Batches-createBatch .responses-table"),
        "its replies",
    )[0].text
    assert "Some fields are wrong" in body
    assert all(name.startswith(f"{address}/") for name in page.script(LOADED)), page.script(LOADED)
    assert page.complaints() == []


def test_the_type_of_an_error_leads_to_words(run: Run, page: Page) -> None:
    error = next(error for error in all_errors() if error.code == "conflict")
    page.open(f"{run.running.address}/problems/{error.code}")
    assert page.driver.title == error.title
    assert error.when in page.driver.find_element(By.TAG_NAME, "main").text
    assert page.complaints() == []
