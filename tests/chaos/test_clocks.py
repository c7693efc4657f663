"""Wall clocks that are set, forward and back: leases, timers and versions do not go by those of our services."""

import time
from collections.abc import Iterator
from datetime import datetime
from itertools import cycle
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from msgspec import structs

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, make_batch, wait_for
from tests.support.clocks import ClockedPostgres, Clocks
from tests.support.ordeal import ordeal
from tests.support.ports import own_port
from tests.support.processes import service
from tests.support.sse import Stream
from tests.support.streams import status
from tests.support.web import assert_problem, client, decoded, rehearsal, submit

MINUTE, HOUR = 60, 3600


@pytest.fixture
def clocks(tmp_path: Path) -> Iterator[Clocks]:
    clocks = Clocks(tmp_path)
    yield clocks
    clocks.close()


def test_a_batch_goes_on_whatever_the_clocks_say(settings: Settings, clocks: Clocks, tmp_path: Path) -> None:
    with ordeal(
        settings,
        tmp_path,
        own_postgres=lambda directory: ClockedPostgres(directory, clocks),
        more=clocks.environment,
        jobs=48,
    ) as batch:
        whole = batch.whole
        some = ["postgres", whole.workers[0].name, whole.streams[0].name]
        # PostgreSQL's is the latest in the end, because jobs that rest do so by it
        for ahead in (MINUTE, -MINUTE, -HOUR, HOUR):
            for name in some:
                clocks.set(name, ahead)
                batch.gets_on()
        # leases may run out all at once where the machine is slow: what matters is what comes of it
        batch.verdict(expired=True)


def test_a_stream_keeps_its_times_whatever_its_clock_says(
    settings: Settings, engine: sa.Engine, clocks: Clocks
) -> None:
    settings = structs.replace(settings, port=own_port(), heartbeat=0.2, lifetime=4)
    address = f"http://127.0.0.1:{settings.port}"
    batch_id = make_batch(engine)
    token = issue_token(settings, OWNER, ttl=2 * HOUR)
    with service("services.stream", settings=settings, more=clocks.environment("stream")) as process:
        wait_for(lambda: status(address, "/health/live") == 200 or process.poll() is not None, "it to answer", 40)
        with Stream(address, batch_id, token) as stream:
            begun, shown = time.monotonic(), []
            steps = cycle((HOUR, -HOUR, MINUTE, -MINUTE))
            while (event := stream.next()).name != "timeout":
                if event.name == "ping":
                    shown.append(event.data["timestamp"] / 1000 - time.time())
                    clocks.set("stream", next(steps))
            assert event.data == {"reason": "lifetime"}
            assert 0.8 * settings.lifetime - 0.5 < time.monotonic() - begun < 30
            assert min(shown) < -HOUR + MINUTE, "its clock was set back"
            assert max(shown) > HOUR - MINUTE, "and forward"


def test_tokens_and_tickets_end_by_the_clock_and_nothing_else_does(settings: Settings, clocks: Clocks) -> None:
    settings = structs.replace(settings, port=own_port())
    address = f"http://127.0.0.1:{settings.port}"
    short = {"Authorization": f"Bearer {issue_token(settings, OWNER, ttl=HOUR / 2)}"}
    long = {"Authorization": f"Bearer {issue_token(settings, OWNER, ttl=2 * HOUR)}"}
    with (
        service("services.api", settings=settings, more=clocks.environment("api")) as process,
        client(address, settings) as anna,
    ):
        wait_for(lambda: status(address, "/health/ready") == 200 or process.poll() is not None, "it to answer", 40)
        anna.headers.update(short)
        batch = submit(anna)
        ticket = decoded(anna.post(f"/api/batches/{batch['batchId']}/tickets"))["ticket"]
        logs = f"/api/batches/{batch['batchId']}/logs?ticket={ticket}"
        made, keys = [batch["batchId"]], {"Idempotency-Key": "once"}
        for ahead in (MINUTE, HOUR, -MINUTE, -HOUR, 0):
            clocks.set("api", ahead)
            by_token, by_ticket = anna.get("/api/batches"), httpx.get(address + logs, trust_env=False)
            if ahead == HOUR:
                assert_problem(by_token, 401, "unauthenticated")
                assert_problem(by_ticket, 401, "unauthenticated")
            else:
                assert (by_token.status_code, by_ticket.status_code) == (200, 200)
            upload = anna.post("/api/uploads", files={"file": ("x", b"x")}, headers=long)
            expires = upload.json()["expiresAt"]
            assert abs(_seconds(expires) - time.time() - settings.upload_ttl) < MINUTE, "by the database's clock"
            made.append(decoded(anna.post("/api/batches", json=rehearsal(), headers=long))["batchId"])
            once = anna.post("/api/batches", json=rehearsal(title="once"), headers=long | keys)
            if once.status_code == 201:
                made.append(decoded(once)["batchId"])
            assert decoded(once)["batchId"] == made[2], "a key is kept for a day, by the database's clock"
        assert _all(anna) == sorted(made, reverse=True)


def _all(anna: httpx.Client) -> list[str]:
    """By pages, as small as can be."""
    found, cursor = [], None
    while True:
        page = decoded(anna.get("/api/batches", params={"limit": 1} | ({"cursor": cursor} if cursor else {})))
        found += [item["batchId"] for item in page["items"]]
        if (cursor := page["nextCursor"]) is None:
            return found


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
