"""`headway migrate`"""

import os

from infra.cli.errors import CliError


def migrate() -> None:
    """Bring the database (DATABASE_URL) to the newest migration; several at once wait for the first."""
    import sqlalchemy as sa  # noqa: PLC0415

    from infra.migrations.migrate import migrate as bring_up_to_date  # noqa: PLC0415

    url = os.environ.get("DATABASE_URL")
    if not url:
        raise CliError("DATABASE_URL is not set")
    try:
        bring_up_to_date(url)
    except (sa.exc.SQLAlchemyError, ValueError) as error:
        raise CliError(f"DATABASE_URL cannot be used: {error}") from None
