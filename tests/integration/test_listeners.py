"""Listeners are told of every transition, at least once and in order within a batch, whatever goes wrong."""

import time
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from threading import Barrier, Event, Thread

import msgspec
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from services.worker import dispatcher as dispatcher_module
from services.worker.dispatcher import Dispatcher, Dispatchers
from services.worker.housekeeping import Housekeeping
from shared import models
from shared.channels import Publisher
from shared.creation import NewJob, create_batch
from shared.database import make_engine
from shared.deletion import delete_batch
from shared.files import make_files
from shared.jobs import JobStatus
from shared.kinds import KINDS
from shared.listeners import Listener, TransitionEvent
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import OWNER, cancel, make_batch, transition_rows, wait_for
from tests.support.listening import Told, ids_of, outbox
from tests.support.outages import no_database
from tests.support.writer import Writer

Make = Callable[..., Dispatcher]


@pytest.fixture
def make(engine: sa.Engine, settings: Settings) -> Make:
    """A dispatcher whose listener is known, and that tells when it is told to."""

    def make(listener: Listener, name: str = "test") -> Dispatcher:
        dispatcher = Dispatcher(engine, settings, name, listener, jitter=lambda: 1.0)
        dispatcher.register()
        return dispatcher

    return make


def tell_all(dispatcher: Dispatcher) -> None:
    while dispatcher.tell():
        pass


def make_due(engine: sa.Engine) -> None:
    """As if all pauses and leases were over."""
    with engine.begin() as connection:
        connection.execute(sa.update(models.outbox).values(due_at=sa.func.now()))


def test_every_transition_is_told_in_order_with_all_that_is_known_of_it(
    make: Make, engine: sa.Engine, make_writer: Callable[..., Writer]
) -> None:
    told = Told()
    dispatcher = make(told)
    writer = make_writer(3)
    writer.start(0, 1)
    writer.finish(0)
    writer.finish(1, JobStatus.FAILED)
    tell_all(dispatcher)
    writer.cancel()
    writer.retry_failed()
    writer.cancel()
    tell_all(dispatcher)
    rows = transition_rows(engine, writer.batch_id)
    assert [(e.id, e.batch_id, e.job_id, e.old, e.new, e.attempt, e.at, e.reason, e.message) for e in told.events] == [
        (r.id, r.batch_id, r.job_id, r.old_status, r.new_status, r.attempt, r.at, r.reason, r.message) for r in rows
    ]
    assert {(event.owner, event.kind) for event in told.events} == {(OWNER, "rehearsal")}
    assert told.events[0].reason == "created"
    assert {"retried", "cancelled"} <= {event.reason for event in told.events}
    assert outbox(engine) == []


def test_a_listener_hears_of_nothing_from_before_its_time_and_of_nothing_that_did_not_happen(
    make: Make, engine: sa.Engine
) -> None:
    before = make_batch(engine)
    told = Told()
    dispatcher = make(told)
    with engine.connect() as connection:
        make_batch_in(connection)
        connection.rollback()
    cancel(engine, before)
    tell_all(dispatcher)
    assert [event.new for event in told.events] == ["CANCELLED", "CANCELLED"]


def make_batch_in(connection: sa.Connection) -> None:
    jobs = [NewJob("a", msgspec.Raw(b"{}"))]
    create_batch(connection, KINDS["rehearsal"], jobs, owner=OWNER, title="never")


def test_without_listeners_nothing_is_kept_for_them(engine: sa.Engine) -> None:
    cancel(engine, make_batch(engine))
    assert outbox(engine) == []


def test_a_failure_holds_up_its_own_batch_and_listener_only(make: Make, engine: sa.Engine) -> None:
    bad = make_batch(engine)  # of which the first listener is told later only
    first, second = Told(lambda event: event.batch_id == bad and event.new == "CANCELLED"), Told()
    one, two = make(first, "one"), make(second, "two")
    cancel(engine, bad)
    good = make_batch(engine)
    with capture_logs() as logs:
        tell_all(one)
        tell_all(two)
    assert first.ids(bad) == []
    assert first.ids(good) == ids_of(engine, good)
    assert second.ids(bad) == ids_of(engine, bad)[1:]
    (said,) = logs
    assert (said["log_level"], said["listener"], said["attempt"], said["seconds"]) == ("warning", "one", 1, 1.0)
    (row,) = outbox(engine)
    assert (row.listener, row.batch_id, row.failures, row.token) == ("one", bad, 1, None)
    first.fails = lambda _: False
    tell_all(one)
    assert first.ids(bad) == [], "its pause is not over"
    make_due(engine)
    tell_all(one)
    assert first.ids(bad) == ids_of(engine, bad)[1:]
    assert outbox(engine) == []


def test_what_came_before_a_failure_is_not_told_again(
    make: Make, engine: sa.Engine, make_writer: Callable[..., Writer]
) -> None:
    told = Told(lambda event: event.new == "COMPLETED")
    dispatcher = make(told)
    writer = make_writer(1)
    writer.start(0)
    writer.finish(0)
    tell_all(dispatcher)
    make_due(engine)
    tell_all(dispatcher)
    told.fails = lambda _: False
    make_due(engine)
    tell_all(dispatcher)
    assert told.ids(writer.batch_id) == ids_of(engine, writer.batch_id)


def test_a_hopeless_transition_is_skipped_after_many_attempts(
    make: Make, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_ATTEMPTS", 3)
    told = Told(lambda event: event.reason == "created")
    dispatcher = make(told)
    batch_id = make_batch(engine)
    cancel(engine, batch_id)
    with capture_logs() as logs:
        for _ in range(4):
            make_due(engine)
            tell_all(dispatcher)
    assert told.ids(batch_id) == ids_of(engine, batch_id)[1:]
    assert [line["log_level"] for line in logs] == ["warning"] * 3 + ["error"]
    assert [line["seconds"] for line in logs[:3]] == [1.0, 2.0, 4.0]
    assert outbox(engine) == []


def test_even_a_listener_that_wants_to_end_the_process_only_fails(make: Make, engine: sa.Engine) -> None:
    def leave(_event: TransitionEvent) -> None:
        raise SystemExit(1)

    dispatcher = make(leave)
    make_batch(engine)
    assert dispatcher.tell()
    assert outbox(engine)[0].failures == 1


def test_news_that_come_while_it_is_told_are_told_as_well(make: Make, engine: sa.Engine) -> None:
    told = Told()

    def listen(event: TransitionEvent) -> None:
        told(event)
        if event.reason == "created":
            cancel(engine, event.batch_id)

    dispatcher = make(listen)
    batch_id = make_batch(engine)
    tell_all(dispatcher)
    assert told.ids(batch_id) == ids_of(engine, batch_id)
    assert outbox(engine) == []


def test_a_long_history_is_told_page_by_page_and_others_have_their_turn(make: Make, engine: sa.Engine) -> None:
    told = Told()
    dispatcher = make(told)
    long = make_batch(engine, 350)
    cancel(engine, long)
    short = make_batch(engine)
    tell_all(dispatcher)
    assert told.ids(long) == ids_of(engine, long)
    order = [event.batch_id for event in told.events]
    assert order.index(short) == 100
    assert outbox(engine) == []


def test_two_workers_tell_one_listener_without_a_gap_a_repeat_or_a_disorder(
    make: Make, engine: sa.Engine, make_writer: Callable[..., Writer]
) -> None:
    told = Told()
    dispatchers = [make(told) for _ in range(3)]
    writers = [make_writer(4) for _ in range(5)]
    over = Event()

    def tell(dispatcher: Dispatcher) -> None:
        while not over.is_set() or outbox(engine):
            dispatcher.tell()

    threads = [Thread(target=tell, args=(dispatcher,)) for dispatcher in dispatchers]
    for thread in threads:
        thread.start()
    try:
        for position in range(4):
            for writer in writers:
                writer.start(position)
                writer.finish(position)
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    for writer in writers:
        assert told.ids(writer.batch_id) == ids_of(engine, writer.batch_id)


def test_who_takes_too_long_is_fenced_off_and_somebody_else_tells_it(make: Make, engine: sa.Engine) -> None:
    inside, go = Event(), Event()
    slow, quick = Told(), Told()

    def hang(event: TransitionEvent) -> None:
        inside.set()
        assert go.wait(30)
        slow(event)

    frozen, other = make(hang), make(quick)
    batch_id = make_batch(engine)
    thread = Thread(target=frozen.tell)
    thread.start()
    try:
        assert inside.wait(20)
        assert not other.tell(), "it is the first one's"
        make_due(engine)  # the lease is over
        cancel(engine, batch_id)
        assert other.tell()
        assert quick.ids(batch_id) == ids_of(engine, batch_id)
    finally:
        go.set()
        thread.join(20)
    tell_all(frozen)
    tell_all(other)
    assert len(slow.events) <= 3
    assert slow.ids(batch_id) == ids_of(engine, batch_id)[: len(slow.events)]
    assert outbox(engine) == []


def test_no_lock_is_held_while_a_listener_runs(make: Make, engine: sa.Engine) -> None:
    def change(event: TransitionEvent) -> None:
        if event.reason == "created":
            with engine.begin() as connection:
                connection.execute(sa.text("SET LOCAL lock_timeout = '5s'"))
                connection.execute(sa.select(models.outbox).with_for_update())
            cancel(engine, event.batch_id)

    dispatcher = make(change)
    make_batch(engine)
    tell_all(dispatcher)
    assert outbox(engine) == []


def test_a_batch_that_is_deleted_is_told_no_further(make: Make, engine: sa.Engine) -> None:
    told = Told()

    def delete(event: TransitionEvent) -> None:
        told(event)
        with engine.begin() as connection:
            delete_batch(connection, event.batch_id, upload_ttl=60)

    dispatcher = make(delete)
    batch_id = make_batch(engine)
    tell_all_but = Told()
    make(tell_all_but, "other")
    cancel(engine, batch_id)
    assert dispatcher.tell()
    assert not dispatcher.tell()
    assert outbox(engine) == []


def test_an_outage_of_postgresql_costs_no_transition_and_no_lease(
    engine: sa.Engine, settings: Settings, make_writer: Callable[..., Writer]
) -> None:
    told = Told()
    away = Barrier(2)
    numbers = count(1)

    def listen(event: TransitionEvent) -> None:
        told(event)
        if next(numbers) == 3:
            away.wait(30)
            away.wait(30)

    own = make_engine(settings.database_url, pool_size=2, application="dispatcher")
    dispatchers = Dispatchers(own, settings, {"test": listen})
    dispatchers.start()
    writer = make_writer(2)
    writer.start(0)
    try:
        away.wait(30)
        with no_database(settings.database_url):
            away.wait(30)
            wait_for(lambda: len(told.events) >= 3, "what was under way")
            time.sleep(0.5)  # it finds nobody
        engine.dispose()
        writer.finish(0)
        wait_for(lambda: told.ids(writer.batch_id)[-1:] == ids_of(engine, writer.batch_id)[-1:], "the rest")
        assert sorted(set(told.ids(writer.batch_id))) == ids_of(engine, writer.batch_id)
    finally:
        dispatchers.stop()
        own.dispose()


def test_housekeeping_forgets_a_listener_that_nobody_has_had_for_a_day(
    make: Make, engine: sa.Engine, settings: Settings
) -> None:
    make(Told(), "gone")
    there = make(Told(), "there")
    make_batch(engine)
    with engine.begin() as connection:
        at = sa.func.now() - sa.text("interval '25 hours'")
        connection.execute(sa.update(models.listeners).where(models.listeners.c.name == "gone").values(seen_at=at))
    with make_redis(settings.redis_url) as hints, capture_logs() as logs:
        Housekeeping(engine, Publisher(hints, settings.namespace), settings, make_files(settings)).round()
    assert [row.listener for row in outbox(engine)] == ["there"]
    assert [line["listener"] for line in logs] == ["gone"]
    make_batch(engine)
    assert {row.listener for row in outbox(engine)} == {"there"}
    tell_all(there)
    assert outbox(engine) == []


def test_one_whose_news_never_end_is_not_forgotten(
    make: Make, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "_SEEN", 0.0)

    def days_pass(_: TransitionEvent) -> None:
        with engine.begin() as connection:
            connection.execute(sa.update(models.listeners).values(seen_at=sa.func.now() - timedelta(days=2)))

    dispatcher = make(days_pass)
    make_batch(engine)
    dispatcher._turn()
    with engine.connect() as connection:
        since = connection.execute(sa.select(sa.func.now() - models.listeners.c.seen_at)).scalar_one()
    assert since < timedelta(days=1)
