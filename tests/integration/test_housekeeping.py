"""What was kept long enough goes, and nothing else."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
import redis
import sqlalchemy as sa
from structlog.testing import capture_logs

from services.worker import housekeeping as housekeeping_module
from services.worker.housekeeping import Housekeeping
from shared import models, queries
from shared.channels import Publisher, batch_channel
from shared.deletion import Unfinished, delete_batch
from shared.files import make_files
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import OWNER, batch_row, cancel, make_batch, wait_for
from tests.support.locks import held, waiting

DAY = 24 * 3600


@pytest.fixture
def housekeeping(engine: sa.Engine, settings: Settings) -> Iterator[Housekeeping]:
    with make_redis(settings.redis_url) as hints:
        yield Housekeeping(engine, Publisher(hints, settings.namespace), settings, make_files(settings))


def age(engine: sa.Engine, batch_id: UUID, seconds: float) -> None:
    """As if it had finished so long ago."""
    with engine.begin() as connection:
        at = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        connection.execute(sa.update(models.batches).where(models.batches.c.id == batch_id).values(finished_at=at))


def upload(engine: sa.Engine, settings: Settings) -> UUID:
    upload_id = uuid4()
    row = {"id": upload_id, "owner": OWNER, "name": "a", "size": 1, "content_type": "image/png", "ttl": DAY}
    with engine.begin() as connection:
        connection.execute(queries.ADD_UPLOAD, row)
        connection.execute(queries.USE_UPLOADS, {"ids": [upload_id], "owner": OWNER})
    path = settings.uploads / str(upload_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return upload_id


def outlived(engine: sa.Engine, settings: Settings) -> UUID:
    batch_id = make_batch(engine)
    cancel(engine, batch_id)
    age(engine, batch_id, settings.retention + 5)
    return batch_id


def overdue(engine: sa.Engine, settings: Settings) -> UUID:
    upload_id = upload(engine, settings)
    with engine.begin() as connection:
        at = sa.func.now() - sa.text("interval '1 second'")
        connection.execute(sa.update(models.uploads).where(models.uploads.c.id == upload_id).values(expires_at=at))
    return upload_id


def kept(engine: sa.Engine) -> set[UUID]:
    with engine.connect() as connection:
        return set(connection.execute(sa.select(models.uploads.c.id)).scalars())


def remaining(engine: sa.Engine) -> set[UUID]:
    with engine.connect() as connection:
        return set(connection.execute(sa.select(models.batches.c.id)).scalars())


def expires(engine: sa.Engine, upload_id: UUID) -> bool:
    query = sa.select(models.uploads.c.expires_at).where(models.uploads.c.id == upload_id)
    with engine.connect() as connection:
        return connection.execute(query).scalar_one() is not None


def test_finished_batches_are_kept_for_their_time(
    housekeeping: Housekeeping, engine: sa.Engine, settings: Settings, redis_url: str
) -> None:
    old, young, unfinished = (make_batch(engine, 3) for _ in range(3))
    for batch_id in (old, young):
        cancel(engine, batch_id)
    age(engine, old, settings.retention + 5)
    age(engine, young, settings.retention - 60)
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as heard:
        heard.subscribe(batch_channel(settings.namespace, old))
        wait_for(lambda: heard.get_message(timeout=1), "the confirmation")
        assert not housekeeping.round(), "there is no more"
        wait_for(lambda: heard.get_message(timeout=1), "whoever watches to be told")
    assert remaining(engine) == {young, unfinished}


def test_many_are_deleted_a_few_at_a_time(housekeeping: Housekeeping, engine: sa.Engine, settings: Settings) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(SLOW))
        connection.execute(sa.text("CREATE TRIGGER slow BEFORE DELETE ON batches FOR EACH ROW EXECUTE FUNCTION slow()"))
    for _ in range(5):
        outlived(engine, settings)
    assert housekeeping.round(), "there is more"
    assert 2 <= len(remaining(engine)) < 5, "a second is over after three at most"
    wait_for(lambda: not housekeeping.round(), "the rest")
    assert remaining(engine) == set()


SLOW = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.4); RETURN OLD; END$$
"""


def test_a_batch_that_was_finished_anew_meanwhile_stays(
    housekeeping: Housekeeping, engine: sa.Engine, settings: Settings
) -> None:
    first, retried = outlived(engine, settings), outlived(engine, settings)
    age(engine, first, settings.retention + 60)
    lock = "SELECT 1 FROM jobs WHERE batch_id = %(id)s FOR UPDATE"
    with ThreadPoolExecutor(1) as thread, held(settings.database_url, lock, id=first):
        round_ = thread.submit(housekeeping.round)
        wait_for(lambda: waiting(engine), "the first batch's deletion to be under way")
        age(engine, retried, 0)
    assert not round_.result(20)
    assert remaining(engine) == {retried}


def test_a_batch_that_is_being_changed_is_not_waited_for(
    housekeeping: Housekeeping, engine: sa.Engine, settings: Settings
) -> None:
    changed, other = outlived(engine, settings), outlived(engine, settings)
    finished = "UPDATE batches SET finished_at = now() WHERE id = %(id)s"
    with held(settings.database_url, finished, id=changed) as change:
        assert not housekeeping.round()
        assert remaining(engine) == {changed}, other
        change.commit()
    assert not housekeeping.round()
    assert remaining(engine) == {changed}


def test_one_process_deletes_at_a_time(housekeeping: Housekeeping, engine: sa.Engine, settings: Settings) -> None:
    batch_id, upload_id = outlived(engine, settings), overdue(engine, settings)
    lock = "SELECT pg_advisory_xact_lock(%(lock)s)"
    with held(settings.database_url, lock, lock=housekeeping_module._LOCK):
        assert not housekeeping.round(), "it is the other's to go on"
        assert (remaining(engine), kept(engine)) == ({batch_id}, {upload_id})
    housekeeping.round()
    assert (remaining(engine), kept(engine)) == (set(), set())


def test_uploads_go_with_the_last_batch_that_names_them(
    housekeeping: Housekeeping, engine: sa.Engine, settings: Settings
) -> None:
    both, one = upload(engine, settings), upload(engine, settings)
    first, second = make_batch(engine, uploads={both, one}), make_batch(engine, uploads={both})
    for batch_id in (first, second):
        cancel(engine, batch_id)
    age(engine, first, settings.retention + 5)
    housekeeping.round()
    assert (expires(engine, both), expires(engine, one)) == (False, True)
    assert (settings.uploads / str(one)).exists(), "it may be named again for a day"
    age(engine, second, settings.retention + 5)
    housekeeping.round()
    assert expires(engine, both)
    with engine.begin() as connection:
        connection.execute(sa.update(models.uploads).values(expires_at=sa.func.now() - sa.text("interval '1 second'")))
    housekeeping.round()
    assert not any((settings.uploads / str(upload_id)).exists() for upload_id in (both, one))


def test_a_file_that_cannot_be_removed_keeps_nothing_else_from_going(
    housekeeping: Housekeeping, engine: sa.Engine, settings: Settings
) -> None:
    uploads = [overdue(engine, settings) for _ in range(3)]
    stubborn = settings.uploads / str(uploads[1])
    stubborn.unlink()
    stubborn.mkdir()
    with capture_logs() as logs:
        assert not housekeeping.round()
    assert kept(engine) == {uploads[1]}
    assert list(settings.uploads.iterdir()) == [stubborn]
    assert [entry["id"] for entry in logs if "cannot be removed" in entry["event"]] == [str(uploads[1])]
    stubborn.rmdir()
    stubborn.write_bytes(b"x")
    housekeeping.round()
    assert (kept(engine), list(settings.uploads.iterdir())) == (set(), [])


def test_rows_go_after_their_files_so_that_whatever_comes_between_is_made_up_for(
    housekeeping: Housekeeping, engine: sa.Engine, settings: Settings
) -> None:
    uploads = {overdue(engine, settings) for _ in range(3)}
    with engine.begin() as connection:
        connection.execute(sa.text(FAILING))
        connection.execute(
            sa.text(
                "CREATE CONSTRAINT TRIGGER f AFTER DELETE ON uploads DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION fail()"
            )
        )
    with pytest.raises(sa.exc.DBAPIError):
        housekeeping.round()
    assert (kept(engine), list(settings.uploads.iterdir())) == (uploads, [])
    with engine.begin() as connection:
        used = connection.execute(queries.USE_UPLOADS, {"ids": sorted(uploads), "owner": OWNER}).scalars().all()
        assert used == [], "nobody can name what may be gone"
        connection.execute(sa.text("DROP TRIGGER f ON uploads"))
    housekeeping.round()
    assert (kept(engine), list(settings.uploads.iterdir())) == (set(), [])


FAILING = """
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'the end'; END$$
"""


def test_an_unfinished_batch_is_never_deleted(engine: sa.Engine) -> None:
    batch_id = make_batch(engine)
    with engine.begin() as connection, pytest.raises(Unfinished, match="QUEUED"):
        delete_batch(connection, batch_id, upload_ttl=DAY)
    assert batch_row(engine, batch_id).status == "QUEUED"


def test_an_owners_turn_is_kept_as_long_as_there_is_something_unfinished(
    engine: sa.Engine, housekeeping: Housekeeping, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def turns() -> set[tuple[str, str, int]]:
        with engine.connect() as connection:
            columns = models.owner_turns.c
            return {(*row,) for row in connection.execute(sa.select(columns.queue, columns.owner, columns.priority))}

    monkeypatch.setattr(housekeeping_module, "_TURNS", 2)
    batch_id = make_batch(engine)  # in the queue `default`
    kept = {("default", OWNER, 0), ("default", OWNER, 7)}
    gone = {("default", "bert", 0), ("photos", OWNER, 0), ("photos", OWNER, 3)}
    with engine.begin() as connection:
        for queue, owner, priority in kept | gone:
            row = {"queue": queue, "owner": owner, "priority": priority, "batch_id": batch_id}
            connection.execute(sa.insert(models.owner_turns).values(row))
    with held(settings.database_url, "SELECT FROM owner_turns WHERE owner = 'bert' FOR UPDATE"):
        housekeeping.round()
        assert turns() == kept | {("default", "bert", 0)}, "it waits for no claim"
    housekeeping.round()
    assert turns() == kept
    cancel(engine, batch_id)
    housekeeping.round()
    assert turns() == set()
