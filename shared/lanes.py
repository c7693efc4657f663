"""A batch's lane: the row by which claims come to its jobs, there until the batch has ended."""

from typing import Any
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Connection, Row

from shared import queries


def add_lane(connection: Connection, batch: Row[Any], queue: str, *, held: bool) -> None:
    """The batch begins, or begins again. `held`: it waits for another one to end."""
    connection.execute(
        queries.ADD_LANE,
        {
            "batch_id": batch.id,
            "queue": queue,
            "owner": batch.owner,
            "kind": batch.kind,
            "priority": batch.priority,
            "concurrency": batch.concurrency,
            "paused": False,
            "run_after": batch.run_after,
            "after_batch": batch.after_batch if held else None,
            "expires_at": batch.expires_at,
        },
    )


class Lane(Struct):
    """Of the batch that a transaction is about to change."""

    connection: Connection
    batch_id: UUID
    wake: bool = False
    """Whether something became claimable, or room for it."""

    def pause(self, paused: bool) -> None:
        self.connection.execute(queries.PAUSE_LANE, {"batch_id": self.batch_id, "paused": paused})

    def let_go(self) -> None:
        """The batch that this one waited for keeps it no longer."""
        self.connection.execute(queries.LET_GO_LANE, {"batch_id": self.batch_id})
        self.wake = True

    def close(self) -> None:
        """There is nothing to claim any more."""
        self.connection.execute(queries.CLOSE_LANE, {"batch_id": self.batch_id})

    def leave(self) -> None:
        """The last write of a change, so that whoever claims meanwhile is held up as shortly as can be."""
        if self.wake:
            self.connection.execute(queries.WAKE_LANE, {"batch_id": self.batch_id})
