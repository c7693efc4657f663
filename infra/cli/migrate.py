"""`headway migrate`"""

from typing import Annotated

import typer

from infra.cli.errors import CliError


def migrate(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; the exit status is 1 if there is something to do.")
    ] = False,
) -> None:
    """Bring the database (DATABASE_URL) to the newest migration; several at once wait for the first."""
    from infra.migrations.command import CannotMigrate, run  # noqa: PLC0415

    try:
        raise typer.Exit(run(check=check))
    except CannotMigrate as error:
        raise CliError(str(error)) from None
