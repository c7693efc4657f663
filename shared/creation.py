"""Creating a batch: one bulk insert, however many jobs."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import uuid_utils
from msgspec import Raw, Struct
from sqlalchemy import Connection, Row
from uuid_utils.compat import uuid7

from shared import queries
from shared.channels import Frame, make_frame
from shared.events import Job, encode
from shared.jobs import BatchStatus, JobStatus
from shared.kinds.kind import Kind
from shared.lanes import add_lane
from shared.rows import batch_of
from shared.trace import CURRENT
from shared.transitions import Transitions

TICKETS = 16
"""The most work tickets that a new batch sends: enough to wake idle workers; they send more themselves."""

IDEMPOTENCY_TTL = 24 * 3600
"""Seconds for which it is remembered which batch an `Idempotency-Key` made."""


class NewJob(Struct):
    name: str
    params: Raw
    """JSON, checked already."""


class Schedule(Struct, frozen=True, kw_only=True):
    """When a batch may begin, and by when it has to have ended."""

    run_after: datetime | None = None
    after: UUID | None = None
    """The batch that it is to follow."""
    after_any: bool = False
    """However that one ends; otherwise only if it completes."""
    held: bool = False
    """That one has not ended so yet: somebody has to see it end (see succession.py)."""
    expires_at: datetime | None = None


AT_ONCE = Schedule()


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
    schedule: Schedule = AT_ONCE,
    still_open: bool = False,
) -> Row[Any]:
    """Stores the batch at version 1 and its jobs; the batch's row, and the `epoch`. To be followed by `commit` with its
    `creation_frame`, and then by `TICKETS`.

    What follows from it belongs to the trace that is current. `uploads`: those that jobs name. `batch_id`: where the
    caller had to know it before. `still_open`: more jobs may be added to it, and it does not end before that has ended.
    """
    batch_id = batch_id or uuid7()
    trace = CURRENT.get()
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
            "open": still_open,
            "run_after": schedule.run_after,
            "after_batch": schedule.after,
            "after_any": schedule.after_any,
            "held": schedule.held,
            "expires_at": schedule.expires_at,
            "traceparent": trace and trace.parent,
            "tracestate": trace and (trace.state or None),
        },
    ).one()
    copy_jobs(connection, batch_id, jobs, version=1)
    add_lane(connection, row, kind.queue, held=schedule.held)
    if uploads:
        connection.execute(queries.USE_UPLOADS_FOR, {"batch_id": batch_id, "ids": sorted(uploads)})
    transitions = Transitions()
    transitions.note(None, None, BatchStatus.QUEUED, None, "created")
    transitions.write(connection, batch_id)
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
_NEW = b"".join(  # status, progress, attempt, failures, cancel_requested, last_line
    _field(data) for data in (b"QUEUED", bytes(4), bytes(4), bytes(4), bytes(1), bytes(8))
)


def copy_jobs(
    connection: Connection, batch_id: UUID, jobs: Sequence[NewJob], *, first: int = 0, version: int
) -> list[bytes]:
    """Stores them, from position `first` on; their ids, which rise."""
    ids = [uuid_utils.uuid7().bytes for _ in jobs]
    new = _NEW + _field(version.to_bytes(8))
    # the driver's own cursor: SQLAlchemy has no COPY
    cursor = connection.connection.cursor()
    with cursor.copy(queries.COPY_JOBS) as copy:
        copy.write(_HEAD)
        for begin in range(0, len(jobs), _ROWS):
            some = range(begin, min(begin + _ROWS, len(jobs)))
            copy.write(b"".join([_row(batch_id, ids[n], first + n, jobs[n]) + new for n in some]))
        copy.write(_END)
    cursor.close()
    return ids


def _row(batch_id: UUID, job_id: bytes, position: int, job: NewJob) -> bytes:
    """Columns as COPY_JOBS has them, up to those that are the same in all rows."""
    name, params = job.name.encode(), job.params
    ids = _UUID + job_id + _UUID + batch_id.bytes + _INTEGER + position.to_bytes(4)
    texts = len(name).to_bytes(4) + name + (len(params) + 1).to_bytes(4) + _JSONB + params
    return _FIELDS + ids + texts


def new_job(job_id: bytes, position: int, job: NewJob) -> Job:
    """As readers see one that was just stored."""
    return Job(
        id=str(UUID(bytes=job_id)),
        position=position,
        name=job.name,
        status=JobStatus.QUEUED,
        progress=0,
        step=None,
        message=None,
        items=None,
        attempt=0,
        cancel_requested=False,
        run_after=None,
        error=None,
        started_at=None,
        finished_at=None,
    )
