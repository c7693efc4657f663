"""`headway doctor` behind our gateway, which tells nobody how its parts are: each that is away is named, and first."""

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from shared.auth import issue_token
from shared.settings import Settings
from tests.support.batches import OWNER, wait_for
from tests.support.clocks import ClockedPostgres, Clocks
from tests.support.doctors import look, look_behind
from tests.support.gateways import Gateway, nginx
from tests.support.installation import Installation, Part, installed
from tests.support.meddler import Meddler, Wrongs
from tests.support.streams import health, status
from tests.support.tls import certificate
from tests.support.web import served

HOUR = 3600


class Whole(Struct):
    """The services, each a process that goes by a clock of its own, and nginx before them."""

    installation: Installation
    gateway: Gateway
    clocks: Clocks
    token: str
    """For twelve hours, so that a ticket ends with it and not after a day."""

    def parts(self, name: str) -> list[Part]:
        whole = self.installation
        named: dict[str, list[Part]] = {
            "redis": [whole.valkey],
            "postgresql": [whole.postgres],
            "api": [whole.api],
            "stream": [whole.streams[0]],
            "workers": [*whole.workers],
        }
        return named[name]

    def settle(self) -> None:
        """All is well (again)."""
        addresses = [self.installation.api_address, self.installation.addresses[0]]
        wait_for(lambda: all(status(address, "/health/ready") == 200 for address in addresses), "all to be ready", 60)
        wait_for(lambda: all(health(address)["redis"] == "ok" for address in addresses), "Redis to be heard", 60)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("whole")
    clocks = Clocks(folder)
    settings = Settings(
        database_url="postgresql:///",
        redis_url="redis:///",
        secret="a secret for tests, of 32 bytes or more",  # noqa: S106  # it protects nothing
        ticket_key="a ticket key for tests, of 32 bytes or more",
        uploads=folder,
        heartbeat=1,
    )
    token = issue_token(settings, OWNER, ttl=12 * HOUR)
    with installed(
        settings,
        folder,
        own_postgres=lambda directory: ClockedPostgres(directory, clocks),
        with_api=True,
        more=clocks.environment,
    ) as installation:
        pem = certificate("localhost", left=dt.timedelta(days=90))
        with nginx(installation.api_address, installation.addresses[0], folder / "gateway", pem=pem) as gateway:
            yield Whole(installation, gateway, clocks, token)
    clocks.close()


@pytest.mark.parametrize(
    ("name", "how", "check", "words"),
    [
        ("redis", "freeze", "its events come when they are made", "Redis is away, or stream does not hear it"),
        ("redis", "kill", "its events come when they are made", "Redis is away, or stream does not hear it"),
        ("postgresql", "freeze", "a rehearsal is accepted", "api answers, but PostgreSQL does not"),
        ("api", "freeze", "api answers", "start api, or look why it does not start or stands still"),
        ("stream", "freeze", "the stream service answers", "start the stream service, or look why"),
        ("workers", "kill", "a worker takes the job", "start workers for the queue `default`"),
    ],
)
def test_the_part_that_is_away_is_named_and_nothing_else(
    whole: Whole, tmp_path: Path, name: str, how: str, check: str, words: str
) -> None:
    parts = whole.parts(name)
    for part in parts:
        part.freeze() if how == "freeze" else part.kill()
    try:
        if name == "redis":
            stream = whole.installation.addresses[0]
            wait_for(lambda: health(stream)["redis"] == "away", "the stream service to notice")
        seen = look_behind(whole.gateway, tmp_path, "--token", whole.token)
    finally:
        for part in parts:
            part.thaw() if how == "freeze" else part.start()
        for part in parts:
            part.await_ready()
        whole.settle()

    assert seen.status == 1, seen.text
    assert seen.failed, seen.text
    for found, said in seen.failed.items():
        assert found.startswith(check), seen.text
        assert words in said, seen.text
    assert "proxy_buffering" not in seen.text


def test_what_was_not_looked_at_without_a_token_is_said(whole: Whole, tmp_path: Path) -> None:
    seen = look_behind(whole.gateway, tmp_path)

    assert seen.status == 0, seen.text
    verdict = seen.text.splitlines()[-1]
    assert re.match(r"\d+ checks passed, in ", verdict), "and not: all"
    assert "Not looked at without a token: PostgreSQL, Redis, workers, when events come, the clocks of" in verdict


def test_each_clock_that_is_wrong_is_told_for_itself(whole: Whole, tmp_path: Path) -> None:
    installation, clocks = whole.installation, whole.clocks
    wrong = {
        "the database's": (["postgres"], HOUR),
        "api's": ([installation.api.name], 2 * HOUR),
        "the stream service's": ([installation.streams[0].name], -3 * HOUR),
        "the worker's": ([worker.name for worker in installation.workers], -4 * HOUR),
    }
    for names, ahead in wrong.values():
        for name in names:
            clocks.set(name, ahead)
    try:
        seen = look_behind(whole.gateway, tmp_path, "--token", whole.token, "--wait", "--heartbeat", "1")
    finally:
        for names, _ in wrong.values():
            for name in names:
                clocks.set(name, 0)
        whole.settle()

    assert set(seen.failed) == {f"{whose} clock and ours agree" for whose in wrong}, seen.text
    for whose, (_, ahead) in wrong.items():
        told = re.search(r"is (\d+) s (ahead of|behind) this machine", seen.failed[f"{whose} clock and ours agree"])
        assert told is not None, seen.text
        # by whole seconds, and the question takes its time
        assert int(told[1]) == pytest.approx(abs(ahead), abs=30), seen.text
        assert (told[2] == "ahead of") == (ahead > 0), seen.text


def test_the_gateways_clock_is_told_from_apis(whole: Whole, tmp_path: Path) -> None:
    date = "Thu, 01 Jan 2026 00:00:00 GMT"
    with served(Meddler(whole.installation.api_address, Wrongs(date=date))) as address:
        seen = look(address, tmp_path, "--token", whole.token, "--patience", "1")

    wrong = {name for name in seen.failed if "clock" in name}
    assert wrong == {"the gateway's clock and ours agree"}, seen.text
    assert "✓ passed: api's clock and ours agree" in seen.text
