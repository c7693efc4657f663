"""The api while its servers are away: what it says, how soon, and that it comes back by itself."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from msgspec import structs

from infra.embedded.postgres import Postgres
from infra.migrations.migrate import migrate
from services.api import resources
from services.api.app import create_app
from shared import database
from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.ports import own_port
from tests.support.web import assert_problem, client, decoded, rehearsal, served, submit

NOWHERE = "127.0.0.1:1"


@contextmanager
def frozen_server() -> Iterator[socket.socket]:
    """Connections are taken and nothing is ever answered, as by a process that was stopped."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener


@contextmanager
def api(settings: Settings) -> Iterator[httpx.Client]:
    with served(create_app(settings)) as address, client(address, settings) as anna:
        yield anna


def test_without_redis_a_batch_is_created_and_cancelled_all_the_same(settings: Settings) -> None:
    away = structs.replace(settings, redis_url=f"redis://{NOWHERE}/0")
    with api(away) as anna:
        began = time.monotonic()
        batch = submit(anna, rehearsal(20))
        assert anna.post(f"/api/batches/{batch['batchId']}/cancel").status_code == 202
        assert time.monotonic() - began < 1
        ready = anna.get("/health/ready")
        assert (ready.status_code, decoded(ready)["status"]) == (200, "ready")
        assert decoded(ready) == {"status": "ready", "postgresql": "ok", "redis": "away", "schema": "ok"}


def test_a_frozen_redis_delays_a_request_by_about_a_second(settings: Settings) -> None:
    with frozen_server() as server, api(structs.replace(settings, redis_url=f"redis://{at(server)}/0")) as anna:
        began = time.monotonic()
        batch = submit(anna, rehearsal(20))
        created = time.monotonic()
        assert anna.post(f"/api/batches/{batch['batchId']}/cancel").status_code == 202
        cancelled = time.monotonic()
        assert max(created - began, cancelled - created) < 1.6


def at(server: socket.socket) -> str:
    return "{}:{}".format(*server.getsockname())


REQUESTS = [
    ("GET", "/api/batches", None),
    ("POST", "/api/batches", rehearsal()),
    ("GET", f"/api/batches/{uuid4()}", None),
    ("GET", f"/api/batches/{uuid4()}/jobs", None),
    ("GET", f"/api/jobs/{uuid4()}", None),
    ("POST", f"/api/batches/{uuid4()}/cancel", {}),
    ("POST", f"/api/batches/{uuid4()}/tickets", {}),
]


def assert_unavailable(reply: httpx.Response) -> None:
    assert_problem(reply, 503, "unavailable")
    assert int(reply.headers["retry-after"]) > 0
    assert "psycopg" not in reply.text


def test_without_postgresql_everything_that_needs_it_is_unavailable(settings: Settings) -> None:
    away = structs.replace(settings, database_url=f"postgresql://headway@{NOWHERE}/headway")
    with api(away) as anna:
        for method, path, body in REQUESTS:
            assert_unavailable(anna.request(method, path, json=body))
        assert_unavailable(anna.post("/api/uploads", files={"file": ("x", b"x")}))
        assert list(settings.uploads.iterdir()) == [], "a file that could not be noted was kept"
        # what does not need it goes on
        assert anna.get("/health/live").status_code == 200
        assert anna.get("/api/kinds").status_code == 200
        assert_problem(anna.post("/api/batches", json={}), 422, "invalid")
        ready = anna.get("/health/ready")
        assert ready.status_code == 503
        assert decoded(ready) == {"status": "not_ready", "postgresql": "away", "redis": "ok"}


def test_a_frozen_postgresql_is_noticed_by_the_probe(settings: Settings) -> None:
    with frozen_server() as server:
        away = structs.replace(settings, database_url=f"postgresql://headway@{at(server)}/headway")
        with api(away) as anna:
            began = time.monotonic()
            assert anna.get("/health/ready").status_code == 503
            assert time.monotonic() - began < 4
            server.close()  # or the last attempt to connect would be waited for


def test_a_restarted_postgresql_is_taken_up_again(settings: Settings, tmp_path: Path) -> None:
    server = Postgres(tmp_path / "postgres", own_port(), durable=False)
    server.start()
    try:
        migrate(server.url)
        with api(structs.replace(settings, database_url=server.url)) as anna:
            batch = submit(anna)
            server.stop()
            assert_unavailable(anna.get("/api/batches"))
            server.start()
            assert decoded(anna.get("/api/batches"))["items"][0]["batchId"] == batch["batchId"]
            assert anna.get("/health/ready").status_code == 200
    finally:
        server.stop()


def test_a_postgresql_that_stands_still_is_not_waited_for_for_ever(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "PATIENCE", 1.0)  # or the test would take a quarter of a minute
    monkeypatch.setitem(database._ARGUMENTS, "connect_timeout", 2)
    server = Postgres(tmp_path / "postgres", own_port(), durable=False)
    server.start()
    try:
        migrate(server.url)
        with api(structs.replace(settings, database_url=server.url)) as anna:
            batch_id = submit(anna, rehearsal(20))["batchId"]
            requests = [
                ("GET", "/api/batches", None),  # on a connection of the pool, and then on none
                ("GET", f"/api/batches/{batch_id}/logs", None),
                ("POST", f"/api/batches/{batch_id}/cancel", {}),
                ("POST", "/api/batches", rehearsal(10)),
                ("DELETE", f"/api/batches/{batch_id}", None),
            ]
            with stopped(server), ThreadPoolExecutor(len(requests)) as pool:
                began = time.monotonic()
                replies = list(pool.map(lambda request: anna.request(*request[:2], json=request[2]), requests))
                for reply in replies:
                    assert_unavailable(reply)
                assert_unavailable(anna.get("/api/batches"))
                assert time.monotonic() - began < 15
                assert anna.get("/health/ready").status_code == 503
            wait_for(lambda: anna.get("/health/ready").status_code == 200, "PostgreSQL to be found again")
            assert decoded(anna.get(f"/api/batches/{batch_id}"))["status"] == "QUEUED", "nothing was done in secret"
            assert anna.post(f"/api/batches/{batch_id}/cancel").status_code == 202
    finally:
        server.stop()


@contextmanager
def stopped(server: Postgres) -> Iterator[None]:
    """All its processes: connections are taken by the kernel, and nothing is answered."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    pids = [server.pid, *(int(pid) for pid in children.read_text().split())]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_statement_in_the_middle_of_which_postgresql_stops_is_given_up(settings: Settings, engine: sa.Engine) -> None:
    impatient = database.make_engine(settings.database_url, pool_size=1, application="test", patience=0.5)
    try:
        with engine.connect() as holder, impatient.connect() as connection:
            holder.execute(sa.text("LOCK TABLE lanes IN ACCESS EXCLUSIVE MODE"))
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            began = time.monotonic()
            with pytest.raises(sa.exc.OperationalError) as caught:
                connection.execute(sa.text("SELECT count(*) FROM lanes"))
            assert isinstance(caught.value.orig, database.NoAnswer)
            assert 0.5 <= time.monotonic() - began < 5
            assert caught.value.connection_invalidated
            assert driver.closed
        with impatient.connect() as connection:
            assert connection.execute(sa.text("SELECT 1")).scalar_one() == 1
        with engine.connect() as holder:
            holder.execute(sa.text("LOCK TABLE lanes IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises((psycopg.OperationalError, sa.exc.OperationalError)):
                copy_nothing(impatient)
        with impatient.connect() as connection:
            began = time.monotonic()
            with database.longer(connection, 60):
                connection.execute(sa.text("SELECT pg_sleep(1)"))
            with pytest.raises(sa.exc.OperationalError):
                connection.execute(sa.text("SELECT pg_sleep(60)"))
            assert 1.4 < time.monotonic() - began < 10
    finally:
        impatient.dispose()


def copy_nothing(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with driver.cursor() as cursor, cursor.copy("COPY lanes FROM STDIN"):
            pass


def test_a_connection_lost_in_the_middle_is_unavailable_and_stores_nothing(
    settings: Settings, engine: sa.Engine
) -> None:
    """The last moment before a commit: the row that the batch's copy of jobs needs is held by somebody else."""
    kill = sa.text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'headway api' AND wait_event_type = 'Lock'"
    )
    with api(settings) as anna, ExitStack() as stack:
        holder = stack.enter_context(engine.connect())
        holder.execute(sa.text("LOCK TABLE lanes IN ACCESS EXCLUSIVE MODE"))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        reply = pool.submit(anna.post, "/api/batches", json=rehearsal(3))
        until = time.monotonic() + 10
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            while not other.execute(kill).scalar_one():
                assert time.monotonic() < until
        assert_unavailable(reply.result(20))
        holder.rollback()
        assert decoded(anna.get("/api/batches"))["items"] == []
        submit(anna)


def test_when_all_connections_are_in_use_a_request_is_told_to_come_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(settings)
    pool = app.state.resources.engine.pool
    monkeypatch.setattr(pool, "_timeout", 0.2)  # or the test would take ten seconds
    with served(app) as address, client(address, settings) as anna:
        held = [pool.connect() for _ in range(pool.size())]
        assert_unavailable(anna.get("/api/batches"))
        assert anna.get("/health/ready").status_code == 200
        for connection in held:
            connection.close()
        assert anna.get("/api/batches").status_code == 200


def test_with_a_database_that_is_not_migrated_it_is_not_ready(settings: Settings) -> None:
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
    with api(settings) as anna:
        assert anna.get("/health/ready").status_code == 503
