"""Which schema this code needs, and which one a database has."""

from sqlalchemy import Connection

from shared import queries

REVISION = "0005"
"""The migration without which the statements of this code fail: the newest that it came with."""


def revision_of(connection: Connection) -> str | None:
    """The migration that the database is at; None: there never was one."""
    if not connection.execute(queries.MIGRATED).scalar_one():
        return None
    revision: str | None = connection.execute(queries.REVISION).scalar_one_or_none()
    return revision


def is_behind(revision: str | None) -> bool:
    """Whether it has to be migrated first. One that is ahead is right: migrations only add what older code ignores."""
    return revision is None or revision < REVISION


def ask(connection: Connection) -> str | None:
    """The revision, of a server that answers as this code needs it; raises what SQLAlchemy does of any other."""
    revision = revision_of(connection)
    if not is_behind(revision):
        connection.execute(queries.EPOCH)
    return revision
