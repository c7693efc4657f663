"""`headway workers` and `headway workers drain`"""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer

from infra.cli.errors import CliError
from infra.cli.target import ADMIN, TokenOption, Url, find_api
from infra.cli.words import plain

workers = typer.Typer(
    invoke_without_command=True,
    help="List the worker processes that there are. Needs a token of the scope `admin`, given or made here.",
)

_TITLES = ("id", "queue", "status", "running", "memory", "age", "seen", "version", "process")


@workers.callback()
def _workers(context: typer.Context, url: Url = None, token: TokenOption = None) -> None:
    if context.invoked_subcommand is not None:
        return
    with find_api(url, token, scope=ADMIN) as api:
        rows = [_cells(worker, datetime.now(UTC)) for worker in api.workers()]
    widths = [max(map(len, column)) for column in zip(_TITLES, *rows, strict=True)]
    for row in (_TITLES, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@workers.command()
def drain(
    worker_id: Annotated[str, typer.Argument(metavar="ID", help="The worker's id, as `headway workers` shows it.")],
    url: Url = None,
    token: TokenOption = None,
) -> None:
    """Let a worker finish what it runs, and leave. Whoever keeps it alive starts another in its place."""
    try:
        UUID(worker_id)
    except ValueError:
        raise CliError(f"{worker_id} is not a worker's id; `headway workers` shows them") from None
    with find_api(url, token, scope=ADMIN) as api:
        worker = api.drain_worker(worker_id)
    print(plain(f"{worker['status']}: process {worker['pid']} on {worker['host']} runs {worker['running']} more"))


def _cells(worker: dict[str, Any], now: datetime) -> tuple[str, ...]:
    held = f" +{worker['abandoned']} held" if worker["abandoned"] else ""
    cells = (
        worker["id"],
        worker["queue"],
        worker["status"],
        f"{worker['running']}/{worker['threads']}{held}",
        f"{worker['memory'] / 2**20:.0f} MiB",
        _ago(worker["startedAt"], now),
        _ago(worker["seenAt"], now),
        worker["version"],
        f"{worker['pid']} on {worker['host']}",
    )
    return tuple(plain(cell) for cell in cells)


def _ago(at: str, now: datetime) -> str:
    """By our own clock, which may be behind."""
    seconds = max(0, round((now - datetime.fromisoformat(at)).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
