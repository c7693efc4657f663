"""WebSockets as a page has them: Chromium's own, from this site, from one that is listed, and from another."""

from typing import Any

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from selenium import webdriver

from shared.auth import issue_token
from shared.settings import Settings
from tests.browser.site import site
from tests.support.batches import OWNER
from tests.support.streams import stream_process
from tests.support.writer import Writer

pytestmark = pytest.mark.browser

_TALK = """
const [address, first, topics, wanted, done] = arguments;
const socket = new WebSocket(address);
const heard = [];
socket.onopen = () => {
  if (first) socket.send(JSON.stringify(first));
  for (const topic of topics) socket.send(JSON.stringify({type: "subscribe", topic}));
};
socket.onmessage = (event) => {
  heard.push(JSON.parse(event.data));
  if (heard.length === wanted) socket.close(1000, "enough");
};
socket.onclose = (event) => done({code: event.code, reason: event.reason, clean: event.wasClean, heard});
"""

_TICKET = """
const [address, token, done] = arguments;
fetch(address, {method: "POST", headers: {"Authorization": `Bearer ${token}`}})
  .then((reply) => reply.json()).then((said) => done(said.ticket));
"""


def test_a_page_watches_by_websocket_and_one_of_another_site_does_not(
    settings: Settings, engine: sa.Engine, chromium: webdriver.Chrome
) -> None:
    def talk(address: str, first: Any, topics: list[str], wanted: int) -> Any:
        socket = address.replace("http", "ws", 1)
        return chromium.execute_async_script(_TALK, socket, first, topics, wanted)  # type: ignore[no-untyped-call]

    chromium.set_script_timeout(20)
    writer = Writer(engine, settings, 2)
    writer.start(0)
    writer.progress(0, 40, lines=2, text="κόσμε 💡")
    topics = [f"batch:{writer.batch_id}", f"logs:{writer.batch_id}", f"job:{writer.jobs[0]}"]
    auth = {"type": "auth", "token": issue_token(settings, OWNER)}
    with site() as listed, site() as other, stream_process(replace(settings, origins=listed), "infra.web") as running:
        address, _ = running
        for page in (f"{address}/", listed):
            chromium.get(page)
            told = talk(f"{address}/api/ws", auth, topics, 4)
            assert (told["code"], told["reason"], told["clean"]) == (1000, "enough", True)
            assert sorted((said["type"], said["topic"]) for said in told["heard"]) == sorted(
                [("progress", topics[0]), ("log", topics[1]), ("log", topics[2]), ("progress", topics[2])]
            )
            (lines,) = [said["data"]["lines"] for said in told["heard"] if said["topic"] == topics[1]]
            assert [line["text"] for line in lines] == ["κόσμε 💡"] * 2
        wrong = talk(f"{address}/api/ws", {"type": "auth", "token": "wrong"}, [], 9)
        assert (wrong["code"], wrong["clean"]) == (4401, True)
        assert [said["code"] for said in wrong["heard"]] == ["unauthenticated"]
        tickets = f"{address}/api/batches/{writer.batch_id}/tickets"
        ticket = chromium.execute_async_script(_TICKET, tickets, auth["token"])  # type: ignore[no-untyped-call]
        by_ticket = talk(f"{address}/api/ws?ticket={ticket}", None, topics[:1], 1)
        assert [said["topic"] for said in by_ticket["heard"]] == topics[:1]

        chromium.get(other)
        refused = talk(f"{address}/api/ws", auth, topics, 1)
        assert (refused["code"], refused["heard"]) == (1006, [])
    writer.close()
