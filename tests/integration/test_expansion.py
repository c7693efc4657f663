"""Migrations only add, so that the code of before goes on while they run and after: expand, deploy, contract later."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from infra.migrations.migrate import alembic_config, migrate
from tests.support.expansion import violations

FIRST = "0005"
"""Before it nobody had anything to upgrade from."""

_SCRIPTS = ScriptDirectory.from_config(alembic_config())
REVISIONS = sorted(script.revision for script in _SCRIPTS.walk_revisions())
EXISTING = {"batches", "jobs", "lanes"}


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The statements of all engines meanwhile."""
    statements: list[str] = []

    def note(*arguments: Any) -> None:
        statements.append(arguments[2])

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


@pytest.mark.parametrize("revision", [revision for revision in REVISIONS if revision >= FIRST])
def test_a_migration_adds_and_no_more_unless_it_contracts_what_an_earlier_one_replaced(
    revision: str, database_url: str
) -> None:
    script = _SCRIPTS.get_revision(revision)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
        migrate(database_url, script.down_revision)
        before = files(connection)
        with recorded() as statements:
            assert len(migrate(database_url, revision)) == 1
        after = files(connection)
    contracts = getattr(script.module, "contracts", None)
    if contracts is not None:
        assert contracts in REVISIONS
        assert contracts < revision, "what it takes away was replaced by an earlier one, which is deployed everywhere"
        return
    assert statements, "nothing was seen"
    assert list(violations(statements, set(before))) == []
    rewritten = [table for table, file in before.items() if after.get(table) != file]
    assert rewritten == [], "PostgreSQL wrote these tables anew, with everybody waiting"


def files(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Where each table's rows are: elsewhere, once they were written anew."""
    rows = connection.execute(
        "SELECT relname, relfilenode FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return dict(rows.fetchall())


@pytest.mark.parametrize(
    ("statement", "wrong"),
    [
        ("ALTER TABLE batches ADD COLUMN traceparent TEXT", False),
        ("ALTER TABLE batches ADD COLUMN open BOOLEAN DEFAULT false NOT NULL", False),
        ("ALTER TABLE batches ADD COLUMN open BOOLEAN NOT NULL", True),
        ("ALTER TABLE batches DROP COLUMN open", True),
        ("ALTER TABLE batches DROP CONSTRAINT ck_batches_status", True),
        ("ALTER TABLE batches RENAME COLUMN open TO opened", True),
        ("ALTER TABLE batches RENAME TO heaps", True),
        ("ALTER TABLE batches ALTER COLUMN priority TYPE BIGINT", True),
        ("ALTER TABLE batches ALTER COLUMN priority SET NOT NULL", True),
        ("ALTER TABLE batches ALTER COLUMN priority DROP DEFAULT", True),
        ("ALTER TABLE batches ALTER COLUMN priority SET DEFAULT 0", False),
        ("ALTER TABLE jobs ADD CONSTRAINT ck_x CHECK (attempt >= 0)", True),
        ("ALTER TABLE jobs ADD CONSTRAINT ck_x CHECK (attempt >= 0) NOT VALID", False),
        ("ALTER TABLE jobs ADD CONSTRAINT fk_x FOREIGN KEY(batch_id) REFERENCES batches (id)", True),
        ("ALTER TABLE fresh ADD CONSTRAINT ck_x CHECK (attempt >= 0)", False),
        ("CREATE TABLE fresh (\n id UUID NOT NULL,\n CONSTRAINT pk PRIMARY KEY (id)\n)", False),
        ("CREATE INDEX ix_x ON fresh (id)", False),
        ("CREATE INDEX ix_x ON lanes (queue)", False),
        ("CREATE INDEX ix_x ON jobs (status)", True),
        ("CREATE UNIQUE INDEX ix_x ON jobs USING btree (status)", True),
        ("CREATE INDEX IF NOT EXISTS ix_x ON jobs (status)", False),
        ("DROP INDEX ix_jobs_leased", True),
        ("DROP TABLE batches", True),
        ("CREATE OR REPLACE FUNCTION headway_claim() RETURNS int LANGUAGE sql AS 'SELECT 1'", True),
        ("CREATE FUNCTION headway_claim_2() RETURNS int LANGUAGE sql AS 'SELECT 1'", False),
        ("UPDATE lanes l SET owner = ''", True),
        ("INSERT INTO fresh VALUES (1)", False),
        ("LOCK TABLE jobs", True),
    ],
)
def test_what_does_harm_is_found(statement: str, wrong: bool) -> None:
    assert bool(list(violations([statement], EXISTING))) == wrong
