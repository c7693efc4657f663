"""`headway submit` and `headway add`"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.errors import CliError
from infra.cli.target import TokenOption, Url, find_api
from infra.cli.watch import batch_id_of, watch
from infra.cli.words import counts_words

if TYPE_CHECKING:
    from infra.cli.api import Api

_MOST = 10_000
"""Jobs of one batch, as the protocol has it."""

_TIME = "2026-11-30T18:00:00+01:00"

Files = Annotated[list[Path] | None, typer.Argument(metavar="[FILES]...", help="Uploaded; a job for each.")]
Params = Annotated[str | None, typer.Option(help="JSON: the parameters of one job, or a list with those of each.")]
Times = Annotated[int, typer.Option(min=1, max=_MOST, help="How often each of them.")]


def submit(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="rehearsal, photos.inventory, …")],
    files: Files = None,
    params: Params = None,
    jobs: Times = 1,
    title: Annotated[str | None, typer.Option(help="What people see.")] = None,
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Above others of all owners, or below.")] = 0,
    concurrency: Annotated[int | None, typer.Option(min=1, help="So many of its jobs at once at most.")] = None,
    run_after: Annotated[str | None, typer.Option(help=f"Not to begin before: {_TIME}.")] = None,
    after: Annotated[str | None, typer.Option(metavar="ID", help="To begin when this batch has completed.")] = None,
    after_any: Annotated[bool, typer.Option("--after-any", help="Or has ended otherwise.")] = False,
    expires_at: Annotated[str | None, typer.Option(help=f"Cancelled if it has not ended by then: {_TIME}.")] = None,
    still_open: Annotated[bool, typer.Option("--open", help="More jobs may be added until it is closed.")] = False,
    key: Annotated[str | None, typer.Option(help="The same key again makes no second batch, for 24 hours.")] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Watch it; the exit status is its outcome.")] = False,
    url: Url = None,
    token: TokenOption = None,
) -> None:
    """Create a batch, and print its id and the page where it can be watched.

    Files are uploaded first and become jobs with an `uploadId`: headway submit photos.inventory *.jpg
    """
    paths = files or []
    given = _parameters(params, has_files=bool(files))
    _refuse_too_many(given, paths, jobs)
    with find_api(url, token) as api:
        named = _named(_templates(api, given, paths), jobs)
        submission = {"kind": kind, "title": title or _title(kind, paths), "jobs": named}
        schedule: dict[str, Any] = {
            "runAfter": run_after,
            "after": after and batch_id_of(after),
            "expiresAt": expires_at,
        }
        wishes = schedule | {"afterAny": after_any, "open": still_open}
        wishes |= {"priority": priority, "concurrency": concurrency}
        batch = api.create_batch(submission | {name: wish for name, wish in wishes.items() if wish}, key=key)
        print(batch["batchId"])
        print(api.absolute(batch["webUrl"]), flush=True)
    if follow:
        watch(batch["batchId"], url=url, token=token)


def add(
    batch_id: Annotated[str, typer.Argument(metavar="ID", help="The batch's id, or the address of its page.")],
    files: Files = None,
    params: Params = None,
    jobs: Times = 1,
    key: Annotated[str | None, typer.Option(help="The same key again adds nothing more, for 24 hours.")] = None,
    url: Url = None,
    token: TokenOption = None,
) -> None:
    """Add jobs to a batch that was submitted with --open, and print how many it has now."""
    to, paths = batch_id_of(batch_id), files or []
    given = _parameters(params, has_files=bool(files))
    _refuse_too_many(given, paths, jobs)
    with find_api(url, token) as api:
        batch = api.add_jobs(to, _named(_templates(api, given, paths), jobs), key=key)
    print(counts_words(batch))


def _refuse_too_many(given: list[dict[str, Any]], paths: list[Path], times: int) -> None:
    """Before anything is uploaded."""
    total = len(given) * max(1, len(paths)) * times
    if total > _MOST:
        raise CliError(f"{total} jobs are more than the {_MOST} that a batch may have")


def _templates(api: "Api", given: list[dict[str, Any]], paths: list[Path]) -> list[dict[str, Any]]:
    """One for each file, which is uploaded, or for each of the parameters."""
    # one after the other: a slow line is not made quicker by several at once
    uploads = [(path.name, api.upload(path)) for path in paths]
    return [{"name": name, "params": {**one, "uploadId": upload}} for one in given for name, upload in uploads] or [
        {"name": "", "params": one} for one in given
    ]


def _parameters(text: str | None, *, has_files: bool) -> list[dict[str, Any]]:
    if text is None:
        return [{}]
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CliError(f"--params is not JSON: {error}") from None
    several = value if isinstance(value, list) else [value]
    if not several or not all(isinstance(one, dict) for one in several):
        raise CliError("--params is to be an object, or a list of objects")
    if has_files and len(several) > 1:
        raise CliError("With files, --params is one object, for all of them.")
    return several


def _named(templates: list[dict[str, Any]], times: int) -> list[dict[str, Any]]:
    """Every job gets a name that tells it from the others."""
    named: list[dict[str, Any]] = []
    for time in range(1, times + 1):
        for template in templates:
            name = template["name"] or f"job {len(named) + 1}"
            again = f" ({time})" if times > 1 and template["name"] else ""
            named.append({**template, "name": name + again})
    return named


def _title(kind: str, paths: list[Path]) -> str:
    if not paths:
        return kind
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0].name}{more}"[:200]
