"""Claims: in which order, within which limits, and which lanes are looked at again."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from shared import models, queries
from shared.changes import Change
from shared.job_updates import JobUpdate
from shared.jobs import JobStatus
from tests.support.batches import cancel, make_batch
from tests.support.claims import claim

Take = Callable[..., list[tuple[UUID, int]]]


@pytest.fixture
def take(engine: sa.Engine) -> Iterator[Take]:
    """A claim as the ledger does it; batches and positions."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield lambda jobs=1, **options: [(row.batch_id, row.position) for row in claim(connection, jobs, **options)]


def in_turn(take: Take, claims: int, **options: Any) -> list[tuple[UUID, int]]:
    """What so many claims of one job each get."""
    return [job for _ in range(claims) for job in take(1, **options)]


def add_worker(engine: sa.Engine, threads: int, **other: Any) -> None:
    values = {"queue": "default", "kinds": ["rehearsal"], "host": "a host", "pid": 1, "version": "1"}
    values |= {"running": 0, "job_ids": [], "abandoned": 0, "memory": 0, "draining": False, "drain_requested": False}
    values |= {"id": uuid4(), "threads": threads, "started_at": sa.func.now(), "seen_at": sa.func.now()}
    with engine.begin() as connection:
        connection.execute(sa.insert(models.workers).values(values | other))


def lane(engine: sa.Engine, batch_id: UUID) -> sa.Row[Any]:
    with engine.connect() as connection:
        return connection.execute(sa.select(models.lanes).where(models.lanes.c.batch_id == batch_id)).one()


def rest(engine: sa.Engine, batch_id: UUID, seconds: float, *positions: int) -> None:
    """These jobs rest for so long."""
    table = models.jobs
    mine = (table.c.batch_id == batch_id) & table.c.position.in_(positions)
    until = sa.func.clock_timestamp() + timedelta(seconds=seconds)
    with engine.begin() as connection:
        connection.execute(sa.update(table).where(mine).values(run_after=until))


def end_all(engine: sa.Engine, batch_id: UUID, status: JobStatus = JobStatus.COMPLETED) -> int:
    """Starts all that is reserved of a batch and ends it; how many."""
    table = models.jobs
    with engine.begin() as connection:
        mine = (table.c.batch_id == batch_id) & table.c.lease_token.is_not(None)
        reserved = connection.execute(sa.select(table.c.id, table.c.lease_token).where(mine)).all()
        change = Change(connection, batch_id)
        for row in reserved:
            change.start([row.id], row.lease_token, 60)
        change.update([JobUpdate(id=row.id, token=row.lease_token, status=status) for row in reserved])
        change.close()
    return len(reserved)


# -- order


def test_priority_comes_first_then_owners_in_turn_then_their_batches_in_turn_then_positions(
    engine: sa.Engine, take: Take
) -> None:
    add_worker(engine, 100)
    anna = [make_batch(engine, 3, owner="anna") for _ in range(2)]
    (bert,) = [make_batch(engine, 2, owner="bert")]
    urgent = make_batch(engine, 2, owner="carl", priority=1)
    assert in_turn(take, 10) == [
        (urgent, 0),
        (urgent, 1),
        (anna[0], 0),
        (bert, 0),
        (anna[1], 0),
        (bert, 1),
        (anna[0], 1),
        (anna[1], 1),
        (anna[0], 2),
        (anna[1], 2),
    ]
    assert take(10) == []


@pytest.mark.parametrize("jobs", [1, 2, 3, 5, 7, 12])
def test_claims_of_many_jobs_give_what_claims_of_one_would(engine: sa.Engine, take: Take, jobs: int) -> None:
    add_worker(engine, 1000)
    sizes = {"anna": (5, 1, 9), "bert": (2,), "carl": (4, 4)}
    batches = {
        owner: [make_batch(engine, size, owner=owner) for size in sizes[owner]] for owner in ("carl", "anna", "bert")
    }
    left = {
        batch: list(range(size))
        for owner, mine in batches.items()
        for batch, size in zip(mine, sizes[owner], strict=True)
    }
    expected = []
    while any(left.values()):
        for owner in sorted(batches):
            if offered := [batch for batch in batches[owner] if left[batch]]:
                batches[owner] = (
                    batches[owner][batches[owner].index(offered[0]) + 1 :]
                    + batches[owner][: batches[owner].index(offered[0]) + 1]
                )
                expected.append((offered[0], left[offered[0]].pop(0)))
    while expected:
        now, expected = expected[:jobs], expected[jobs:]
        assert sorted(take(jobs)) == sorted(now)


def test_an_owner_whose_turn_was_the_last_comes_last_also_when_others_come_and_go(
    engine: sa.Engine, take: Take
) -> None:
    add_worker(engine, 100)
    mine = {owner: make_batch(engine, 5, owner=owner) for owner in ("anna", "carl")}
    assert in_turn(take, 1) == [(mine["anna"], 0)]
    mine["bert"] = make_batch(engine, 5, owner="bert")
    assert in_turn(take, 2) == [(mine["bert"], 0), (mine["carl"], 0)]
    cancel(engine, mine["anna"])
    assert in_turn(take, 2) == [(mine["bert"], 1), (mine["carl"], 1)]


def test_what_has_rested_long_enough_comes_before_what_was_never_tried_and_what_rests_not_at_all(
    engine: sa.Engine, take: Take
) -> None:
    batch = make_batch(engine, 4)
    rest(engine, batch, -1, 3)
    rest(engine, batch, 3600, 1)
    assert in_turn(take, 4) == [(batch, 3), (batch, 0), (batch, 2)]


# -- what a lane says


def test_a_lane_is_left_alone_until_what_rests_in_it_is_due(engine: sa.Engine, take: Take) -> None:
    batch = make_batch(engine, 2)
    rest(engine, batch, 3600, 0, 1)
    assert take(8) == []
    assert not lane(engine, batch).ready
    with engine.connect() as connection:
        due = connection.execute(sa.select(sa.func.min(models.jobs.c.run_after))).scalar_one()
    assert lane(engine, batch).ready_at == due
    rest(engine, batch, -1, 1)
    with engine.begin() as connection:
        connection.execute(sa.update(models.lanes).values(ready_at=sa.func.now()))
        assert connection.execute(queries.RUNNABLE, {"queue": "default", "jobs": 16}).scalar_one() == 1
    assert take(8) == [(batch, 1)]


def _retry(change: Change) -> None:
    assert change.retry_failed()


WAYS: dict[str, Callable[[Change], Any]] = {
    "retried": _retry,
    "resumed": lambda change: (change.pause(), change.resume()),
}


@pytest.mark.parametrize("how", WAYS)
def test_whoever_makes_something_claimable_says_so(engine: sa.Engine, take: Take, how: str) -> None:
    batch = make_batch(engine, 2)
    take(1)
    end_all(engine, batch, JobStatus.FAILED)
    with engine.begin() as connection:
        connection.execute(sa.update(models.lanes).values(ready=False))
    with engine.begin() as connection:
        change = Change(connection, batch)
        WAYS[how](change)
        change.close()
    assert lane(engine, batch).ready


def test_a_job_that_is_given_back_or_not_started_is_claimed_again(engine: sa.Engine, take: Take) -> None:
    batch = make_batch(engine, 1)
    token = uuid4()
    assert take(1, token=token)
    assert take(1) == []
    assert not lane(engine, batch).ready
    with engine.begin() as connection:  # as when the batch was paused between claim and start
        change = Change(connection, batch)
        (job,) = connection.execute(sa.select(models.jobs.c.id)).scalars()
        change.release([job], token)
        assert change.close() is None
    assert take(1)
    assert take(1) == []
    assert end_all(engine, batch, JobStatus.QUEUED) == 1
    assert take(1)


@pytest.mark.parametrize("way", ["unsure", "expired"])
def test_reservations_that_are_released_are_claimed_again(engine: sa.Engine, take: Take, way: str) -> None:
    batches = [make_batch(engine, 2) for _ in range(3)]
    token = uuid4()
    assert len(take(8, token=token, lease=3600 if way == "unsure" else 0)) == 6
    assert take(8) == []
    with engine.begin() as connection:
        if way == "unsure":
            connection.execute(queries.RELEASE_CLAIMS, {"tokens": [token]})
        else:
            connection.execute(queries.RELEASE_EXPIRED)
    assert all(lane(engine, batch).ready for batch in batches)
    assert len(take(8)) == 6


def test_a_batch_that_may_not_begin_yet_is_not_woken(engine: sa.Engine, take: Take) -> None:
    batch = make_batch(engine, 1)
    with engine.begin() as connection:
        later = sa.func.clock_timestamp() + timedelta(hours=1)
        connection.execute(sa.update(models.batches).values(run_after=later))
        connection.execute(queries.WAKE_LANE, {"batch_id": batch})
    assert take(1) == []
    assert lane(engine, batch).ready_at is not None
    with engine.begin() as connection:
        connection.execute(sa.update(models.batches).values(run_after=sa.func.clock_timestamp()))
        connection.execute(queries.WAKE_LANE, {"batch_id": batch})
    assert take(1) == [(batch, 0)]


# -- limits


def test_a_batch_does_not_get_past_its_concurrency_and_an_end_makes_room(engine: sa.Engine, take: Take) -> None:
    batch = make_batch(engine, 6, concurrency=2)
    assert take(8) == [(batch, 0), (batch, 1)]
    assert not lane(engine, batch).ready
    assert take(8) == []
    assert end_all(engine, batch) == 2
    assert take(1) == [(batch, 2)]
    assert take(8) == [(batch, 3)]


def test_a_reserved_job_that_is_cancelled_makes_room(engine: sa.Engine, take: Take) -> None:
    batch = make_batch(engine, 3, concurrency=1)
    take(1)
    with engine.begin() as connection:
        change = Change(connection, batch)
        job = connection.execute(sa.select(models.jobs.c.id).where(models.jobs.c.position == 0)).scalar_one()
        assert change.cancel_job(job)
        change.close()
    assert take(8) == [(batch, 1)]


def test_an_owner_does_not_get_past_the_limit_of_owners_in_all_queues_together(engine: sa.Engine, take: Take) -> None:
    elsewhere = make_batch(engine, 1, "photos.inventory", params={"upload_id": str(uuid4())}, owner="anna")
    anna, bert = make_batch(engine, 9, owner="anna"), make_batch(engine, 9, owner="bert")
    limit = {"owner_limit": 3}
    assert take(8, queue="photos", **limit) == [(elsewhere, 0)]
    assert sorted(take(8, **limit)) == sorted([(anna, 0), (anna, 1), (bert, 0), (bert, 1), (bert, 2)])
    assert take(8, **limit) == []
    end_all(engine, anna)
    assert take(8, **limit) == [(anna, 2), (anna, 3)]


def test_a_kind_does_not_get_past_its_concurrency(engine: sa.Engine, take: Take) -> None:
    batches = [make_batch(engine, 5, owner=owner) for owner in ("anna", "bert")]
    limit = {"kinds": ["other", "rehearsal"], "kind_limits": [1, 3], "kind_rates": [None, None]}
    assert len(take(8, **limit)) == 3
    assert take(8, **limit) == []
    assert all(lane(engine, batch).ready for batch in batches), "it is not them that has no room"
    ended = sum(end_all(engine, batch) for batch in batches)
    assert ended == len(take(8, **limit)) == 3


def test_starts_of_a_kind_follow_one_another_at_its_rate(engine: sa.Engine, take: Take) -> None:
    """A second's worth may come at once. The clock is the time that is written down."""
    make_batch(engine, 20)
    limit = {"kinds": ["rehearsal"], "kind_limits": [None], "kind_rates": [4.0]}

    def let_pass(seconds: float) -> None:
        with engine.begin() as connection:
            earlier = models.kind_turns.c.due - timedelta(seconds=seconds)
            connection.execute(sa.update(models.kind_turns).values(due=earlier))

    assert len(take(8, **limit)) == 4
    assert len(take(8, **limit)) <= 1  # of what comes while this runs
    let_pass(0.5)
    assert 2 <= len(take(8, **limit)) <= 3
    let_pass(3600)
    assert len(take(8, **limit)) == 4


def test_a_rate_below_one_a_second_lets_one_start(engine: sa.Engine, take: Take) -> None:
    make_batch(engine, 3)
    limit = {"kinds": ["rehearsal"], "kind_limits": [None], "kind_rates": [0.001]}
    assert len(take(8, **limit)) == 1
    assert take(8, **limit) == []


@pytest.mark.parametrize(("rate", "burst"), [(4.0, 4), (0.01, 1)])
def test_a_server_whose_clock_was_set_back_does_not_hold_up_a_kind(
    engine: sa.Engine, take: Take, rate: float, burst: int
) -> None:
    make_batch(engine, 20)
    limit = {"kinds": ["rehearsal"], "kind_limits": [None], "kind_rates": [rate]}
    with engine.begin() as connection:
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        connection.execute(sa.insert(models.kind_turns).values(kind="rehearsal", due=tomorrow))
    assert len(take(8, **limit)) == burst
    with engine.connect() as connection:
        due = connection.execute(sa.select(models.kind_turns.c.due)).scalar_one()
    assert due < tomorrow - timedelta(hours=23), "it counts from now again"
    assert len(take(8, **limit)) <= 1  # of what comes while this runs


# -- shares


def test_while_others_wait_no_owner_gets_more_than_three_quarters_whatever_the_priorities(
    engine: sa.Engine, take: Take
) -> None:
    add_worker(engine, 8)
    add_worker(engine, 80, draining=True)
    add_worker(engine, 80, seen_at=sa.func.now() - timedelta(hours=1))
    urgent, other = make_batch(engine, 20, owner="anna", priority=9), make_batch(engine, 20, owner="bert")
    assert len([batch for batch, _ in take(8) if batch == urgent]) == 6
    end_all(engine, other)
    assert {batch for batch, _ in take(2)} == {other}
    end_all(engine, urgent)
    assert {batch for batch, _ in take(6)} == {urgent}


def test_whom_nobody_waits_beside_gets_all(engine: sa.Engine, take: Take) -> None:
    add_worker(engine, 8)
    anna, bert = make_batch(engine, 20, owner="anna"), make_batch(engine, 1, owner="bert")
    assert len([batch for batch, _ in take(8) if batch == anna]) == 7
    assert bert not in {batch for batch, _ in take(4)}


def test_who_is_at_a_limit_does_not_wait(engine: sa.Engine, take: Take) -> None:
    add_worker(engine, 8)
    anna = make_batch(engine, 20, owner="anna", priority=1)
    make_batch(engine, 20, owner="bert", concurrency=1)
    assert len([batch for batch, _ in take(8) if batch == anna]) == 7


def test_a_job_that_is_about_to_end_holds_no_slot(engine: sa.Engine, take: Take) -> None:
    """Else, in a queue of one slot, priority would not count: whose turn just ended would seem to hold all of it."""
    add_worker(engine, 1)
    urgent, other = make_batch(engine, 3, owner="anna", priority=1), make_batch(engine, 3, owner="bert")
    assert take(1) == [(urgent, 0)]
    with engine.connect() as connection:
        held = models.jobs.c.lease_token.is_not(None)
        ending = list(connection.execute(sa.select(models.jobs.c.id).where(held)).scalars())
    assert take(1, ending=ending) == [(urgent, 1)]
    assert take(1) == [(other, 0)]


def test_few_jobs_of_one_owner_take_as_long_beside_10_000_of_another_as_on_half_of_the_slots(
    engine: sa.Engine, take: Take
) -> None:
    """In rounds, of which each ends whatever runs."""
    add_worker(engine, 8)
    crowd = make_batch(engine, 10_000, owner="anna")
    assert len(take(8)) == 8
    few = make_batch(engine, 10, owner="bert")
    rounds = done = 0
    while done < 10:
        rounds += 1
        end_all(engine, crowd)
        done += end_all(engine, few)
        take(8)
    assert rounds <= 1 + 3, "after a round in which all slots were taken, ten jobs on four slots"
