"""Redis is away for long: workers look for jobs by themselves, and neither grow nor complain again and again.

For 15 s, or `pytest --redis-away SECONDS`; five minutes are what is promised.
"""

import sys
import time
from datetime import datetime
from pathlib import Path
from threading import Event

import pytest

from shared.settings import Settings
from tests.support.batches import assert_consistent, batch_row, job_rows, make_batch, wait_finished, wait_for
from tests.support.installation import Installation, Service, installed
from tests.support.memory import MB, held
from tests.support.tickets import call

pytestmark = pytest.mark.timeout(900)

JOBS = 3
PICKED_UP = 10.0
"""Seconds; usually one, for that is how often they look."""
MORE_MEMORY = 16 * MB
"""Bytes. What five minutes add, if anything does, would show."""


def test_jobs_run_for_as_long_as_redis_is_away(settings: Settings, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    away = pytestconfig.getoption("--redis-away")
    with installed(settings, tmp_path) as whole:
        for _ in range(3):  # everybody has done this before
            runs_a_batch(whole)
        before = sizes(whole)
        whole.valkey.kill()
        gone, waits = time.monotonic(), list[float]()
        while time.monotonic() < gone + away:
            waits += runs_a_batch(whole)
            Event().wait(0.5)
        after = sizes(whole)
        whole.valkey.start()
        wait_for(lambda: all("redis is back" in said(worker, "stand-by")[-1:] for worker in whole.workers), "Redis")
        call(whole.settings)
        runs_a_batch(whole)
        lines = [len(worker.log.read_text().splitlines()) for worker in whole.workers]
        told = whole.said()
    numbers = {"jobs": len(waits), "longest wait": max(waits), "before": before, "after": after, "lines": lines}
    sys.stdout.write(f"{numbers}\n")  # for whoever asks for more than the usual time
    assert max(waits) < PICKED_UP
    for (memory, some), (memory_then, some_then) in zip(before, after, strict=True):
        assert memory_then < memory + MORE_MEMORY
        assert some_then <= some + settings.threads
    for worker in whole.workers:
        assert said(worker, "stand-by") == ["redis is away", "redis is back"], "once, however long"
    assert max(lines) < 20
    assert "Traceback" not in told


def runs_a_batch(whole: Installation) -> list[float]:
    """Seconds that its jobs waited; each was run once."""
    batch_id = make_batch(whole.engine, JOBS, params={"steps": 2, "stepMs": 20, "logsPerStep": 1})
    wait_finished(whole.engine, batch_id, 60)
    created: datetime = batch_row(whole.engine, batch_id).created_at
    jobs = job_rows(whole.engine, batch_id)
    assert [(job.status, job.attempt) for job in jobs] == [("COMPLETED", 1)] * JOBS
    assert_consistent(whole.engine, batch_id)
    return [(job.started_at - created).total_seconds() for job in jobs]


def sizes(whole: Installation) -> list[tuple[int, int]]:
    """Bytes of memory, and threads, of each worker."""
    pids = [pid for worker in whole.workers for pid in worker.pids()]
    return [(held(pid), len(list(Path(f"/proc/{pid}/task").iterdir()))) for pid in pids]


def said(worker: Service, part: str) -> list[str]:
    """What it told of Redis, as this part of it."""
    lines = [line for line in worker.log.read_text().splitlines() if f"part={part}" in line]
    return [word for line in lines for word in ("redis is away", "redis is back") if word in line]
