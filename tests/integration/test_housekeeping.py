"""What was kept long enough goes, and nothing else."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
import redis
import sqlalchemy as sa

from services.worker.housekeeping import Housekeeping
from shared import models, queries
from shared.channels import Publisher, batch_channel, make_redis
from shared.deletion import Unfinished, delete_batch
from shared.settings import Settings
from shared.uploads import upload_path
from tests.support.batches import OWNER, batch_row, cancel, make_batch, wait_for

DAY = 24 * 3600


@pytest.fixture
def housekeeping(engine: sa.Engine, settings: Settings) -> Iterator[Housekeeping]:
    with make_redis(settings.redis_url) as hints:
        yield Housekeeping(engine, Publisher(hints, settings.namespace), settings)


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
    path = upload_path(settings.uploads, upload_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return upload_id


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
    for _ in range(12):
        batch_id = make_batch(engine)
        cancel(engine, batch_id)
        age(engine, batch_id, settings.retention + 5)
    assert housekeeping.round(), "there is more"
    assert len(remaining(engine)) == 2
    assert not housekeeping.round()
    assert remaining(engine) == set()


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
    assert upload_path(settings.uploads, one).exists(), "it may be named again for a day"
    age(engine, second, settings.retention + 5)
    housekeeping.round()
    assert expires(engine, both)
    with engine.begin() as connection:
        connection.execute(sa.update(models.uploads).values(expires_at=sa.func.now() - sa.text("interval '1 second'")))
    housekeeping.round()
    assert not any(upload_path(settings.uploads, upload_id).exists() for upload_id in (both, one))


def test_an_unfinished_batch_is_never_deleted(engine: sa.Engine) -> None:
    batch_id = make_batch(engine)
    with engine.begin() as connection, pytest.raises(Unfinished, match="QUEUED"):
        delete_batch(connection, batch_id, upload_ttl=DAY)
    assert batch_row(engine, batch_id).status == "QUEUED"
