"""The owner's feed of somebody with very many batches, or very large ones; and what is kept no longer."""

from contextlib import closing

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from services.stream.app import create_app
from services.stream.feed import ACTIVE
from services.worker.housekeeping import Housekeeping
from shared import models
from shared.channels import Publisher
from shared.files import make_files
from shared.redis_clients import make_redis
from shared.settings import Settings
from tests.support.batches import cancel, make_batch
from tests.support.feeds import FeedStream
from tests.support.metrics import Numbers
from tests.support.plain_stream import create_plain
from tests.support.web import served
from tests.support.writer import Writer

_COPIES = sa.text("""
    INSERT INTO batches SELECT b.* FROM batches o,
        generate_series(4026531841, 4026531840 + CAST(:copies AS bigint)) AS n,
        jsonb_populate_record(o, jsonb_build_object('id', to_hex(n) || substr(CAST(o.id AS text), 9))) AS b
    WHERE o.id = :id
""")
"""Newer than any that is made today."""


def copy(writer: Writer, copies: int) -> None:
    with writer.engine.begin() as connection:
        connection.execute(_COPIES, {"copies": copies, "id": writer.batch_id})


@pytest.mark.parametrize("create", [create_app, create_plain], ids=["handed over", "plain"])
def test_of_very_many_active_ones_the_newest_come_first_and_all_are_told_of(
    create: type, settings: Settings, writer: Writer, token: str
) -> None:
    copy(writer, ACTIVE + 100)
    with served(create(replace(settings, version_check=0.3))) as address, FeedStream(address, token) as stream:
        first = stream.all()
        assert len(first) == ACTIVE
        assert str(writer.batch_id) not in first
        stream.to(writer.batch_id, writer.start(0))
        stream.to(writer.batch_id, writer.progress(0, 30))
        with FeedStream(address, token) as second:
            assert second.all() == first
        numbers = Numbers(address)
        looks = numbers["comparisons_total{check}"]
        numbers.wait("comparisons_total{check}", lambda now: now > looks + 2)
        stream.to(writer.batch_id, writer.progress(0, 31))

        assert stream.names == ["batches", *["batch"] * 3], "looking again and again brought nothing twice"


@pytest.mark.parametrize("create", [create_app, create_plain], ids=["handed over", "plain"])
def test_what_comes_first_is_bounded_in_bytes(create: type, settings: Settings, engine: sa.Engine, token: str) -> None:
    with closing(Writer(engine, settings, metadata={"note": "x" * 16_000})) as writer:
        copy(writer, ACTIVE - 1)
        with served(create(settings)) as address, FeedStream(address, token) as stream:
            first = stream.all()
            assert 8 * 2**20 // 17_000 < len(first) <= 8 * 2**20 // 16_000
            assert str(writer.batch_id) not in first
            stream.to(writer.batch_id, writer.start(0))


def test_what_is_kept_no_longer_is_told_as_deleted(settings: Settings, engine: sa.Engine, token: str) -> None:
    old, new = make_batch(engine), make_batch(engine)
    cancel(engine, old)
    with engine.begin() as connection:
        long_ago = sa.func.now() - sa.func.make_interval(0, 0, 0, 0, 0, 0, settings.retention + 5)
        connection.execute(sa.update(models.batches).where(models.batches.c.id == old).values(finished_at=long_ago))
    settings = replace(settings, version_check=600, poll=600)
    with (
        served(create_app(settings)) as address,
        FeedStream(address, token) as stream,
        make_redis(settings.redis_url) as hints,
    ):
        assert stream.all() == [str(new), str(old)]
        Housekeeping(engine, Publisher(hints, settings.namespace), settings, make_files(settings)).round()
        assert stream.to(old, None) is None
