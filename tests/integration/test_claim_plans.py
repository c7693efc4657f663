"""What a claim reads: each statement of its function by its index, and no more rows than it has to.

Its plans are made once for all; both with statistics and before any were gathered.
"""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from infra.migrations.migrate import migrate
from shared import queries
from tests.support.explained import ExplainingPostgres, plans_of
from tests.support.filled import BIG, LEASED, WORKERS, batch_id, fill
from tests.support.plans import Plan
from tests.support.ports import own_port

CLAIMED = 8
LEVELS = 4
"""Priorities."""
BATCHES_LEASED = 101
LIMITED = {"owner_limit": 100_000, "kinds": ["rehearsal"], "kind_limits": [100_000], "kind_rates": [1000.0]}

# How each begins that reads anything: the indexes, and how many rows it may look at.
READS: dict[str, tuple[str, int]] = {
    "UPDATE lanes l SET ready = true": ("ix_lanes_ready_at pk_lanes", 0),
    "WITH RECURSIVE step": ("ix_lanes_ready", 3 * LEVELS),
    "WITH leased": ("ix_jobs_leased pk_jobs pk_kind_turns pk_lanes", LEASED + BATCHES_LEASED + 8 * CLAIMED),
    "SELECT coalesce(sum(w.threads), 0)": ("ix_workers_queue", WORKERS),
    "owner_turn := ": ("pk_queue_turns", 1),
    "WITH RECURSIVE ahead": ("ix_lanes_ready pk_owner_turns", 3 * CLAIMED),
    "SELECT array_agg(n.batch_id)": ("ix_lanes_ready", 2 * CLAIMED),
    "room := lane_limits[i] - ": ("ix_jobs_leased", 10 + 4 * CLAIMED),
    "UPDATE jobs j SET lease_token": ("ix_jobs_claimable ix_jobs_delayed pk_jobs", 2 * CLAIMED),
    "SELECT FROM lanes l WHERE l.batch_id = lane_id": ("pk_lanes", 1),
    "SELECT j.run_after": ("ix_jobs_delayed", 1),
    "rests := coalesce(due > moment": ("ix_jobs_claimable", 0),
    "UPDATE lanes l SET ready = false": ("pk_lanes", 1),
    "INSERT INTO kind_turns": ("pk_kind_turns", 0),
    "INSERT INTO owner_turns": ("pk_owner_turns", 0),
    "INSERT INTO queue_turns": ("pk_queue_turns", 0),
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = ExplainingPostgres(tmp_path_factory.mktemp("explaining"), own_port(), durable=False)
    server.start()
    try:
        migrate(server.url)
        fill(server.url)
        yield server.url
    finally:
        server.stop()


def claim(connection: psycopg.Connection[Any], jobs: int = CLAIMED, **options: Any) -> dict[str, list[Plan]]:
    """`jobs`: how many it gets."""
    parameters = {"queue": "default", "jobs": CLAIMED, "token": uuid4(), "lease": 15.0, "ending": []}
    with plans_of(connection) as plans:
        claimed = connection.execute(str(queries.CLAIM.compile(dialect=PGDialect_psycopg())), parameters | options)
        assert claimed.rowcount == jobs
    return plans


def test_each_statement_of_a_claim_reads_what_it_has_to(url: str) -> None:
    found: dict[str, list[Plan]] = {}
    for statistics in ("none", "gathered"):
        with psycopg.connect(url, autocommit=True) as connection:
            if statistics == "gathered":
                connection.execute("ANALYZE")
            lane = {"id": batch_id(BIG)}
            connection.execute("UPDATE lanes SET concurrency = 5000, ready = true WHERE batch_id = %(id)s", lane)
            connection.execute("UPDATE jobs SET run_after = NULL WHERE batch_id = %(id)s AND position > 1000", lane)
            several = [claim(connection, **LIMITED)]
            # nothing is left in this one, so that the next claim goes on to others
            rest = "UPDATE jobs SET run_after = now() + interval '1 hour' WHERE batch_id = %(id)s AND status = 'QUEUED'"
            connection.execute(rest, lane)
            several.append(claim(connection, **LIMITED))
        for plans in several:
            for text, those in plans.items():
                reading = [plan for plan in those if plan.indexes or plan.visited or plan.end_to_end]
                if reading:
                    (beginning,) = [beginning for beginning in READS if text.startswith(beginning)]
                    found.setdefault(beginning, []).extend(reading)
    assert found.keys() == READS.keys()
    for beginning, plans_found in found.items():
        indexes, visits = READS[beginning]
        for plan in plans_found:
            assert not plan.end_to_end, beginning
            assert plan.indexes == frozenset(indexes.split()), beginning
            assert plan.visited <= visits, beginning


def test_owners_at_their_limit_are_passed_over_together(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        plans = claim(connection, 0, **LIMITED | {"owner_limit": 1})  # dozens of owners, each of whom has something
    (walks,) = [those for text, those in plans.items() if text.startswith("WITH RECURSIVE ahead")]
    assert len(walks) <= LEVELS
