"""Why a batch waits, as PostgreSQL knows it: workers, limits, and what comes first."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa
from msgspec import to_builtins
from msgspec.structs import replace

from services.api.app import create_app
from shared import models
from shared.changes import Change
from shared.events import Waiting
from shared.kinds import KINDS
from shared.outlook import Outlook, Premises, premises_of
from shared.outlooks import ask
from shared.pace import History
from shared.settings import Limit, Settings
from tests.support.batches import batch_row, make_batch
from tests.support.claims import claim
from tests.support.web import client, decoded, served
from tests.support.workers import add_worker
from tests.support.writer import Writer

BEN = "ben"
ALONE, LIMITED = Waiting("no_worker"), Waiting("limited")


def outlook(engine: sa.Engine, batch_id: UUID, premises: Premises | None = None) -> Outlook:
    premises = premises or Premises()
    with engine.connect() as connection:
        return ask(connection, premises, [batch_id])[batch_id].outlook


def waiting(engine: sa.Engine, batch_id: UUID, premises: Premises | None = None) -> Waiting | None:
    return outlook(engine, batch_id, premises).waiting


def ahead(engine: sa.Engine, batch_id: UUID) -> int | None:
    found = waiting(engine, batch_id)
    if found is None:
        return 0
    assert found.reason == "behind"
    return found.ahead


@pytest.fixture
def worker(engine: sa.Engine) -> UUID:
    """With nothing to do."""
    return add_worker(engine, silent=-3600)


def set_worker(engine: sa.Engine, worker: UUID, **fields: Any) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(models.workers).where(models.workers.c.id == worker).values(fields))


# -- workers ------------------------------------------------------------------------------------------------------


GONE: list[dict[str, Any]] = [
    {"draining": True},
    {"drain_requested": True},
    {"queue": "another"},
    {"kinds": ["photos.inventory"]},
    {"seen_at": datetime.now(UTC) - timedelta(seconds=16)},
]


@pytest.mark.parametrize("fields", GONE, ids=[next(iter(fields)) for fields in GONE])
def test_a_worker_that_would_not_start_its_jobs_is_none(
    engine: sa.Engine, worker: UUID, fields: dict[str, Any]
) -> None:
    batch_id = make_batch(engine)
    assert waiting(engine, batch_id) is None
    set_worker(engine, worker, **fields)
    assert waiting(engine, batch_id) == ALONE
    add_worker(engine, queue="default")
    assert waiting(engine, batch_id) is None


def test_a_batch_that_runs_is_told_that_nobody_starts_the_rest(make_writer: Callable[..., Writer]) -> None:
    writer = make_writer(2)
    writer.start(0)
    assert waiting(writer.engine, writer.batch_id) == ALONE
    writer.start(1)
    assert waiting(writer.engine, writer.batch_id) is None, "there is no rest"


def test_what_its_own_row_tells_comes_first(engine: sa.Engine) -> None:
    batch_id = make_batch(engine)
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        change.pause()
        change.close()
    assert waiting(engine, batch_id) == Waiting("paused")


def test_a_retry_that_rests_is_delayed_and_one_that_is_due_wants_a_worker(make_writer: Callable[..., Writer]) -> None:
    writer = make_writer()
    writer.start(0)
    writer.give_back(0)  # to run again at once
    assert waiting(writer.engine, writer.batch_id) == ALONE
    with writer.engine.begin() as connection:
        later = datetime.now(UTC) + timedelta(hours=1)
        rests = sa.update(models.batches).where(models.batches.c.id == writer.batch_id).values(next_due=later)
        connection.execute(rests)
    found = waiting(writer.engine, writer.batch_id)
    assert found is not None
    assert found.reason == "delayed"


def test_what_no_worker_of_ours_runs_waits_for_none(engine: sa.Engine) -> None:
    assert waiting(engine, make_batch(engine, 2, "external")) is None


def test_a_batch_that_has_ended_has_no_outlook(make_writer: Callable[..., Writer]) -> None:
    writer = make_writer()
    writer.cancel()
    with writer.engine.connect() as connection:
        assert not ask(connection, Premises(), [writer.batch_id])


# -- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_its_own_limit(make_writer: Callable[..., Writer]) -> None:
    writer = make_writer(3, concurrency=2)
    writer.start(0)
    assert waiting(writer.engine, writer.batch_id) is None
    writer.start(1)
    assert waiting(writer.engine, writer.batch_id) == LIMITED


@pytest.mark.usefixtures("worker")
def test_its_owners_limit_counts_all_of_their_batches_and_nobody_elses(
    engine: sa.Engine, make_writer: Callable[..., Writer]
) -> None:
    make_writer(2).start(0, 1)
    make_writer(2, owner=BEN).start(0)
    mine, bens = make_batch(engine), make_batch(engine, owner=BEN)

    assert waiting(engine, mine, Premises(owner=2)) == LIMITED
    assert waiting(engine, bens, Premises(owner=2)) != LIMITED
    assert waiting(engine, mine, Premises(owner=3)) != LIMITED


@pytest.mark.usefixtures("worker")
def test_its_kinds_limit_counts_everybodys(engine: sa.Engine, make_writer: Callable[..., Writer]) -> None:
    make_writer(2, owner=BEN).start(0, 1)
    mine = make_batch(engine)

    assert waiting(engine, mine, Premises(kinds={"rehearsal": Limit(2)})) == LIMITED
    assert waiting(engine, mine, Premises(kinds={"rehearsal": Limit(3)})) is None


@pytest.mark.usefixtures("worker")
def test_its_kinds_rate(engine: sa.Engine) -> None:
    mine, slow = make_batch(engine, 2), Premises(kinds={"rehearsal": Limit(rate=0.01)})
    assert waiting(engine, mine, slow) is None
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        claim(connection, 1, kinds=["rehearsal"], kind_limits=[None], kind_rates=[0.01])
    found = waiting(engine, mine, slow)
    assert found is not None
    assert found.reason == "limited"
    assert found.until is not None, "the next start is in more than a minute"


def test_limits_are_those_of_the_settings(settings: Settings) -> None:
    limited = premises_of(replace(settings, lease=7, owner_concurrency=3, limits="rehearsal=2@5"))
    assert (limited.lease, limited.owner, limited.kinds["rehearsal"]) == (7, 3, Limit(2, 5))
    assert premises_of(settings).kinds == {
        kind.name: Limit(kind.concurrency, kind.rate) for kind in KINDS.values() if kind.concurrency or kind.rate
    }


# -- turns --------------------------------------------------------------------------------------------------------


def test_no_room_is_a_reason_even_if_nobody_comes_first(engine: sa.Engine, worker: UUID) -> None:
    batch_id = make_batch(engine)
    set_worker(engine, worker, running=8)
    assert waiting(engine, batch_id) == Waiting("behind", ahead=0)


def test_when_its_turn_is_follows_from_earlier_batches_of_its_kind(engine: sa.Engine, worker: UUID) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(models.paces).values(kind="rehearsal", pace=to_builtins(History(3, math.log(40)))))
    batch_id = make_batch(engine)
    set_worker(engine, worker, running=8)
    found = waiting(engine, batch_id)
    assert found is not None
    assert found.until is not None, "it has not begun, but how long such jobs take is known"
    left = datetime.fromisoformat(found.until) - datetime.now(UTC)
    assert left <= timedelta(seconds=5), "one of eight threads has room in an eighth of that time"


@pytest.mark.usefixtures("worker")
def test_higher_ones_come_first_with_all_that_they_have(engine: sa.Engine) -> None:
    mine = make_batch(engine, 5)
    make_batch(engine, 70, owner=BEN, priority=1)
    make_batch(engine, 8, priority=2)
    assert ahead(engine, mine) == 78


@pytest.mark.usefixtures("worker")
def test_equals_come_first_with_one_for_each_owner(engine: sa.Engine) -> None:
    make_batch(engine, 10_000, owner="ada")
    mine = make_batch(engine, 5, owner=BEN)
    make_batch(engine, 10_000, owner="cora")  # whose turn is after
    make_batch(engine, 10_000, owner="ada", priority=-1)
    assert ahead(engine, mine) == 1


@pytest.mark.usefixtures("worker")
def test_what_cannot_be_started_is_not_ahead(engine: sa.Engine, make_writer: Callable[..., Writer]) -> None:
    mine = make_batch(engine)
    held = make_batch(engine, 50, owner="ada", priority=1)
    with engine.begin() as connection:
        change = Change(connection, held)
        change.pause()
        change.close()
    make_batch(engine, 50, "external", owner="ada", priority=1)
    make_writer(1, owner="ada", priority=1).start(0)
    assert ahead(engine, mine) == 0


@pytest.mark.usefixtures("worker")
def test_one_that_runs_or_has_just_ended_a_job_is_not_behind(make_writer: Callable[..., Writer]) -> None:
    writer = make_writer(3)
    make_batch(writer.engine, 50, owner=BEN, priority=1)
    assert ahead(writer.engine, writer.batch_id) == 50
    writer.start(0)
    assert waiting(writer.engine, writer.batch_id) is None
    writer.finish(0)
    assert batch_row(writer.engine, writer.batch_id).processing == 0
    assert waiting(writer.engine, writer.batch_id) is None


@pytest.mark.parametrize("seed", range(8))
def test_as_many_are_started_before_as_it_said(engine: sa.Engine, seed: int) -> None:
    chance = Random(seed)  # noqa: S311  # nothing depends on its being a surprise
    add_worker(engine, silent=-3600, threads=10_000)
    ids = [
        make_batch(engine, chance.randrange(1, 5), owner=chance.choice("abcd"), priority=chance.randrange(2))
        for _ in range(12)
    ]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for _ in range(3):  # so that some have had their turn
            ((_, batch_id, _),) = claim(connection, 1)
            start(engine, batch_id)
        mine = chance.choice([batch_id for batch_id in ids if not batch_row(engine, batch_id).processing])
        said = ahead(engine, mine)
        started = 0
        while claim(connection, 1)[0].batch_id != mine:
            started += 1
    assert started == said


def start(engine: sa.Engine, batch_id: UUID) -> None:
    """What is reserved of it begins to run."""
    with engine.begin() as connection:
        reserved = sa.select(models.jobs).where(
            models.jobs.c.lease_token.is_not(None), models.jobs.c.status == "QUEUED"
        )
        change = Change(connection, batch_id)
        for row in connection.execute(reserved.where(models.jobs.c.batch_id == batch_id)).all():
            change.start([row.id], row.lease_token, 60)
        change.close()


# -- asking -------------------------------------------------------------------------------------------------------


def test_many_are_asked_about_at_once(engine: sa.Engine) -> None:
    ids = [make_batch(engine) for _ in range(5)]
    with engine.connect() as connection:
        found = ask(connection, Premises(), [*ids, uuid4()])
    assert {batch_id: one.outlook.waiting for batch_id, one in found.items()} == dict.fromkeys(ids, ALONE)


@pytest.fixture
def anna(settings: Settings) -> Any:
    with served(create_app(settings)) as address, client(address, settings) as anna:
        yield anna


def test_a_reader_of_the_api_is_told(engine: sa.Engine, anna: httpx.Client) -> None:
    first, other = make_batch(engine), make_batch(engine)
    finished = make_batch(engine)
    with engine.begin() as connection:
        change = Change(connection, finished)
        change.cancel()
        change.close()

    def told() -> dict[str, Any]:
        alone = decoded(anna.get(f"/api/batches/{first}"))["waiting"]
        listed = {batch["batchId"]: batch["waiting"] for batch in decoded(anna.get("/api/batches"))["items"]}
        assert listed.pop(str(finished)) is None
        assert listed[str(first)] == alone
        assert listed.keys() == {str(first), str(other)}
        return {"first": alone, "other": listed[str(other)]}

    assert told() == {"first": {"reason": "no_worker"}, "other": {"reason": "no_worker"}}
    worker = add_worker(engine, silent=-3600)
    assert told() == {"first": None, "other": {"reason": "behind", "ahead": 1}}
    set_worker(engine, worker, running=8)
    assert told() == {"first": {"reason": "behind", "ahead": 0}, "other": {"reason": "behind", "ahead": 1}}
