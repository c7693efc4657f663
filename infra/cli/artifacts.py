"""`headway artifacts`"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from infra.cli.errors import CliError
from infra.cli.target import TokenOption, Url, find_api
from infra.cli.watch import batch_id_of


def artifacts(
    batch_id: Annotated[str, typer.Argument(metavar="ID", help="The batch's id, or the address of its page.")],
    save: Annotated[Path | None, typer.Option(metavar="DIR", help="Save them there, as POSITION-NAME.")] = None,
    url: Url = None,
    token: TokenOption = None,
) -> None:
    """List the files that a batch's jobs gave: position of the job, bytes, type, name."""
    with find_api(url, token) as api:
        for job in api.jobs(batch_id_of(batch_id)):
            for artifact in job.get("artifacts", ()):
                print(f"#{job['position']} {artifact['size']:,} {artifact['contentType']} {artifact['name']}")
                if save is not None:
                    _save(api.artifact(job["id"], artifact["id"]), save / f"{job['position']}-{artifact['name']}")


def _save(pieces: Iterator[bytes], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for piece in pieces:
                file.write(piece)
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}") from None
    except CliError:
        path.unlink()
        raise
