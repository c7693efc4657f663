"""Locks that somebody else holds in PostgreSQL, and how many wait for one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa


@contextmanager
def held(database_url: str, statement: str, **parameters: Any) -> Iterator[psycopg.Connection[Any]]:
    """What the statement locks, unless it is let go of before; not with our own engine, which is cut off when idle."""
    with psycopg.connect(database_url) as connection:
        connection.execute(statement, parameters)
        yield connection
        connection.rollback()


def waiting(engine: sa.Engine) -> int:
    """How many connections wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())
