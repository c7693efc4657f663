"""Creating a batch: one bulk insert, however many jobs."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import uuid_utils
from msgspec import Raw, Struct
from sqlalchemy import Connection, Row
from uuid_utils.compat import uuid7

from shared import queries
from shared.channels import Frame, make_frame
from shared.events import encode
from shared.kinds.kind import Kind
from shared.rows import batch_of

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
    """Stores the batch at version 1 and its jobs; the batch's row, and the `epoch`. To be followed by `commit` with its
    `creation_frame`, and then by `TICKETS`.

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
            "owner": owner,
            "kind": kind.name,
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


def creation_frame(row: Row[Any]) -> Frame:
    return make_frame(row.epoch, 0, batch_of(row), None)


_ROWS = 1000
"""Jobs that are handed to PostgreSQL together: it stores them while the next are made ready."""

# COPY's binary form: the number of fields, and for each its length and what its type's `send` gives. It needs no
# escapes, and costs a third of what the driver takes to write a row. What is the same in all rows is made once.


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4) + data


_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_FIELDS = (12).to_bytes(2)
_UUID = (16).to_bytes(4)
_INTEGER = (4).to_bytes(4)
_JSONB = b"\1"  # the version of its form, which is text after that
_NEW = b"".join(  # status, progress, attempt, failures, cancel_requested, last_line, version
    _field(data) for data in (b"QUEUED", bytes(4), bytes(4), bytes(4), bytes(1), bytes(8), (1).to_bytes(8))
)


def _copy_jobs(connection: Connection, batch_id: UUID, jobs: Sequence[NewJob]) -> None:
    # the driver's own cursor: SQLAlchemy has no COPY
    cursor = connection.connection.cursor()
    with cursor.copy(queries.COPY_JOBS) as copy:
        copy.write(_HEAD)
        for begin in range(0, len(jobs), _ROWS):
            some = enumerate(jobs[begin : begin + _ROWS], begin)
            copy.write(b"".join([_row(batch_id, position, job) for position, job in some]))
        copy.write(_END)
    cursor.close()


def _row(batch_id: UUID, position: int, job: NewJob) -> bytes:
    """Columns as COPY_JOBS has them."""
    name, params = job.name.encode(), job.params
    ids = _UUID + uuid_utils.uuid7().bytes + _UUID + batch_id.bytes + _INTEGER + position.to_bytes(4)
    texts = len(name).to_bytes(4) + name + (len(params) + 1).to_bytes(4) + _JSONB + params
    return _FIELDS + ids + texts + _NEW
