"""Brings a database to the newest migration. What a migration may do is in docs/operations.md, "Upgrading"."""

import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import DeadlockDetected, LockNotAvailable

from shared.database import connect_url

# Any number will do, as long as it is always the same one: two migrations at once wait for each other.
_LOCK = 4_823_117

_WAIT = "2s"
"""For each lock on a table: whoever else wants that table waits behind a migration that waits for it."""

_PAUSE = 1.0
"""Seconds in which those who waited get on with it, before the next attempt."""

PATIENCE = 300.0
"""Seconds after which a migration that always found a table in use is given up."""


class Busy(Exception):
    """A sentence: somebody held a table all the time."""


def migrate(
    database_url: str,
    revision: str = "head",
    *,
    patience: float = PATIENCE,
    waiting: Callable[[], None] = lambda: None,
) -> list[str]:
    """What was done: each migration's revision and what it is for. In one transaction, all or nothing; several at once
    wait for the first.

    A table that is in use for longer than a moment is waited for with nothing held, for `patience` seconds: `waiting`
    is called once. Raises Busy then.
    """
    engine = sa.create_engine(
        connect_url(database_url), poolclass=sa.NullPool, hide_parameters=True, connect_args={"prepare_threshold": None}
    )
    until, told = time.monotonic() + patience, False
    while True:
        try:
            return _migrate(engine, revision)
        except sa.exc.OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable | DeadlockDetected):
                raise
            if time.monotonic() > until:
                raise Busy(f"a table was in use for {patience:g} s: nothing is changed, try again") from None
        if not told:
            told = True
            waiting()
        time.sleep(_PAUSE)


def pending(database_url: str) -> list[str]:
    """The migrations that the database has not had, oldest first; as `migrate` names them."""
    # it is asked for again and again, of servers that may not be there yet
    arguments = {"connect_timeout": 5, "prepare_threshold": None}
    engine = sa.create_engine(
        connect_url(database_url), poolclass=sa.NullPool, hide_parameters=True, connect_args=arguments
    )
    with engine.connect() as connection:
        return _named(_revision(connection), "head")


def alembic_config() -> Config:
    """Alembic's own configuration, without its ini file."""
    config = Config()
    # `%` is interpolation to Alembic, and a checkout's path may hold one
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _migrate(engine: sa.Engine, revision: str) -> list[str]:
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_WAIT}'"))
        before = _revision(connection)
        if _ahead(before):
            return []
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        return _named(before, _revision(connection))


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _ahead(revision: str | None) -> bool:
    """A newer version has been here, whose migrations are nobody else's business."""
    newest = ScriptDirectory.from_config(alembic_config()).get_current_head()
    return revision is not None and newest is not None and revision > newest


def _named(before: str | None, after: str | None) -> list[str]:
    """Those between the two."""
    if after is None or _ahead(before):
        return []
    scripts = ScriptDirectory.from_config(alembic_config())
    between = list(scripts.iterate_revisions(after, before or "base"))
    return [f"{script.revision} {script.doc}" for script in reversed(between)]
