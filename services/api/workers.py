"""The workers of this installation: which there are, and asking one to leave. For those who run it, not for owners."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from litestar import Router, get, post
from litestar.di import Provide
from litestar.params import FromPath
from sqlalchemy import Connection

from services.api.body import ApiRequest, Empty, no_body
from services.api.replies import Worker, WorkerJob
from services.api.resources import Shared
from shared import queries
from shared.auth import ADMIN
from shared.errors import NotFound
from shared.events import stamp
from shared.web.parameters import NoParameters, Page, Paging, decode_cursor, encode_cursor, read_query

_PLACE = "workers"


@get("/", scope_needed=ADMIN, sync_to_thread=True)
def workers(request: ApiRequest, resources: Shared) -> Page[Worker]:
    """Those that have been there longest first."""
    query = read_query(request, Paging)
    parameters = {
        "after": None if query.cursor is None else decode_cursor(_PLACE, query.cursor, UUID),
        "limit": query.limit + 1,
        "lease": resources.settings.lease,
    }
    with resources.engine.connect() as connection:
        rows = connection.execute(queries.WORKERS, parameters).all()
        shown = rows[: query.limit]
        items = _read(connection, shown)
    return Page(items, encode_cursor(_PLACE, shown[-1].id) if len(rows) > query.limit else None)


@post(
    "/{worker_id:uuid}/drain",
    scope_needed=ADMIN,
    status_code=202,
    dependencies={"empty": Provide(no_body)},
    sync_to_thread=True,
)
def drain(request: ApiRequest, resources: Shared, worker_id: FromPath[UUID], empty: Empty) -> Worker:  # noqa: ARG001
    """It hears of it with its next beat. Again is no harm."""
    read_query(request, NoParameters)
    parameters = {"id": worker_id, "lease": resources.settings.lease}
    with resources.engine.begin() as connection:
        row = connection.execute(queries.DRAIN_WORKER, parameters).one_or_none()
        if row is None:
            raise NotFound
        (worker,) = _read(connection, [row])
    return worker


def _read(connection: Connection, rows: Sequence[Any]) -> list[Worker]:
    """With what they run now: a job that has ended since its worker was last heard of is left out."""
    ids = [job_id for row in rows for job_id in row.job_ids]
    found = connection.execute(queries.RUNNING_JOBS, {"ids": ids}).all() if ids else []
    jobs = {
        job.id: WorkerJob(str(job.id), str(job.batch_id), job.kind, job.attempt, stamp(job.started_at)) for job in found
    }
    return [
        Worker(
            id=str(row.id),
            queue=row.queue,
            kinds=row.kinds,
            host=row.host,
            pid=row.pid,
            version=row.version,
            threads=row.threads,
            running=row.running,
            abandoned=row.abandoned,
            memory=row.memory,
            status="lost" if row.lost else "draining" if row.leaving else "working",
            jobs=[jobs[job_id] for job_id in row.job_ids if job_id in jobs],
            started_at=stamp(row.started_at),
            seen_at=stamp(row.seen_at),
        )
        for row in rows
    ]


ROUTES = Router("/workers", route_handlers=[workers, drain])
