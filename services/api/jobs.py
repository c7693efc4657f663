"""One job, with all that is known of it."""

from uuid import UUID

from litestar import Router, get
from litestar.params import FromPath
from sqlalchemy import Connection

from services.api.attempts import attempts_of
from services.api.body import ApiRequest
from services.api.replies import JobDetail, detailed
from services.api.resources import Shared
from shared import queries
from shared.errors import NotFound
from shared.kinds import KINDS
from shared.kinds.secret import redact
from shared.rows import job_of
from shared.web.parameters import NoParameters, read_query


@get("/{job_id:uuid}", reporter_opens=True, sync_to_thread=True)
def job(request: ApiRequest, resources: Shared, job_id: FromPath[UUID]) -> JobDetail:
    read_query(request, NoParameters)
    # one snapshot: the job and its attempts tell the same story
    with resources.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        batch_id, found = read_job(connection, request.auth.owner, job_id)
    if not request.auth.may_see(batch_id):
        raise NotFound
    return found


def read_job(connection: Connection, owner: str, job_id: UUID) -> tuple[UUID, JobDetail]:
    """The job's batch, and the job. Raises NotFound, also for somebody else's."""
    row = connection.execute(queries.JOB, {"id": job_id, "owner": owner}).one_or_none()
    if row is None:
        raise NotFound
    transitions = connection.execute(queries.JOB_TRANSITIONS, {"job_id": job_id}).all()
    kind = KINDS.get(row.kind)
    params = redact(row.params, None if kind is None else kind.params)
    return row.batch_id, detailed(job_of(row), params, row.result, attempts_of(transitions))


ROUTES = Router("/jobs", route_handlers=[job])
