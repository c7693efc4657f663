"""RabbitMQ as the broker, with all of our processes: it dies, stands still and takes nothing, and everything ends."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from statistics import median
from typing import Any
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from shared import models
from shared.settings import Settings
from tests.support.batches import assert_consistent, batch_row, job_rows, wait_finished, wait_for
from tests.support.installation import Installation, Service, installed
from tests.support.rabbitmq import RabbitMQ, rabbitmq
from tests.support.web import client, rehearsal, submit

pytestmark = pytest.mark.timeout(300)

SHORT = {"steps": 1, "stepMs": 5}
AT_ONCE = 0.7
"""Seconds. Without a ticket a job waits for one on average: so often the sweeper and the stand-by look."""
PROMPT = 4.0
"""Seconds for a request that a broker must not hold up, on a busy machine."""
MINDS_AFTER = 8.0
"""Seconds for which RabbitMQ lets a ticket be kept."""


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq") / "node", consumer_timeout=MINDS_AFTER) as server:
        yield server


@pytest.fixture(scope="module")
def installation(
    rabbit: RabbitMQ, clone: Callable[[], AbstractContextManager[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    directory = tmp_path_factory.mktemp("installation")
    (directory / "uploads").mkdir()
    with clone() as database_url:
        settings = Settings(
            database_url=database_url,
            redis_url="redis://",
            broker_url=rabbit.url(),
            secret="a secret for tests, of 32 bytes or more",  # noqa: S106  # it protects nothing
            ticket_key="a ticket key for tests, of 32 bytes or more",
            uploads=directory / "uploads",
            threads=4,
            lease=3,
        )
        with installed(settings, directory, with_api=True) as whole:
            yield whole


@pytest.fixture
def whole(installation: Installation, rabbit: RabbitMQ) -> Installation:
    """At work, with empty logs."""
    for worker in installation.workers:
        if not worker.alive():
            worker.start()
            worker.await_ready()
    wait_for(lambda: subscriptions(rabbit) == 8, "each thread to take tickets")
    wait_for(lambda: running(installation) == [0, 0], "who has left to be forgotten", 60)
    for service in installation.services:
        os.truncate(service.log, 0)
    return installation


@pytest.fixture
def anna(whole: Installation) -> Iterator[httpx.Client]:
    with client(whole.api_address, whole.settings) as anna:
        yield anna
    assert "Traceback" not in whole.said()
    assert "[error" not in whole.said()


def test_idle_workers_pick_up_at_once_and_share_what_there_is(whole: Installation, anna: httpx.Client) -> None:
    ends(whole, submit(anna, rehearsal(40, SHORT)))
    assert median(pick_up(whole, anna) for _ in range(9)) < AT_ONCE
    lasting = submit(anna, rehearsal(8, {"steps": 100, "stepMs": 50}))
    wait_for(lambda: running(whole) == [4, 4], "each worker to run its half")
    anna.post(f"/api/batches/{lasting['batchId']}/cancel").raise_for_status()
    ends(whole, lasting, status="CANCELLED")
    assert outages(whole.services) == []


def test_a_job_may_last_longer_than_a_ticket_may_be_kept(
    whole: Installation, anna: httpx.Client, rabbit: RabbitMQ
) -> None:
    before = connections(rabbit)
    lasting = submit(anna, rehearsal(7, {"steps": 44, "stepMs": 250}))  # one thread is left
    time.sleep(MINDS_AFTER)  # nothing is to happen
    assert running(whole) == [3, 4], "a thread that is busy takes no ticket"
    assert median(pick_up(whole, anna) for _ in range(5)) < AT_ONCE
    ends(whole, lasting)
    assert connections(rabbit) == before
    assert "consumer ack timed out" not in rabbit.log.read_text()
    wait_for(lambda: subscriptions(rabbit) == 8, "each thread to take tickets again")
    assert outages(whole.services) == []


@pytest.mark.parametrize("trouble", ["killed", "frozen", "short of memory"])
def test_nobody_waits_for_a_broker_and_it_is_told_once(
    trouble: str, whole: Installation, anna: httpx.Client, rabbit: RabbitMQ
) -> None:
    begin, end = troubles(rabbit)[trouble]
    under_way = submit(anna, rehearsal(40, {"steps": 20, "stepMs": 20}))
    wait_for(lambda: batch_row(whole.engine, UUID(under_way["batchId"])).processing, "jobs to run")
    begin()
    try:
        some = []
        began = time.monotonic()
        while not all(away(worker) for worker in whole.workers):
            at = time.monotonic()
            some.append(submit(anna, rehearsal(2, SHORT)))
            assert time.monotonic() - at < PROMPT
            assert time.monotonic() - began < 30, "the workers were to notice"
            time.sleep(0.2)  # enough of them
        for batch in [*some, under_way]:
            ends(whole, batch)
        ends(whole, submit(anna, rehearsal(2, SHORT)))
        wait_for(lambda: health(anna) == ("ready", "ok", "away"), "the api to know")
    finally:
        end()
    wait_for(lambda: not any(away(worker) for worker in whole.workers), "RabbitMQ to be back", 30)
    wait_for(lambda: subscriptions(rabbit) == 8, "each thread to take tickets again")
    assert median(pick_up(whole, anna) for _ in range(9)) < AT_ONCE
    wait_for(lambda: health(anna) == ("ready", "ok", "ok"), "the api to know")
    for service in (whole.api, *whole.workers):
        told = outages([service])
        parts = {"tickets"} | ({"stand-by"} if service in whole.workers else set())
        assert sorted(told) == sorted((what, part) for part in parts for what in ("away", "back")), "once each"


def test_redis_may_be_away_while_rabbitmq_is_there(whole: Installation, anna: httpx.Client) -> None:
    whole.valkey.kill()
    try:
        for _ in range(2):  # the second time everybody knows
            assert median(pick_up(whole, anna) for _ in range(5)) < AT_ONCE
            wait_for(lambda: whole.said().count("part=publishing") == 3, "all to know")
    finally:
        whole.valkey.start()
    wait_for(lambda: "redis is back" in whole.workers[0].log.read_text(), "Redis to be back")
    assert outages(whole.services) == []


def test_the_tickets_of_a_worker_that_is_killed_are_made_up_for(
    whole: Installation, anna: httpx.Client, rabbit: RabbitMQ
) -> None:
    batch = submit(anna, rehearsal(40, {"steps": 20, "stepMs": 50}))
    wait_for(lambda: min(running(whole)) > 0, "both to work")
    whole.workers[0].kill()
    ends(whole, batch)
    wait_for(lambda: fetching(rabbit) == 1, "the other to be alone")
    assert median(pick_up(whole, anna) for _ in range(5)) < AT_ONCE


def test_a_worker_that_is_to_leave_takes_no_more_tickets(
    whole: Installation, anna: httpx.Client, rabbit: RabbitMQ
) -> None:
    lasting = submit(anna, rehearsal(8, {"steps": 5_000, "stepMs": 50}))
    wait_for(lambda: running(whole) == [4, 4], "both to work")
    with whole.engine.begin() as connection:
        latest = sa.select(models.workers.c.id).order_by(models.workers.c.seen_at.desc())  # who is gone is listed, too
        one = connection.execute(latest).scalars().first()
    with client(whole.api_address, whole.settings, scope="admin") as admin:
        admin.post(f"/api/workers/{one}/drain").raise_for_status()
    wait_for(lambda: fetching(rabbit) == 1, "it to leave the tickets to others")
    assert running(whole) == [4, 4], "what runs goes on"
    anna.post(f"/api/batches/{lasting['batchId']}/cancel").raise_for_status()
    ends(whole, lasting, status="CANCELLED")
    assert median(pick_up(whole, anna) for _ in range(5)) < AT_ONCE
    wait_for(lambda: sorted(worker.alive() for worker in whole.workers) == [False, True], "it to leave")


def troubles(rabbit: RabbitMQ) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """How each begins and ends."""
    return {
        "killed": (rabbit.kill, rabbit.start),
        "frozen": (rabbit.freeze, rabbit.thaw),
        "short of memory": (
            lambda: rabbit.control("set_vm_memory_high_watermark", "0.000001"),
            lambda: rabbit.control("set_vm_memory_high_watermark", "0.9"),
        ),
    }


def ends(whole: Installation, batch: dict[str, Any], status: str = "COMPLETED") -> None:
    batch_id = UUID(batch["batchId"])
    assert wait_finished(whole.engine, batch_id, 60).status == status
    assert_consistent(whole.engine, batch_id)


def pick_up(whole: Installation, anna: httpx.Client) -> float:
    """Seconds from the creation of a job to its start."""
    batch = submit(anna, rehearsal(1, SHORT))
    ends(whole, batch)
    (job,) = job_rows(whole.engine, UUID(batch["batchId"]))
    created = batch_row(whole.engine, job.batch_id).created_at
    waited: float = (job.started_at - created).total_seconds()
    return waited


def health(anna: httpx.Client) -> tuple[str, ...]:
    said = anna.get("/health/ready").json()
    return said["status"], said["redis"], said["rabbitmq"]


def running(whole: Installation) -> list[int]:
    """Jobs, of each worker that was heard of lately, the one with the fewest first."""
    table = models.workers
    lately = sa.func.clock_timestamp() - timedelta(seconds=whole.settings.lease)
    with whole.engine.connect() as connection:
        return sorted(connection.execute(sa.select(table.c.running).where(table.c.seen_at > lately)).scalars())


def connections(rabbit: RabbitMQ) -> list[str]:
    """Those by which tickets are fetched."""
    listed = rabbit.control("list_connections", "name", "client_properties").splitlines()
    return sorted(line.partition("\t")[0] for line in listed if "headway: fetches default" in line)


def fetching(rabbit: RabbitMQ) -> int:
    return len(connections(rabbit))


def subscriptions(rabbit: RabbitMQ) -> int:
    return rabbit.control("list_consumers", "queue_name").count("headway:dramatiq:default")


def away(worker: Service) -> bool:
    """Whether it looks for jobs without tickets."""
    return [what for what, part in outages([worker]) if part == "stand-by"][-1:] == ["away"]


def outages(services: list[Service]) -> list[tuple[str, str]]:
    """What they told of RabbitMQ: away or back, and the part that says so."""
    lines = [line for service in services for line in service.log.read_text().splitlines() if "rabbitmq is" in line]
    return [("away" if "rabbitmq is away" in line else "back", line.partition("part=")[2].split()[0]) for line in lines]
