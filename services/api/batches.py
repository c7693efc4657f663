"""Batches: create, list, read."""

from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from litestar import Response, Router, get, post
from litestar.di import Provide
from litestar.params import FromPath
from msgspec import UNSET, Meta
from sqlalchemy import Connection
from uuid_utils.compat import uuid7

from services.api import idempotency
from services.api.addresses import batch_address, stream_address, web_address
from services.api.body import ApiRequest, JsonBody, json_body
from services.api.outlooks import expected
from services.api.plain import read_plain
from services.api.replies import CreatedBatch, created
from services.api.resources import Shared
from services.api.submission import Submission, read_submission, refuse_missing_uploads, still_ahead
from shared import queries
from shared.auth import issue_report_token, issue_ticket
from shared.commit import commit
from shared.creation import Schedule, create_batch, creation_frame
from shared.errors import Conflict, FieldError, NotFound
from shared.events import Batch, Job
from shared.jobs import FINAL_BATCH, BatchStatus, JobStatus
from shared.kinds.external import EXTERNAL
from shared.rows import batch_of, job_of
from shared.succession import may_follow, settle
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
    key = idempotency.read_key(request, json)
    if key is not None:
        with resources.engine.connect() as connection:
            if (batch_id := idempotency.find(connection, key)) is not None:
                return _replayed(request, resources, connection, batch_id)
    submission = read_plain(json, settings) or read_submission(json, settings)
    if not submission.uploads and submission.after is None:
        refuse_missing_uploads(submission, set())  # what is wrong by itself needs no database
    with resources.engine.connect() as connection:
        batch_id = uuid7()
        if key is not None and (twin := idempotency.take(connection, key, batch_id)) is not None:
            return _replayed(request, resources, connection, twin)
        uploads = {upload for _, upload in submission.uploads}
        before = _predecessor(connection, owner, submission)
        refuse_missing_uploads(submission, use_uploads(connection, owner, uploads))
        kind, fields = submission.checked()
        schedule = Schedule(
            run_after=still_ahead(fields.run_after),
            after=fields.after,
            after_any=fields.after_any,
            held=fields.after is not None and not may_follow(before, after_any=fields.after_any),
            expires_at=fields.expires_at,
        )
        row = create_batch(
            connection,
            kind,
            submission.jobs,
            owner=owner,
            title=fields.title,
            priority=fields.priority,
            concurrency=fields.concurrency,
            metadata=fields.metadata,
            uploads=uploads,
            batch_id=batch_id,
            schedule=schedule,
            still_open=fields.open,
        )
        if schedule.held and before in FINAL_BATCH:
            settle(connection, batch_id)
            row = connection.execute(queries.LOCK_BATCH, {"id": batch_id}).one()  # as it is now
        commit(connection, resources.publisher, batch_id, creation_frame(row))
    resources.metrics.created(kind.name, len(submission.jobs), batches=1)
    resources.call_workers(kind.queue, len(submission.jobs))
    return _reply(request, resources, batch_of(row), HTTPStatus.CREATED)


@get("/", sync_to_thread=True)
def batches(request: ApiRequest, resources: Shared) -> Page[Batch]:
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
        shown = [batch_of(row) for row in rows[: query.limit]]
        found = expected(connection, resources.premises, shown)
    more = encode_cursor(place, rows[query.limit - 1].id) if len(rows) > query.limit else None
    return Page(found, more)


@get("/{batch_id:uuid}", reporter_opens=True, sync_to_thread=True)
def batch(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID]) -> Batch:
    read_query(request, NoParameters)
    with resources.engine.connect() as connection:
        found = read_batch(connection, request.auth.owner, batch_id)
        return expected(connection, resources.premises, [found])[0]


@get("/{batch_id:uuid}/jobs", reporter_opens=True, sync_to_thread=True)
def jobs(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID]) -> Page[Job]:
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


def read_batch(connection: Connection, owner: str, batch_id: UUID) -> Batch:
    """Raises NotFound, also for somebody else's."""
    row = connection.execute(queries.BATCH, {"id": batch_id, "owner": owner}).one_or_none()
    if row is None:
        raise NotFound
    return batch_of(row)


def _replayed(request: ApiRequest, resources: Shared, connection: Connection, batch_id: UUID) -> Response[CreatedBatch]:
    try:
        batch = read_batch(connection, request.auth.owner, batch_id)
    except NotFound:
        raise Conflict("the batch that this request made has been deleted") from None
    return _reply(request, resources, batch, HTTPStatus.OK)


def _reply(request: ApiRequest, resources: Shared, batch: Batch, status: HTTPStatus) -> Response[CreatedBatch]:
    settings, batch_id = resources.settings, UUID(batch.batch_id)
    ticket, _ = issue_ticket(settings, request.auth, batch_id)
    reports = batch.kind == EXTERNAL.name
    reply = created(
        batch,
        stream_address(settings, batch_id, ticket),
        web_address(settings, batch_id, ticket),
        issue_report_token(settings, request.auth.owner, batch_id)[0] if reports else UNSET,
    )
    return Response(reply, status_code=status, headers={"Location": batch_address(settings, batch_id)})


def _predecessor(connection: Connection, owner: str, submission: Submission) -> BatchStatus | None:
    """The state of the batch that this one is to follow. Adds to what is wrong if there is none of the owner's."""
    if submission.after is None:
        return None
    row = connection.execute(queries.PREDECESSOR, {"id": submission.after}).one_or_none()
    if row is None or row.owner != owner:
        submission.errors.append(FieldError("after", "there is no such batch"))
        return None
    return BatchStatus(row.status)


def use_uploads(connection: Connection, owner: str, uploads: set[UUID]) -> set[UUID]:
    """Those that exist and are the owner's: they no longer expire, once the batch is stored."""
    if not uploads:
        return set()
    return set(connection.execute(queries.USE_UPLOADS, {"ids": sorted(uploads), "owner": owner}).scalars())


ROUTES = Router("/batches", route_handlers=[create, batches, batch, jobs])
