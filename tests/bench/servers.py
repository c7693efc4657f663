"""The servers of a run, as durable as in production, and a fresh database and namespace for each measurement."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import LiteralString

import psycopg
import sqlalchemy as sa
from psycopg import sql

from infra.embedded.postgres import Postgres
from infra.embedded.valkey import Valkey
from infra.migrations.migrate import migrate
from shared.database import connect_url, make_engine
from shared.settings import Settings

_numbers = count(1)


class Servers:
    def __init__(self, directory: Path, postgres: Postgres, valkey: Valkey) -> None:
        self.directory = directory
        self.postgres = postgres
        self.valkey = valkey

    def settings(self) -> Settings:
        """Of an installation with a database and a namespace of its own; all else is as it comes."""
        name = f"bench_{next(_numbers)}"
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        plain = connect_url(self.postgres.url).set(drivername="postgresql", database=name)
        url = plain.render_as_string(hide_password=False)
        migrate(url)
        uploads = self.directory / name
        uploads.mkdir()
        return Settings(
            database_url=url,
            redis_url=self.valkey.url,
            namespace=f"{name}:",
            secret="a secret for measuring, of 32 bytes or more",  # noqa: S106  # it protects nothing
            ticket_key="a ticket key for measuring, of 32 bytes or more",
            uploads=uploads,
        )


class LoggingPostgres(Postgres):
    """Writes every statement to its log, with the name of the application that sent it. Too slow to time anything."""

    def _command(self) -> list[str | Path]:
        return [*super()._command(), "-c", "log_statement=all", "-c", "log_line_prefix=%a|"]

    def statements(self, application: str) -> int:
        """How many `application` has sent."""
        beginning = f"{application}|LOG:  "
        lines = self._log.read_text(errors="replace").splitlines()
        return sum(line.startswith((f"{beginning}statement: ", f"{beginning}execute ")) for line in lines)


@contextmanager
def servers(kind: type[Postgres] = Postgres) -> Iterator[Servers]:
    with tempfile.TemporaryDirectory(prefix="headway-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # the servers may have an account of their own
        postgres, valkey = kind(directory / "postgres"), Valkey(directory / "valkey")
        try:
            postgres.start()
            valkey.start()
            yield Servers(directory, postgres, valkey)
        finally:
            valkey.stop()
            postgres.stop()


@contextmanager
def engine(settings: Settings) -> Iterator[sa.Engine]:
    made = make_engine(settings.database_url, pool_size=3, application="bench")
    yield made
    made.dispose()


def execute(settings: Settings, statement: LiteralString) -> None:
    """What cannot stand in a transaction: VACUUM, CHECKPOINT."""
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL(statement))
