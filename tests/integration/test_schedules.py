"""When a batch may begin, and by when it has to have ended."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
import sqlalchemy as sa

from services.api.app import create_app
from services.worker.sweeper import Sweeper
from shared import models
from shared.changes import Change
from shared.creation import Schedule
from shared.events import stamp
from shared.jobs import JobStatus
from shared.settings import Settings
from tests.support.batches import (
    assert_consistent,
    batch_row,
    cancel,
    job_rows,
    make_batch,
    transition_rows,
    wait_finished,
    wait_for,
)
from tests.support.locks import held, waiting
from tests.support.processes import worker
from tests.support.sweeping import sweeper_of
from tests.support.web import client, decoded, rehearsal, served, submit, wrong_paths
from tests.support.writer import Writer

QUICK = {"steps": 1, "stepMs": 1}
LONG = {"steps": 500, "stepMs": 50}


@pytest.fixture
def address(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as address:
        yield address


@pytest.fixture
def sweeper(engine: sa.Engine, settings: Settings) -> Iterator[Sweeper]:
    with sweeper_of(engine, settings) as sweeper:
        yield sweeper


def ahead(seconds: float) -> str:
    return stamp(datetime.now(UTC) + timedelta(seconds=seconds))


def planned(api: httpx.Client, jobs: int = 2, params: dict[str, Any] | None = None, **fields: Any) -> UUID:
    return UUID(submit(api, rehearsal(jobs, params or QUICK, **fields))["batchId"])


def state(api: httpx.Client, batch_id: UUID) -> dict[str, Any]:
    return decoded(api.get(f"/api/batches/{batch_id}"))


def held_back(batch: dict[str, Any]) -> dict[str, Any] | None:
    """By its schedule: without a worker all that may begin says that there is none."""
    waiting: dict[str, Any] | None = batch["waiting"]
    return waiting if waiting and waiting["reason"] == "delayed" else None


def do(api: httpx.Client, batch_id: UUID, action: str) -> dict[str, Any]:
    reply = api.post(f"/api/batches/{batch_id}/{action}")
    assert reply.status_code == 202, reply.text
    return decoded(reply)


def reasons(engine: sa.Engine, batch_id: UUID) -> list[str]:
    """Why the batch itself changed its state."""
    return [step.reason for step in transition_rows(engine, batch_id) if step.job_id is None]


def lane(engine: sa.Engine, batch_id: UUID) -> sa.Row[Any]:
    with engine.connect() as connection:
        return connection.execute(sa.select(models.lanes).where(models.lanes.c.batch_id == batch_id)).one()


def set_time(engine: sa.Engine, batch_id: UUID, name: str, seconds: float) -> None:
    """As if that had been said when the batch was created."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    with engine.begin() as connection:
        connection.execute(sa.update(models.batches).where(models.batches.c.id == batch_id).values({name: moment}))
        of_lane = "ready_at" if name == "run_after" else name
        connection.execute(sa.update(models.lanes).where(models.lanes.c.batch_id == batch_id).values({of_lane: moment}))


# A time to begin at


def test_a_batch_waits_for_its_time(anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    with worker(settings, tmp_path):
        moment = datetime.now(UTC) + timedelta(seconds=3)
        offset = moment.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()
        batch_id = planned(anna, runAfter=offset)
        other = planned(anna)
        before = state(anna, batch_id)
        assert (before["status"], before["runAfter"]) == ("QUEUED", stamp(moment))
        assert before["waiting"] == {"reason": "delayed", "until": stamp(moment)}
        wait_finished(engine, other)
        assert batch_row(engine, batch_id).started_at is None
        row = wait_finished(engine, batch_id)
    assert row.status == "COMPLETED"
    assert moment <= row.started_at
    assert row.started_at - moment < timedelta(seconds=2)
    assert held_back(state(anna, batch_id)) is None
    assert_consistent(engine, batch_id)


@pytest.mark.parametrize("action", ["pause", "retry"])
def test_nothing_that_is_done_to_it_makes_it_begin_early(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path, action: str
) -> None:
    with worker(settings, tmp_path):
        batch_id = planned(anna, runAfter=ahead(3600))
        if action == "pause":
            assert do(anna, batch_id, "pause")["waiting"] == {"reason": "paused"}
            resumed = do(anna, batch_id, "resume")
            assert (resumed["status"], resumed["waiting"]["reason"]) == ("QUEUED", "delayed")
        else:
            first = job_rows(engine, batch_id)[0].id
            do(anna, batch_id, "cancel")
            assert anna.post(f"/api/jobs/{first}/retry").status_code == 202
            assert state(anna, batch_id)["waiting"]["reason"] == "delayed"
        assert not lane(engine, batch_id).ready
        wait_finished(engine, planned(anna))
        assert all(job.attempt == 0 for job in job_rows(engine, batch_id))
        set_time(engine, batch_id, "run_after", 0.5)
        wait_for(lambda: batch_row(engine, batch_id).completed, "it to begin")
    assert_consistent(engine, batch_id)


def test_a_waiting_batch_is_cancelled_at_once(anna: httpx.Client, engine: sa.Engine) -> None:
    batch_id = planned(anna, runAfter=ahead(3600))
    cancelled = do(anna, batch_id, "cancel")
    assert (cancelled["status"], cancelled["waiting"]) == ("CANCELLED", None)
    assert_consistent(engine, batch_id)


def test_a_time_in_the_past_means_now(anna: httpx.Client, engine: sa.Engine) -> None:
    for past in ("2001-02-03T04:05:06Z", "0001-01-01T00:00:00+14:00"):
        batch = submit(anna, rehearsal(runAfter=past))
        assert (batch["runAfter"], held_back(batch)) == (None, None)
        assert lane(engine, UUID(batch["batchId"])).ready


def test_what_is_no_time_or_too_far_away_is_named(anna: httpx.Client) -> None:
    wrong = ["soon", 1_900_000_000, "2026-11-21", "2026-11-21T18:00:00", "2026-02-30T00:00:00Z"]
    for time in (*wrong, ahead(400 * 86_400), "9999-12-31T23:59:59-10:00"):
        for name in ("runAfter", "expiresAt"):
            body = rehearsal(1, {"steps": -1}, **{name: time})
            assert sorted(wrong_paths(anna.post("/api/batches", json=body))) == sorted(["jobs[0].params.steps", name])


def test_how_another_ended_means_nothing_without_another(anna: httpx.Client) -> None:
    for fields in ({"afterAny": True}, {"afterAny": True, "after": None}):
        assert wrong_paths(anna.post("/api/batches", json=rehearsal(**fields))) == ["afterAny"]
    assert wrong_paths(anna.post("/api/batches", json=rehearsal(afterAny=True, after="the last"))) == ["after"]


# Another batch to follow


def end(writer: Writer, status: JobStatus) -> None:
    writer.start(0)
    writer.finish(0, status)


ENDS: list[tuple[JobStatus, bool, str | None]] = [
    (JobStatus.COMPLETED, False, None),
    (JobStatus.COMPLETED, True, None),
    (JobStatus.FAILED, True, None),
    (JobStatus.FAILED, False, "predecessor_failed"),
]
"""How the one ends, whether that matters, and why the other is cancelled if it is."""


@pytest.mark.parametrize("created", ["before its end", "after its end"])
def test_a_batch_follows_another(
    anna: httpx.Client, engine: sa.Engine, make_writer: Callable[..., Writer], sweeper: Sweeper, created: str
) -> None:
    for ended, after_any, reason in ENDS:
        first = make_writer(1)
        if created == "after its end":
            end(first, ended)
        batch_id = planned(anna, after=str(first.batch_id), afterAny=after_any)
        if created == "before its end":
            waits = state(anna, batch_id)
            assert (waits["status"], waits["after"]) == ("QUEUED", str(first.batch_id))
            assert waits["waiting"] == {"reason": "delayed", "after": str(first.batch_id)}
            sweeper.sweep()
            assert state(anna, batch_id) == waits, "nothing has happened yet"
            end(first, ended)
            sweeper.sweep()
        now = state(anna, batch_id)
        assert (now["status"], held_back(now)) == ("CANCELLED" if reason else "QUEUED", None)
        assert now["after"] == str(first.batch_id)
        assert reasons(engine, batch_id) == ["created"] + ([reason] if reason else [])
        if reason:
            steps = transition_rows(engine, batch_id)
            assert {step.reason for step in steps[1:]} == {reason}
            assert steps[-1].message == f"the batch {first.batch_id}, which it was to follow, ended FAILED"
            assert decoded(anna.get(f"/api/batches/{batch_id}/timeline"))["items"][-1]["reason"] == reason
        else:
            assert lane(engine, batch_id).after_batch is None
            assert lane(engine, batch_id).ready
        assert_consistent(engine, batch_id)


def test_a_chain_runs_in_its_order(anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path) -> None:
    with worker(settings, tmp_path):
        chain = [planned(anna, 3, runAfter=ahead(0.5))]
        for _ in range(2):
            chain.append(planned(anna, 3, after=str(chain[-1])))
        rows = [wait_finished(engine, batch_id) for batch_id in chain]
    assert [row.status for row in rows] == ["COMPLETED"] * 3
    assert all(first.finished_at <= second.started_at for first, second in pairwise(rows))
    for batch_id in chain:
        assert_consistent(engine, batch_id)


def test_the_end_of_a_chain_ends_all_that_was_to_follow(
    anna: httpx.Client, engine: sa.Engine, sweeper: Sweeper
) -> None:
    first = planned(anna, runAfter=ahead(3600))
    second = planned(anna, after=str(first))
    third = planned(anna, after=str(second))
    at_any_rate = planned(anna, after=str(third), afterAny=True)
    do(anna, first, "cancel")
    for _ in range(3):
        sweeper.sweep()
    assert [batch_row(engine, batch_id).status for batch_id in (second, third, at_any_rate)] == [
        "CANCELLED",
        "CANCELLED",
        "QUEUED",
    ]
    assert held_back(state(anna, at_any_rate)) is None
    # what is retried then does not bring the others back, and runs itself without waiting
    job_id = job_rows(engine, second)[0].id
    assert anna.post(f"/api/jobs/{job_id}/retry").status_code == 202
    assert (lane(engine, second).after_batch, held_back(state(anna, second))) == (None, None)
    sweeper.sweep()
    assert batch_row(engine, third).status == "CANCELLED"
    assert_consistent(engine, second)


@pytest.mark.parametrize("after_any", [False, True])
def test_one_that_was_deleted_meanwhile_did_not_complete(
    anna: httpx.Client,
    engine: sa.Engine,
    sweeper: Sweeper,
    after_any: bool,
) -> None:
    first = planned(anna)
    batch_id = planned(anna, after=str(first), afterAny=after_any)
    do(anna, first, "cancel")
    assert anna.delete(f"/api/batches/{first}").status_code == 204
    sweeper.sweep()
    row = batch_row(engine, batch_id)
    assert row.status == ("QUEUED" if after_any else "CANCELLED")
    if not after_any:
        said = transition_rows(engine, batch_id)[-1].message
        assert said == f"the batch {first}, which it was to follow, has been deleted"
    assert_consistent(engine, batch_id)


def test_one_that_was_cancelled_before_still_waits_when_it_is_retried(
    anna: httpx.Client, engine: sa.Engine, make_writer: Callable[..., Writer], sweeper: Sweeper
) -> None:
    first = make_writer(1)
    batch_id = planned(anna, after=str(first.batch_id))
    do(anna, batch_id, "cancel")
    job_id = job_rows(engine, batch_id)[0].id
    assert anna.post(f"/api/jobs/{job_id}/retry").status_code == 202
    assert held_back(state(anna, batch_id)) == {"reason": "delayed", "after": str(first.batch_id)}
    end(first, JobStatus.COMPLETED)
    sweeper.sweep()
    assert held_back(state(anna, batch_id)) is None
    assert lane(engine, batch_id).ready
    assert_consistent(engine, batch_id)


def test_it_may_have_to_wait_for_its_time_as_well(
    anna: httpx.Client, engine: sa.Engine, make_writer: Callable[..., Writer], sweeper: Sweeper
) -> None:
    first, moment = make_writer(1), ahead(3600)
    batch_id = planned(anna, after=str(first.batch_id), runAfter=moment)
    until = {"reason": "delayed", "until": moment}
    assert held_back(state(anna, batch_id)) == until | {"after": str(first.batch_id)}
    end(first, JobStatus.COMPLETED)
    sweeper.sweep()
    assert held_back(state(anna, batch_id)) == until
    assert (lane(engine, batch_id).ready, stamp(lane(engine, batch_id).ready_at)) == (False, moment)


def test_only_a_batch_of_ones_own_can_be_followed(anna: httpx.Client, address: str, settings: Settings) -> None:
    with client(address, settings, "bert") as bert:
        others = planned(bert)
    refused = [anna.post("/api/batches", json=rehearsal(after=str(after))) for after in (others, uuid4())]
    assert [wrong_paths(reply) for reply in refused] == [["after"], ["after"]]
    assert decoded(refused[0])["errors"] == decoded(refused[1])["errors"], "it cannot be told which"
    wrong = rehearsal(1, {"steps": -1}, after=str(others), afterAny="yes", expiresAt="2001-01-01T00:00:00Z")
    assert sorted(wrong_paths(anna.post("/api/batches", json=wrong))) == [
        "after",
        "afterAny",
        "expiresAt",
        "jobs[0].params.steps",
    ]
    assert wrong_paths(anna.post("/api/batches", json=rehearsal(after="the last one"))) == ["after"]


def test_an_end_that_comes_while_it_is_created_is_not_missed(
    anna: httpx.Client, engine: sa.Engine, make_writer: Callable[..., Writer], sweeper: Sweeper, settings: Settings
) -> None:
    """The other one ends after it was looked at, and before the creation is committed."""
    first = make_writer(1)
    first.start(0)
    ours = sa.create_engine(engine.url)
    with ours.connect() as connection:
        # whoever creates waits here, having seen that the other one runs
        connection.execute(sa.text("LOCK TABLE lanes IN SHARE MODE"))
        with ThreadPoolExecutor(1) as threads:
            reply = threads.submit(submit, anna, rehearsal(after=str(first.batch_id)))
            wait_for(lambda: _waits_for_lanes(engine), "the creation to get as far as that")
            with engine.begin() as ending:
                ended = {"status": "COMPLETED", "finished_at": sa.func.now()}
                ending.execute(sa.update(models.batches).where(models.batches.c.id == first.batch_id).values(ended))
            connection.rollback()
            batch = reply.result(20)
    ours.dispose()
    assert batch["waiting"] == {"reason": "delayed", "after": str(first.batch_id)}
    sweeper.sweep()
    assert held_back(state(anna, UUID(batch["batchId"]))) is None


def _waits_for_lanes(engine: sa.Engine) -> bool:
    query = "SELECT count(*) FROM pg_locks WHERE relation = 'lanes'::regclass AND NOT granted"
    with engine.connect() as connection:
        return bool(connection.execute(sa.text(query)).scalar_one())


# A time to have ended by


@pytest.mark.parametrize("fields", [{}, {"runAfter": True}, {"after": True}, {"open": True}, {"pause": True}])
def test_a_batch_that_is_late_is_cancelled(
    anna: httpx.Client, engine: sa.Engine, sweeper: Sweeper, fields: dict[str, Any]
) -> None:
    given: dict[str, Any] = {"open": True} if "open" in fields else {}
    if "runAfter" in fields:
        given["runAfter"] = ahead(2000)
    if "after" in fields:
        given["after"] = str(planned(anna, runAfter=ahead(3600)))
    moment = ahead(3000)
    batch_id = planned(anna, expiresAt=moment, **given)
    if "pause" in fields:
        do(anna, batch_id, "pause")
    sweeper.sweep()
    assert state(anna, batch_id)["expiresAt"] == moment
    assert batch_row(engine, batch_id).status in {"QUEUED", "PAUSED"}
    set_time(engine, batch_id, "expires_at", -1)
    sweeper.sweep()
    now = state(anna, batch_id)
    assert (now["status"], now["open"], now["waiting"]) == ("CANCELLED", False, None)
    assert reasons(engine, batch_id)[-1] == "expired"
    assert {step.reason for step in transition_rows(engine, batch_id) if step.job_id} == {"expired"}
    version = now["version"]
    sweeper.sweep()
    assert state(anna, batch_id)["version"] == version
    assert_consistent(engine, batch_id)
    # on request it runs all the same, and has no time to be late for
    assert anna.post(f"/api/jobs/{job_rows(engine, batch_id)[0].id}/retry").status_code == 202
    sweeper.sweep()
    assert state(anna, batch_id)["status"] == "PROCESSING"


def test_what_runs_then_is_asked_to_end(
    anna: httpx.Client, engine: sa.Engine, settings: Settings, tmp_path: Path
) -> None:
    with worker(settings, tmp_path):
        batch_id = planned(anna, 6, LONG, expiresAt=ahead(2))
        row = wait_finished(engine, batch_id)
    assert (row.status, row.started_at is not None) == ("CANCELLED", True)
    assert row.finished_at > row.expires_at
    assert reasons(engine, batch_id)[-1] == "expired"
    ends = [step.reason for step in transition_rows(engine, batch_id) if step.new_status == "CANCELLED"]
    assert set(ends) == {"expired"}
    assert_consistent(engine, batch_id)


def test_a_batch_in_time_is_left_alone(
    anna: httpx.Client, engine: sa.Engine, make_writer: Callable[..., Writer]
) -> None:
    batch_id = planned(anna, expiresAt=ahead(3600))
    with engine.begin() as connection:
        change = Change(connection, batch_id)
        change.cancel_job(job_rows(engine, batch_id)[0].id)
        change.cancel_job(job_rows(engine, batch_id)[1].id)
        change.close()
    assert reasons(engine, batch_id) == ["created", "jobs"]


def test_a_sweeper_that_has_to_wait_for_a_batch_does_not_lose_its_round(
    engine: sa.Engine, settings: Settings, sweeper: Sweeper
) -> None:
    @sa.event.listens_for(engine, "connect")
    def hurry(connection: Any, _record: object) -> None:
        connection.execute("SET idle_in_transaction_session_timeout = '200ms'")
        connection.commit()

    engine.dispose()
    batch_id = make_batch(engine)
    with engine.begin() as connection:
        connection.execute(sa.update(models.lanes).values(expires_at=sa.func.now()))
    statement = "SELECT FROM batches WHERE id = %(id)s FOR NO KEY UPDATE"
    with ThreadPoolExecutor(1) as thread:
        with held(settings.database_url, statement, id=batch_id):
            sweeping = thread.submit(sweeper.sweep)
            wait_for(lambda: waiting(engine), "the sweeper to wait for the batch")
            with pytest.raises(TimeoutError):
                sweeping.result(1)
        sweeping.result(20)
    assert batch_row(engine, batch_id).status == "CANCELLED"


def test_one_that_is_being_cancelled_keeps_no_other_from_beginning(
    engine: sa.Engine, settings: Settings, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.worker.sweeper._MANY", 1)
    first, second = make_batch(engine), make_batch(engine)
    reported = Writer(engine, settings, kind="external", schedule=Schedule(after=first, held=True))
    reported.start(0)  # its program does not wait, and may go on for days
    follower = make_batch(engine, schedule=Schedule(after=second, after_any=True, held=True))
    for batch_id in (first, second):
        cancel(engine, batch_id)
    sweeper.sweep()
    sweeper.sweep()
    assert batch_row(engine, reported.batch_id).cancel_requested
    assert not batch_row(engine, follower).held
    reported.close()
