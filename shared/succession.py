"""A batch that waits for another one: what becomes of it when that one has ended."""

from uuid import UUID

from sqlalchemy import Connection

from shared import queries
from shared.changes import Change
from shared.channels import Frame
from shared.jobs import FINAL_BATCH, BatchStatus

FAILED = "predecessor_failed"
"""The reason for which it is cancelled otherwise."""


def may_follow(status: str | None, *, after_any: bool) -> bool:
    """Whether it may begin. `status`: of the other one; None: it has been deleted, and nobody knows how it ended."""
    if status is not None and status not in FINAL_BATCH:
        return False
    return after_any or status == BatchStatus.COMPLETED


def settle(connection: Connection, batch_id: UUID) -> Frame | None:
    """Lets the batch begin, or cancels it, if the one that it waits for has ended; what `commit` is to publish.

    The other one is only read, under this one's lock: whoever looks again a moment later misses nothing. Raises
    NoSuchBatch.
    """
    change = Change(connection, batch_id)
    batch = change.batch
    if not batch.held or batch.status in FINAL_BATCH or batch.cancel_requested:
        return None
    other = connection.execute(queries.PREDECESSOR, {"id": batch.after_batch}).one_or_none()
    status = None if other is None else BatchStatus(other.status)
    if may_follow(status, after_any=batch.after_any):
        change.let_begin()
    elif status is None or status in FINAL_BATCH:
        ended = "has been deleted" if status is None else f"ended {status}"
        change.give_up_waiting(FAILED, f"the batch {batch.after_batch}, which it was to follow, {ended}")
    return change.close()
