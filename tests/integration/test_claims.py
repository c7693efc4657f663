"""Claims: who gets which jobs, while other claims are under way."""

from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from shared import queries
from tests.support.batches import job_rows, make_batch


def claim(connection: sa.Connection, jobs: int) -> list[sa.Row[Any]]:
    parameters = {"queue": "default", "jobs": jobs, "token": uuid4(), "lease": 15}
    return list(connection.execute(queries.CLAIM, parameters))


def test_a_claim_leaves_the_other_batches_to_others(engine: sa.Engine) -> None:
    """Also before PostgreSQL has gathered any statistics, when its plans are at their worst."""
    for _ in range(100):
        make_batch(engine, 10)
    with engine.connect() as first, engine.connect() as second:
        mine, others = claim(first, 10), claim(second, 10)
    assert len(mine) == len(others) == 10
    assert not {row.id for row in mine} & {row.id for row in others}


def test_claims_go_by_priority_then_age_then_position_and_skip_what_is_delayed(engine: sa.Engine) -> None:
    old, new = make_batch(engine, 3), make_batch(engine, 3)
    urgent = make_batch(engine, 2, priority=1)
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE jobs SET run_after = now() + interval '1 hour' WHERE batch_id = :id AND position = 1"),
            {"id": old},
        )
        first, second = claim(connection, 3), claim(connection, 9)
    assert {(row.batch_id, row.position) for row in first} == {(urgent, 0), (urgent, 1), (old, 0)}
    assert {(row.batch_id, row.position) for row in second} == {(old, 2), (new, 0), (new, 1), (new, 2)}
    assert job_rows(engine, old)[1].lease_token is None
