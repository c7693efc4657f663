"""The live page in a real browser."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from infra.home import Home, signing_settings
from shared.auth import Claims, issue_ticket
from tests.browser.page import Page
from tests.support.batches import wait_for
from tests.support.detector import detector_path
from tests.support.running import Run

pytestmark = pytest.mark.browser

PHOTOS = sorted((Path(__file__).parents[2] / "infra" / "demo" / "photos").glob("*.jpg"))


@pytest.fixture
def page(run: Run, chromium: webdriver.Chrome) -> Page:  # a Headway to look at
    return Page(chromium)


def submit(run: Run, *arguments: str) -> tuple[str, str]:
    """The batch's id and the address of its page."""
    done = run.headway("submit", *arguments)
    assert done.returncode == 0, done.stderr
    batch_id, address = done.stdout.split()
    return batch_id, address


def rehearse(run: Run, jobs: int = 1, *arguments: str, **params: Any) -> tuple[str, str]:
    text = msgspec.json.encode(params).decode()
    return submit(run, "rehearsal", "--params", text, "--jobs", str(jobs), *arguments)


def test_shows_every_job_move_until_all_are_done(run: Run, page: Page, tmp_path: Path) -> None:
    _, address = rehearse(run, 12, "--title", "A dozen", steps=15, stepMs=400, logsPerStep=1)
    page.open(address)
    seen = page.wait("the first rows", light="live", status="Running", rows=lambda rows: len(rows) == 12)
    assert seen["title"] == "A dozen"
    assert [row["index"] for row in seen["rows"]] == list(range(2, 14))
    percents = set()
    while seen["light"] != "finished":
        percents.add(seen["percent"])
        seen = page.wait("the next step", percent=lambda now, then=seen["percent"]: now > then or now == 100)
        seen = page.read()
    assert len(percents) > 5, percents
    assert percents == {percent for percent in percents if 0 <= percent <= 100}
    page.wait(
        "the end to be drawn",
        words="Finished",
        status="Done",
        percent=100,
        announced="Done, 100 %",
        times=lambda times: re.fullmatch(r"took \d+ s", times),
        summary=lambda summary: "Steps" in summary,
        rows=lambda rows: len(rows) == 12 and all("Done 100 %" in row["text"] for row in rows),
        lines=lambda lines: len(lines) == 12 * 15 * 2,
    )
    assert page.driver.title == "Done: A dozen"
    assert page.complaints() == []
    page.photograph(tmp_path / "finished.png")


def test_says_how_long_it_will_take_as_soon_as_the_server_knows(run: Run, page: Page, tmp_path: Path) -> None:
    _, address = rehearse(run, 60, "--title", "Sixty", steps=10, stepMs=70)
    page.open(address)
    span = r"(about \d+ s|up to \d+ s|\d+ to \d+ s|\d+ s to \d+ min) left"
    page.wait("the time left", times=lambda times: re.fullmatch(rf"running for \d+ s, {span}", times))
    page.photograph(tmp_path / "left.png")
    page.wait("the end", times=lambda times: re.fullmatch(r"took \d+ s", times))


def test_an_open_batch_says_that_it_waits_for_more(run: Run, page: Page) -> None:
    _, address = rehearse(run, 1, "--open", steps=1, stepMs=10)
    page.open(address)
    idle = r"running for \d+ s, waiting for more jobs"
    page.wait("nothing to be left", percent=100, times=lambda times: re.fullmatch(idle, times))


def test_the_ticket_leaves_the_address_and_a_reload_still_works(run: Run, page: Page) -> None:
    batch_id, address = rehearse(run, steps=300, stepMs=100)
    page.open(address)
    page.wait("the page", light="live")
    assert page.driver.current_url == f"{run.running.address}/batches/{batch_id}"
    page.driver.refresh()
    page.wait("the page again", light="live", status="Running")
    assert page.script("return document.documentElement.outerHTML.includes('ticket=ey')") is False


def test_survives_a_restart_of_the_server_and_says_so(run: Run, page: Page, tmp_path: Path) -> None:
    _, address = rehearse(run, 4, steps=60, stepMs=200, logsPerStep=1)
    page.open(address)
    before = page.wait("progress", light="live", percent=lambda percent: percent > 5)
    (pid,) = run.running.pids["web"]
    os.kill(pid, signal.SIGKILL)
    page.wait("the light to tell", light="reconnecting", words=lambda words: words.startswith("Connection lost"))
    page.photograph(tmp_path / "reconnecting.png")
    after = page.wait("the light to come back", light=lambda light: light in {"live", "finished"})
    assert after["percent"] >= before["percent"]
    end = page.wait("the end", light="finished", status="Done", lines=lambda lines: len(lines) >= 4 * 60 * 2)
    assert len(end["lines"]) == 4 * 60 * 2  # each step is a line and says one, none of them twice


@pytest.mark.parametrize(
    ("fragment", "words"),
    [("", "needs a ticket"), ("#ticket=nonsense", "has expired"), ("#ticket={expired}", "has expired")],
)
def test_says_in_words_what_is_wrong_with_a_link(run: Run, page: Page, fragment: str, words: str) -> None:
    settings = signing_settings(Home(run.home), {"HEADWAY_SECRET": (run.home / "ticket-key").read_text()})
    assert settings is not None
    batch_id = UUID(rehearse(run, steps=1, stepMs=1)[0])
    expired, _ = issue_ticket(settings, Claims("demo", None, time.time() - 60), batch_id)
    page.open(f"{run.running.address}/batches/{batch_id}{fragment.format(expired=expired)}")
    page.wait("the notice", light="stopped", words="Not connected", notice=lambda notice: words in notice)


def test_says_that_a_batch_is_gone(run: Run, page: Page) -> None:
    _, address = rehearse(run, steps=1, stepMs=1)
    ticket = address.partition("#")[2]
    page.open(f"{run.running.address}/batches/00000000-0000-7000-8000-000000000000#{ticket}")
    page.wait("the notice", light="stopped", notice=lambda notice: "no such batch" in notice)


def slowest_frame(page: Page) -> float:
    """Milliseconds, of sixty."""
    milliseconds: float = page.driver.execute_async_script("""
        const done = arguments[0], times = [];
        let last = performance.now();
        const tick = (now) => {
          times.push(now - last); last = now;
          times.length < 60 ? requestAnimationFrame(tick) : done(Math.max(...times.slice(1)));
        };
        requestAnimationFrame(tick);
    """)  # type: ignore[no-untyped-call]
    return milliseconds


def test_stays_quick_with_ten_thousand_jobs(run: Run, page: Page) -> None:
    _, address = rehearse(run, 10_000, steps=1, stepMs=20)
    page.open(address)
    began = time.monotonic()
    page.wait("the rows", rows=lambda rows: len(rows) > 5, percent=lambda percent: percent > 0)
    assert time.monotonic() - began < 8
    page.script(
        "document.getElementById('follow').checked = false; document.getElementById('jobs').scrollTop = 200000;"
    )
    seen = page.wait("the rows in the middle", rows=lambda rows: rows and rows[0]["index"] > 4000)
    assert len(seen["rows"]) < 40
    assert page.script("return document.querySelectorAll('.job').length") < 40
    page.click("#search")
    page.driver.switch_to.active_element.send_keys("job 99")
    seen = page.wait("the search", shown="showing 111 of 10,000")
    assert seen["rows"][0]["text"].startswith("job 99 ")
    # the page answers while thousands of jobs change under it
    wait_for(lambda: slowest_frame(page) < 1000, "the page to be quick, whatever else the machine does", 20)
    token = run.headway("token", "demo").stdout.strip()
    cancel = address.partition("#")[0].replace("/batches/", "/api/batches/") + "/cancel"
    httpx.post(cancel, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=30).raise_for_status()
    page.wait("the end", light="finished", status="Cancelled")


def test_what_others_wrote_is_text_and_nothing_else(run: Run, page: Page) -> None:
    evil = "<img src=x onerror=\"document.title='bad'\"><script>document.title='bad'</script>"
    token = run.headway("token", "demo").stdout.strip()
    job = {"name": evil, "params": {"steps": 1, "stepMs": 1, "failAtStep": 1}}
    submission = {"kind": "rehearsal", "title": evil, "jobs": [job]}
    batch = httpx.post(
        f"{run.running.address}/api/batches",
        json=submission,
        headers={"Authorization": f"Bearer {token}"},
        trust_env=False,
    ).json()
    page.open(run.running.address + batch["webUrl"])
    seen = page.wait("the end", light="finished", status="Failed", title=evil, rows=lambda rows: len(rows) == 1)
    assert "<img" in seen["rows"][0]["text"]
    assert page.driver.title == f"Failed: {evil}"
    assert page.script("return document.querySelectorAll('main img, main script').length") == 0


def choose(page: Page, level: str) -> None:
    Select(page.driver.find_element(By.ID, "level")).select_by_value(level)


def test_a_failed_job_says_why_and_the_log_can_be_narrowed_to_it(run: Run, page: Page) -> None:
    params = '[{"steps": 2, "stepMs": 1, "logsPerStep": 2}, {"steps": 2, "stepMs": 1, "failAtStep": 2}]'
    _, address = submit(run, "rehearsal", "--params", params)
    page.open(address)
    page.wait("the end", light="finished", status="Done in part", rows=lambda rows: len(rows) == 2)
    page.click('.chip[data-state="FAILED"]')
    seen = page.wait("the failed one alone", rows=lambda rows: len(rows) == 1, shown="showing 1 of 2")
    assert "Failed" in seen["rows"][0]["text"]
    assert "rehearsed failure at step 2" in seen["rows"][0]["text"]
    page.click(".space > .job:not([hidden]) button")
    failed = "attempt 1 failed: rehearsed failure at step 2"
    page.wait("its lines alone", lines=lambda lines: len(lines) < 4 and failed in lines)
    choose(page, "trouble")
    page.wait("its errors alone", lines=[failed])
    choose(page, "all")
    page.click("#only button")
    page.wait("all lines", lines=lambda lines: len(lines) > 6)


def test_photographs_end_in_an_inventory_and_look_good_in_both_themes(run: Run, page: Page, tmp_path: Path) -> None:
    detector_path()  # without one the jobs fail, as they should: `run` was told to use it
    _, address = submit(run, "photos.inventory", *map(str, PHOTOS), "--title", "Four rooms")
    page.open(address)
    seen = page.wait("the end", light="finished", status="Done", summary=lambda summary: "Photos" in summary)
    assert re.search(r"Photos\s+4", seen["summary"])
    grounds = set()
    for theme in ("light", "dark"):
        page.emulate(prefers_color_scheme=theme)
        page.photograph(tmp_path / f"{theme}.png")
        grounds.add(page.script("return getComputedStyle(document.body).backgroundColor"))
    page.emulate()
    assert len(grounds) == 2
    assert page.complaints() == []


def test_the_first_page_says_what_this_is_and_how_to_begin(run: Run, page: Page) -> None:
    page.open(run.running.address)
    text = page.script("return document.body.innerText")
    assert f"curl -s {run.running.address}/api/batches" in text
    assert page.complaints() == []


def test_the_log_can_be_downloaded_whole_or_as_it_is_shown(run: Run, page: Page, tmp_path: Path) -> None:
    page.driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    params = '[{"steps": 300, "stepMs": 1, "logsPerStep": 4}, {"steps": 2, "stepMs": 1, "failAtStep": 2}]'
    batch_id, address = submit(run, "rehearsal", "--params", params)
    wait_for(lambda: run.headway("watch", batch_id).returncode == 3, "the end", 60)
    page.open(address)
    page.wait("the end", light="finished", rows=lambda rows: len(rows) == 2)

    def download(css: str) -> str:
        page.click(css)
        name = f"batch-{batch_id}.log"
        wait_for((tmp_path / name).exists, "the file")
        return (tmp_path / name).rename(tmp_path / "read").read_text()

    missing = int(re.findall(r"[\d,]+", page.script("return document.getElementById('missing').innerText"))[0])
    assert missing > 400
    whole = download("#missing button").splitlines()
    assert len(whole) == missing + 1000
    assert sum("#0 job" in line for line in whole) == 1500
    choose(page, "trouble")
    page.click('.chip[data-state="FAILED"]')
    page.click(".space > .job:not([hidden]) button")
    (failed,) = download("#download").splitlines()
    assert failed.endswith("(attempt 1): attempt 1 failed: rehearsed failure at step 2")
    assert "ticket=ey" not in page.script("return document.documentElement.outerHTML")
    page.photograph(tmp_path / "log.png")
    assert page.complaints() == []


def test_the_files_of_a_job_can_be_saved(run: Run, page: Page, tmp_path: Path) -> None:
    page.driver.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    params = '[{"steps": 1, "stepMs": 1, "artifactBytes": 3400}, {"steps": 1, "stepMs": 1}]'
    batch_id, address = submit(run, "rehearsal", "--params", params)
    page.open(address)
    with_file = [True, False]
    seen = page.wait(
        "the end", light="finished", rows=lambda rows: ["1 file" in row["text"] for row in rows] == with_file
    )
    index = seen["rows"][0]["index"]
    page.click(f".space > .job[aria-rowindex='{index}'] button")
    buttons = "return [...document.querySelectorAll('#files:not([hidden]) button')].map((one) => one.innerText)"
    wait_for(lambda: page.script(buttons) == ["rehearsal.txt (3.4 kB)"], "the file's button")
    page.photograph(tmp_path / "files.png")
    page.click("#files button")
    saved = tmp_path / "rehearsal.txt"
    wait_for(saved.exists, "the file")
    assert saved.stat().st_size == 3400
    assert "ticket=ey" not in page.script("return document.documentElement.outerHTML")
    page.click("#only button")
    wait_for(lambda: page.script(buttons) == [], "no files to be shown")
    assert page.complaints() == []

    listed = run.headway("artifacts", batch_id, "--save", str(tmp_path / "all"))
    assert listed.stdout == "#0 3,400 text/plain; charset=utf-8 rehearsal.txt\n"
    assert (tmp_path / "all" / "0-rehearsal.txt").read_bytes() == saved.read_bytes()
    again = run.headway("artifacts", batch_id, "--save", str(tmp_path / "all"))
    assert (again.returncode, again.stderr.count("File exists")) == (2, 1)
