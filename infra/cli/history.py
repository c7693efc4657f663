"""`headway logs` and `headway timeline`"""

import sys
from typing import Annotated

import typer

from infra.cli.target import TokenOption, Url, find_api
from infra.cli.watch import batch_id_of
from infra.cli.words import step_words

BatchId = Annotated[str, typer.Argument(metavar="ID", help="The batch's id, or the address of its page.")]


def logs(
    batch_id: BatchId,
    job: Annotated[str | None, typer.Option(metavar="JOB", help="Of this job only, by its id.")] = None,
    level: Annotated[str | None, typer.Option(help="Levels, with commas between: warn,error.")] = None,
    grep: Annotated[str | None, typer.Option(metavar="TEXT", help="Lines with this in them, in any case.")] = None,
    url: Url = None,
    token: TokenOption = None,
) -> None:
    """Print a batch's log: every line that there is so far."""
    query = {name: value for name, value in {"job": job, "level": level, "q": grep}.items() if value is not None}
    with find_api(url, token) as api:
        for piece in api.log(batch_id_of(batch_id), query):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


def timeline(batch_id: BatchId, url: Url = None, token: TokenOption = None) -> None:
    """Print what happened to a batch and its jobs, oldest first."""
    with find_api(url, token) as api:
        steps = list(api.timeline(batch_id_of(batch_id)))
        jobs = {job["id"]: job for job in api.jobs(batch_id_of(batch_id))}
    for step in steps:
        print(step_words(step, jobs))
