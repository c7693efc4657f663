"""Artifacts: the files that a job's handler gave, listed and downloaded."""

from collections.abc import AsyncIterator
from uuid import UUID

from litestar import Response, Router, get
from litestar.concurrency import sync_to_thread
from litestar.params import FromPath
from msgspec import Struct
from sqlalchemy import Engine, Row

from services.api.body import ApiRequest
from services.api.download import Download
from services.api.replies import JobArtifact
from services.api.resources import Resources, Shared
from shared import queries
from shared.errors import NotFound
from shared.events import stamp
from shared.files import PIECE
from shared.web.parameters import Page, Paging, decode_cursor, encode_cursor, read_query

Found = Row[tuple[UUID, UUID, str, int, str, int, object]]


class ArtifactsQuery(Paging, forbid_unknown_fields=True):
    ticket: str = ""


class DownloadQuery(Struct, forbid_unknown_fields=True):
    ticket: str = ""


@get("/{job_id:uuid}/artifacts", ticket_opens=True, sync_to_thread=True)
def artifacts(request: ApiRequest, resources: Shared, job_id: FromPath[UUID]) -> Page[JobArtifact]:
    """Oldest first."""
    query = read_query(request, ArtifactsQuery)
    place = f"artifacts:{job_id}"
    after = UUID(int=0) if query.cursor is None else decode_cursor(place, query.cursor, UUID)
    rest = [row for row in _artifacts(request, resources.engine, job_id) if row.id > after]
    shown = rest[: query.limit]
    items = [
        JobArtifact(
            str(row.id), row.name, row.size, row.content_type, attempt=row.attempt, created_at=stamp(row.created_at)
        )
        for row in shown
    ]
    return Page(items, encode_cursor(place, shown[-1].id) if len(rest) > len(shown) else None)


@get("/{job_id:uuid}/artifacts/{artifact_id:uuid}", ticket_opens=True)
async def artifact(
    request: ApiRequest, resources: Shared, job_id: FromPath[UUID], artifact_id: FromPath[UUID]
) -> Response[bytes]:
    read_query(request, DownloadQuery)
    rows = await sync_to_thread(_artifacts, request, resources.engine, job_id)
    found = next((row for row in rows if row.id == artifact_id), None)
    if found is None:
        raise NotFound
    content = _pieces(resources, artifact_id, found.size)
    return Download(content, found.name, content_type=found.content_type, size=found.size)


def _artifacts(request: ApiRequest, engine: Engine, job_id: UUID) -> list[Found]:
    """Raises NotFound for a job that is not there, or somebody else's, or not of the ticket's batch."""
    with engine.connect() as connection:
        rows = connection.execute(queries.ARTIFACTS, {"job_id": job_id, "owner": request.auth.owner}).all()
    if not rows or not request.auth.may_see(rows[0].batch_id):
        raise NotFound
    return [row for row in rows if row.id is not None]


async def _pieces(resources: Resources, file_id: UUID, size: int) -> AsyncIterator[bytes]:
    """Each is read for itself: between two of them nothing is held, however slow the client is. Raises NotFound where
    the file has gone meanwhile, or is not all there.
    """
    start = 0
    while start < size:
        try:
            piece = await resources.filing.do(resources.files.read, file_id, start, min(PIECE, size - start))
        except FileNotFoundError:
            raise NotFound from None
        if not piece:
            raise NotFound
        yield piece
        start += len(piece)


ROUTES = Router("/jobs", route_handlers=[artifacts, artifact])
