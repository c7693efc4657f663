"""Engines: one place that knows how this system connects to PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import sqlalchemy as sa
from psycopg.abc import PQGen
from psycopg.errors import _WaitTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from shared.pooler import Pooler, explained, options_for, prepare

_ARGUMENTS: dict[str, Any] = {
    "connect_timeout": 5,
    # A server that vanished without a word is noticed in about ten seconds, not in two hours.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def connect_url(database_url: str) -> sa.URL:
    """`database_url` with psycopg 3 as the driver, whatever it says. Raises ValueError if it is no PostgreSQL URL."""
    try:
        url = sa.make_url(database_url)
    except (ValueError, sa.exc.ArgumentError):  # which may repeat a part of the password
        raise ValueError("expected postgresql://user:password@host:port/name") from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise ValueError("expected postgresql://…")
    return url.set(drivername="postgresql+psycopg")


class NoAnswer(psycopg.OperationalError):
    """A statement took longer than we wait: PostgreSQL stands still, or it is too much for it."""


class Impatient(psycopg.Connection[Any]):
    """Waits so many seconds for a statement. A server that stands still acknowledges all that it is sent, by its
    kernel, so nothing else would ever end the waiting; nor would a time-out of its own.
    """

    patience = float("inf")

    def wait(self, gen: PQGen[Any], *arguments: Any, **options: Any) -> Any:
        options.setdefault("timeout", self.patience)
        try:
            return super().wait(gen, *arguments, **options)
        except _WaitTimeout:
            self.pgconn.finish()  # whoever answers it later does so to nobody
            raise NoAnswer(f"no answer for {options['timeout']:g} s") from None


def make_engine(
    database_url: str, *, pool_size: int, application: str, patience: float | None = None, pooler: Pooler = "none"
) -> sa.Engine:
    """For api and worker. A connection is tried before it is handed out: PostgreSQL may have been restarted.

    `patience`: seconds after which a statement fails with an OperationalError whose `orig` is NoAnswer. What it was to
    do is rolled back, but for a commit: that may have come about.
    """
    engine = sa.create_engine(
        connect_url(database_url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        hide_parameters=True,  # an error would hold them, and end up in a log
        json_serializer=_dumps,
        json_deserializer=msgspec.json.decode,
        connect_args=_ARGUMENTS | options_for(pooler) | {"application_name": application},
    )
    kind = psycopg.Connection if patience is None else Impatient

    @sa.event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        with explained():
            connection = kind.connect(*arguments, **options)
        if isinstance(connection, Impatient) and patience is not None:
            connection.patience = patience
        return connection

    prepare(engine, pooler)
    return engine


@contextmanager
def longer(connection: sa.Connection, seconds: float) -> Iterator[None]:
    """Statements may take so long meanwhile, on an engine with `patience`."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, Impatient):
        raise TypeError("an engine without patience waits as long as it takes")
    before, driver.patience = driver.patience, seconds
    try:
        yield
    finally:
        driver.patience = before


@contextmanager
def autocommitting(connection: sa.Connection) -> Iterator[None]:
    """Each statement is a transaction of its own meanwhile: one round trip, not four. In no transaction, to begin with.

    The connection's own `begin` and `commit` are nothing to PostgreSQL then.
    """
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("this is for psycopg's connections")
    driver.autocommit = True
    try:
        yield
    finally:
        if not driver.closed:
            driver.autocommit = False


def make_async_engine(database_url: str, *, pool_size: int, application: str, pooler: Pooler = "none") -> AsyncEngine:
    """For stream: every transaction is REPEATABLE READ, READ ONLY, that is, one snapshot."""
    engine = create_async_engine(
        connect_url(database_url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        hide_parameters=True,
        json_deserializer=msgspec.json.decode,
        connect_args=_ARGUMENTS | options_for(pooler) | {"application_name": application},
        isolation_level="REPEATABLE READ",
        execution_options={"postgresql_readonly": True},
    )

    @sa.event.listens_for(engine.sync_engine, "do_connect")
    def connect(dialect: sa.Dialect, _record: object, arguments: list[Any], options: dict[str, Any]) -> Any:
        with explained():
            return dialect.connect(*arguments, **options)

    prepare(engine.sync_engine, pooler)
    return engine


def _dumps(value: object) -> str:
    return msgspec.json.encode(value).decode()
