"""`headway epoch`"""

import os

import typer

from infra.cli.errors import CliError

epoch = typer.Typer(no_args_is_help=True, help="The epoch of the database: see `headway epoch rotate --help`.")


@epoch.callback()
def _epoch() -> None:
    """So that `rotate` has a name of its own, although it is the only one."""


@epoch.command()
def rotate() -> None:
    """Begin a new epoch. Needed after every restore of the database, before workers run again.

    A restored database has gone back to versions that readers have seen already with other contents. In a new epoch
    all of them are told to forget what they have, and get a snapshot. The database is DATABASE_URL, or the one that
    `headway run` started here.
    """
    import sqlalchemy as sa  # noqa: PLC0415

    from infra.home import home_of_process  # noqa: PLC0415
    from shared import queries  # noqa: PLC0415
    from shared.database import make_engine  # noqa: PLC0415

    running = home_of_process().running()
    url = os.environ.get("DATABASE_URL") or (running.database_url if running else None)
    if not url:
        raise CliError("DATABASE_URL is not set, and nothing runs here.")
    try:
        # in the way that suits a pooler: there may be one, and PostgreSQL itself takes it as well
        engine = make_engine(url, pool_size=1, application="headway epoch", pooler="transaction")
    except ValueError as error:
        raise CliError(f"The database cannot be used: {error}") from None
    try:
        with engine.begin() as connection:
            before = connection.execute(queries.EPOCH).scalar_one()
            changed = connection.execute(queries.ROTATE_EPOCH).rowcount
            after = connection.execute(queries.EPOCH).scalar_one()
        engine.dispose()
    except sa.exc.SQLAlchemyError as error:
        why = getattr(error, "orig", None) or type(error).__name__  # not the address, which may hold a password
        raise CliError(f"The database cannot be used: {why}") from None
    if changed != 1:
        raise CliError("The database holds no installation; `headway migrate` makes one.")
    print(f"The epoch was {before} and is {after}.")
