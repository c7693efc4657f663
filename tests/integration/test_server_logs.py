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
from shared.auth import issue_token
from shared.database import make_engine
from shared.settings import Settings
from shared.web.access import AccessLog
from tests.support.web import served

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
