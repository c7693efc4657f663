"""A stream service as the process that it is, and what its viewers ask for."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import UUID

import httpx
from msgspec import Struct
from msgspec.structs import replace

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER
from tests.support.streams import stream_process

QUIET = "jobs=none&logs=0"
"""Events of one size: the batch, without the jobs that changed."""

_NO_LIMIT = 1_000_000
_NEVER = 3600.0


class Service(Struct):
    settings: Settings
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def pid(self) -> int:
        return self.process.pid

    def longest_stall(self) -> float:
        """Milliseconds by which a timer of its event loop, one every 10 ms, was ever late."""
        shown = httpx.get(f"http://127.0.0.1:{self.port}/metrics", trust_env=False).text
        (line,) = (line for line in shown.splitlines() if line.startswith("headway_stream_longest_stall_seconds "))
        return float(line.split()[1]) * 1000

    def request(self, batch_id: UUID, query: str = QUIET, last_id: str = "") -> bytes:
        lines = [
            f"GET /api/batches/{batch_id}/stream?{query} HTTP/1.1",
            "Host: bench",
            "Accept: text/event-stream",
            f"Authorization: Bearer {issue_token(self.settings, OWNER)}",
            *([f"Last-Event-ID: {last_id}"] if last_id else []),
        ]
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()

    def first_event(self, batch_id: UUID, query: str = QUIET) -> tuple[str, str]:
        """The data and the id of the first event that a new viewer gets."""
        headers = {"Authorization": f"Bearer {issue_token(self.settings, OWNER)}"}
        url = f"http://127.0.0.1:{self.port}/api/batches/{batch_id}/stream?{query}"
        fields: dict[str, str] = {}
        with httpx.stream("GET", url, headers=headers, trust_env=False) as reply:
            for line in reply.iter_lines():
                name, _, value = line.partition(": ")
                fields[name] = value
                if not line and "data" in fields:
                    return fields["data"], fields["id"]
        raise EOFError("the stream ended before its first event did")


def many_viewers(settings: Settings, *, pings: bool = True) -> Settings:
    """No limit of their number is met; without `pings`, what they get is what is measured and nothing else."""
    raised = replace(settings, owner_viewers=_NO_LIMIT, viewers=_NO_LIMIT)
    return raised if pings else replace(raised, heartbeat=_NEVER)


@contextmanager
def stream_service(settings: Settings) -> Iterator[Service]:
    with stream_process(settings) as (address, process):
        yield Service(settings, int(urlsplit(address).port or 0), process)
