"""Limits as worker processes keep them, all together."""

import time
from threading import Lock

import sqlalchemy as sa
from msgspec.structs import replace

from shared.jobs import BatchStatus
from shared.settings import Settings
from shared.updates import Job, Progress, Updates
from tests.support.batches import assert_consistent, job_rows, wait_finished
from tests.support.working import Nothing, kind_of, submit, working


class Gauge:
    """How many handlers are at work at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._now = self.most = 0

    def short(self, params: Nothing, job: Job) -> Updates[None]:  # noqa: ARG002  # the shape of a handler
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        yield Progress(50)
        time.sleep(0.02)
        with self._lock:
            self._now -= 1


def test_an_owners_jobs_do_not_get_past_the_limit_in_two_processes_together(
    engine: sa.Engine, settings: Settings
) -> None:
    gauge, limited = Gauge(), replace(settings, owner_concurrency=2)
    with working(limited, gauge.short), working(limited, gauge.short):
        batches = [submit(engine, settings, 15, kind_of(gauge.short)) for _ in range(2)]
        rows = [wait_finished(engine, batch_id, 60) for batch_id in batches]
    assert [row.status for row in rows] == [BatchStatus.COMPLETED] * 2
    for batch_id in batches:
        assert_consistent(engine, batch_id)
    assert gauge.most <= 2


def test_the_setting_limits_a_kind_to_so_many_at_once(engine: sa.Engine, settings: Settings) -> None:
    gauge = Gauge()
    with working(replace(settings, limits="short=3"), gauge.short, concurrency=1):
        batches = [submit(engine, settings, 10, kind_of(gauge.short), owner=owner) for owner in ("anna", "bert")]
        for batch_id in batches:
            assert wait_finished(engine, batch_id, 60).completed == 10
    assert 1 <= gauge.most <= 3


def test_a_kind_with_a_rate_goes_on_at_that_rate_by_itself(engine: sa.Engine, settings: Settings) -> None:
    gauge = Gauge()
    with working(settings, gauge.short, rate=5):
        row = wait_finished(engine, submit(engine, settings, 12, kind_of(gauge.short)), 60)
    starts = sorted(job.started_at for job in job_rows(engine, row.id))
    assert (starts[-1] - row.created_at).total_seconds() >= (12 - 5) / 5
