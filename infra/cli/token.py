"""`headway token`"""

import os
import re
from typing import Annotated

import typer

from infra.cli.errors import CliError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def token(
    sub: Annotated[str, typer.Argument(metavar="SUB", help="Whose token: the owner of what it makes.")],
    scope: Annotated[
        str | None, typer.Option(help="read, write, report, admin, separated by spaces; all but admin if not given.")
    ] = None,
    ttl: Annotated[str, typer.Option(help="How long it is good for: 90s, 30m, 1h, 7d.")] = "1h",
) -> None:
    """Print a token, signed with HEADWAY_SECRET or with the secret kept in HEADWAY_HOME."""
    from infra.home import home_of_process, signing_settings  # noqa: PLC0415
    from shared.auth import SCOPES, issue_token  # noqa: PLC0415

    if not sub:
        raise CliError("SUB must not be empty")
    if unknown := set((scope or "").split()) - SCOPES:
        raise CliError(f"There is no scope {', '.join(sorted(unknown))}; there are {', '.join(sorted(SCOPES))}.")
    lasts = seconds(ttl)
    settings = signing_settings(home_of_process(), os.environ)
    print(issue_token(settings, sub, ttl=lasts, scope=scope))


def seconds(text: str) -> float:
    """`1h` as 3600. Raises CliError."""
    match = re.fullmatch(r"([1-9]\d{0,8})([smhd])", text)
    if match is None:
        raise CliError(f"{text} is not a duration; expected something like 90s, 30m, 1h or 7d")
    return int(match[1]) * _UNITS[match[2]]
