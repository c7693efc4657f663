"""Tickets: what an EventSource carries in place of a token."""

from uuid import UUID

from litestar import post
from litestar.di import Provide
from litestar.params import FromPath

from services.api.addresses import stream_address
from services.api.batches import read_batch
from services.api.body import ApiRequest, Empty, no_body
from services.api.replies import Ticket
from services.api.resources import Shared
from shared.auth import issue_ticket
from shared.events import stamp
from shared.web.parameters import NoParameters, read_query


# it changes nothing and lets nobody do more than read, so a token for reading is enough
@post(
    "/batches/{batch_id:uuid}/tickets",
    scope_needed="read",
    dependencies={"empty": Provide(no_body)},
    sync_to_thread=True,
)
def ticket(request: ApiRequest, resources: Shared, batch_id: FromPath[UUID], empty: Empty) -> Ticket:  # noqa: ARG001
    read_query(request, NoParameters)
    with resources.engine.connect() as connection:
        read_batch(connection, request.auth.owner, batch_id)
    text, expires = issue_ticket(resources.settings, request.auth, batch_id)
    return Ticket(text, stream_address(resources.settings, batch_id, text), stamp(expires))
