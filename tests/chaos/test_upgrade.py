"""An upgrade in its middle: the code of before the newest migration and that of now, at work together on one schema."""

from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, assert_consistent, batch_row, job_rows, wait_for
from tests.support.metrics import Numbers
from tests.support.older import Version, beside_each_other, code_before_the_newest_migration
from tests.support.rehearsals import mixed
from tests.support.sse import Record, Stream
from tests.support.web import decoded, submit

pytestmark = pytest.mark.timeout(300)  # twenty seconds, but on a machine that is busy otherwise

PATIENCE = 90
LASTING = 3
"""Of the four jobs that each of the two workers runs at once: neither can have those of both batches."""


def test_the_code_before_the_newest_migration_works_with_that_of_now_on_the_new_schema(
    settings: Settings, engine: sa.Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = code_before_the_newest_migration(tmp_path / "older")
    with beside_each_other(settings, code, tmp_path) as (old, new), ExitStack() as stack:
        assert [Path(f"/proc/{process.pid}/cwd").readlink() for process in old.processes] == [code] * 3
        of_old, of_new = (UUID(submit(version.api, mixed(12, lasting=LASTING))["batchId"]) for version in (old, new))
        token = issue_token(settings, OWNER)
        watching = {
            (batch_id, version.stream): stack.enter_context(Stream(version.stream, batch_id, token))
            for batch_id in (of_old, of_new)
            for version in (old, new)
        }
        wait_for(lambda: busy(engine) == 2, "both workers to run jobs", PATIENCE)
        # each batch is controlled by both
        for batch_id, first, second in ((of_old, new, old), (of_new, old, new)):
            assert control(first, batch_id, "pause")["status"] == "PAUSED"
            assert control(second, batch_id, "resume")["status"] == "PROCESSING"
            others_end(engine, batch_id)
            cancel_lasting(engine, first, batch_id)
        for stream in watching.values():
            stream.until("complete", PATIENCE)
            stream.rest()
        check(engine, watching)

        # reopened by one, run by whoever comes, and watched on from where the other's stream ended
        for batch_id, retries, leads_on in ((of_old, new, old), (of_new, old, new)):
            other = old if leads_on is new else new
            assert control(retries, batch_id, "retry-failed")["status"] == "PROCESSING"
            record = Record(watching[batch_id, other.stream].record.id)
            with Stream(leads_on.stream, batch_id, token, record=record) as stream:
                stream.until("complete", PATIENCE)
            assert not record_of_resets(record)
            assert record.version == batch_row(engine, batch_id).version
            assert_consistent(engine, batch_id)

        for batch_id, deletes, looks in ((of_old, new, old), (of_new, old, new)):
            assert deletes.api.delete(f"/api/batches/{batch_id}").status_code == 204
            assert looks.api.get(f"/api/batches/{batch_id}").status_code == 404

        for version in (old, new):
            numbers = Numbers(version.stream).read()
            assert numbers["frames_total{foreign}"] == 0, "what the others publish is understood"
            assert numbers["frames_total{applied}"] > 0
            assert not any(number for name, number in numbers.items() if name.startswith("resets_total"))
            for process in version.processes:
                process.terminate()
        assert [process.wait(40) for process in (*old.processes, *new.processes)] == [0] * 6
    said = capfd.readouterr().err
    assert "Traceback" not in said, said[said.index("Traceback") - 2000 :][:4000]
    assert " [error" not in said


def busy(engine: sa.Engine) -> int:
    """Workers that run something."""
    with engine.connect() as connection:
        query = sa.text("SELECT count(*) FROM workers WHERE running > 0")
        return int(connection.execute(query).scalar_one())


def control(version: Version, batch_id: UUID, action: str) -> dict[str, object]:
    reply = version.api.post(f"/api/batches/{batch_id}/{action}")
    assert reply.status_code == 202, reply.text
    return decoded(reply)


def others_end(engine: sa.Engine, batch_id: UUID) -> None:
    def ended() -> bool:
        return all(job.finished_at for job in job_rows(engine, batch_id) if job.name != "lasts")

    wait_for(ended, "all jobs but those that last to end", PATIENCE)


def cancel_lasting(engine: sa.Engine, version: Version, batch_id: UUID) -> None:
    for job in job_rows(engine, batch_id):
        if job.name == "lasts":
            assert version.api.post(f"/api/jobs/{job.id}/cancel").status_code == 202


def record_of_resets(record: Record) -> list[str]:
    return [event.name for event in record.events if event.name == "reset"]


def check(engine: sa.Engine, watching: dict[tuple[UUID, str], Stream]) -> None:
    """What is stored, and what each viewer has."""
    expected = {"completes": "COMPLETED", "retried": "COMPLETED", "fails": "FAILED", "lasts": "CANCELLED"}
    for (batch_id, _), stream in watching.items():
        assert_consistent(engine, batch_id)
        stored, record = batch_row(engine, batch_id), stream.record
        jobs = {str(job.id): job for job in job_rows(engine, batch_id)}
        assert stored.status == "PARTIAL"
        assert [job.name for job in jobs.values() if job.status != expected[job.name]] == []
        assert not record_of_resets(record)
        assert record.version == stored.version
        assert {job: shown["status"] for job, shown in record.jobs.items()} == {
            job: row.status for job, row in jobs.items()
        }
        lines = {(job, n) for job, row in jobs.items() for n in range(1, row.last_line + 1)}
        assert set(record.lines) == lines
        assert record.left_out == 0
