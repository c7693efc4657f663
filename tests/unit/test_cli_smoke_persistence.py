"""The smoke test's reader where connections break: what it comes back with, and what it makes of the pieces."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest

from infra.cli.api import Api
from infra.cli.errors import CliError
from infra.cli.smoketest.checks import Wrong
from infra.cli.smoketest.persistence import Persistent
from infra.cli.smoketest.recording import record

Answer = tuple[int, str] | tuple[int, str, int]
"""Status, text, and how many bytes of it are missing."""
BEGINNING = "retry: 100\n\n"
AWAY = BEGINNING + 'event: error\ndata: {"code": "overloaded", "message": "", "retryable": true}\n\n'


def said(name: str, version: int, event_id: str = "") -> str:
    line = f"id: {event_id}\n" if event_id else ""
    return f"event: {name}\n{line}data: {json.dumps({'version': version, 'jobs': [{}], 'lines': []})}\n\n"


@contextmanager
def answering(*answers: Answer) -> Iterator[tuple[str, list[str | None]]]:
    """A server that gives these one after the other, whatever it is asked; its address, and the last ids that it was
    asked with.
    """
    left = list(answers)
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(self.headers["Last-Event-ID"])
            status, text, *missing = left.pop(0)
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(text) + sum(missing)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815  # the library's name

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def api(address: str, client: type[httpx.Client] = Persistent) -> Api:
    return Api(address, lambda: "a token", client)


PIECES = (
    (503, ""),
    (200, BEGINNING + said("progress", 1, "a") + said("log", 2) + "event: progress\nda", 9),
    (200, AWAY),
    (200, BEGINNING + said("log", 2) + said("progress", 2, "b")),
    (200, BEGINNING + said("complete", 3, "c")),
)


def test_pieces_are_one_whole_without_what_was_cut_off() -> None:
    with answering(*PIECES) as (address, asked), api(address) as ours:
        whole = record(ours, "/stream")
        assert isinstance(ours.client, Persistent)
        assert ours.client.came_back == 4
    assert asked == [None, None, "a", "a", "b"]
    assert [(event.name, event.id) for event in whole.events] == [
        ("progress", "a"),
        ("log", None),
        ("progress", "b"),
        ("complete", "c"),
    ]
    assert whole.ended
    assert whole.beginning.startswith(b"retry: ")


def test_whoever_lost_the_connection_behind_complete_hears_that_it_was_the_end() -> None:
    with answering((200, BEGINNING + said("complete", 3, "c"), 9), (204, "")) as (address, asked), api(address) as ours:
        whole = record(ours, "/stream")
    assert [event.name for event in whole.events] == ["complete"]
    assert whole.ended
    assert asked == [None, "c"]


@pytest.mark.parametrize("status", [204, 404])
def test_a_refusal_to_go_on_is_wrong(status: int) -> None:
    with answering(PIECES[1], (status, "")) as (address, _), api(address) as ours, pytest.raises(Wrong, match="coming"):
        record(ours, "/stream")


def test_a_break_is_a_failure_where_nobody_said_that_there_would_be_some() -> None:
    with answering(PIECES[1]) as (address, _), api(address, httpx.Client) as ours, pytest.raises(httpx.TransportError):
        record(ours, "/stream")


def test_only_what_may_be_asked_twice_is_asked_again() -> None:
    with answering((502, ""), (404, "")) as (address, asked), api(address) as ours:
        with pytest.raises(CliError, match="502"):
            ours.create_batch({})
        with pytest.raises(CliError, match="404"):
            ours.create_batch({})
    assert len(asked) == 2

    with (
        answering((502, ""), (404, "")) as (address, asked),
        api(address) as ours,
        pytest.raises(CliError, match="404"),
    ):
        ours.create_batch({}, key="a key")
    assert len(asked) == 2
