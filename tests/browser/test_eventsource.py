"""Chromium's own EventSource at the real service, without any code of ours in between."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from selenium import webdriver

from services.stream.app import create_app
from shared.auth import issue_token
from shared.settings import Settings
from tests.browser.page import Page
from tests.browser.site import site
from tests.browser.tab import Tab
from tests.support.batches import OWNER, wait_for
from tests.support.journey import travel
from tests.support.odd import ODD_TEXTS
from tests.support.readers import events_of, told
from tests.support.relay import relayed
from tests.support.running import Run
from tests.support.sse import Stream
from tests.support.web import served
from tests.support.writer import Writer

pytestmark = pytest.mark.browser

Open = Callable[[str], Tab]


@pytest.fixture
def open_tab(chromium: webdriver.Chrome) -> Iterator[Open]:
    """Opens tabs, on pages of the given addresses; closed in the end."""
    with ExitStack() as stack:

        def open_tab(page: str) -> Tab:
            tab = Tab(chromium, page)
            stack.callback(tab.close)
            return tab

        yield open_tab


def reached(version: int) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda heard: told(heard).version >= version


def quiet(happens: Callable[[], Any], seconds: float) -> bool:
    """It does not happen in that time."""
    try:
        wait_for(happens, "it", seconds)
    except AssertionError:
        return True
    return False


def test_it_gets_through_all_that_befalls_it(settings: Settings, writer: Writer, path: str, open_tab: Open) -> None:
    with site() as other, relayed("") as relay:
        tab = open_tab(other)

        def begin() -> Callable[[], list[dict[str, Any]]]:
            tab.watch(relay.url + path)
            return lambda: tab.heard

        travel(relay, writer, replace(settings, origins=other), begin)
        asked = len(relay.requests)
        assert tab.run("return source.readyState") == 2
        tab.run("window.dispatchEvent(new Event('online')); document.dispatchEvent(new Event('visibilitychange'))")
        assert quiet(lambda: len(relay.requests) > asked, 2.5), "it asks again after 204"
        assert tab.heard[-1] == {"connection": "closed"}
        assert not [request for request in relay.requests if request.line.startswith("OPTIONS")], "a preflight"


def test_it_is_told_what_we_are(settings: Settings, writer: Writer, path: str, open_tab: Open) -> None:
    with (
        served(create_app(replace(settings, window=0))) as address,
        relayed(address, piece=1) as chopping,
        Stream(address, writer.batch_id, issue_token(settings, OWNER)) as ours,
    ):
        tabs = [open_tab(f"{url}/health/live") for url in (address, chopping.url)]
        for tab, url in zip(tabs, (address, chopping.url), strict=True):
            tab.watch(url + path)
            tab.wait("a snapshot", reached(1))
        ours.delta()
        writer.start(0, 1, 2)
        for number, text in enumerate(ODD_TEXTS):
            version = writer.progress(0, number, lines=2, text=text, step=text, message=text)
            ours.to_version(version)
            for tab in tabs:
                tab.wait(f"version {version}", reached(version))
        for tab in tabs:
            assert events_of(tab.heard) == ours.record.events


def test_who_is_sent_away_comes_back_when_told_to(
    settings: Settings, writer: Writer, path: str, open_tab: Open
) -> None:
    with (
        served(create_app(replace(settings, owner_viewers=1), jitter=lambda: 0.3)) as address,
        relayed(address) as relay,
        Stream(address, writer.batch_id, issue_token(settings, OWNER)) as first,
    ):
        first.delta()
        tab = open_tab(f"{relay.url}/health/live")
        tab.watch(relay.url + path)
        tab.wait("a refusal", lambda heard: [event.name for event in events_of(heard)] == ["error"])
        first.close()
        tab.wait("a snapshot", reached(1))
    refused, let_in = relay.streams
    assert 3.8 - 0.1 <= let_in.at - refused.at < 15, "2,000 to 8,000 ms, by chance: three tenths of it"


def test_an_address_with_an_old_id_is_no_hindrance_later(
    settings: Settings, writer: Writer, path: str, open_tab: Open
) -> None:
    """It asks for the same address each time: the id that it has got since counts first."""
    with served(create_app(replace(settings, window=0))) as address, relayed(address) as relay:
        tab = open_tab(f"{relay.url}/health/live")
        tab.watch(f"{relay.url}{path}&lastEventId=nonsense")
        tab.wait("a snapshot", reached(1))
        for number in range(2):
            relay.cut()
            version = writer.start(number)
            tab.wait("what came since", reached(version))
    assert [event.name for event in events_of(tab.heard)] == ["reset", "progress", "progress", "progress"]
    assert [len(event.data["jobs"]) for event in events_of(tab.heard)[1:]] == [3, 1, 1]


@pytest.mark.parametrize("with_credentials", [False, True])
def test_pages_of_other_sites_watch_where_they_are_listed_and_cookies_mean_nothing(
    settings: Settings, writer: Writer, path: str, open_tab: Open, *, with_credentials: bool
) -> None:
    with (
        site() as listed,
        site() as unlisted,
        served(create_app(replace(settings, origins=listed))) as address,
        relayed(address) as relay,
    ):
        tab = open_tab(f"{relay.url}/health/live")
        tab.run("document.cookie = 'session=stolen; path=/'")
        tab = open_tab(listed)
        tab.watch(relay.url + path, with_credentials=with_credentials)
        tab.wait("a snapshot", reached(1))
        relay.cut()
        version = writer.start(0)
        tab.wait("what came since", reached(version))
        assert [len(event.data["jobs"]) for event in events_of(tab.heard)] == [3, 1]
        tab.run("source.close()")
        tab.watch(relay.url + path.partition("?")[0], with_credentials=with_credentials)
        tab.wait("a refusal: a cookie is no ticket", lambda heard: heard == [{"connection": "closed"}])

        tab = open_tab(unlisted)
        tab.watch(relay.url + path, with_credentials=with_credentials)
        tab.wait("a refusal", lambda heard: heard == [{"connection": "closed"}])
        open_tab(f"{relay.url}/health/live").run("document.cookie = 'session=; path=/; max-age=0'")
    sent = {request.headers.get("cookie", "") for request in relay.streams}
    assert sent == ({"session=stolen"} if with_credentials else {""})
    assert {request.headers["origin"] for request in relay.streams} == {listed, unlisted}
    assert [request.line for request in relay.requests if request.line.startswith("OPTIONS")] == []


def test_six_tabs_watch_and_the_seventh_waits_until_one_is_closed(
    settings: Settings, writer: Writer, path: str, open_tab: Open
) -> None:
    """A browser has six connections to one origin over HTTP/1.1, in all its tabs together."""
    app = create_app(settings)
    with served(app) as address, relayed(address) as relay:
        tabs = [open_tab(f"{relay.url}/health/live") for _ in range(7)]
        six, seventh = tabs[:6], tabs[6]
        for tab in six:
            tab.watch(relay.url + path)
            tab.wait("a snapshot", reached(1))
        writer.start(0)
        for percent in (10, 20, 30):
            version = writer.progress(0, percent, lines=1)
            for tab in six:
                tab.wait(f"version {version}", reached(version))
        seventh.watch(relay.url + path)
        assert quiet(lambda: len(relay.streams) > 6, 1), "a browser with more than six connections"
        assert app.state.hub.present == 6
        assert sum(any(tab.hidden) for tab in six) >= 4, "tabs in the background are told, too"

        six[2].close()
        seventh.wait("its turn", reached(version))
        wait_for(lambda: app.state.hub.present == 6, "the viewer of a closed tab to be gone")
        for tab in (*six[:2], *six[3:], seventh):
            tab.close()
        wait_for(lambda: app.state.hub.present == 0, "the viewers of all closed tabs to be gone")


def test_six_live_pages_at_once(run: Run, chromium: webdriver.Chrome, open_tab: Open) -> None:
    submitted = run.headway("submit", "rehearsal", "--params", '{"steps": 500, "stepMs": 100, "logsPerStep": 1}')
    batch_id, address = submitted.stdout.split()
    tabs = [open_tab(address) for _ in range(6)]
    percents = []
    for tab in tabs:
        tab.show()
        percents.append(Page(chromium).wait("the page", light="live", status="Running")["percent"])
    for tab, percent in zip(tabs, percents, strict=True):
        tab.show()
        Page(chromium).wait("progress", light="live", percent=lambda now, then=percent: now > then)
    token = run.headway("token", "demo").stdout.strip()
    cancel = f"{run.running.address}/api/batches/{batch_id}/cancel"
    httpx.post(cancel, headers={"Authorization": f"Bearer {token}"}, trust_env=False).raise_for_status()
    for tab in tabs:
        tab.show()
        Page(chromium).wait("the end", light="finished", status="Cancelled")
