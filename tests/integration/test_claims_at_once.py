"""Claims by many at once, beside changes of the same batches: nothing twice, nothing missed, no limit passed."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from threading import Event
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from shared import models
from shared.changes import Change
from shared.database import make_engine
from shared.job_updates import JobUpdate
from shared.jobs import FINAL_BATCH, JobStatus
from shared.settings import Settings
from tests.support.batches import assert_consistent, batch_row, make_batch, wait_for
from tests.support.claims import claim
from tests.support.locks import waiting

CLAIMERS = 8
LEASED = sa.text("""
    SELECT l.batch_id, l.owner, l.kind, count(*) AS jobs FROM jobs j JOIN lanes l ON l.batch_id = j.batch_id
    WHERE j.lease_token IS NOT NULL GROUP BY l.batch_id
""")
UNCLAIMED = sa.select(sa.func.count()).where(models.jobs.c.lease_token.is_(None))


@pytest.fixture
def pool(settings: Settings) -> Iterator[sa.Engine]:
    engine = make_engine(settings.database_url, pool_size=3 * CLAIMERS, application="test")
    yield engine
    engine.dispose()


def all_of(futures: "list[Future[Any]]") -> list[Any]:
    """What they return, once all have ended."""
    return [future.result(60) for future in futures]


@pytest.mark.parametrize(("batches", "jobs"), [(1, 240), (60, 4), (240, 1)])
def test_a_claim_comes_back_empty_only_when_there_is_nothing(pool: sa.Engine, batches: int, jobs: int) -> None:
    for batch in range(batches):
        make_batch(pool, jobs, owner=f"owner {batch % 7}")

    def claim_all() -> list[UUID]:
        mine: list[UUID] = []
        with pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while rows := claim(connection, random.choice((1, 1, 3))):  # noqa: S311
                mine += [row.id for row in rows]
            assert connection.execute(UNCLAIMED).scalar_one() == 0
        return mine

    with ThreadPoolExecutor(CLAIMERS) as threads:
        claimed = [job for mine in all_of([threads.submit(claim_all) for _ in range(CLAIMERS)]) for job in mine]
    assert len(claimed) == len(set(claimed)) == batches * jobs


def test_what_becomes_claimable_while_a_claim_finds_nothing_is_not_overlooked(pool: sa.Engine) -> None:
    batch_id, token = make_batch(pool), uuid4()
    with pool.connect() as connection:
        (job,) = claim(connection, 1, token)
        connection.commit()

    def give_back() -> None:
        with pool.begin() as connection:
            change = Change(connection, batch_id)
            change.release([job.id], token)
            change.close()

    with ThreadPoolExecutor(1) as thread:
        with pool.begin() as claiming:
            claiming.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            assert claim(claiming, 1) == []
            giving = thread.submit(give_back)
            wait_for(lambda: waiting(pool), "the job to be given back, but for its lane")
        giving.result(20)
    with pool.connect() as connection:
        assert len(claim(connection, 1)) == 1


class Storm:
    """Threads that claim, start and end jobs, and one that disturbs them; another looks at how many run at once."""

    def __init__(self, engine: sa.Engine, batches: list[UUID], limits: dict[str, Any]) -> None:
        self._engine = engine
        self._batches = batches
        self._limits = limits
        self._over = Event()
        self.most: dict[str, Counter[Any]] = {"owner": Counter(), "kind": Counter(), "batch_id": Counter()}
        """How many jobs of each were leased at once."""
        self.looks = 0

    def rage(self, until: Callable[[], None]) -> None:
        """While `until` runs. Raises what was raised in a thread: PostgreSQL ends a deadlock with an error."""
        with ThreadPoolExecutor(CLAIMERS + 2) as threads:
            futures = [threads.submit(self._work, seed) for seed in range(CLAIMERS)]
            futures += [threads.submit(self._disturb), threads.submit(self._look)]
            try:
                until()
            finally:
                self._over.set()
            all_of(futures)

    def change(self, batch_id: UUID, what: str) -> None:
        with self._engine.begin() as connection:
            change = Change(connection, batch_id)
            if change.batch.status not in FINAL_BATCH:
                getattr(change, what)()
                change.close()

    def finish(self) -> bool:
        """Whether all batches have ended; what was left paused goes on."""
        for batch_id in self._batches:
            self.change(batch_id, "resume")
        return all(batch_row(self._engine, batch_id).status in FINAL_BATCH for batch_id in self._batches)

    def _work(self, seed: int) -> None:
        draw = random.Random(seed)  # noqa: S311  # nothing is kept secret with these
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not self._over.is_set():
                token = uuid4()
                rows = claim(connection, draw.randint(1, 4), token, **self._limits)
                for batch_id, jobs in groupby(sorted(rows, key=by_batch), key=by_batch):
                    self._run(batch_id, [job.id for job in jobs], token, draw)
                if not rows:
                    self._over.wait(0.01)

    def _run(self, batch_id: UUID, ids: list[UUID], token: UUID, draw: random.Random) -> None:
        with self._engine.begin() as connection:
            change = Change(connection, batch_id)
            allowed = ids[: change.startable]
            change.release(ids[len(allowed) :], token)
            started = [row.id for row in change.start(allowed, token, 60)]
            change.close()
        ends = draw.choices([JobStatus.COMPLETED, JobStatus.QUEUED, JobStatus.FAILED], [8, 1, 1], k=len(started))
        with self._engine.begin() as connection:
            change = Change(connection, batch_id)
            change.update(
                [
                    JobUpdate(id=job, token=token, status=end, result=b'{"steps": 1, "attempt": 1}')
                    for job, end in zip(started, ends, strict=True)
                ]
            )
            change.close()

    def _disturb(self) -> None:
        draw = random.Random(0)  # noqa: S311
        while not self._over.wait(0.005):
            self.change(draw.choice(self._batches), draw.choice(["pause", "resume", "retry_failed"]))

    def _look(self) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not self._over.wait(0.001):
                leased = connection.execute(LEASED).all()
                for of in self.most:
                    now: Counter[Any] = Counter()
                    for row in leased:
                        now[getattr(row, of)] += row.jobs
                    self.most[of] |= now
                self.looks += 1


def by_batch(row: sa.Row[Any]) -> UUID:
    return UUID(str(row.batch_id))


def test_no_limit_is_passed_and_nothing_stands_still_while_batches_are_cancelled_paused_and_retried(
    pool: sa.Engine,
) -> None:
    narrow = [make_batch(pool, 25, owner=f"owner {n % 3}", concurrency=2, priority=n % 2) for n in range(4)]
    wide = [make_batch(pool, 25, owner=f"owner {n % 3}") for n in range(4)]
    limits = {"owner_limit": 4, "kinds": ["rehearsal"], "kind_limits": [9], "kind_rates": [None]}
    storm = Storm(pool, narrow + wide, limits)

    def until() -> None:
        wait_for(lambda: storm.most["kind"]["rehearsal"] >= 4, "jobs to run at once")
        storm.change(narrow[0], "cancel")
        storm.change(wide[0], "cancel")
        wait_for(storm.finish, "all batches to finish", 60)

    storm.rage(until)
    for batch_id in narrow + wide:
        assert_consistent(pool, batch_id)
    assert storm.looks > 10
    assert max(storm.most["owner"].values()) <= 4
    assert storm.most["kind"]["rehearsal"] <= 9
    assert max(storm.most["batch_id"][batch_id] for batch_id in narrow) <= 2
    with pool.connect() as connection:
        deadlocks = sa.text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        assert connection.execute(deadlocks).scalar_one() == 0
