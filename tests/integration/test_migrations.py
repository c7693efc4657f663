"""Migrations and models say the same, and migrating is safe to repeat."""

from threading import Thread

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from infra.migrations.migrate import alembic_config, migrate
from shared.models import metadata
from tests.support.batches import OWNER, batch_row, cancel, make_batch


def test_the_migrations_make_what_the_models_say(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        # what Alembic does not compare
        checks = connection.execute(
            sa.text("SELECT conrelid::regclass::text || '.' || conname FROM pg_constraint WHERE contype = 'c'")
        ).scalars()
        assert set(checks) >= {
            f"{table.name}.{constraint.name}"
            for table in metadata.tables.values()
            for constraint in table.constraints
            if isinstance(constraint, sa.CheckConstraint)
        }


def test_migrating_again_and_at_once_changes_nothing(engine: sa.Engine, database_url: str) -> None:
    with engine.connect() as connection:
        epoch = connection.execute(sa.text("SELECT headway_epoch()")).scalar_one()
    threads = [Thread(target=migrate, args=(database_url,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT headway_epoch()")).scalar_one() == epoch


def test_the_latest_migration_goes_down_and_up_again_with_batches_there(engine: sa.Engine, database_url: str) -> None:
    finished, active = make_batch(engine), make_batch(engine)
    cancel(engine, finished)
    before = [batch_row(engine, batch_id) for batch_id in (finished, active)]
    with engine.begin() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "-1")
        assert compare_metadata(MigrationContext.configure(connection), metadata) != []
    migrate(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        lanes = connection.execute(sa.text("SELECT batch_id, owner, kind, ready FROM lanes")).all()
        assert [tuple(lane) for lane in lanes] == [(active, OWNER, "rehearsal", True)]
    assert [batch_row(engine, batch_id) for batch_id in (finished, active)] == before


def test_the_epoch_is_renewed_with_the_installations_secret(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        before = connection.execute(sa.text("SELECT headway_epoch()")).scalar_one()
        connection.execute(sa.text("UPDATE installation SET secret = gen_random_uuid()::text"))
        after = connection.execute(sa.text("SELECT headway_epoch()")).scalar_one()
    assert len(before) == len(after) == 8
    assert before != after
