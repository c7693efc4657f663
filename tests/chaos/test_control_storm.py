"""Everything that may be asked of a batch and its jobs, at random, while it runs, is watched, and loses processes."""

from collections import Counter
from pathlib import Path
from random import Random
from threading import Event

import pytest

from shared.settings import Settings
from tests.support.batches import job_rows
from tests.support.ordeal import ordeal
from tests.support.web import client

pytestmark = pytest.mark.timeout(300)  # twenty seconds, but on a machine that is busy otherwise

_ASKED = ("pause", "resume", "retry-failed", "cancel", "retry", "cancel", "retry")


def test_whatever_is_asked_meanwhile_the_history_is_possible(settings: Settings, tmp_path: Path) -> None:
    chance = Random()  # noqa: S311  # another storm each time
    answers: Counter[tuple[str, int]] = Counter()
    with (
        ordeal(settings, tmp_path, with_api=True) as batch,
        client(batch.whole.api_address, batch.whole.settings) as api,
    ):
        whole = batch.whole
        jobs = [job.id for job in job_rows(whole.engine, batch.batch_id)]
        address = f"/api/batches/{batch.batch_id}"
        for number in range(150):
            asked = chance.choice(_ASKED)
            of = f"/api/jobs/{chance.choice(jobs)}" if asked in {"cancel", "retry"} else address
            answers[asked, api.post(f"{of}/{asked}").status_code] += 1
            Event().wait(chance.uniform(0, 0.04))
            if number in {40, 90}:
                part = chance.choice([*whole.workers, *whole.streams])
                part.kill()
                part.start()
        api.post(f"{address}/resume")
        batch.finish()
        # what has ended comes to life again, for everybody to see
        ended = next(job.id for job in job_rows(whole.engine, batch.batch_id) if job.name == "lasts")
        assert api.post(f"/api/jobs/{ended}/retry").status_code == 202
        batch.gets_on()
        batch.verdict(played=False)
    assert {status for _, status in answers} == {202, 409}, answers
