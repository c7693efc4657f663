"""Batches: create, list, read, cancel."""

from typing import Annotated
from uuid import UUID

from litestar import Response, Router, get, post
from litestar.di import Provide
from litestar.params import FromPath
from msgspec import Meta
from sqlalchemy import Connection

from services.api.addresses import batch_address, stream_address, web_address
from services.api.body import ApiRequest, Empty, JsonBody, json_body, no_body
from services.api.replies import CreatedBatch, created
from services.api.resources import Shared
from services.api.submission import read_submission, refuse_missing_uploads
from shared import queries
from shared.auth import issue_ticket
from shared.changes import Change
from shared.creation import TICKETS, create_batch
from shared.errors import Conflict, NotFound
from shared.events import Batch
from shared.jobs import FINAL_BATCH, BatchStatus, JobStatus
from shared.queue import send_tickets
from shared.rows import batch_of, job_of
from shared.web.parameters import NoParameters, Page, Paging, decode_cursor, encode_cursor, read_query

Text = Annotated[str, Meta(max_length=200)]
Position = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class BatchesQuery(Paging, forbid_unknown_fields=True):
    status: BatchStatus | None = None
    kind: Text | None = None
    q: Text | None = None
    """Part of the title, in any case."""


class JobsQuery(Paging, forbid_unknown_fields=True):
    status: JobStatus | None = None


@post("/", dependencies={"json": Provide(json_body)}, sync_to_thread=True)
def create(request: ApiRequest, resources: Shared, json: JsonBody) -> Response[CreatedBatch]:
    """One bad job refuses the batch: nothing is stored before all of it is checked."""
    read_query(request, NoParameters)
    settings, owner = resources.settings, request.auth.owner
    submission = read_submission(json, settings)
    if not submission.uploads:
        refuse_missing_uploads(submission, set())  # what is wrong by itself needs no database
    with resources.engine.begin() as connection:
        refuse_missing_uploads(
            submission, _use_uploads(connection, owner, {upload for _, upload in submission.uploads})
        )
        kind, fields = submission.checked()
        row = create_batch(
            connection,
            kind,
            submission.jobs,
            owner=owner,
            title=fields.title,
            priority=fields.priority,
            concurrency=fields.concurrency,
            metadata=fields.metadata,
        )
    send_tickets(resources.broker, kind.queue, min(len(submission.jobs), TICKETS))
    ticket, _ = issue_ticket(settings, request.auth, row.id)
    batch = created(batch_of(row), stream_address(settings, row.id, ticket), web_address(settings, row.id, ticket))
    return Response(batch, headers={"Location": batch_address(settings, row.id)})


@get("/", sync_to_thread=True)
def batches(request: ApiRequest, resources: Shared) -> Page:
    query = read_query(request, BatchesQuery)
    place = "batches"
    parameters = {
        "owner": request.auth.owner,
        "before": None if query.cursor is None else decode_cursor(place, query.cursor, UUID),
        "status": query.status,
        "kind": query.kind,
        "q": query.q or None,
        "limit": query.limit + 1,  # one more tells whether there is another page
    }
    with resources.engine.connect() as connection:
        rows = connection.execute(queries.BATCHES, parameters).all()
    shown = rows[: query.limit]
    more = encode_cursor(place, shown[-1].id) if len(rows) > query.limit else None
    return Page([batch_of(row) for row in shown], more)


@get("/{batch_id:uuid}", sync_to_thread=True)
def batch(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID]) -> Batch:
    read_query(request, NoParameters)
    with resources.engine.connect() as connection:
        return read_batch(connection, request.auth.owner, batch_id)


@get("/{batch_id:uuid}/jobs", sync_to_thread=True)
def jobs(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID]) -> Page:
    query = read_query(request, JobsQuery)
    place = f"jobs:{batch_id}"
    parameters = {
        "batch_id": batch_id,
        "after": -1 if query.cursor is None else decode_cursor(place, query.cursor, Position),
        "status": query.status,
        "limit": query.limit + 1,
    }
    with resources.engine.connect() as connection:
        read_batch(connection, request.auth.owner, batch_id)
        rows = connection.execute(queries.JOBS, parameters).all()
    shown = rows[: query.limit]
    more = encode_cursor(place, shown[-1].position) if len(rows) > query.limit else None
    return Page([job_of(row) for row in shown], more)


@post("/{batch_id:uuid}/cancel", status_code=202, dependencies={"empty": Provide(no_body)}, sync_to_thread=True)
def cancel(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID], empty: Empty) -> Batch:  # noqa: ARG001
    read_query(request, NoParameters)
    owner = request.auth.owner
    with resources.engine.begin() as connection:
        read_batch(connection, owner, batch_id)  # a stranger locks nothing
        change = Change(connection, batch_id)
        status = BatchStatus(change.batch.status)
        if status in FINAL_BATCH and status is not BatchStatus.CANCELLED:
            raise Conflict(f"the batch is {status} already")
        frame = None
        if status is not BatchStatus.CANCELLED and not change.batch.cancel_requested:
            change.cancel()
            frame = change.close()
        reply = read_batch(connection, owner, batch_id)
    if frame is not None:
        resources.publisher.publish(batch_id, frame)
    return reply


def read_batch(connection: Connection, owner: str, batch_id: UUID) -> Batch:
    """Raises NotFound, also for somebody else's."""
    row = connection.execute(queries.BATCH, {"id": batch_id, "owner": owner}).one_or_none()
    if row is None:
        raise NotFound
    return batch_of(row)


def _use_uploads(connection: Connection, owner: str, uploads: set[UUID]) -> set[UUID]:
    """Those that exist and are the owner's: they no longer expire, once the batch is stored."""
    if not uploads:
        return set()
    return set(connection.execute(queries.USE_UPLOADS, {"ids": sorted(uploads), "owner": owner}).scalars())


ROUTES = Router("/batches", route_handlers=[create, batches, batch, jobs, cancel])
