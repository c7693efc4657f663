"""`headway watch`"""

import sys
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from infra.cli.errors import CliError
from infra.cli.target import TokenOption, Url, find_api

if TYPE_CHECKING:
    from infra.cli.follow import Follower

OUTCOMES = {"COMPLETED": 0, "FAILED": 1, "PARTIAL": 3, "CANCELLED": 4}
"""Exit status by the batch's; 2 is for wrong usage."""
LOST = 5
INTERRUPTED = 130


def watch(
    batch_id: Annotated[str, typer.Argument(metavar="ID", help="The batch's id, or the address of its page.")],
    patience: Annotated[float, typer.Option(min=1, help="Seconds without a connection before it gives up.")] = 120,
    url: Url = None,
    token: TokenOption = None,
) -> None:
    """Watch a batch to its end, in bars, or in plain lines where the output is no terminal.

    Exit status: 0 completed, 1 failed, 2 wrong usage, 3 completed in part, 4 cancelled, 5 lost (no connection for too
    long, no such batch, a token that is not accepted), 130 interrupted.
    """
    from infra.cli.follow import Follower, Lost  # noqa: PLC0415

    with find_api(url, token) as api:
        follower = Follower(api, batch_id_of(batch_id), patience=patience)
        try:
            if sys.stdout.isatty():
                from infra.cli.bars import show  # noqa: PLC0415
            else:
                from infra.cli.lines import show  # noqa: PLC0415
            show(follower)
        except Lost as error:
            sys.stderr.write(f"headway: {error}\n")
            raise typer.Exit(LOST) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(outcome(follower))


def outcome(follower: "Follower") -> int:
    return OUTCOMES.get(follower.state.batch["status"], LOST)


def batch_id_of(text: str) -> str:
    """Also out of `http://…/batches/ID#ticket=…`, which is what people copy."""
    part = text.partition("#")[0].partition("?")[0].rstrip("/").rpartition("/")[2]
    try:
        return str(UUID(part))
    except ValueError:
        raise CliError(f"{part} is not a batch's id") from None
