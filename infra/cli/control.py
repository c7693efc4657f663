"""`headway pause`, `resume`, `close`, `cancel`, `retry` and `delete`"""

from typing import Annotated

import typer

from infra.cli.target import TokenOption, Url, find_api
from infra.cli.watch import batch_id_of
from infra.cli.words import STATES, counts_words

BatchId = Annotated[str, typer.Argument(metavar="ID", help="The batch's id, or the address of its page.")]


def pause(batch_id: BatchId, url: Url = None, token: TokenOption = None) -> None:
    """Start none of a batch's jobs any more; those that run go on."""
    _control(batch_id, url, token, "pause")


def resume(batch_id: BatchId, url: Url = None, token: TokenOption = None) -> None:
    """Let a paused batch go on."""
    _control(batch_id, url, token, "resume")


def close(batch_id: BatchId, url: Url = None, token: TokenOption = None) -> None:
    """Let an open batch end with the jobs that it has."""
    _control(batch_id, url, token, "close")


def cancel(batch_id: BatchId, url: Url = None, token: TokenOption = None) -> None:
    """End a batch: what waits at once, what runs as soon as its handler lets go."""
    _control(batch_id, url, token, "cancel")


def retry(batch_id: BatchId, url: Url = None, token: TokenOption = None) -> None:
    """Run the failed jobs of a batch again."""
    _control(batch_id, url, token, "retry-failed")


def delete(batch_id: BatchId, url: Url = None, token: TokenOption = None) -> None:
    """Delete a finished batch with its jobs, log lines and history."""
    with find_api(url, token) as api:
        api.delete(batch_id_of(batch_id))
    print("deleted")


def _control(batch_id: str, url: str | None, token: str | None, action: str) -> None:
    with find_api(url, token) as api:
        batch = api.control(batch_id_of(batch_id), action)
    state = "being cancelled" if batch["cancelRequested"] and not batch["finishedAt"] else STATES[batch["status"]]
    print(f"{state}: {counts_words(batch)}")
