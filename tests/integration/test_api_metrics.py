"""Every number of the api's `/metrics` moves when what it counts happens; what stands in PostgreSQL is told right."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from infra.embedded.valkey import Valkey
from infra.web import Web
from services.api import facts
from services.api.app import create_app
from services.stream.app import create_app as create_stream
from shared import models, queries
from shared.changes import Change
from shared.database import make_engine
from shared.settings import Settings
from tests.support.batches import cancel, make_batch
from tests.support.metrics import Numbers
from tests.support.ports import own_port
from tests.support.web import client, served, submit
from tests.support.workers import add_worker
from tests.support.writer import Writer

JOBS = {"kind": "rehearsal", "title": "a test", "jobs": [{"name": "a", "params": {}}, {"name": "b", "params": {}}]}


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


@pytest.fixture
def numbers(address: str) -> Numbers:
    return Numbers(address, "headway_api_")


@pytest.fixture
def api(address: str, settings: Settings) -> Iterator[httpx.Client]:
    with client(address, settings) as api:
        yield api


def test_requests_are_counted_by_route_and_end(api: httpx.Client, numbers: Numbers) -> None:
    batch_id = submit(api, JOBS)["batchId"]
    for address in (f"/api/batches/{batch_id}", f"/api/batches/{UUID(int=1)}", "/api/batches?limit=x", "/nowhere"):
        api.get(address)
    api.request("PROPFIND", "/api/batches")
    httpx.get(api.base_url.join("/api/kinds"), trust_env=False)
    found = numbers.read()
    assert {name: value for name, value in found.items() if name.startswith("requests_total")} == {
        "requests_total{POST,/api/batches,2xx}": 1,
        "requests_total{GET,/api/batches/{batch_id},2xx}": 1,
        "requests_total{GET,/api/batches/{batch_id},4xx}": 1,
        "requests_total{GET,/api/batches,4xx}": 1,
        "requests_total{GET,unknown,4xx}": 1,
        "requests_total{other,unknown,4xx}": 1,
        "requests_total{GET,/api/kinds,4xx}": 1,
    }
    assert found["request_seconds_count{GET,/api/batches/{batch_id}}"] == 2
    assert found["request_seconds_sum{GET,/api/batches/{batch_id}}"] > 0
    problems = {name: value for name, value in found.items() if name.startswith("problems_total") and value}
    assert problems == {
        "problems_total{not_found}": 2,
        "problems_total{invalid}": 1,
        "problems_total{method_not_allowed}": 1,
        "problems_total{unauthenticated}": 1,
    }
    assert found["in_flight"] == 0
    assert found["connections_in_use"] == 0
    assert found["connections_limit"] == 10
    assert found["process_open_fds"] > 0


def test_what_is_created_is_counted_once(api: httpx.Client, numbers: Numbers) -> None:
    again = {"Idempotency-Key": "one"}
    for _ in range(2):
        reply = api.post("/api/batches", json=JOBS | {"open": True}, headers=again).raise_for_status()
    api.post(f"/api/batches/{reply.json()['batchId']}/jobs", json={"jobs": JOBS["jobs"]}).raise_for_status()
    api.post("/api/batches", json=JOBS | {"kind": "none"})
    for size in (10, 1000):
        api.post("/api/uploads", files={"file": ("a.jpg", b"x" * size, "image/jpeg")}).raise_for_status()
    found = numbers.read()
    assert found["batches_created_total{rehearsal}"] == 1
    assert found["jobs_created_total{rehearsal}"] == 4
    assert found["uploads_total"] == 2
    assert found["upload_bytes_total"] == 1010


def test_who_is_being_answered_and_has_a_connection_is_seen(
    api: httpx.Client, numbers: Numbers, engine: sa.Engine, settings: Settings
) -> None:
    batch_id = submit(api, JOBS)["batchId"]
    with engine.begin() as connection:
        connection.execute(queries.LOCK_BATCH, {"id": batch_id})

        def pause() -> None:
            api.post(f"/api/batches/{batch_id}/pause").raise_for_status()

        waiting = Thread(target=pause)
        waiting.start()
        numbers.wait("in_flight", 1)
        numbers.wait("connections_in_use", 1)
    waiting.join(20)
    numbers.wait("in_flight", 0)


@pytest.fixture
def looked(settings: Settings) -> Iterator[Callable[[], facts.Found]]:
    """What stands in PostgreSQL, asked anew each time."""
    engine = make_engine(settings.database_url, pool_size=1, application="test")

    def look() -> facts.Found:
        with engine.connect() as connection:
            rows = connection.execute(queries.FACTS, {"lease": settings.lease}).all()
        return {(row.fact, row.name): row.value for row in rows}

    yield look
    engine.dispose()


def test_jobs_that_could_start_and_that_run(
    looked: Callable[[], facts.Found], engine: sa.Engine, make_writer: Callable[..., Writer]
) -> None:
    assert looked() == {}
    writer = make_writer(jobs=3)
    make_batch(engine, 5, "photos.inventory", params={"uploadId": str(UUID(int=1))})
    assert looked()["runnable", "default"] == 3
    assert looked()["runnable", "photos"] == 5
    writer.start(0)
    found = looked()
    assert (found["runnable", "default"], found["running", "default"]) == (2, 1)
    assert found["waiting", "default"] == 0, "it runs"
    assert found["waiting", "photos"] > 0
    writer.finish(0)
    assert looked()["running", "default"] == 0


def test_what_may_not_start_is_not_counted(looked: Callable[[], facts.Found], engine: sa.Engine) -> None:
    late = datetime.now(UTC) + timedelta(hours=1)
    batches = [make_batch(engine, 2) for _ in range(4)]
    paused, limited, cancelled, resting = batches
    with engine.begin() as connection:
        change = Change(connection, paused)
        change.pause()
        change.close()
    _set(engine, models.lanes, models.lanes.c.batch_id == limited, concurrency=1)
    cancel(engine, cancelled)
    _set(engine, models.jobs, models.jobs.c.batch_id == resting, run_after=late)
    _set(engine, models.batches, models.batches.c.id == resting, delayed=2, next_due=late)
    assert looked()["runnable", "default"] == 1, "one of those that are limited to one"
    before = datetime.now(UTC) - timedelta(minutes=1)
    _set(engine, models.jobs, models.jobs.c.batch_id == resting, run_after=before)
    _set(engine, models.batches, models.batches.c.id == resting, next_due=before)
    assert looked()["runnable", "default"] == 3


def test_the_longest_wait_is_that_of_a_batch_in_which_nothing_happens(
    looked: Callable[[], facts.Found], engine: sa.Engine
) -> None:
    table = models.transitions
    for minutes in (3, 9, 6):
        batch_id = make_batch(engine, 2)
        at = datetime.now(UTC) - timedelta(minutes=minutes)
        _set(engine, table, table.c.batch_id == batch_id, at=at)
    assert 9 * 60 <= looked()["waiting", "default"] < 10 * 60
    longest = _scalar(engine, sa.select(table.c.batch_id).order_by(table.c.at).limit(1))
    _set(engine, models.batches, models.batches.c.id == longest, processing=1, queued=1)
    assert 6 * 60 <= looked()["waiting", "default"] < 7 * 60, "a batch that runs something does not wait"


def _set(engine: sa.Engine, table: sa.Table, which: sa.ColumnElement[bool], **values: object) -> None:
    with engine.begin() as connection:
        assert connection.execute(sa.update(table).where(which).values(**values)).rowcount


def _scalar(engine: sa.Engine, statement: sa.Select[tuple[UUID]]) -> UUID:
    with engine.connect() as connection:
        return connection.execute(statement).scalar_one()


def test_workers_and_listeners(looked: Callable[[], facts.Found], engine: sa.Engine) -> None:
    add_worker(engine)
    add_worker(engine, draining=True)
    add_worker(engine, drain_requested=True)
    add_worker(engine, silent=60)
    add_worker(engine, queue="photos")
    with engine.begin() as connection:
        connection.execute(queries.REGISTER_LISTENERS, {"names": ["one", "two"]})
    make_batch(engine)
    found = looked()
    assert [found[status, "default"] for status in ("working", "draining", "lost")] == [1, 2, 1]
    assert found["working", "photos"] == 1
    assert (found["backlog", "one"], found["backlog", "two"]) == (1, 1)


def test_however_many_scrape_postgresql_is_asked_once(settings: Settings, engine: sa.Engine, address: str) -> None:
    asked = []
    sa.event.listen(sa.Engine, "before_cursor_execute", _counting := lambda *given: asked.append(str(given[2])))
    try:
        together = Barrier(8)

        def scrape() -> None:
            together.wait()
            httpx.get(f"{address}/metrics", trust_env=False).raise_for_status()

        threads = [Thread(target=scrape) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", _counting)
    assert len([statement for statement in asked if "headway_jobs" in statement or "runnable" in statement]) == 1


def test_without_postgresql_nothing_is_told_of_jobs(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "PERIOD", 0.0)
    valkey = Valkey(tmp_path / "valkey", own_port())
    valkey.start()
    nowhere = f"postgresql://headway@127.0.0.1:{own_port()}/headway"
    try:
        with served(create_app(replace(settings, database_url=nowhere, redis_url=valkey.url))) as address:
            numbers = Numbers(address, "headway_")
            found = numbers.read()
            assert (found["api_postgresql_up"], found["api_redis_up"]) == (0, 1)
            assert not [name for name in found if name.startswith("jobs_")]
            valkey.stop()
            numbers.wait("api_redis_up", 0)
    finally:
        valkey.stop()


def test_all_queues_are_there_also_with_nothing_in_them(address: str) -> None:
    found = Numbers(address, "headway_jobs_").read()
    for queue in ("default", "photos"):
        assert found[f"runnable{{{queue}}}"] == found[f"running{{{queue}}}"] == 0
        assert found[f"workers{{{queue},working}}"] == 0


def test_make_run_shows_both_services_at_one_address(settings: Settings) -> None:
    with served(Web(create_app(settings), create_stream(settings))) as address:
        found = Numbers(address, "headway_").read()
    assert found["stream_viewers"] == found["api_in_flight"] == found["jobs_running{default}"] == 0
    assert found["process_open_fds"] > 0
