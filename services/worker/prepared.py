"""Waiting for the database to be what this version needs: a worker that is older than its migration does no harm."""

from threading import Event

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from shared.outage import Outage
from shared.schema import REVISION, ask, is_behind

_PERIOD = 1.0
"""Seconds between two looks."""

log = structlog.get_logger(__name__)


def await_schema(engine: Engine, stop: Event) -> bool:
    """Until the database is migrated as far as this code needs; says once that it waits. False: `stop` was set."""
    postgresql, told = Outage("postgresql", "start"), False
    while not stop.is_set():
        try:
            with engine.connect() as connection:
                revision = ask(connection)
            postgresql.end()
            if not is_behind(revision):
                return True
            if not told:
                told = True
                log.warning("the database is behind: no job is started before it is migrated", needed=REVISION)
        except SQLAlchemyError as error:
            postgresql.begin(error)
        stop.wait(_PERIOD)
    return False
