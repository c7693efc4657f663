"""`headway doctor`"""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.errors import CliError
from infra.cli.target import NoToken, TokenOption, find_address, find_api
from infra.home import home_of_process

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.cli.api import Api


def doctor(
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="Address of Headway. [env: HEADWAY_URL, or what runs here]")
    ] = None,
    token: TokenOption = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Also see whether a stream that is silent is cut off before its ping.")
    ] = False,
    heartbeat: Annotated[float, typer.Option(min=0.1, help="The server's HEADWAY_HEARTBEAT, in seconds.")] = 15,
    upload: Annotated[int, typer.Option(min=1, help="The server's HEADWAY_MAX_UPLOAD, in bytes.")] = 25 * 2**20,
    request: Annotated[int, typer.Option(min=1, help="The server's HEADWAY_MAX_REQUEST, in bytes.")] = 16 * 2**20,
    patience: Annotated[float, typer.Option(min=1, help="Seconds until a worker takes a job.")] = 15,
) -> None:
    """Find out what stands between Headway and the people who use it: what is wrong, how it was seen, what to change.

    A line for each check. Exit status: 0 all is well, 1 something is not, 2 it could not be tried. Without a token only
    what a stranger can see.
    """
    from infra.cli.checkup.examination import Terms, examine  # noqa: PLC0415
    from infra.cli.checkup.outside import Sizes  # noqa: PLC0415

    address = find_address(url)
    print(f"Doctor of {address}", flush=True)
    running = home_of_process().running()
    behind_gateway = running is None or address.rstrip("/") != running.address
    terms = Terms(Sizes(request, upload), patience, heartbeat if wait else None, behind_gateway)
    with _asking(url, token) as api:
        try:
            examined = examine(address, api, terms)
        except BrokenPipeError:
            raise  # nobody reads any more what we say (`| head`); typer ends that without a word, with 1
        except OSError as error:
            raise CliError(f"{address} does not answer: {error}") from None
    print(examined.verdict, flush=True)
    raise typer.Exit(1 if examined.checks.failed else 0)


@contextmanager
def _asking(url: str | None, token: str | None) -> "Iterator[Api | None]":
    """None without a token."""
    try:
        api = find_api(url, token)
    except NoToken:
        yield None
        return
    with api:
        yield api
