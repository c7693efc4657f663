"""More jobs for a batch that is open: for work whose size is not known when it begins."""

from http import HTTPStatus
from uuid import UUID

from litestar import Response, Router, post
from litestar.di import Provide
from litestar.params import FromPath

from services.api import idempotency
from services.api.batches import read_batch, use_uploads
from services.api.body import ApiRequest, JsonBody, json_body
from services.api.control import call_workers, refuse_cancelled
from services.api.plain import read_plain_jobs
from services.api.resources import Shared
from services.api.submission import MOST_JOBS, read_more_jobs, refuse_missing_uploads
from shared.changes import Change, NoSuchBatch
from shared.commit import commit
from shared.errors import Conflict, NotFound
from shared.events import Batch
from shared.kinds import KINDS
from shared.web.parameters import NoParameters, read_query


@post("/batches/{batch_id:uuid}/jobs", dependencies={"json": Provide(json_body)}, sync_to_thread=True)
def append(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID], json: JsonBody) -> Response[Batch]:
    """One bad job refuses all of them, as when a batch is created."""
    read_query(request, NoParameters)
    settings, owner = resources.settings, request.auth.owner
    key = idempotency.read_key(request, json, f"jobs of {batch_id}: ")
    with resources.engine.connect() as connection:
        batch = read_batch(connection, owner, batch_id)
        if key is not None and idempotency.find(connection, key) is not None:
            return Response(batch, status_code=HTTPStatus.OK)
    kind = KINDS.get(batch.kind)
    if kind is None:
        raise Conflict(f"jobs of the kind {batch.kind} cannot be run here any more")
    more = read_plain_jobs(json, kind, settings) or read_more_jobs(json, kind, settings)
    if not more.uploads:
        refuse_missing_uploads(more, set())  # what is wrong by itself needs no database
    with resources.engine.connect() as connection:
        if key is not None and idempotency.take(connection, key, batch_id) is not None:
            return Response(read_batch(connection, owner, batch_id), status_code=HTTPStatus.OK)
        try:
            change = Change(connection, batch_id)
        except NoSuchBatch:  # deleted since it was read
            raise NotFound from None
        _refuse_more(change, len(more.jobs))
        uploads = {upload for _, upload in more.uploads}
        refuse_missing_uploads(more, use_uploads(connection, owner, uploads))
        change.append(more.jobs, uploads)
        frame = change.close()
        reply = read_batch(connection, owner, batch_id)
        commit(connection, resources.publisher, batch_id, frame)
    resources.metrics.created(kind.name, len(more.jobs))
    call_workers(resources, change)
    return Response(reply, status_code=HTTPStatus.CREATED)


def _refuse_more(change: Change, jobs: int) -> None:
    refuse_cancelled(change)
    if not change.batch.open:
        raise Conflict("the batch is not open to more jobs")
    if change.batch.total + jobs > MOST_JOBS:
        raise Conflict(f"a batch has {MOST_JOBS:,} jobs at most, and this one has {change.batch.total:,} already")


ROUTES = Router("/", route_handlers=[append])
