"""The live page of a batch that waits for its time or for another batch, and of one that gets more jobs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from selenium import webdriver

from infra.home import Home, signing_settings
from shared.events import stamp
from tests.browser.page import Page
from tests.support.running import Run
from tests.support.web import client

pytestmark = pytest.mark.browser


@pytest.fixture
def page(run: Run, chromium: webdriver.Chrome) -> Page:  # a Headway to look at
    return Page(chromium)


def submit(run: Run, *arguments: str) -> tuple[str, str]:
    """The batch's id and the address of its page."""
    done = run.headway("submit", "rehearsal", "--params", '{"steps": 2, "stepMs": 10}', *arguments)
    assert done.returncode == 0, done.stderr
    batch_id, address = done.stdout.split()
    return batch_id, address


def test_says_what_it_waits_for(run: Run, page: Page, tmp_path: Path) -> None:
    later = stamp(datetime.now(UTC) + timedelta(days=100))
    first, address = submit(run, "--run-after", later, "--title", "Next season")
    page.open(address)
    said = "nothing is to start before "
    page.wait(
        "its time",
        light="live",
        status="Waiting",
        times=lambda times: times.startswith(said),
        rows=lambda rows: len(rows) == 1,
    )
    page.photograph(tmp_path / "delayed.png")
    _, following = submit(run, "--after", first)
    page.open(following)
    page.wait("the other batch", light="live", times="begins when another batch has ended")
    assert run.headway("cancel", first).stdout.startswith("cancelled")
    page.wait("its end", light="finished", status="Cancelled")
    assert page.complaints() == []


def test_shows_jobs_that_are_added_until_it_is_closed(run: Run, page: Page, tmp_path: Path) -> None:
    settings = signing_settings(Home(run.home), {})
    batch_id, address = submit(run, "--open", "--jobs", "2", "--title", "As they come")
    page.open(address)
    page.wait("the first jobs to end", light="live", percent=100, status="Running", rows=lambda rows: len(rows) == 2)
    page.photograph(tmp_path / "open.png")
    with client(run.running.address, settings, "demo") as api:
        for number in range(3):
            more = [{"name": f"later {number}", "params": {"steps": 100, "stepMs": 20}}]
            assert api.post(f"/api/batches/{batch_id}/jobs", json={"jobs": more}).status_code == 201
    seen = page.wait("the others to run", rows=lambda rows: len(rows) == 5, percent=lambda percent: percent < 100)
    assert seen["light"] == "live"
    page.photograph(tmp_path / "grown.png")
    assert run.headway("close", batch_id).returncode == 0
    page.wait("its end", 30, light="finished", status="Done", percent=100)
    assert page.complaints() == []
