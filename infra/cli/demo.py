"""The demonstration: real photographs, a real inventory, at a pace that can be watched."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infra.cli.api import Api

PHOTOS = Path(__file__).parents[1] / "demo" / "photos"
TIMES = 80
"""How often each photograph is looked at: enough for somebody who has to find the browser first."""

_SUBMISSION = {
    "kind": "photos.inventory",
    "title": "Demonstration: four photographs, looked at again and again",
    # A photo takes a fraction of a second, and eight at once would be over before the page is open.
    "concurrency": 1,
}


def submit_demo(api: "Api", times: int = TIMES) -> dict[str, Any]:
    """The batch. Raises CliError."""
    uploads = {path.stem: api.upload(path) for path in sorted(PHOTOS.iterdir()) if path.suffix == ".jpg"}
    jobs = [
        {"name": f"{name}-{time}.jpg", "params": {"uploadId": upload}}
        for time in range(1, times + 1)
        for name, upload in uploads.items()
    ]
    return api.create_batch({**_SUBMISSION, "jobs": jobs})
