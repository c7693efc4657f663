"""Brings a database to the newest migration."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from shared.database import connect_url

# Any number will do, as long as it is always the same one: two migrations at once wait for each other.
_LOCK = 4_823_117


def migrate(database_url: str, revision: str = "head") -> None:
    """In one transaction, all or nothing. Several at once wait for the first."""
    engine = sa.create_engine(connect_url(database_url), poolclass=sa.NullPool, hide_parameters=True)
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def alembic_config() -> Config:
    """Alembic's own configuration, without its ini file."""
    config = Config()
    # `%` is interpolation to Alembic, and a checkout's path may hold one
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
