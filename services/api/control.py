"""What is done to batches and jobs that are there: pause, resume, cancel, retry, delete."""

from collections.abc import Callable
from uuid import UUID

from litestar import Router, delete, post
from litestar.di import Provide
from litestar.params import FromPath
from sqlalchemy import Connection

from services.api.batches import read_batch
from services.api.body import ApiRequest, Empty, no_body
from services.api.jobs import read_job
from services.api.replies import JobDetail
from services.api.resources import DELETION, Resources, Shared
from shared.changes import Change, NoSuchBatch, Unrunnable
from shared.channels import Frame
from shared.commit import commit
from shared.database import longer
from shared.deletion import Unfinished, delete_batch
from shared.errors import Conflict, NotFound
from shared.events import Batch
from shared.jobs import FINAL_BATCH, FINAL_JOB, BatchStatus, JobStatus
from shared.kinds import KINDS
from shared.web.parameters import NoParameters, read_query

_NO_BODY = {"empty": Provide(no_body)}


@post("/batches/{batch_id:uuid}/cancel", status_code=202, dependencies=_NO_BODY, sync_to_thread=True)
def cancel(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID], empty: Empty) -> Batch:  # noqa: ARG001
    def change(batch: Change) -> None:
        status = BatchStatus(batch.batch.status)
        if status in FINAL_BATCH and status is not BatchStatus.CANCELLED:
            raise Conflict(f"the batch is {status} already")
        if status is not BatchStatus.CANCELLED and not batch.batch.cancel_requested:
            batch.cancel()

    return _change_batch(request, resources, batch_id, change)


@post("/batches/{batch_id:uuid}/close", status_code=202, dependencies=_NO_BODY, sync_to_thread=True)
def close(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID], empty: Empty) -> Batch:  # noqa: ARG001
    def change(batch: Change) -> None:
        refuse_cancelled(batch)
        if batch.batch.open:
            batch.end_appending()

    return _change_batch(request, resources, batch_id, change)


@post("/batches/{batch_id:uuid}/pause", status_code=202, dependencies=_NO_BODY, sync_to_thread=True)
def pause(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID], empty: Empty) -> Batch:  # noqa: ARG001
    def change(batch: Change) -> None:
        _refuse_ending(batch)
        if not batch.batch.paused:
            batch.pause()

    return _change_batch(request, resources, batch_id, change)


@post("/batches/{batch_id:uuid}/resume", status_code=202, dependencies=_NO_BODY, sync_to_thread=True)
def resume(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID], empty: Empty) -> Batch:  # noqa: ARG001
    def change(batch: Change) -> None:
        _refuse_ending(batch)
        if batch.batch.paused:
            batch.resume()

    return _change_batch(request, resources, batch_id, change)


@post("/batches/{batch_id:uuid}/retry-failed", status_code=202, dependencies=_NO_BODY, sync_to_thread=True)
def retry_failed(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID], empty: Empty) -> Batch:  # noqa: ARG001
    def change(batch: Change) -> None:
        _refuse_cancelling(batch)
        if not batch.retry_failed():
            raise Conflict("no job of the batch has failed")

    return _change_batch(request, resources, batch_id, change)


# one transaction deletes everything, so what it answers is done
@delete("/batches/{batch_id:uuid}", dependencies=_NO_BODY, sync_to_thread=True)
def remove(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID], empty: Empty) -> None:  # noqa: ARG001
    read_query(request, NoParameters)
    with resources.engine.connect() as connection:
        read_batch(connection, request.auth.owner, batch_id)
        try:
            with longer(connection, DELETION):
                frame = delete_batch(connection, batch_id, upload_ttl=resources.settings.upload_ttl)
        except NoSuchBatch:
            raise NotFound from None
        except Unfinished as error:
            raise Conflict(f"the batch is {error}; cancel it first") from None
        commit(connection, resources.publisher, batch_id, frame)


@post("/jobs/{job_id:uuid}/cancel", status_code=202, dependencies=_NO_BODY, sync_to_thread=True)
def cancel_job(request: ApiRequest, resources: Shared, job_id: FromPath[UUID], empty: Empty) -> JobDetail:  # noqa: ARG001
    def change(batch: Change, status: JobStatus) -> None:
        if status in FINAL_JOB and status is not JobStatus.CANCELLED:
            raise Conflict(f"the job is {status} already")
        batch.cancel_job(job_id)

    return _change_job(request, resources, job_id, change)


@post("/jobs/{job_id:uuid}/retry", status_code=202, dependencies=_NO_BODY, sync_to_thread=True)
def retry_job(request: ApiRequest, resources: Shared, job_id: FromPath[UUID], empty: Empty) -> JobDetail:  # noqa: ARG001
    def change(batch: Change, status: JobStatus) -> None:
        _refuse_cancelling(batch)
        if not batch.retry_job(job_id):
            raise Conflict(f"the job is {status}; only what failed or was cancelled can be retried")

    return _change_job(request, resources, job_id, change)


def _change_batch(request: ApiRequest, resources: Resources, batch_id: UUID, change: Callable[[Change], None]) -> Batch:
    read_query(request, NoParameters)
    owner = request.auth.owner
    with resources.engine.connect() as connection:
        read_batch(connection, owner, batch_id)  # a stranger locks nothing
        batch, frame = _changed(connection, batch_id, change)
        reply = read_batch(connection, owner, batch_id)
        commit(connection, resources.publisher, batch_id, frame)
    if frame is not None:
        call_workers(resources, batch)
    return reply


def _change_job(
    request: ApiRequest, resources: Resources, job_id: UUID, change: Callable[[Change, JobStatus], None]
) -> JobDetail:
    read_query(request, NoParameters)
    owner = request.auth.owner
    with resources.engine.connect() as connection:
        batch_id, _ = read_job(connection, owner, job_id)  # a stranger locks nothing

        def locked(batch: Change) -> None:
            # asked again, now that nobody else can change it
            _, job = read_job(connection, owner, job_id)
            change(batch, job.status)

        batch, frame = _changed(connection, batch_id, locked)
        _, reply = read_job(connection, owner, job_id)
        commit(connection, resources.publisher, batch_id, frame)
    if frame is not None:
        call_workers(resources, batch)
    return reply


def _changed(connection: Connection, batch_id: UUID, change: Callable[[Change], None]) -> tuple[Change, Frame | None]:
    try:
        batch = Change(connection, batch_id)
        change(batch)
        return batch, batch.close()
    except NoSuchBatch:  # deleted since it was read
        raise NotFound from None
    except Unrunnable as error:
        raise Conflict(f"jobs of the kind {error} cannot be run here any more") from None


def call_workers(resources: Resources, batch: Change) -> None:
    """After the commit, if there is something for them to do."""
    kind = KINDS.get(batch.batch.kind)
    if kind is not None and batch.startable:
        resources.call_workers(kind.queue, batch.startable)


def _refuse_ending(batch: Change) -> None:
    status = BatchStatus(batch.batch.status)
    if status in FINAL_BATCH:
        raise Conflict(f"the batch is {status} already")
    _refuse_cancelling(batch)


def refuse_cancelled(batch: Change) -> None:
    _refuse_cancelling(batch)
    if batch.batch.status == BatchStatus.CANCELLED:
        raise Conflict("the batch is CANCELLED")


def _refuse_cancelling(batch: Change) -> None:
    if batch.batch.cancel_requested and BatchStatus(batch.batch.status) not in FINAL_BATCH:
        raise Conflict("the batch is being cancelled")


ROUTES = Router("/", route_handlers=[cancel, close, pause, resume, retry_failed, remove, cancel_job, retry_job])
