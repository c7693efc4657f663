"""What happened to a batch and its jobs, oldest first."""

from typing import Annotated
from uuid import UUID

from litestar import get
from litestar.params import FromPath
from msgspec import Meta

from services.api.batches import read_batch
from services.api.body import ApiRequest
from services.api.replies import Transition
from services.api.resources import Shared
from shared import queries
from shared.events import stamp
from shared.web.parameters import Page, Paging, decode_cursor, encode_cursor, read_query

Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


@get("/batches/{batch_id:uuid}/timeline", sync_to_thread=True)
def timeline(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID]) -> Page[Transition]:
    query = read_query(request, Paging)
    place = f"timeline:{batch_id}"
    parameters = {
        "batch_id": batch_id,
        "after": 0 if query.cursor is None else decode_cursor(place, query.cursor, Number),
        "limit": query.limit + 1,
    }
    with resources.engine.connect() as connection:
        read_batch(connection, request.auth.owner, batch_id)
        rows = connection.execute(queries.TIMELINE, parameters).all()
    shown = rows[: query.limit]
    more = encode_cursor(place, shown[-1].id) if len(rows) > query.limit else None
    items = [
        Transition(
            stamp(row.at),
            None if row.job_id is None else str(row.job_id),
            row.old_status,
            row.new_status,
            row.attempt,
            row.reason,
        )
        for row in shown
    ]
    return Page(items, more)
