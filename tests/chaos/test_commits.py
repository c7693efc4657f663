"""The connection to PostgreSQL breaks at each statement that matters: nobody knows whether it was carried out."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import NamedTuple
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa
from msgspec import structs

from services.api.app import create_app
from services.worker.sweeper import Sweeper
from shared import models
from shared.channels import Publisher
from shared.database import make_engine
from shared.kinds import KINDS
from shared.queue import make_broker
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import (
    assert_consistent,
    batch_row,
    job_rows,
    make_batch,
    transition_rows,
    wait_finished,
    wait_for,
)
from tests.support.ordeal import PATIENCE, ordeal
from tests.support.processes import worker
from tests.support.proxy import Cut, Proxy, Statement, proxied
from tests.support.web import assert_problem, client, decoded, rehearsal, served
from tests.support.writer import Writer

pytestmark = pytest.mark.timeout(300)  # ten seconds, but on a machine that is busy otherwise

COMMIT = b"COMMIT"


class Point(NamedTuple):
    """At a statement that holds `at`, in a transaction one of whose statements holds `sql`, with `values`."""

    name: str
    at: bytes
    sql: bytes = b""
    values: bytes = b""

    def reached(self, transaction: Sequence[Statement]) -> bool:
        return self.at in transaction[-1].sql and any(
            self.sql in statement.sql and self.values in statement.values for statement in transaction
        )


RENEWING = Point("renewing", COMMIT, b"UPDATE jobs j SET lease_until")
CLAIMING = Point("claiming", b"headway_claim(")
WORKER = [
    CLAIMING,
    Point("starting", COMMIT, b"SET status = 'PROCESSING'"),
    Point("getting on", COMMIT, b"WITH wanted", b"PROCESSING"),
    Point("completing", COMMIT, b"WITH wanted", b"COMPLETED"),
    Point("failing", COMMIT, b"WITH wanted", b"rehearsed"),
    Point("the lock", b"FOR NO KEY UPDATE", b"headway_epoch()"),
    Point("the jobs", b"WITH wanted"),
    Point("the lines", b"INSERT INTO log_lines"),
    Point("the transitions", b"INSERT INTO transitions"),
    Point("the batch", b"UPDATE batches b"),
    RENEWING,
]


EXPIRING = Point("expiring", COMMIT, b"WITH wanted", b"lease_expired")
CREATING = Point("creating", COMMIT, b"COPY jobs")
CHANGING = Point("changing", COMMIT, b"UPDATE batches b")
DELETING = Point("deleting", COMMIT, b"DELETE FROM batches")


class Breaks:
    """Each point breaks twice: PostgreSQL hears nothing, and then it is not heard. After that something gets through,
    or whoever repeats it would wait longer and longer.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self._left: dict[Point, list[Cut]] = {point: ["before", "after"] for point in points}
        self._rest = False

    def __call__(self, transaction: Sequence[Statement]) -> Cut | None:
        if self._rest:
            self._rest = not CHANGING.reached(transaction)
            return None
        for point, cuts in self._left.items():
            if cuts and point.reached(transaction):
                cut = cuts.pop(0)
                self._rest = not cuts
                return cut
        return None

    @property
    def to_come(self) -> list[str]:
        return [point.name for point, cuts in self._left.items() if cuts]


def break_once(proxy: Proxy, point: Point, how: Cut) -> Event:
    """The next time; and then this is set."""
    broken = Event()

    def choose(transaction: Sequence[Statement]) -> Cut | None:
        if broken.is_set() or not point.reached(transaction):
            return None
        broken.set()
        return how

    proxy.choose = choose
    return broken


@pytest.fixture
def proxy(settings: Settings) -> Iterator[Proxy]:
    with proxied(settings.database_url) as proxy:
        yield proxy


@pytest.fixture
def anna(settings: Settings, proxy: Proxy) -> Iterator[httpx.Client]:
    behind = structs.replace(settings, database_url=proxy.url)
    with served(create_app(behind)) as address, client(address, settings) as anna:
        yield anna


def test_nothing_is_lost_or_done_twice_whatever_became_of_a_commit(
    settings: Settings, proxy: Proxy, tmp_path: Path
) -> None:
    def more(service: str) -> dict[str, str]:
        # nobody waits for so long that a lease may be over
        return {"DATABASE_URL": proxy.url, "HEADWAY_LEASE": "30"} if service.startswith("worker") else {}

    with ordeal(settings, tmp_path, more=more) as batch:
        batch.gets_on()
        proxy.choose = breaks = Breaks(WORKER)
        wait_for(lambda: not breaks.to_come, "everything to break", PATIENCE)
        batch.gets_on()
        batch.verdict()


def test_a_renewal_that_was_lost_is_soon_made_up_for(
    settings: Settings, engine: sa.Engine, proxy: Proxy, tmp_path: Path
) -> None:
    batch_id = make_batch(engine, params={"steps": 1000, "stepMs": 50})

    def lease() -> datetime:
        until: datetime = job_rows(engine, batch_id)[0].lease_until
        return until

    broken = break_once(proxy, RENEWING, "before")
    with worker(structs.replace(settings, database_url=proxy.url, lease=300), tmp_path):
        assert broken.wait(PATIENCE)
        first = lease()
        wait_for(lambda: lease() > first, "another renewal, long before the next is due")


def test_jobs_that_were_claimed_without_anybody_knowing_do_not_wait_for_their_lease(
    settings: Settings, engine: sa.Engine, proxy: Proxy, tmp_path: Path
) -> None:
    broken = break_once(proxy, CLAIMING, "after")
    batch_id = make_batch(engine)  # its one job is all that there is to do: nobody asks for another
    with worker(structs.replace(settings, database_url=proxy.url, lease=300), tmp_path):
        wait_finished(engine, batch_id)
    assert broken.is_set()


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_lease_is_over_once(settings: Settings, engine: sa.Engine, proxy: Proxy, how: Cut) -> None:
    settings = structs.replace(settings, lease=1)
    writer = Writer(engine, settings, 3)
    writer.start(0, 1)
    writer.progress(0, 40, lines=2)
    with engine.begin() as connection:
        connection.execute(sa.update(models.jobs).values(lease_until=sa.func.clock_timestamp()))
    broker = make_broker(settings.redis_url, settings.namespace, ("default",))
    redis = make_redis(settings.redis_url)
    ours = make_engine(proxy.url, pool_size=2, application="test")
    sweeper = Sweeper(ours, broker, Publisher(redis, settings.namespace), settings, KINDS)

    def sweeps() -> bool:
        sweeper.sweep()
        return int(batch_row(engine, writer.batch_id).processing) == 0

    break_once(proxy, EXPIRING, how)
    with pytest.raises(sa.exc.OperationalError):  # it is known to the sweeper's loop, which goes on
        wait_for(sweeps, "the leases to be over")
    assert batch_row(engine, writer.batch_id).processing == (2 if how == "before" else 0)
    wait_for(sweeps, "the leases to be over")
    sweeper.sweep()
    for job in job_rows(engine, writer.batch_id)[:2]:
        assert (job.status, job.attempt, job.failures) == ("QUEUED", 1, 1)
    reasons = [row.reason for row in transition_rows(engine, writer.batch_id)]
    assert reasons.count("lease_expired") == 2
    assert_consistent(engine, writer.batch_id)
    ours.dispose()
    redis.close()
    broker.close()
    writer.close()


@pytest.mark.parametrize("how", ["before", "after"])
def test_who_asks_again_gets_one_batch(anna: httpx.Client, engine: sa.Engine, proxy: Proxy, how: Cut) -> None:
    break_once(proxy, CREATING, how)
    lost, again, once_more = (_create(anna, "key") for _ in range(3))
    assert_problem(lost, 503, "unavailable")
    assert lost.headers["retry-after"]
    assert (again.status_code, once_more.status_code) == (201 if how == "before" else 200, 200)
    assert decoded(again)["batchId"] == decoded(once_more)["batchId"]
    with engine.connect() as connection:
        assert connection.execute(sa.select(models.batches.c.id)).scalars().all() == [UUID(decoded(again)["batchId"])]
    assert_consistent(engine, UUID(decoded(again)["batchId"]))


@pytest.mark.parametrize("how", ["before", "after"])
def test_who_asks_again_finds_it_changed_once(anna: httpx.Client, engine: sa.Engine, proxy: Proxy, how: Cut) -> None:
    batch_id = UUID(decoded(_create(anna))["batchId"])
    address = f"/api/batches/{batch_id}"
    for number, (asked, status) in enumerate((("pause", "PAUSED"), ("resume", "QUEUED"), ("cancel", "CANCELLED"))):
        break_once(proxy, CHANGING, how)
        assert_problem(anna.post(f"{address}/{asked}"), 503, "unavailable")
        assert batch_row(engine, batch_id).version == number + (1 if how == "before" else 2)
        again = anna.post(f"{address}/{asked}")
        assert (again.status_code, decoded(again)["status"]) == (202, status)
        assert batch_row(engine, batch_id).version == number + 2
    assert_consistent(engine, batch_id)
    break_once(proxy, DELETING, how)
    assert_problem(anna.delete(address), 503, "unavailable")
    assert anna.delete(address).status_code == (204 if how == "before" else 404)


def _create(anna: httpx.Client, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return anna.post("/api/batches", json=rehearsal(3), headers=headers)
