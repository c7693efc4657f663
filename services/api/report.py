"""Progress from programs that are not our workers."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from litestar import Router, post
from litestar.di import Provide
from litestar.params import FromPath
from sqlalchemy import Connection, Row

from services.api.batches import read_batch
from services.api.body import ApiRequest, Empty, JsonBody, json_body, no_body
from services.api.replies import Reported, ReportToken
from services.api.report_fields import Reports, StartReport, read_reports
from services.api.report_telling import Telling
from services.api.resources import Shared
from shared import queries
from shared.auth import Claims, issue_report_token
from shared.changes import Change, NoSuchBatch
from shared.commit import commit
from shared.errors import Conflict, NotFound
from shared.events import Failure, stamp
from shared.job_updates import JobUpdate, NewLine
from shared.jobs import FINAL_BATCH, FINAL_JOB, JobStatus
from shared.kinds.external import EXTERNAL
from shared.settings import Settings
from shared.web.parameters import NoParameters, read_query

_SUPERSEDED = Failure("superseded", "another run took over")


@post(
    "/jobs/{job_id:uuid}/report",
    status_code=200,
    scope_needed="report",
    reporter_opens=True,
    dependencies={"json": Provide(json_body)},
    sync_to_thread=True,
)
def report(request: ApiRequest, resources: Shared, job_id: FromPath[UUID], json: JsonBody) -> Reported:
    """One transaction and one version, however many reports."""
    read_query(request, NoParameters)
    said = read_reports(json, resources.settings)
    with resources.engine.connect() as connection:
        batch_id = _find(connection, request.auth, job_id).batch_id  # a stranger locks nothing
        try:
            change = Change(connection, batch_id)
        except NoSuchBatch:  # deleted since it was read
            raise NotFound from None
        # asked again, now that nobody else can change it
        _tell(connection, change, _find(connection, request.auth, job_id), said, resources.settings)
        frame = change.close()
        job = _find(connection, request.auth, job_id)
        commit(connection, resources.publisher, batch_id, frame)
    return Reported(
        job_id=str(job_id),
        batch_id=str(batch_id),
        run=str(said.run),
        sequence=job.reported,
        status=JobStatus(job.status),
        attempt=job.attempt,
        cancel_requested=job.cancel_requested,
        paused=job.paused,
    )


@post("/batches/{batch_id:uuid}/report-tokens", dependencies={"empty": Provide(no_body)}, sync_to_thread=True)
def report_token(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID], empty: Empty) -> ReportToken:  # noqa: ARG001
    read_query(request, NoParameters)
    owner = request.auth.owner
    with resources.engine.connect() as connection:
        batch = read_batch(connection, owner, batch_id)
    if batch.kind != EXTERNAL.name:
        raise Conflict(f"the batch is of the kind {batch.kind}: nobody reports its jobs")
    if batch.status in FINAL_BATCH:
        raise Conflict(f"the batch is {batch.status} already")
    token, expires = issue_report_token(resources.settings, owner, batch_id)
    return ReportToken(token, stamp(expires))


def _find(connection: Connection, claims: Claims, job_id: UUID) -> Row[Any]:
    """Raises NotFound, also for a job of another batch than the claims are good for, and Conflict for a worker's."""
    job = connection.execute(queries.REPORTED_JOB, {"id": job_id, "owner": claims.owner}).one_or_none()
    if job is None or not claims.may_see(job.batch_id):
        raise NotFound
    if job.kind != EXTERNAL.name:
        raise Conflict(f"the job is of the kind {job.kind}: nobody reports it")
    return job


def _tell(connection: Connection, change: Change, job: Row[Any], said: Reports, settings: Settings) -> None:
    """Raises Conflict for new reports of a run that does not have the job."""
    known = job.reported if job.reported_run == said.run else 0
    new = [report for report in said.reports if report.sequence > known]
    if not new:
        return
    if JobStatus(job.status) in FINAL_JOB:
        raise Conflict(f"the job is {job.status} already")
    attempt: Any = job
    if job.lease_token != said.run:
        attempt = _begin(connection, change, job, said.run, new[0])
    telling = Telling(attempt, said.run, settings, datetime.now(UTC))
    for one in new:
        telling.take(one)
    telling.end_late()
    parameters = {"id": job.id, "run": said.run, "sequence": new[-1].sequence, "silence": job.silence}
    connection.execute(queries.NOTE_REPORTS, parameters)
    if telling.changed:
        change.update([telling.update])
        change.add_lines(telling.lines)


def _begin(connection: Connection, change: Change, job: Row[Any], run: UUID, first: Any) -> Row[Any]:
    """The run's attempt begins, after the end of another's if there is one. The job as it is then."""
    running = JobStatus(job.status) is JobStatus.PROCESSING
    if not isinstance(first, StartReport):
        raise Conflict("another run has this job" if running else "this run has not started, or its attempt is over")
    if running:
        if not first.take_over:
            raise Conflict("another run has this job")
        if job.cancel_requested:
            raise Conflict("the job is being cancelled")
        _supersede(change, job)
    connection.execute(queries.TAKE_FOR_RUN, {"id": job.id, "run": run})
    (started,) = change.start([job.id], run, job.silence)
    return started


def _supersede(change: Change, job: Row[Any]) -> None:
    """The attempt of the run that has the job fails. Whoever asked for that begins another, however many there were."""
    number = job.last_line + 1
    update = JobUpdate(
        id=job.id,
        token=job.lease_token,
        status=JobStatus.QUEUED,
        error=_SUPERSEDED,
        counts=True,
        last_line=number,
        reason=_SUPERSEDED.code,
    )
    change.update([update])
    text = f"attempt {job.attempt} failed: {_SUPERSEDED.message}"
    change.add_lines([NewLine(job.id, job.attempt, number, datetime.now(UTC), "error", text)])


ROUTES = Router("/", route_handlers=[report, report_token])
