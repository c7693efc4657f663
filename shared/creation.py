"""Creating a batch: one bulk insert, however many jobs."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from msgspec import Raw, Struct
from sqlalchemy import Connection, Row
from uuid_utils.compat import uuid7

from shared import queries
from shared.events import encode
from shared.kinds.kind import Kind

TICKETS = 16
"""The most work tickets that a new batch sends: enough to wake idle workers; they send more themselves."""

IDEMPOTENCY_TTL = 24 * 3600
"""Seconds for which it is remembered which batch an `Idempotency-Key` made."""


class NewJob(Struct):
    name: str
    params: Raw
    """JSON, checked already."""


def create_batch(
    connection: Connection,
    kind: Kind,
    jobs: Sequence[NewJob],
    *,
    owner: str,
    title: str,
    priority: int = 0,
    concurrency: int | None = None,
    metadata: dict[str, Any] | None = None,
    uploads: Collection[UUID] = (),
    batch_id: UUID | None = None,
) -> Row[Any]:
    """Stores the batch at version 1 and its jobs; the batch's row. The caller commits, then sends `TICKETS`.

    `uploads`: those that the jobs name. `batch_id`: where the caller had to know it before.
    """
    batch_id = batch_id or uuid7()
    row = connection.execute(
        queries.ADD_BATCH,
        {
            "id": batch_id,
            "owner": owner,
            "kind": kind.name,
            "title": title,
            "priority": priority,
            "concurrency": concurrency,
            "metadata": encode(metadata or {}).decode(),
            "total": len(jobs),
        },
    ).one()
    _copy_jobs(connection, batch_id, jobs)
    connection.execute(
        queries.ADD_LANE,
        {
            "batch_id": batch_id,
            "queue": kind.queue,
            "priority": priority,
            "concurrency": concurrency,
            "paused": False,
        },
    )
    if uploads:
        connection.execute(queries.USE_UPLOADS_FOR, {"batch_id": batch_id, "ids": sorted(uploads)})
    connection.execute(
        queries.ADD_TRANSITIONS,
        {
            "batch_id": batch_id,
            "job_ids": [None],
            "old_statuses": [None],
            "new_statuses": ["QUEUED"],
            "attempts": [None],
            "reasons": ["created"],
            "messages": [None],
        },
    )
    return row


def _copy_jobs(connection: Connection, batch_id: UUID, jobs: Sequence[NewJob]) -> None:
    # the driver's own cursor: SQLAlchemy has no COPY
    cursor = connection.connection.cursor()
    with cursor.copy(queries.COPY_JOBS) as copy:
        for position, job in enumerate(jobs):
            copy.write_row(
                (uuid7(), batch_id, position, job.name, bytes(job.params).decode(), "QUEUED", 0, 0, 0, False, 0, 1)
            )
    cursor.close()
