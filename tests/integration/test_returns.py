"""A server that goes away and comes back: each is said once, by every service that leans on it."""

from collections.abc import Iterator, MutableMapping
from threading import Event, Thread
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from structlog.testing import capture_logs

from infra.embedded.valkey import Valkey
from services.api.app import create_app as create_api
from services.stream.app import create_app
from services.worker import housekeeping
from services.worker.process import WorkerProcess, quiet_dramatiq
from shared.auth import issue_token
from shared.channels import FORMAT, Frame, Publisher
from shared.kinds import KINDS
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.metrics import Numbers
from tests.support.outages import no_database
from tests.support.sse import Stream
from tests.support.streams import health
from tests.support.web import client, served, submit
from tests.support.writer import Writer

Said = list[MutableMapping[str, Any]]


@pytest.fixture
def said() -> Iterator[Said]:
    with capture_logs() as said:
        yield said


def events(said: Said, *about: str) -> list[str]:
    return [line["event"] for line in said if any(word in line["event"] for word in about)]


def told(said: Said, server: str) -> list[tuple[str, str, str]]:
    """Which parts said what of it, and how loudly."""
    return [(line["part"], line["event"], line["log_level"]) for line in said if line["event"].startswith(server)]


def outage(server: str, *parts: str) -> list[tuple[str, str, str]]:
    """As each of them is to tell of it: once that it is away and once that it is back."""
    return sorted(
        (part, f"{server} is {state}", level)
        for part in parts
        for state, level in (("away", "warning"), ("back", "info"))
    )


def test_stream_says_that_postgresql_is_away_and_that_it_answers_again(
    settings: Settings, writer: Writer, engine: sa.Engine, said: Said
) -> None:
    token = issue_token(settings, OWNER)
    with (
        served(create_app(replace(settings, version_check=0.1))) as address,
        Stream(address, writer.batch_id, token) as stream,
    ):
        numbers = Numbers(address)
        stream.delta()
        engine.dispose()
        with no_database(settings.database_url):
            numbers.wait("readings_total{failed}", lambda failed: failed > 3)
            with Stream(address, "01890000-0000-7000-8000-000000000001", token) as refused:
                refused.rest()
            assert numbers["refusals_total{overloaded}"] == 1
        stream.to_version(writer.start(0))
        wait_for(lambda: "postgresql is back" in events(said, "postgresql"), "it to be said")
        answered = numbers["readings_total{answered}"]
        numbers.wait("readings_total{answered}", lambda now: now > answered + 2)

    assert sorted(told(said, "postgresql")) == outage("postgresql", "changes")
    assert events(said, "cannot") == [], "it has been said"


def test_health_says_what_is_away_and_what_is_back(settings: Settings, engine: sa.Engine, said: Said) -> None:
    with served(create_api(settings)) as address:
        assert health(address)["status"] == "ready"
        engine.dispose()
        with no_database(settings.database_url):
            for _ in range(3):
                assert health(address)["postgresql"] == "away"
        wait_for(lambda: health(address)["postgresql"] == "ok", "it to be back")
        assert health(address)["status"] == "ready"

    assert sorted(told(said, "postgresql")) == outage("postgresql", "health")


def test_everybody_says_that_redis_is_back(settings: Settings, writer: Writer, valkey: Valkey, said: Said) -> None:
    settings = replace(settings, redis_url=valkey.url, lease=1)
    token = issue_token(settings, OWNER)
    client = make_redis(valkey.url)
    publisher = Publisher(client, settings.namespace)

    def publish() -> None:
        publisher.publish(UUID(int=1), Frame(FORMAT, "", 1, 2))

    with served(create_app(settings)) as address, Stream(address, writer.batch_id, token) as stream:
        numbers = Numbers(address)
        stream.delta()
        numbers.wait("redis_up", 1)
        publish()
        valkey.stop()
        numbers.wait("redis_up", 0)
        publish()
        wait_for(lambda: len(events(said, "redis is away")) == 3, "all to have noticed")
        assert health(address)["redis"] == "away"
        valkey.start()
        numbers.wait("redis_up", 1)

        def all_back() -> bool:
            publish()
            return len(events(said, "redis is back")) >= 3

        wait_for(all_back, "all to have found it again")
        publish()
    client.close()

    assert sorted(told(said, "redis")) == outage("redis", "counting viewers", "listening", "publishing")


def test_a_worker_tells_of_its_servers_in_the_same_manner(
    settings: Settings, engine: sa.Engine, valkey: Valkey, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts that ask by themselves, each in its own time."""
    monkeypatch.setattr(housekeeping, "_PERIOD", 0.5)  # it looks once a minute
    quiet_dramatiq()
    settings = replace(settings, redis_url=valkey.url)
    worker = WorkerProcess(settings, "default", KINDS, {})
    stop = Event()
    thread = Thread(target=worker.run, args=(stop,))
    thread.start()
    try:
        wait_for(lambda: "worker ready" in events(said, "worker"), "the worker to begin")
        valkey.stop()
        engine.dispose()
        with no_database(settings.database_url):
            wait_for(
                lambda: (
                    {"sweeper", "stand-by"} <= {part for part, _, _ in told(said, "postgresql") + told(said, "redis")}
                ),
                "both to be missed",
            )
        valkey.start()
        wait_for(lambda: len(events(said, "is back")) == len(events(said, "is away")), "all to be back")
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    for server in ("postgresql", "redis"):
        parts = {part for part, _, _ in told(said, server)}
        assert sorted(told(said, server)) == outage(server, *parts)
        assert parts >= ({"sweeper"} if server == "postgresql" else {"stand-by"})


def test_requests_tell_of_postgresql_once_however_many_fail(settings: Settings, engine: sa.Engine, said: Said) -> None:
    with served(create_api(settings)) as address, client(address, settings) as anna:
        assert anna.get("/api/batches").status_code == 200
        engine.dispose()
        with no_database(settings.database_url):
            assert [anna.get("/api/batches").status_code for _ in range(4)] == [503] * 4
        assert anna.get("/api/batches").status_code == 200
        assert anna.get("/api/batches").status_code == 200
    assert told(said, "postgresql") == [
        ("requests", "postgresql is away", "warning"),
        ("requests", "postgresql is back", "info"),
    ]


def test_a_healthy_start_says_nothing_of_servers(settings: Settings, writer: Writer, said: Said) -> None:
    token = issue_token(settings, OWNER)
    with served(create_app(settings)) as address, Stream(address, writer.batch_id, token) as stream:
        for _ in range(3):  # before it is connected, perhaps, and when it is
            assert health(address)["postgresql"] == "ok"
        stream.delta()
        wait_for(lambda: health(address)["redis"] == "ok", "Redis to be connected to")
    with served(create_api(settings)) as address, client(address, settings) as anna:
        assert health(address)["status"] == "ready"
        submit(anna)
    assert [line for line in said if "part" in line or "is there" in line["event"]] == []
