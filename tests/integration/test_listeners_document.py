"""docs/listeners.md: its code, as printed, written into files, installed, and told by a real worker."""

import json
import re
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import sqlalchemy as sa

from services.worker import dispatcher
from shared.settings import Settings
from tests.support.batches import OWNER, transition_rows, wait_finished, wait_for
from tests.support.plugged import install
from tests.support.processes import service
from tests.support.working import submit

DOCUMENT = Path(__file__).parents[2] / "docs" / "listeners.md"

_BLOCK = re.compile(r"^```(?:python|toml)\n# (?P<path>\S+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def shop() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Its address, and what it was told: the key and the body of each request. It fails the first time."""
    told: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((self.headers["Idempotency-Key"], json.loads(body)))
            self.send_response(500 if len(told) == 1 else 204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", told
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_the_webhook_is_called_when_a_batch_ends_and_again_when_it_fails(
    engine: sa.Engine, settings: Settings, tmp_path: Path, shop: tuple[str, list[tuple[str, Any]]]
) -> None:
    address, told = shop
    place = tmp_path / "installed"
    for block in _BLOCK.finditer(DOCUMENT.read_text()):
        path = place / block["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block["text"])
    project = tomllib.loads((place / "pyproject.toml").read_text())["project"]
    installed = install(place, project["name"], project["entry-points"])
    ready = tmp_path / "ready"
    more = installed | {"SHOP_WEBHOOK_URL": address}
    arguments = ("--queue", "default", "--ready-file", str(ready))
    with service("services.worker", *arguments, settings=settings, more=more) as process:
        wait_for(lambda: ready.exists() or process.poll() is not None, "the worker", 60)
        batch_id = submit(engine, settings, 2, params={"steps": 1, "stepMs": 1})
        row = wait_finished(engine, batch_id)
        wait_for(lambda: len(told) == 2, "the webhook to be called again")
    end = transition_rows(engine, batch_id)[-1]
    expected = {"batchId": str(batch_id), "owner": OWNER, "status": row.status, "at": end.at.isoformat()}
    assert told == [(str(end.id), expected)] * 2


def test_the_log_lines_of_the_document_are_those_of_the_code() -> None:
    code = (
        Path(str(dispatcher.__file__)).read_text()
        + (Path(str(dispatcher.__file__)).parent / "housekeeping.py").read_text()
    )
    lines = re.findall(r"^\| `(a listener .*?)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        assert f'"{line}"' in code
