"""Poolers: what is different where PgBouncer stands between here and PostgreSQL, and how one is noticed.

In its transaction mode each transaction may have another of PostgreSQL's connections, so nothing may be left in one.
See docs/operations.md.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any, Literal

import psycopg
import sqlalchemy as sa
import structlog

Pooler = Literal["none", "transaction"]
"""What stands between here and PostgreSQL: PgBouncer in transaction mode, or nothing."""

_IDLE = "5s"
"""A process that was frozen in the middle of a change must not hold its batch for ever."""

_BY_POOLER: dict[Pooler, dict[str, Any]] = {
    "none": {"options": f"-c idle_in_transaction_session_timeout={_IDLE}"},
    # it refuses `options`, so each transaction says that itself; and what is prepared would be left with somebody else
    "transaction": {"prepare_threshold": None},
}

_NO_POOLER = (
    "there is a pooler between here and PostgreSQL: set HEADWAY_POOLER=transaction, or take PostgreSQL's own address"
)
_REFUSED = "unsupported startup parameter"
"""Of what PgBouncer says to `options`."""

_told = Event()

log = structlog.get_logger(__name__)


class PoolerError(psycopg.OperationalError):
    """There is a pooler that the settings do not tell of."""


def options_for(pooler: Pooler) -> dict[str, Any]:
    """What psycopg is to connect with."""
    return _BY_POOLER[pooler]


@contextmanager
def explained() -> Iterator[None]:
    """Around connecting. Raises PoolerError where a pooler does not take what PostgreSQL does."""
    try:
        yield
    except psycopg.OperationalError as error:
        if _REFUSED in str(error):
            raise _pooler_found() from None
        raise


def prepare(engine: sa.Engine, pooler: Pooler) -> None:
    """An engine that has not connected yet."""
    if pooler == "transaction":
        _guard_transactions(engine)
    else:
        _look_for_pooler(engine)


def _guard_transactions(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        driver = connection.connection.driver_connection
        if driver is not None and not driver.autocommit:
            connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE}'")


def _look_for_pooler(engine: sa.Engine) -> None:
    """One that was told to ignore `options` would lose what is prepared, now and then; so at an engine's first
    connection it is made sure that they came through.
    """
    looked = Event()

    @sa.event.listens_for(engine, "connect")
    def look(connection: Any, _record: object) -> None:
        if looked.is_set():
            return
        cursor = connection.cursor()
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        (idle,) = cursor.fetchone()
        cursor.close()
        connection.rollback()
        if idle != _IDLE:
            raise _pooler_found()
        looked.set()


def _pooler_found() -> PoolerError:
    """Said once in a process: nothing else tells why PostgreSQL is away."""
    if not _told.is_set():
        _told.set()
        log.error(_NO_POOLER)
    return PoolerError(_NO_POOLER)
