"""What `create_batch` stores is what it was given, in order, whatever characters it is made of."""

import msgspec
import sqlalchemy as sa

from shared.creation import NewJob, create_batch
from shared.jobs import JobStatus
from shared.kinds.rehearsal import REHEARSAL
from tests.support.batches import OWNER, assert_consistent, job_rows

NAMES = ["plain", "", "tab\tline\nreturn\r", "\\N", "\\", "quote ' \" ;", "Küche", "日本語 🛋", "x" * 200]
PARAMS = [
    b"{}",
    b'{"steps": 3 }',
    b'{\n\t"failure":"fatal"}',
    '{"text":"\\\\ \\" \\n \\u00e4 ä 🛋"}'.encode(),
]


def test_names_and_parameters_are_stored_as_they_are(engine: sa.Engine) -> None:
    given = [(name, params) for name in NAMES for params in PARAMS]

    with engine.begin() as connection:
        jobs = [NewJob(name, msgspec.Raw(params)) for name, params in given]
        batch = create_batch(connection, REHEARSAL, jobs, owner=OWNER, title="odd")

    stored = [(row.name, row.params) for row in job_rows(engine, batch.id)]
    assert stored == [(name, msgspec.json.decode(params)) for name, params in given]


def test_a_long_batch_is_stored_whole_and_in_order(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        jobs = [NewJob(f"job {number}", msgspec.Raw(b'{"steps":1}')) for number in range(2_345)]
        batch = create_batch(connection, REHEARSAL, jobs, owner=OWNER, title="long", priority=3)

    rows = job_rows(engine, batch.id)
    assert [(row.position, row.name) for row in rows] == [(number, f"job {number}") for number in range(2_345)]
    assert sorted(row.id for row in rows) == [row.id for row in rows], "ids rise with positions"
    assert {(row.status, row.attempt, row.progress, row.failures, row.last_line, row.version) for row in rows} == {
        (JobStatus.QUEUED, 0, 0, 0, 0, 1)
    }
    assert not any(row.cancel_requested or row.lease_token for row in rows)
    assert_consistent(engine, batch.id)
