"""PostgreSQL as it is when it is away, for one database."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


@contextmanager
def no_database(url: str) -> Iterator[None]:
    """Nobody can connect, and whoever is connected is thrown out."""
    name = url.rpartition("/")[2]
    with psycopg.connect(url.removesuffix(name) + "template1", autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
