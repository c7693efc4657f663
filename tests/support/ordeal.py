"""An ordeal: an installation, a batch that runs in it under several viewers, and the verdict in the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from msgspec import structs

from shared.settings import Settings
from tests.support.audience import Audience, watched
from tests.support.batches import assert_consistent, batch_row, job_rows, wait_for
from tests.support.history import History, record_history
from tests.support.installation import Installation, MakePostgres, More, installed
from tests.support.rehearsals import assert_played, assert_steps_rise, cancel_job, create, mixed
from tests.support.web import client, submit

PATIENCE = 90.0
"""Seconds: machines are slow at times, and leases and back-offs have to run out."""


class Ordeal:
    def __init__(self, whole: Installation, history: History, audience: Audience, batch_id: UUID) -> None:
        self.whole = whole
        self.audience = audience
        self.batch_id = batch_id
        self.history = history

    def version(self) -> int:
        """Of the batch; 0 while PostgreSQL is away."""
        try:
            return int(batch_row(self.whole.engine, self.batch_id).version)
        except sa.exc.OperationalError:
            return 0

    def gets_on(self) -> None:
        """Waits until jobs get on, and every viewer who can has heard of it."""
        before = wait_for(self.version, "PostgreSQL to answer", PATIENCE)
        self._seen_by_all(wait_for(lambda: self._past(before + 2), "jobs to get on", PATIENCE))

    def finish(self) -> None:
        """Jobs that last are cancelled, the others come to their end, and everybody sees it."""
        whole = self.whole
        for service in whole.services:
            service.await_ready()
        wait_for(lambda: all(job.finished_at for job in self._jobs() if job.name != "lasts"), "all others", PATIENCE)
        for job in self._jobs():
            if job.name == "lasts":
                cancel_job(whole.engine, whole.settings, self.batch_id, job.id)
        wait_for(lambda: batch_row(whole.engine, self.batch_id).finished_at, "the batch to finish", PATIENCE)
        self._seen_by_all(self.version())

    def verdict(self, *, expired: bool = False, played: bool = True, **allowed: Any) -> None:
        """The batch is finished, and all that was seen and held is checked.

        `expired`: as for `assert_played`. Without `played` jobs may have ended in any way. `allowed`: as for
        `check_recording`.
        """
        self.finish()
        self.audience.see_the_end(self.history, PATIENCE, **allowed)
        assert_consistent(self.whole.engine, self.batch_id)
        assert_steps_rise(self.history)
        if played:
            assert_played(self.whole.engine, self.batch_id, expired=expired)
        said = self.whole.said()
        assert "Traceback" not in said, said[said.index("Traceback") - 500 :][:3000]

    def _seen_by_all(self, version: int) -> None:
        """By those at least who are not slow."""
        for viewer in self.audience.viewers:
            if not viewer.slow:
                until = time.monotonic() + PATIENCE
                while not viewer.has(version):
                    assert time.monotonic() < until, f"version {version} does not come to the viewer {viewer.where()}"
                    time.sleep(0.02)

    def _past(self, version: int) -> int:
        """The batch's version, if it is higher."""
        now = self.version()
        return now if now > version else 0

    def _jobs(self) -> list[sa.Row[Any]]:
        return job_rows(self.whole.engine, self.batch_id)


@contextmanager
def ordeal(
    settings: Settings,
    directory: Path,
    *,
    own_postgres: bool | MakePostgres = False,
    own_redis: bool = True,
    with_api: bool = False,
    more: More | None = None,
    errors: Path | None = None,
    **batch: Any,
) -> Iterator[Ordeal]:
    """`batch` as for `mixed`, the rest as for `installed`."""
    # short enough to be seen
    settings = structs.replace(settings, lease=2, heartbeat=1, lifetime=6, poll=0.5, version_check=3)
    with installed(
        settings,
        directory,
        own_postgres=own_postgres,
        own_redis=own_redis,
        with_api=with_api,
        more=more,
        errors=errors,
    ) as whole:
        record_history(whole.engine)
        if with_api:
            with client(whole.api_address, whole.settings) as api:
                batch_id = UUID(submit(api, mixed(**batch))["batchId"])
        else:
            batch_id = create(whole.engine, mixed(**batch))
        history = History(whole.engine, batch_id)
        with watched(whole.settings, batch_id, whole.addresses) as audience:
            yield Ordeal(whole, history, audience, batch_id)
