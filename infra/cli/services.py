"""`headway api` and `headway stream`: one service in the foreground, with settings from the environment."""

import typer


def api() -> None:
    """Run the api service."""
    from services.api.__main__ import main  # noqa: PLC0415

    raise typer.Exit(main())


def stream() -> None:
    """Run the stream service."""
    from services.stream.__main__ import main  # noqa: PLC0415

    raise typer.Exit(main())
