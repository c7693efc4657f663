"""Stream services for tests: in a thread of the test's own, or as the process that it is in production."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
from msgspec.structs import replace

from shared.settings import Settings
from tests.support.batches import wait_for
from tests.support.ports import own_port
from tests.support.processes import service


@contextmanager
def stream_process(
    settings: Settings, module: str = "services.stream", *, within: Sequence[str] = ()
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address, once it answers, and the process. `within`: a command that becomes the one behind it."""
    port = own_port()
    address = f"http://127.0.0.1:{port}"
    with service(module, settings=replace(settings, port=port), within=within) as process:
        wait_for(lambda: process.poll() is not None or status(address, "/health/live") == 200, f"{module} to answer")
        assert process.poll() is None, f"{module} did not start"
        yield address, process


def status(address: str, path: str) -> int | None:
    """The status of a GET; None if nobody answers."""
    try:
        return httpx.get(f"{address}{path}", trust_env=False).status_code
    except httpx.TransportError:
        return None


def health(address: str) -> dict[str, str]:
    """What `/health/ready` says of each part."""
    content: dict[str, str] = httpx.get(f"{address}/health/ready", trust_env=False).json()
    return content
