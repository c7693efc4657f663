"""What is remembered of each kind: how long its jobs took, for the estimates of its next batches."""

from sqlalchemy import Connection

from shared import queries
from shared.pace import History, Pace, dump, load_history, remember


def history_of(connection: Connection, kind: str) -> History | None:
    return load_history(connection.execute(queries.KIND_PACE, {"kind": kind}).scalar_one_or_none())


def remember_batch(connection: Connection, kind: str, pace: Pace) -> None:
    """What a batch that ends has shown of its kind, unless another of the kind ends in this moment."""
    row = connection.execute(queries.PACE_TO_MOVE, {"kind": kind}).one_or_none()
    history = None if row is None else remember(load_history(row.pace), pace)
    if history is not None:
        connection.execute(queries.MOVE_PACE, {"kind": kind, "pace": dump(history)})
