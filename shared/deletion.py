"""Deleting a finished batch, with all that hangs on it."""

from uuid import UUID

from sqlalchemy import Connection

from shared import queries
from shared.changes import NoSuchBatch
from shared.channels import FORMAT, Frame
from shared.jobs import FINAL_BATCH


class Unfinished(Exception):
    """The argument is the batch's status."""


def delete_batch(connection: Connection, batch_id: UUID, *, upload_ttl: float) -> Frame:
    """To be followed by `commit` with the frame, which makes those who watch look and find nothing.

    Uploads that no other batch names are kept for `upload_ttl` seconds, as if they were new; artifacts go with the
    next look of housekeeping. Raises NoSuchBatch and Unfinished.
    """
    batch = connection.execute(queries.LOCK_BATCH, {"id": batch_id}).one_or_none()
    if batch is None:
        raise NoSuchBatch(f"there is no batch {batch_id}")
    if batch.status not in FINAL_BATCH:
        raise Unfinished(batch.status)
    parameters = {"batch_id": batch_id}
    connection.execute(queries.LOCK_UPLOADS_OF, parameters)
    connection.execute(queries.LET_GO_UPLOADS, parameters | {"ttl": upload_ttl})
    for statement in (
        queries.LET_GO_ARTIFACTS,
        queries.DELETE_LINES,
        queries.DELETE_TRANSITIONS,
        queries.DELETE_JOBS,
        queries.DELETE_BATCH,
    ):
        connection.execute(statement, parameters)
    return Frame(FORMAT, batch.epoch, batch.version, batch.version + 1, owner=batch.owner, deleted=True)
