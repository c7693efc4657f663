"""`headway smoke` under way: its first batch, and who matters to it."""

import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa

from shared import models
from tests.support.batches import batch_row, job_rows, wait_for
from tests.support.metrics import Numbers
from tests.support.running import HEADWAY, environment

_PATIENCE = 60.0


@contextmanager
def smoking(address: str, token: str, trust: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """It has no end of its own here: `outcome` waits for that. `trust`: the gateway's certificate."""
    process = subprocess.Popen(
        [*HEADWAY, "smoke", address, *options, "--token", token],
        env=environment(trust.parent / "nowhere", SSL_CERT_FILE=str(trust)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def outcome(process: subprocess.Popen[str], seconds: float = 150) -> tuple[int, str]:
    """Its exit status, and what it said."""
    said, _ = process.communicate(timeout=seconds)
    return process.returncode, said


def await_smoke(engine: sa.Engine, percent: int) -> UUID:
    """Its batch, once it has come so far; the connection that it gives up itself is over at 30 percent."""

    def found() -> UUID | None:
        with engine.connect() as connection:
            batches = models.batches
            wanted = (batches.c.title == "smoke test") & batches.c.finished_at.is_(None) & (batches.c.processing > 0)
            batch_id = connection.execute(sa.select(batches.c.id).where(wanted)).scalar_one_or_none()
        if batch_id is None:
            return None
        row = batch_row(engine, batch_id)
        return UUID(str(batch_id)) if row.progress_sum >= percent * row.total else None

    batch: UUID = wait_for(found, "the smoke test's batch to run", _PATIENCE)
    return batch


def deliveries(addresses: Iterable[str]) -> dict[str, float]:
    """How many each of these stream services has written so far."""
    return {address: Numbers(address)["deliveries_total"] for address in addresses}


def await_holder(before: Mapping[str, float]) -> str:
    """The stream service that has the only stream open, and has written to it since `before`.

    One that has written nothing yet is of no use: a gateway asks the next in its place, and nobody sees that it went.
    """

    def holder() -> str | None:
        now = {address: Numbers(address).read() for address in before}
        if sum(numbers["connections{events}"] for numbers in now.values()) != 1:
            return None
        holding = (address for address, numbers in now.items() if numbers["connections{events}"])
        return next((it for it in holding if now[it]["deliveries_total"] > before[it]), None)

    return str(wait_for(holder, "somebody to hold the only stream", _PATIENCE))


def await_worker(engine: sa.Engine, batch_id: UUID) -> tuple[str, int]:
    """Host and pid of one that runs its jobs."""
    ours = {job.id for job in job_rows(engine, batch_id)}

    def found() -> tuple[str, int] | None:
        with engine.connect() as connection:
            rows = connection.execute(sa.select(models.workers)).all()
        return next(((row.host, row.pid) for row in rows if ours & set(row.job_ids)), None)

    worker: tuple[str, int] = wait_for(found, "a worker to say that it runs its jobs", _PATIENCE)
    return worker
