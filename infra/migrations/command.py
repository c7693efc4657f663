"""What `headway migrate` and `python -m infra.migrations` do, and say."""

import os
import sys

import sqlalchemy as sa

from infra.migrations.migrate import Busy, migrate, pending

BEHIND = 1
"""The exit status of a check that found something to do."""


class CannotMigrate(Exception):
    """One sentence."""


def run(*, check: bool) -> int:
    """Brings the database of DATABASE_URL up to date, or says whether it is. The exit status; raises CannotMigrate."""
    url = os.environ.get("DATABASE_URL")
    if not url:
        raise CannotMigrate("DATABASE_URL is not set")
    try:
        return _check(url) if check else _migrate(url)
    except (sa.exc.SQLAlchemyError, ValueError) as error:
        raise CannotMigrate(f"DATABASE_URL cannot be used: {error}") from None
    except Busy as busy:
        raise CannotMigrate(str(busy)) from None


def _check(url: str) -> int:
    missing = pending(url)
    for name in missing:
        _say(f"missing: {name}")
    if not missing:
        _say("the database is up to date")
    return BEHIND if missing else 0


def _migrate(url: str) -> int:
    done = migrate(url, waiting=lambda: _say("a table is in use: waiting for it"))
    for name in done:
        _say(f"migrated: {name}")
    if not done:
        _say("the database is up to date: nothing to do")
    return 0


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
    sys.stdout.flush()
