"""Connections to PostgreSQL that break anywhere, or that stand still, and what those who watch hear of it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import Event

import httpx
import pytest
import sqlalchemy as sa
from msgspec import structs

from services.api.app import create_app
from services.worker.sweeper import Sweeper
from shared import models
from shared.channels import Publisher
from shared.database import make_engine
from shared.jobs import JobStatus
from shared.kinds import KINDS
from shared.queue import make_broker
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.audience import Audience
from tests.support.batches import assert_consistent, batch_row, job_rows, transition_rows, wait_for
from tests.support.history import History, record_history
from tests.support.ordeal import PATIENCE, Ordeal, ordeal
from tests.support.proxy import Choose, Cut, Proxy, Statement, Stop, proxied
from tests.support.streams import stream_process
from tests.support.web import assert_problem, client, decoded, rehearsal, served
from tests.support.writer import Writer

pytestmark = pytest.mark.timeout(300)  # ten seconds, but on a machine that is busy otherwise

BREAKS = 40
STILL = 7.0
"""Seconds: longer than a lease, and than PostgreSQL lets an idle transaction hold its locks."""


class AtRandom:
    """Some break, before or after the statement; as many as `BREAKS`."""

    def __init__(self) -> None:
        self._chance = Random()  # noqa: S311  # other points each time
        self.broken: list[tuple[Cut, bytes]] = []

    def __call__(self, transaction: Sequence[Statement]) -> Cut | None:
        # most statements lead to a commit, and that is where it matters
        likely = 0.1 if transaction[-1].sql.startswith(b"COMMIT") else 0.01
        if len(self.broken) >= BREAKS or self._chance.random() > likely:
            return None
        how: Cut = self._chance.choice(["before", "after"])
        self.broken.append((how, transaction[-1].sql[:60]))
        return how


def always(what: Stop) -> Choose:
    return lambda _transaction: what


def once(holds: bytes, at: bytes, what: Cut | Stop) -> tuple[Choose, Event]:
    """At the next statement that holds `at` in a transaction that `holds`; and then this is set."""
    reached = Event()

    def choose(transaction: Sequence[Statement]) -> Cut | Stop | None:
        if reached.is_set() or at not in transaction[-1].sql:
            return None
        if not any(holds in statement.sql for statement in transaction):
            return None
        reached.set()
        return what

    return choose, reached


@pytest.fixture
def proxy(settings: Settings) -> Iterator[Proxy]:
    with proxied(settings.database_url) as proxy:
        yield proxy


@pytest.fixture
def anna(settings: Settings, proxy: Proxy) -> Iterator[httpx.Client]:
    behind = structs.replace(settings, database_url=proxy.url)
    with served(create_app(behind)) as address, client(address, settings) as anna:
        yield anna


def behind(proxy: Proxy, lease: float) -> Callable[[str], dict[str, str]]:
    """All workers are."""
    more = {"DATABASE_URL": proxy.url, "HEADWAY_LEASE": str(lease)}
    return lambda service: more if service.startswith("worker") else {}


def test_connections_of_workers_break_anywhere(settings: Settings, proxy: Proxy, tmp_path: Path) -> None:
    with ordeal(settings, tmp_path, more=behind(proxy, lease=60)) as batch:  # no lease ends meanwhile
        batch.gets_on()
        proxy.choose = breaks = AtRandom()
        wait_for(lambda: len(breaks.broken) == BREAKS, "everything to break", PATIENCE)
        batch.gets_on()
        batch.verdict()
        assert_never_run_again(batch)


def test_when_nobody_reaches_postgresql_for_a_while_nothing_is_run_again(
    settings: Settings, proxy: Proxy, tmp_path: Path
) -> None:
    with ordeal(settings, tmp_path, more=behind(proxy, lease=5)) as batch:
        batch.gets_on()
        proxy.choose = always("stopped before")
        Event().wait(STILL)
        proxy.choose = lambda _transaction: None
        proxy.go_on()
        batch.gets_on()
        batch.verdict()
        assert_never_run_again(batch)


@pytest.mark.parametrize("where", ["stopped before", "stopped after"])
def test_a_ledger_that_hears_of_its_commit_too_late_has_lost_its_jobs(
    settings: Settings, proxy: Proxy, tmp_path: Path, where: Stop
) -> None:
    names: list[str] = []

    def more(service: str) -> dict[str, str]:
        if not service.startswith("worker"):
            return {}
        names.append(service)
        return {"DATABASE_URL": proxy.url} if len(names) == 1 else {}  # one of the two

    with ordeal(settings, tmp_path, more=more, retried=False) as batch:
        batch.gets_on()
        proxy.choose, reached = once(b"WITH wanted", b"COMMIT", where)
        assert reached.wait(PATIENCE)
        wait_for(lambda: expired(batch), "its leases to be over", PATIENCE)
        proxy.go_on()
        batch.gets_on()
        batch.verdict(expired=True)


def test_those_who_watch_hear_at_once_of_what_nobody_knows_was_committed(
    settings: Settings, engine: sa.Engine, proxy: Proxy, anna: httpx.Client
) -> None:
    record_history(engine)
    writer = Writer(engine, settings, 5)
    writer.start(0, 1)
    writer.finish(0, JobStatus.FAILED)
    history = History(engine, writer.batch_id)
    # nobody looks by himself before the test is over
    with stream_process(structs.replace(settings, version_check=600, lifetime=3600)) as (address, _):
        audience = Audience(settings, writer.batch_id, [address])
        try:
            viewers = [audience.enter("stays"), audience.enter("wants little", jobs="changed", logs=5)]

            def all_see() -> None:
                version = batch_row(engine, writer.batch_id).version
                wait_for(lambda: all(viewer.has(version) for viewer in viewers), f"version {version} to be seen")

            all_see()
            whole, job = f"/api/batches/{writer.batch_id}", f"/api/jobs/{writer.jobs[2]}"
            for asked, again in (
                (f"{whole}/pause", 202),
                (f"{whole}/resume", 202),
                (f"{job}/cancel", 202),
                (f"{job}/retry", 409),  # it is queued already
                (f"{whole}/retry-failed", 409),  # no job is failed any more
            ):
                before = batch_row(engine, writer.batch_id).version
                proxy.choose, _ = once(b"UPDATE batches b", b"COMMIT", "after")
                assert_problem(anna.post(asked), 503, "unavailable")
                assert batch_row(engine, writer.batch_id).version == before + 1
                all_see()
                assert anna.post(asked).status_code == again
                assert batch_row(engine, writer.batch_id).version == before + 1
            _expire(settings, engine, proxy)
            assert job_rows(engine, writer.batch_id)[1].status == "QUEUED"
            all_see()
            proxy.choose, _ = once(b"UPDATE batches b", b"COMMIT", "after")
            assert_problem(anna.post(f"{whole}/cancel"), 503, "unavailable")
            audience.see_the_end(history, PATIENCE)
            assert anna.post(f"{whole}/cancel").status_code == 202
        finally:
            audience.leave()
    assert_consistent(engine, writer.batch_id)
    writer.close()


@pytest.mark.parametrize("goes_on", [True, False])
def test_who_asks_again_while_the_first_request_hangs_gets_the_same_batch(
    anna: httpx.Client, engine: sa.Engine, proxy: Proxy, *, goes_on: bool
) -> None:
    def create() -> httpx.Response:
        return anna.post("/api/batches", json=rehearsal(3), headers={"Idempotency-Key": "key"})

    proxy.choose, reached = once(b"COPY jobs", b"COMMIT", "stopped before")
    with ThreadPoolExecutor() as pool:
        try:
            first = pool.submit(create)
            assert reached.wait(PATIENCE)
            second = pool.submit(create)
            wait_for(lambda: _waiting(engine), "the second to wait for the first")
            if goes_on:
                proxy.go_on()
            # else PostgreSQL ends what stands still
            again = second.result(PATIENCE)
        finally:
            proxy.go_on()
        assert (first.result(PATIENCE).status_code, again.status_code) == ((201, 200) if goes_on else (503, 201))
    with engine.connect() as connection:
        (batch_id,) = connection.execute(sa.select(models.batches.c.id)).scalars()
    assert decoded(again)["batchId"] == decoded(create())["batchId"] == str(batch_id)
    assert_consistent(engine, batch_id)


def test_a_server_that_is_not_the_primary_any_more_is_an_outage(
    settings: Settings, engine: sa.Engine, anna: httpx.Client
) -> None:
    name = sa.make_url(settings.database_url).database
    with engine.connect() as connection:
        connection.execute(sa.text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
        connection.commit()
    assert_problem(anna.post("/api/batches", json=rehearsal()), 503, "unavailable")
    assert anna.get("/api/batches").status_code == 200


def expired(batch: Ordeal) -> int:
    """How many attempts have lost their worker."""
    return sum(row.reason == "lease_expired" for row in transition_rows(batch.whole.engine, batch.batch_id))


def assert_never_run_again(batch: Ordeal) -> None:
    """But for those that are to be."""
    for job in job_rows(batch.whole.engine, batch.batch_id):
        assert job.attempt == (2 if job.name == "retried" else 1), (job.name, job.attempt)


def _expire(settings: Settings, engine: sa.Engine, proxy: Proxy) -> None:
    """All leases are over, and the answer to the commit of that is lost."""
    with engine.begin() as connection:
        connection.execute(sa.update(models.jobs).values(lease_until=sa.func.clock_timestamp()))
    broker = make_broker(settings.redis_url, settings.namespace, ("default",))
    redis = make_redis(settings.redis_url)
    ours = make_engine(proxy.url, pool_size=2, application="test")
    sweeper = Sweeper(ours, broker, Publisher(redis, settings.namespace), structs.replace(settings, lease=1), KINDS)
    proxy.choose, reached = once(b"UPDATE batches b", b"COMMIT", "after")

    def sweeps() -> bool:
        sweeper.sweep()
        return reached.is_set()

    with pytest.raises(sa.exc.OperationalError):
        wait_for(sweeps, "the leases to be over")
    assert reached.is_set()
    ours.dispose()
    redis.close()
    broker.close()


def _waiting(engine: sa.Engine) -> int:
    """How many wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())
