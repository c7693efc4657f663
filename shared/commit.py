"""Commit, and only then tell those who watch."""

from uuid import UUID

from sqlalchemy import Connection

from shared.channels import Frame, Publisher, uncertain


def commit(connection: Connection, publisher: Publisher, batch_id: UUID, frame: Frame | None) -> None:
    """Commits, closes the connection, then publishes.

    If nobody knows whether it was committed, those who watch are made to look.
    """
    try:
        connection.commit()
    except BaseException:
        frame = frame and uncertain(frame)
        raise
    finally:
        connection.close()  # others need it, and Redis may be slow
        if frame is not None:
            publisher.publish(batch_id, frame)
