"""The OpenAPI document against the running servers: schemathesis asks all that it says, and much that it does not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from uuid_utils.compat import uuid7

from shared import models
from shared.auth import issue_token
from shared.jobs import JobStatus
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.streams import stream_process
from tests.support.web import client
from tests.support.workers import add_worker
from tests.support.writer import Writer

ROOT = Path(__file__).parents[2]

# Without a NUL in texts: that they are refused cannot be said of free-form JSON, and is tested elsewhere.
CONFIGURATION = """
hooks = "tests.support.fuzzing"
seed = 20
workers = 1
continue-on-failure = true
request-timeout = 20
max-stream-events = 20

[cache]
enabled = false

[generation]
database = "none"
deterministic = true
no-shrink = true
allow-x00 = false
max-examples = 20

[checks]
enabled = true

# a request that is no handshake gets nothing from it: tests/integration/test_socket_conformance.py asks
[[operations]]
include-path = "/api/ws"
enabled = false

[phases.stateful]
max-steps = 4

[warnings]
fail-on = true

[auth.openapi.bearer]
bearer = "{token}"
"""


def batches_in_every_state(engine: sa.Engine, settings: Settings) -> dict[str, list[str]]:
    """Their ids and those of their jobs, some more often: who is deleted cannot be asked after."""
    writers = [Writer(engine, settings, 2, still_open=number < 4) for number in range(12)]
    for writer in writers[2:]:
        writer.start(0)
        writer.progress(0, 40, lines=3)
    for writer in writers[4:10]:
        writer.finish(0)
        writer.start(1)
        writer.finish(1, JobStatus.FAILED)
    for writer in writers[10:]:
        writer.cancel()
    writers += [Writer(engine, settings, 2, kind="external") for _ in range(3)]
    for writer in writers:
        writer.close()
    return {
        "batches": [str(writer.batch_id) for writer in writers],
        "jobs": [str(job) for writer in writers for job in writer.jobs],
        "artifacts": [
            f"{writer.jobs[0]}/{give_file(engine, settings, writer.batch_id, writer.jobs[0])}" for writer in writers
        ],
    }


def give_file(engine: sa.Engine, settings: Settings, batch_id: UUID, job_id: UUID) -> UUID:
    """One that the job has given; its id."""
    artifact = uuid7()
    (settings.uploads / str(artifact)).write_bytes(b"a file")
    now = sa.func.clock_timestamp()
    row = {"id": artifact, "batch_id": batch_id, "job_id": job_id, "attempt": 1, "name": "file.txt", "size": 6}
    with engine.begin() as connection:
        given = models.artifacts.insert().values(**row, content_type="text/plain", created_at=now, expires_at=now)
        connection.execute(given)
    return artifact


@pytest.mark.timeout(300)
def test_nothing_is_said_that_is_not_so_and_nothing_is_so_that_is_not_said(
    settings: Settings, engine: sa.Engine, tmp_path: Path
) -> None:
    # streams that end soon, and say all that they can say on their own
    settings = replace(settings, lifetime=0.2, heartbeat=0.1, rehearsal="safe")
    ids = batches_in_every_state(engine, settings)
    ids["workers"] = [str(add_worker(engine)) for _ in range(3)]
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION.format(token=issue_token(settings, OWNER, scope="admin")))
    with stream_process(settings, "infra.web") as (address, _):
        with client(address, settings) as api:
            reply = api.post("/api/uploads", files={"file": ("notes.txt", b"notes")})
            ids["uploads"] = [reply.json()["uploadId"]]
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)]
        done = subprocess.run(
            [*command, "run", f"{address}/openapi.json"],
            cwd=tmp_path,
            env=os.environ | {"FUZZ_IDS": json.dumps(ids), "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
            check=False,
        )
    assert done.returncode == 0, done.stdout
