"""`GET …/timeline`: what happened to a batch and its jobs."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa

from services.api.app import create_app
from shared.auth import issue_ticket, issue_token, verify_token
from shared.jobs import JobStatus
from shared.settings import Settings
from tests.support.batches import OWNER, make_batch
from tests.support.web import assert_problem, client, decoded, served, wrong_paths
from tests.support.writer import Writer


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


@pytest.fixture
def writer(make_writer: Callable[..., Writer]) -> Writer:
    return make_writer(2)


def timeline(api: httpx.Client, writer: Writer, **query: Any) -> dict[str, Any]:
    reply = api.get(f"/api/batches/{writer.batch_id}/timeline", params=query)
    assert reply.status_code == 200, reply.text
    return decoded(reply)


def test_everything_that_happened_oldest_first(anna: httpx.Client, writer: Writer) -> None:
    one, other = map(str, writer.jobs)
    writer.start(0)
    writer.give_back(0)
    writer.start(0, 1)
    writer.finish(0, JobStatus.FAILED)
    writer.finish(1)
    writer.retry_failed()

    said = timeline(anna, writer)

    assert said["nextCursor"] is None
    assert all(item.keys() == {"at", "jobId", "from", "to", "attempt", "reason"} for item in said["items"])
    assert [item["at"] for item in said["items"]] == sorted(item["at"] for item in said["items"])
    told = [tuple(item[name] for name in ("jobId", "from", "to", "attempt", "reason")) for item in said["items"]]
    assert told == [
        (None, None, "QUEUED", None, "created"),
        (one, "QUEUED", "PROCESSING", 1, "started"),
        (None, "QUEUED", "PROCESSING", None, "jobs"),
        (one, "PROCESSING", "QUEUED", 1, "given back"),
        (one, "QUEUED", "PROCESSING", 2, "started"),
        (other, "QUEUED", "PROCESSING", 1, "started"),
        (one, "PROCESSING", "FAILED", 2, "ended"),
        (other, "PROCESSING", "COMPLETED", 1, "ended"),
        (None, "PROCESSING", "PARTIAL", None, "jobs"),
        (one, "FAILED", "QUEUED", 2, "retried"),
        (None, "PARTIAL", "PROCESSING", None, "retried"),
    ]


def test_pages(anna: httpx.Client, writer: Writer, engine: sa.Engine) -> None:
    make_batch(engine)  # another one's are not among them
    for _ in range(4):
        writer.start(0, 1)
        writer.give_back(0)
        writer.give_back(1)
    whole = timeline(anna, writer)["items"]
    assert len(whole) == 18

    pages, cursor = [], None
    while not pages or cursor is not None:
        page = timeline(anna, writer, limit=7, **({"cursor": cursor} if cursor else {}))
        pages.append(page["items"])
        cursor = page["nextCursor"]

    assert [len(page) for page in pages] == [7, 7, 4]
    assert [item for page in pages for item in page] == whole
    exact = timeline(anna, writer, limit=18)
    assert (exact["items"], exact["nextCursor"]) == (whole, None)


def test_refusals(anna: httpx.Client, address: str, settings: Settings, writer: Writer) -> None:
    path = f"/api/batches/{writer.batch_id}/timeline"
    ticket, _ = issue_ticket(settings, verify_token(settings, issue_token(settings, OWNER)), writer.batch_id)

    assert_problem(httpx.get(f"{address}{path}", params={"ticket": ticket}), 401, "unauthenticated")
    with client(address, settings, "bert") as bert:
        assert_problem(bert.get(path), 404, "not_found")
    assert_problem(anna.get(f"/api/batches/{uuid4()}/timeline"), 404, "not_found")
    assert sorted(wrong_paths(anna.get(path, params={"limit": 0, "job": 1}))) == ["job", "limit"]
    assert_problem(anna.get(path, params={"cursor": "nonsense"}), 400, "malformed")
