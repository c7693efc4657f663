"""A server that goes away and comes back: each is said once, by every service that leans on it."""

from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from msgspec.structs import replace
from structlog.testing import capture_logs

from infra.embedded.valkey import Valkey
from services.api.app import create_app as create_api
from services.stream.app import create_app
from shared.auth import issue_token
from shared.channels import FORMAT, Frame, Publisher, make_redis
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.metrics import Numbers
from tests.support.outages import no_database
from tests.support.ports import own_port
from tests.support.sse import Stream
from tests.support.streams import health
from tests.support.web import served
from tests.support.writer import Writer

Said = list[MutableMapping[str, Any]]


@pytest.fixture
def writer(engine: sa.Engine, settings: Settings) -> Iterator[Writer]:
    writer = Writer(engine, settings)
    yield writer
    writer.close()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey", own_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def said() -> Iterator[Said]:
    with capture_logs() as said:
        yield said


def events(said: Said, *about: str) -> list[str]:
    return [line["event"] for line in said if any(word in line["event"] for word in about)]


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
        wait_for(lambda: "postgresql answers again" in events(said, "postgresql"), "it to be said")
        answered = numbers["readings_total{answered}"]
        numbers.wait("readings_total{answered}", lambda now: now > answered + 2)

    assert events(said, "postgresql") == ["postgresql does not answer", "postgresql answers again"]
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

    parts = [(line["event"], line["part"]) for line in said if "part" in line]
    assert parts == [("a part is away", "postgresql"), ("a part is back", "postgresql")]


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
        valkey.start()
        numbers.wait("redis_up", 1)

        def all_back() -> bool:
            publish()
            return len(events(said, "redis is there")) >= 4

        wait_for(all_back, "all to have found it again")
        publish()
    client.close()

    assert sorted(events(said, "redis")) == [
        "redis is away, every process counts viewers for itself",
        "redis is away, polling instead",
        "redis is away, publishing nothing",
        "redis is there",
        "redis is there",
        "redis is there again, publishing",
        "redis is there again, viewers are counted together",
    ]
