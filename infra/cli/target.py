"""Which Headway a command talks to, and as whom: options first, then the environment, then what `headway run` left."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.errors import CliError
from infra.home import Home, HomeError, Running, home_of_process, signing_settings

if TYPE_CHECKING:
    import httpx

    from infra.cli.api import Api, Token

OWNER = "demo"
"""Whose batches are made and watched where nobody says otherwise: those of the demonstration."""

ADMIN = "admin"
"""The scope of those who run Headway; a token without a scope has it not."""

_TTL = 3600.0
"""Seconds; a new token is made for each request."""

Url = Annotated[str | None, typer.Option("--url", help="Address of Headway. [env: HEADWAY_URL, or what runs here]")]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token", help="A token. [env: HEADWAY_TOKEN, or one is made where the secret is known]", show_default=False
    ),
]


class NoToken(CliError):
    """Nothing says who we are."""


def find_address(url: str | None) -> str:
    """Raises CliError if nothing says where Headway is."""
    home = home_of_process()
    running = home.running()
    address = url or os.environ.get("HEADWAY_URL") or (running.address if running else None)
    if not address:
        raise CliError(
            f"Headway does not run in {home.path}. Start it with `headway run`, or name another: --url, HEADWAY_URL."
        )
    return address


def find_api(
    url: str | None, token: str | None, *, scope: str | None = None, client: "type[httpx.Client] | None" = None
) -> "Api":
    """Raises CliError if nothing says where Headway is, NoToken if nothing says who we are. `scope`: of a token that is
    made here. `client`: how it asks, if in a way of its own.
    """
    from infra.cli.api import Api  # noqa: PLC0415  # needs a library that not every image has

    address = find_address(url)
    more = {} if client is None else {"client": client}
    home = home_of_process()
    running = home.running()
    given = token or os.environ.get("HEADWAY_TOKEN")
    if given and not (given.isascii() and given.isprintable()):
        raise CliError("The token holds characters that no token has.")  # the HTTP library would print it
    if given:
        return Api(address, lambda: given, **more)
    if not _ours(address, running):
        raise NoToken(f"A token for {address} is needed: --token or HEADWAY_TOKEN.")
    return Api(address, own_tokens(home, OWNER, scope), **more)


def strangers_token(address: str, token: str | None) -> str | None:
    """A token of somebody else, where we may make one: who brings a token of their own gets none from us."""
    if token or os.environ.get("HEADWAY_TOKEN") or not _ours(address, home_of_process().running()):
        return None
    return own_tokens(home_of_process(), f"not {OWNER}")()


def _ours(address: str, running: Running | None) -> bool:
    """Whether tokens for it may be made here: it runs here, or HEADWAY_URL and HEADWAY_SECRET go together, as in the
    image for operators.
    """
    if os.environ.get("HEADWAY_SECRET") and address.rstrip("/") == os.environ.get("HEADWAY_URL", "").rstrip("/"):
        return True
    return running is not None and address.rstrip("/") == running.address


def own_tokens(home: Home, owner: str, scope: str | None = None) -> "Token":
    """Makes tokens with the secret that is kept here. Raises CliError if there is none to be used."""
    from shared.auth import issue_token  # noqa: PLC0415  # needs a library that not every image has

    try:
        settings = signing_settings(home, os.environ)
    except HomeError as error:
        raise CliError(str(error)) from None
    return lambda: issue_token(settings, owner, ttl=_TTL, scope=scope)
