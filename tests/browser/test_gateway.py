"""Chromium behind the gateways of infra/gateway, over TLS and HTTP/2: many tabs do not block one another."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from services.api.app import create_app as create_api
from shared.settings import Settings
from tests.browser.conftest import CHROMIUM, DRIVER, FLAGS
from tests.browser.page import Page
from tests.browser.site import site
from tests.browser.tab import Tab
from tests.support.batches import wait_for
from tests.support.gateways import Gateway, caddy, nginx
from tests.support.needs import needs
from tests.support.ports import own_port
from tests.support.streams import stream_process
from tests.support.web import served
from tests.support.writer import Writer

pytestmark = pytest.mark.browser

Started = Callable[..., AbstractContextManager[Gateway]]

_MANY = 8

# As many as a browser would have connections for, and two more; each counts what it hears.
_WATCH = """
const [address, many] = arguments;
window.versions = Array(many).fill(0);
window.opened = Array(many).fill(0);
window.sources = versions.map((_, number) => {
  const source = new EventSource(address);
  source.onopen = () => { opened[number] += 1; };
  source.addEventListener("progress", (event) => { versions[number] = JSON.parse(event.data).version; });
  return source;
});
"""
_ASK = """
const done = arguments[arguments.length - 1];
fetch("/health/live").then((reply) => reply.json()).then((said) => done(said.status), (error) => done(String(error)));
"""
_PROTOCOLS = """
return [...new Set(performance.getEntriesByType("resource").map((entry) => entry.nextHopProtocol))].filter(Boolean);
"""


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A Chromium that takes a certificate of anybody: those of tests are nobody's."""
    needs("Chromium", there=CHROMIUM.exists() and DRIVER.exists())
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    profile = f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"
    for flag in (*FLAGS, profile, "--ignore-certificate-errors"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.mark.parametrize("start", [nginx, caddy])
def test_eight_streams_and_a_question_share_a_connection_and_come_back_together(
    settings: Settings, writer: Writer, path: str, trusting: webdriver.Chrome, tmp_path: Path, start: Started
) -> None:
    writer.start(0)
    with served(create_api(settings)) as api, stream_process(settings) as (stream, process):
        port = int(stream.rpartition(":")[2])
        with start(api, stream, tmp_path / "state") as gateway:
            tab = Tab(trusting, f"{gateway.address}/")
            try:
                tab.run(_WATCH, path, _MANY)
                _await_version(tab, writer.progress(0, 10))
                assert _asked(trusting) == "live"
                assert tab.run(_PROTOCOLS) == ["h2"]

                process.kill()
                process.wait(10)
                version = writer.progress(0, 20)
                with stream_process(settings, port=port):
                    _await_version(tab, version)
                    assert min(tab.run("return opened")) >= 2
            finally:
                tab.close()


@pytest.mark.parametrize("start", [nginx, caddy])
def test_a_page_of_another_site_comes_back_until_the_service_is_there(
    settings: Settings, writer: Writer, path: str, trusting: webdriver.Chrome, tmp_path: Path, start: Started
) -> None:
    """Only the services know which sites may use them, and they are away."""

    def at_once(text: str) -> str:
        return re.sub(r"(?m)^(\s+(?:[\d.]+%|\*|~\S+|default)) \d{4}(;?)$", r"\1 100\2", text)

    changes = {"headway/http.conf": at_once} if start is nginx else {"Caddyfile": at_once}
    port = own_port()
    nobody = f"http://127.0.0.1:{port}"
    with start(nobody, nobody, tmp_path / "state", changes=changes) as gateway, site() as page:
        tab = Tab(trusting, page)
        try:
            for with_credentials in (False, True):
                tab.watch(f"{gateway.address}{path}", with_credentials=with_credentials)
                tab.wait("two answers of the gateway", lambda heard: _named(heard, "error") >= 2, 60)
                assert {"connection": "closed"} not in tab.heard
                with stream_process(replace(settings, origins=page), port=port):
                    tab.wait("the stream", lambda heard: _named(heard, "progress"), 60)
                tab.run("source.close()")
        finally:
            tab.close()


def _named(heard: list[dict[str, Any]], name: str) -> int:
    return sum(said.get("name") == name for said in heard)


def _asked(driver: webdriver.Chrome) -> Any:
    return driver.execute_async_script(_ASK)  # type: ignore[no-untyped-call]


def _await_version(tab: Tab, version: int) -> None:
    def reached() -> Any:
        return min(tab.run("return versions")) >= version

    wait_for(reached, f"all of them to have heard of version {version}", 60)


def test_the_page_that_people_see_works_behind_it(
    settings: Settings, writer: Writer, ticket: str, trusting: webdriver.Chrome, tmp_path: Path
) -> None:
    writer.start(0)
    with (
        served(create_api(settings)) as api,
        stream_process(settings) as (stream, _),
        nginx(api, stream, tmp_path / "state") as gateway,
    ):
        page = Page(trusting)
        page.open(f"{gateway.address}/batches/{writer.batch_id}#ticket={ticket}")
        writer.progress(0, 30)
        page.wait("the change", seconds=60, percent=10)
        assert page.complaints() == []
        page.open("about:blank")
