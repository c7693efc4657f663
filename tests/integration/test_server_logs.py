"""What servers write about requests and statements: never what was in them."""

from contextlib import suppress
from pathlib import Path

import httpx
import psycopg
import pytest
import sqlalchemy as sa
import structlog

from infra.embedded.postgres import Postgres
from services.api.app import create_app
from services.stream.app import create_app as create_stream
from shared.auth import issue_token
from shared.database import make_engine
from shared.settings import Settings
from shared.web.access import AccessLog
from tests.support.batches import wait_for
from tests.support.web import served
from tests.support.websockets import RawSocket, close_frame

WORD = "hunter2hunter2"

STATEMENTS = [
    (f"SELECT '{WORD}'::int", ()),  # in the error's first line
    ("SELECT CAST(%s AS int)", (WORD,)),
    ("SELECT CAST(%s AS jsonb)", (f'{{"{WORD}": ',)),  # in its details and context
    ("INSERT INTO t VALUES (%s, 1)", (WORD,)),
    ("INSERT INTO t VALUES (%s, 2), (%s, 2)", (WORD, WORD)),
    (f"SELEKT '{WORD}'", ()),
    (f"DO $$ BEGIN RAISE WARNING '{WORD}'; END $$", ()),
    (f"DO $$ BEGIN RAISE EXCEPTION '{WORD}' USING DETAIL = '{WORD}'; END $$", ()),
    (f'TABLE "{WORD}"', ()),
]


def test_the_embedded_postgresql_logs_no_data(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "postgres", durable=False)
    server.start()
    try:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE t (a text CHECK (length(a) < 5), b int UNIQUE)")
            refused = 0
            for statement, values in STATEMENTS:
                try:
                    connection.execute(statement, values)  # type: ignore[arg-type]
                except psycopg.Error:
                    refused += 1
            with suppress(psycopg.Error), connection.cursor().copy("COPY t FROM STDIN") as copy:
                copy.write_row((WORD, WORD))
            assert refused == len(STATEMENTS) - 1
            with suppress(psycopg.Error):
                connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    finally:
        server.stop()
    log = (tmp_path / "postgres" / "server.log").read_text()
    assert WORD not in log
    assert "database system is ready" in log
    assert "FATAL:  terminating connection" in log, "what concerns the server is still told"


def test_what_sqlalchemy_says_of_an_error_holds_no_parameters(database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1, application="test")
    with pytest.raises(sa.exc.DBAPIError) as caught, engine.connect() as connection:
        connection.execute(sa.text("SELECT 1 / CAST(:n AS int), CAST(:word AS text)"), {"n": 0, "word": WORD})
    engine.dispose()
    assert WORD not in str(caught.value)
    assert WORD not in repr(caught.value)


def test_a_request_is_one_event_without_its_address(settings: Settings) -> None:
    token = issue_token(settings, "anna")
    with (
        structlog.testing.capture_logs() as events,
        served(AccessLog(create_app(settings))) as address,
        httpx.Client(base_url=address, trust_env=False) as client,
    ):
        for method, path, authorized in (
            ("GET", f"/api/batches?q={WORD}&cursor={token}", True),
            ("GET", f"/api/batches?ticket={token}", False),
            ("GET", "/api/batches/00000000-0000-7000-8000-000000000000", True),
            ("DELETE", f"/api/{token}", True),
            ("GET", f"/{token}", False),
            ("GET", "/health/live", False),
        ):
            client.request(method, path, headers={"Authorization": f"Bearer {token}"} if authorized else {})
    requests = [event for event in events if event["event"] == "request"]
    assert [(event["method"], event["route"], event["status"]) for event in requests] == [
        ("GET", "/api/batches", 400),
        ("GET", "/api/batches", 401),
        ("GET", "/api/batches/{batch_id}", 404),
        ("DELETE", "unknown", 404),
        ("GET", "unknown", 404),
    ]
    assert all(event.keys() == {"event", "log_level", "method", "route", "status", "ms"} for event in requests)
    assert WORD not in str(events)
    assert token not in str(events)


def test_a_websocket_is_one_event_at_its_end_with_the_code_that_closed_it(settings: Settings) -> None:
    token = issue_token(settings, "anna")
    with structlog.testing.capture_logs() as events, served(AccessLog(create_stream(settings))) as address:

        def told() -> list[tuple[int, int | None]]:
            return [(event["status"], event.get("code")) for event in events if event["event"] == "request"]

        with RawSocket(address, token) as polite:
            polite.say(type="unsubscribe", topic="batches")
            assert told() == [], "it is told of at its end"
            polite.send(close_frame(4321))
            polite.end(answer=False)
        wait_for(lambda: told() == [(101, 4321)], "the polite one's end")
        with RawSocket(address, token):
            pass
        wait_for(lambda: len(told()) == 2, "the impolite one's end")
        assert told()[1] in {(101, 1005), (101, 1006)}
        with RawSocket(address, "x") as refused:
            assert refused.status == 401
        wait_for(lambda: told()[2:] == [(401, None)], "the refused one's end")
    requests = [event for event in events if event["event"] == "request"]
    assert {event["route"] for event in requests} == {"/api/ws"}
    assert all(event["ms"] > 0 for event in requests)
    assert token not in str(events)
