"""A page of another site, in a real browser: where it is listed it may use Headway, otherwise it sees nothing of it."""

import json
from typing import Any

import pytest
from msgspec.structs import replace
from selenium import webdriver

from shared.auth import issue_token
from shared.settings import Settings
from tests.browser.site import site
from tests.support.batches import OWNER
from tests.support.streams import stream_process
from tests.support.web import rehearsal

pytestmark = pytest.mark.browser

# Everything that a client does: it creates a batch, watches it, asks for what is not there, cancels; `what` came of it.
_USE = """
const [address, token, body, done] = arguments;
const headers = {"Authorization": `Bearer ${token}`, "Content-Type": "application/json"};
(async () => {
  const created = await fetch(`${address}/api/batches`, {
    method: "POST", headers: {...headers, "Idempotency-Key": crypto.randomUUID()}, body, credentials: "include",
  });
  const batch = await created.json();
  const missing = await fetch(`${address}/api/batches/00000000-0000-7000-8000-000000000000`, {headers});
  const refused = await fetch(`${address}/api/kinds`);
  const source = new EventSource(new URL(batch.streamUrl, address), {withCredentials: true});
  const progress = await new Promise((resolve, reject) => {
    source.addEventListener("progress", (event) => resolve(JSON.parse(event.data)));
    source.onerror = () => reject(new Error("the stream failed"));
  });
  source.close();
  const cancelled = await fetch(`${address}/api/batches/${batch.batchId}/cancel`, {method: "POST", headers});
  done({
    created: created.status, location: created.headers.get("Location"), id: batch.batchId,
    missing: (await missing.json()).type, refused: [refused.status, refused.headers.get("WWW-Authenticate")],
    watched: progress.batchId, cancelled: cancelled.status,
  });
})().catch((error) => done({failed: error.name}));
"""

_TICKET = """
const [address, token, done] = arguments;
fetch(address, {method: "POST", headers: {"Authorization": `Bearer ${token}`}})
  .then((reply) => reply.json()).then((said) => done(said.streamUrl));
"""

_WATCH = """
const [address, done] = arguments;
const source = new EventSource(address);
const end = (what) => () => { source.close(); done(what); };
source.addEventListener("progress", end("seen"));
source.onerror = end("failed");
"""

_READ = """
const [address, token, done] = arguments;
fetch(`${address}/api/kinds`, token ? {headers: {"Authorization": `Bearer ${token}`}} : {})
  .then((reply) => done(reply.status), (error) => done(error.name));
"""


def test_a_listed_page_uses_all_of_it_and_another_sees_nothing(settings: Settings, chromium: webdriver.Chrome) -> None:
    def ask(script: str, *arguments: Any) -> Any:
        return chromium.execute_async_script(script, *arguments)  # type: ignore[no-untyped-call]

    chromium.set_script_timeout(20)
    token = issue_token(settings, OWNER)
    body = json.dumps(rehearsal())
    with site() as listed, site() as other, stream_process(replace(settings, origins=listed), "infra.web") as running:
        address, _ = running
        chromium.get(listed)
        used = ask(_USE, address, token, body)
        assert used == {
            "created": 201,
            "location": f"/api/batches/{used.get('id')}",
            "id": used.get("id"),
            "missing": "/problems/not_found",
            "refused": [401, "Bearer"],
            "watched": used.get("id"),
            "cancelled": 202,
        }
        stream = address + ask(_TICKET, f"{address}/api/batches/{used['id']}/tickets", token)
        assert ask(_WATCH, stream) == "seen"

        chromium.get(other)
        assert ask(_USE, address, token, body) == {"failed": "TypeError"}
        assert ask(_READ, address, token) == "TypeError"
        assert ask(_READ, address, "") == "TypeError"
        assert ask(_WATCH, stream) == "failed"
        chromium.get(f"{address}/health/live")
        assert ask(_READ, address, token) == 200, "its own pages need no list"
        chromium.get("about:blank")
