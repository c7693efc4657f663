"""Every statement against its plan, in a database with something in it: what it may read, look at and sort.

Both as PostgreSQL plans it for given parameters and once for all, which it does with what is run often; and both with
statistics and before any were gathered, when a batch of 10,000 jobs is new.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, get_args
from uuid import UUID

import psycopg
import pytest
from msgspec import Struct
from sqlalchemy import TextClause

from services.stream.feed import ACTIVE, LATEST
from shared import models, queries
from tests.support.filled import (
    BIG,
    FINISHED,
    GIVEN,
    HELD,
    JOBS,
    LANES,
    LATE,
    LEASED,
    OUTBOX,
    OWNER,
    RESERVED,
    TOKEN,
    TURNS,
    WORKERS,
    batch_id,
    fill,
    job_id,
    upload_id,
    worker_id,
)
from tests.support.plans import Mode, explain

SMALL = frozenset(
    {
        "alembic_version",
        "installation",
        "kind_turns",
        "lanes",
        "listeners",
        "owner_turns",
        "paces",
        "queue_turns",
        "workers",
    }
)
"""May be read from end to end: one row, or a narrow one for each kind, priority, listener, process, live batch, and
for each owner of one."""

VERSION = 20_000
SOME = 100
"""Uploads of a batch, and batches that are watched."""


class Case(Struct, frozen=True, kw_only=True):
    given: dict[str, Any] = {}
    reads: str = ""
    """The indexes, `a + b`; where it does not matter `a | b`."""
    visits: int = 0
    """So many rows at most."""
    sorts: int = 0
    """So many rows at most; ties come on top."""
    before: TextClause | None = None
    """Comes first in the same transaction."""
    cursor: bool = False
    """The services read it piece by piece."""
    blind: int | None = 0
    """So many rows more may be looked at and sorted while there are no statistics; None: all there are, which is
    borne where nobody waits for it."""


class Database(Struct, frozen=True):
    connection: psycopg.Connection[Any]
    analysed: bool


def of_big(**more: Any) -> dict[str, Any]:
    return {"batch_id": batch_id(BIG), **more}


def running(**more: Any) -> dict[str, Any]:
    return {"ids": RUNNING, "tokens": [TOKEN] * len(RUNNING), **more}


def each(value: Any) -> list[Any]:
    return [value] * len(RUNNING)


RUNNING = [job_id(BIG, job) for job in range(1, 9)]
HELD_BACK = [job_id(BIG, 9), job_id(BIG, 10)]
UPDATES = running(
    version=VERSION,
    statuses=["COMPLETED"] * 4 + ["PROCESSING"] * 4,
    progress=each(50),
    steps=each(None),
    messages=each("on"),
    items_done=each(None),
    items_failed=each(None),
    items_total=each(None),
    metadata=each('{"page":1}'),
    checkpoints=each(None),
    last_lines=each(11),
    error_codes=each(None),
    error_messages=each(None),
    results=each("{}"),
    delays=each(None),
    counts=each(False),
    only_expired=False,
)
BEAT = {
    "id": worker_id(1),
    "queue": "default",
    "kinds": ["rehearsal"],
    "host": "a host",
    "pid": 1,
    "version": "1.0",
    "threads": 8,
    "running": 8,
    "job_ids": RUNNING,
    "abandoned": 0,
    "memory": 100_000_000,
    "draining": False,
    "age": 1.0,
}
COUNTERS = dict.fromkeys(
    ("queued", "processing", "completed", "failed", "cancelled", "total", "progress_sum", "failed_items", "line_count"),
    1,
)
NOW = datetime.now(UTC)
NEW = UUID(int=1 << 120)
WATCHED = [batch_id(batch) for batch in (BIG, *range(3001, 3000 + SOME))]
WHOLE_BATCH = "uq_jobs_batch_id_position | ix_jobs_batch_id_version"
LISTENERS = 3
TIES = 32
"""An incremental sort begins with so many, ties or not."""
SCHEDULE = {"run_after": NOW, "after_batch": batch_id(BIG), "expires_at": NOW}
NEWS = {"listener": "one", "batch_id": batch_id(BIG), "token": TOKEN, "delivered": 1}
KNOWN = [batch_id(batch) for batch in range(7, 100, 40)]
BATCH_OF_OWNER = "pk_batches | ix_batches_owner_id"
CLAIM = {
    "queue": "default",
    "jobs": 8,
    "token": NEW,
    "lease": 15.0,
    "ending": [],
    "owner_limit": None,
    "kinds": [],
    "kind_limits": [],
    "kind_rates": [],
}
RELEASED = " | ".join(f"ix_jobs_leased{lanes}{jobs}" for lanes in ("", " + pk_lanes") for jobs in ("", " + pk_jobs"))
OFFERED = "ix_jobs_claimable + ix_jobs_delayed + ix_jobs_leased"

CASES: dict[str, list[Case]] = {
    # changing
    "LOCK_BATCH": [Case(given={"id": batch_id(BIG)}, reads="pk_batches", visits=1)],
    "START_JOBS": [
        Case(given={"ids": HELD_BACK, "token": RESERVED, "version": VERSION, "lease": 15.0}, reads="pk_jobs", visits=4)
    ],
    "STARTED_JOBS": [Case(given={"ids": RUNNING, "token": TOKEN}, reads="pk_jobs", visits=8)],
    "UPDATE_JOBS": [Case(given=UPDATES, reads="pk_jobs", visits=16)],
    "ADD_LINES": [
        Case(
            given=of_big(
                version=VERSION,
                job_ids=RUNNING,
                numbers=each(11),
                attempts=each(1),
                times=each(NOW),
                levels=each("info"),
                texts=each("on"),
            )
        )
    ],
    "ADD_TRANSITIONS": [
        Case(
            given=of_big(
                job_ids=RUNNING,
                old_statuses=each("PROCESSING"),
                new_statuses=each("COMPLETED"),
                attempts=each(1),
                reasons=each("completed"),
                messages=each(None),
            ),
            reads="pk_outbox",
            visits=LISTENERS,
        )
    ],
    "CANCEL_QUEUED": [
        Case(
            given=of_big(version=VERSION, reason="cancelled"),
            reads="pk_outbox + uq_jobs_batch_id_position | pk_outbox + ix_jobs_batch_id_version",
            visits=JOBS + LISTENERS,
        )
    ],
    "REQUEST_CANCEL": [Case(given=of_big(version=VERSION), reads="ix_jobs_leased", visits=10)],
    "CANCEL_QUEUED_JOB": [Case(given={"id": job_id(BIG, 100), "version": VERSION}, reads="pk_jobs", visits=2)],
    "REQUEST_CANCEL_JOB": [Case(given={"id": job_id(BIG, 1), "version": VERSION}, reads="pk_jobs", visits=1)],
    "RETRY_FAILED": [
        Case(
            given=of_big(version=VERSION),
            reads=" | ".join(
                f"pk_outbox + {read}"
                for read in (
                    "uq_jobs_batch_id_position",
                    "ix_jobs_batch_id_version",
                    "pk_jobs + uq_jobs_batch_id_position",
                    "pk_jobs + ix_jobs_batch_id_version",
                )
            ),
            visits=2 * JOBS + LISTENERS,
        )
    ],
    "RETRY_JOB": [Case(given={"id": job_id(BIG, 101), "version": VERSION}, reads="pk_jobs", visits=2)],
    "NEXT_DUE": [Case(given=of_big(), reads="ix_jobs_delayed", visits=1)],
    "UPDATE_BATCH": [
        Case(
            given={
                "id": batch_id(BIG),
                "version": VERSION,
                "status": "PROCESSING",
                "delayed": 1,
                "next_due": None,
                "paused": False,
                "cancel_requested": False,
                "cancel_reason": None,
                "open": False,
                "held": False,
                "summary": None,
                "pace": "[]",
                "started": True,
                "finished": False,
                **COUNTERS,
            },
            reads="pk_batches",
            visits=1,
        )
    ],
    "LET_GO_LANE": [Case(given=of_big(), reads="pk_lanes", visits=1)],
    "CLOSE_LANE": [Case(given=of_big(), reads="pk_lanes", visits=1)],
    "PAUSE_LANE": [Case(given=of_big(paused=True), reads="pk_lanes", visits=1)],
    "RESULTS": [Case(given=of_big(), reads="uq_jobs_batch_id_position", visits=JOBS, cursor=True)],
    # creating
    "ADD_BATCH": [
        Case(
            given={
                "id": NEW,
                "owner": OWNER,
                "kind": "rehearsal",
                "title": "new",
                "priority": 0,
                "concurrency": None,
                "metadata": "{}",
                "total": 10,
                "open": False,
                "after_any": False,
                "held": False,
                "traceparent": None,
                "tracestate": None,
                **SCHEDULE,
            }
        )
    ],
    "ADD_LANE": [
        Case(
            given={
                "batch_id": batch_id(FINISHED),
                "queue": "default",
                "owner": OWNER,
                "kind": "rehearsal",
                "priority": 0,
                "concurrency": None,
                "paused": False,
                **SCHEDULE,
            }
        )
    ],
    "PREDECESSOR": [Case(given={"id": batch_id(BIG)}, reads="pk_batches", visits=1)],
    "TAKE_KEY": [
        Case(
            given={"owner": OWNER, "key": "new", "body": b"\0", "batch_id": NEW, "ttl": 86400},
            reads="pk_idempotency_keys",
        )
    ],
    "FIND_KEY": [Case(given={"owner": "owner 7", "key": "key 7", "ttl": 86400}, reads="pk_idempotency_keys", visits=1)],
    "EXPIRE_KEYS": [Case(given={"ttl": 79_000}, reads="ix_idempotency_keys_created_at", visits=350, blind=None)],
    # claiming and leases
    "CLAIM": [Case(given=CLAIM)],  # what is in it: test_claim_plans.py
    "RUNNABLE": [
        Case(
            given={"queue": "default", "jobs": 16},
            reads=f"{OFFERED} + ix_lanes_ready + ix_lanes_ready_at | {OFFERED} + ix_lanes_ready_at",
            visits=64,
        )
    ],
    "WAKE_LANE": [Case(given=of_big(), reads="pk_lanes + pk_batches", visits=2)],
    "RELEASE": [Case(given={"ids": HELD_BACK, "token": RESERVED}, reads="pk_jobs", visits=2)],
    "HELD": [Case(given=running(), reads="pk_jobs", visits=8)],
    "RENEW": [Case(given=running(lease=15.0), reads="pk_jobs", visits=16)],
    "EXPIRED": [
        Case(
            given={"jobs": 100, "now": NOW, "steady": NOW},
            reads="ix_jobs_leased | ix_jobs_leased + pk_batches",
            visits=LEASED,
            sorts=100,
            blind=None,
        )
    ],
    "RELEASE_CLAIMS": [Case(given={"tokens": [NEW]}, reads=RELEASED, visits=LEASED + LANES, sorts=LANES, blind=None)],
    "RELEASE_EXPIRED": [Case(reads=RELEASED, visits=LEASED + LANES, sorts=LANES, blind=None)],
    # reporting
    "REPORTED_JOB": [
        Case(
            given={"id": job_id(BIG, 5), "owner": OWNER},
            reads="pk_jobs + pk_batches | pk_jobs + ix_batches_owner_id",
            visits=2,
        )
    ],
    "TAKE_FOR_RUN": [Case(given={"id": job_id(BIG, 100), "run": NEW}, reads="pk_jobs", visits=1)],
    "NOTE_REPORTS": [
        Case(given={"id": job_id(BIG, 1), "run": TOKEN, "sequence": 9, "silence": 300.0}, reads="pk_jobs", visits=1)
    ],
    # scheduling
    "SUCCESSORS": [
        Case(given={"batches": SOME}, reads="ix_lanes_after_batch + pk_batches", visits=3 * HELD, sorts=HELD)
    ],
    "EXPIRING": [Case(given={"batches": SOME}, reads="ix_lanes_expires_at + pk_batches", visits=2 * LATE, sorts=LATE)],
    # listening
    "REGISTER_LISTENERS": [Case(given={"names": ["one", "new"]}, reads="pk_listeners", sorts=2)],
    "TAKE_NEWS": [
        Case(
            given={"listener": "one", "token": NEW, "lease": 60.0},
            reads="ix_outbox_due_at + pk_outbox + pk_batches",
            visits=4,
            blind=OUTBOX,
        )
    ],
    "NEWS": [
        Case(
            given=of_big(delivered=0, limit=100),
            reads="ix_transitions_batch_id_id",
            visits=100,
        )
    ],
    "KEEP_NEWS": [Case(given=NEWS | {"failures": 0, "lease": 60.0}, reads="pk_outbox", visits=1)],
    "LEAVE_NEWS": [Case(given=NEWS | {"failures": 0, "delay": 1.0}, reads="pk_outbox", visits=1)],
    "END_NEWS": [Case(given=NEWS, reads="pk_outbox", visits=1)],
    "FORGET_LISTENERS": [Case(given={"silence": 86400.0}, visits=LISTENERS)],
    "FORGET_NEWS": [Case(given={"listener": "gone"}, reads="ix_outbox_due_at", visits=BIG, blind=None)],
    # deleting
    "OUTLIVED": [Case(given={"retention": 2990 * 60.0}, reads="ix_batches_finished_at", visits=1)],
    "LOCK_UPLOADS_OF": [Case(given=of_big(), reads="pk_upload_uses + pk_uploads", visits=2 * SOME, sorts=SOME)],
    "LET_GO_UPLOADS": [
        Case(given=of_big(ttl=60.0), reads="pk_upload_uses + pk_uploads + ix_upload_uses_upload_id", visits=4 * SOME)
    ],
    "DELETE_LINES": [Case(given={"batch_id": batch_id(FINISHED)}, reads="ix_log_lines_batch_id_version", visits=1000)],
    "DELETE_TRANSITIONS": [
        Case(given={"batch_id": batch_id(FINISHED)}, reads="ix_transitions_batch_id_id", visits=1000)
    ],
    "DELETE_JOBS": [Case(given={"batch_id": batch_id(FINISHED)}, reads=WHOLE_BATCH, visits=500)],
    "DELETE_BATCH": [Case(given={"batch_id": batch_id(FINISHED)}, reads="pk_batches", visits=1)],
    # reading
    "BATCH": [Case(given={"id": batch_id(BIG), "owner": OWNER}, reads=BATCH_OF_OWNER, visits=1)],
    "BATCHES": [
        Case(
            given={"owner": "owner 7", "before": before, "status": None, "kind": None, "q": None, "limit": 51},
            reads="ix_batches_owner_id",
            visits=51,
            sorts=51,
            blind=80,
        )
        for before in (None, batch_id(2500))
    ],
    "JOBS": [
        Case(given=of_big(after=5000, status=None, limit=51), reads="uq_jobs_batch_id_position", visits=51, blind=JOBS),
    ],
    "JOB": [
        Case(
            given={"id": job_id(BIG, 5), "owner": OWNER},
            reads="pk_jobs + pk_batches | pk_jobs + ix_batches_owner_id",
            visits=2,
        )
    ],
    "BATCH_OF_JOB": [
        Case(
            given={"id": job_id(BIG, 5), "owner": OWNER},
            reads="pk_jobs + pk_batches | pk_jobs + ix_batches_owner_id",
            visits=2,
        )
    ],
    "JOB_TRANSITIONS": [Case(given={"job_id": job_id(BIG, 5)}, reads="ix_transitions_job_id", visits=2, sorts=2)],
    "WATCHED_BATCH": [Case(given={"id": batch_id(BIG)}, reads="pk_batches", visits=1)],
    "CHANGED_JOBS": [
        Case(given=of_big(since=since), reads="ix_jobs_batch_id_version", visits=changed, sorts=TIES, cursor=True)
        for since, changed in ((JOBS - 10, 11), (0, JOBS))
    ],
    "CHANGED_LINES": [
        Case(
            given=of_big(since=since, limit=1000),
            reads="ix_log_lines_batch_id_version",
            visits=visits,
            sorts=visits,
            cursor=True,
        )
        for since, visits in ((JOBS - 10, 110), (0, 1010))
    ],
    "COUNT_LINES": [
        Case(
            given=of_big(since=JOBS - 10, versions=[JOBS - 10, JOBS - 5]),
            reads="ix_log_lines_batch_id_version",
            visits=110,
            sorts=110,
        )
    ],
    "SEARCH_LINES": [
        Case(
            given=of_big(
                version=version,
                at=NOW,
                job_id=job_id(BIG, 1),
                n=1,
                until=VERSION,
                levels=levels,
                q=q,
                window=1000,
                limit=51,
            ),
            before=queries.NO_SORT,
            reads="ix_log_lines_batch_id_version",
            visits=visits,
            sorts=100,
        )
        for version, levels, q, visits in ((0, None, None, 151), (5000, ["warn"], "nothing", 1100))
    ],
    "SEARCH_JOB_LINES": [
        Case(
            given={
                "job_id": job_id(BIG, 1),
                "n": 3,
                "until": VERSION,
                "levels": None,
                "q": "o",
                "window": 5,
                "limit": 51,
            },
            before=queries.NO_SORT,
            reads="pk_log_lines",
            visits=6,
        )
    ],
    "JOB_NAMES": [Case(given={"ids": RUNNING}, reads="pk_jobs", visits=len(RUNNING))],
    "TIMELINE": [Case(given=of_big(after=100, limit=51), reads="ix_transitions_batch_id_id", visits=51)],
    "VERSIONS": [
        Case(given={"ids": [batch_id(batch) for batch in range(1, SOME + 1)]}, reads="pk_batches", visits=SOME)
    ],
    "FEED": [
        Case(
            given={"owner": "owner 7", "known": KNOWN, "latest": LATEST, "active": ACTIVE},
            reads="ix_batches_owner_id + ix_batches_active + pk_batches",
            visits=3 * SOME,
            sorts=SOME,
            cursor=True,
        )
    ],
    "FEED_VERSIONS": [
        Case(
            given={"owners": ["owner 7", "owner 8"], "known": KNOWN, "latest": LATEST, "active": ACTIVE},
            reads="ix_batches_owner_id + ix_batches_active + pk_batches",
            visits=4 * SOME,
            sorts=2 * SOME,
            cursor=True,
        )
    ],
    # uploads
    "ADD_UPLOAD": [
        Case(
            given={
                "id": NEW,
                "owner": OWNER,
                "name": "a.jpg",
                "size": 1,
                "content_type": "image/jpeg",
                "ttl": 60.0,
            }
        )
    ],
    "USE_UPLOADS": [
        Case(
            given={"ids": [upload_id(upload) for upload in range(1, SOME + 1)], "owner": OWNER},
            reads="pk_uploads",
            visits=2 * SOME,
            sorts=SOME,
        )
    ],
    "USE_UPLOADS_FOR": [Case(given={"batch_id": batch_id(FINISHED), "ids": [upload_id(1)]})],
    "EXPIRED_UPLOADS": [Case(given={"files": 100}, reads="ix_uploads_expires_at", visits=100)],
    "ADD_ARTIFACT": [Case(given={"id": NEW, "attempt": 1, "name": "a", "ttl": 60.0})],
    "ARTIFACTS_OF_RUN": [Case(given={"job_id": job_id(BIG, 1), "token": TOKEN}, reads="pk_jobs", visits=1)],
    "RECORD_ARTIFACTS": [
        Case(
            given={
                **of_big(job_id=job_id(BIG, 1)),
                "ids": [upload_id(n) for n in range(GIVEN + 1, GIVEN + 21)],
                "sizes": [1] * 20,
                "content_types": ["a/b"] * 20,
            },
            reads="pk_artifacts",
            visits=20,
        )
    ],
    "SHOW_ARTIFACTS": [Case(given={"job_id": job_id(BIG, 1), "artifacts": "[]"}, reads="pk_jobs", visits=1)],
    "LET_GO_OTHER_ARTIFACTS": [
        Case(given={"job_id": job_id(BIG, 1), "ids": [NEW]}, reads="ix_artifacts_job_id", visits=2)
    ],
    "LET_GO_ARTIFACTS": [Case(given={"batch_id": batch_id(FINISHED)}, reads="ix_artifacts_batch_id", visits=1000)],
    "ARTIFACTS": [
        Case(
            given={"job_id": job_id(BIG, 5), "owner": OWNER},
            reads="pk_jobs + pk_batches + ix_artifacts_job_id | pk_jobs + ix_batches_owner_id + ix_artifacts_job_id",
            visits=4,
            sorts=2,
        )
    ],
    "EXPIRED_ARTIFACTS": [Case(given={"files": 100}, reads="ix_artifacts_expires_at", visits=100)],
    "DELETE_ARTIFACTS": [
        Case(
            given={"ids": [upload_id(n) for n in range(GIVEN + 1, GIVEN + 101)]},
            reads="pk_artifacts",
            visits=100,
        )
    ],
    "DELETE_UPLOADS": [
        Case(
            given={"ids": [upload_id(upload) for upload in range(SOME + 1, 2 * SOME + 1)]},
            reads="pk_uploads",
            visits=SOME,
        )
    ],
    # why batches wait
    "OUTLOOK": [
        Case(
            given={"ids": WATCHED},
            reads="pk_batches | pk_batches + pk_kind_turns | pk_batches + pk_kind_turns + pk_paces"
            " | pk_batches + pk_lanes + pk_kind_turns | pk_batches + pk_lanes + pk_kind_turns + pk_paces",
            visits=2 * SOME + LANES,
        )
    ],
    "SERVED": [
        Case(
            given={"queues": ["default"], "lease": 60.0},
            reads="ix_workers_queue | ",
            visits=2 * WORKERS,
            sorts=WORKERS,
        )
    ],
    "TURNS": [
        Case(
            given={"queues": ["default"], "lanes": 50},
            reads="ix_lanes_ready + pk_batches + pk_owner_turns"
            " | ix_lanes_ready + pk_batches + pk_owner_turns + pk_queue_turns",
            visits=4 * 50,
        )
    ],
    "LEASED": [Case(reads="ix_jobs_leased | ix_jobs_leased + pk_lanes", visits=LEASED + LANES, blind=None)],
    "FORGET_TURNS": [
        Case(given={"rows": 100}, reads="pk_owner_turns | ", visits=TURNS + LANES + 2 * 100, blind=None),
    ],
    # workers
    "BEAT": [Case(given=BEAT, reads="pk_workers")],
    "LEAVE": [Case(given={"id": worker_id(1)}, reads="pk_workers", visits=1)],
    "FORGET_WORKERS": [Case(given={"silence": 60.0}, visits=WORKERS)],
    "WORKERS": [Case(given={"after": worker_id(1), "limit": 51, "lease": 15.0}, reads="pk_workers", visits=51)],
    "DRAIN_WORKER": [Case(given={"id": worker_id(1), "lease": 15.0}, reads="pk_workers", visits=1)],
    "RUNNING_JOBS": [Case(given={"ids": RUNNING}, reads="pk_jobs + pk_batches", visits=2 * len(RUNNING))],
    # what /metrics tells
    "FACTS": [
        Case(
            given={"lease": 15.0},
            reads="pk_batches + ix_jobs_delayed + ix_transitions_batch_id_id + ix_outbox_due_at",
            visits=4 * LANES + WORKERS + OUTBOX + BIG + SOME,
            sorts=LANES,
        )
    ],
    # paces
    "KIND_PACE": [Case(given={"kind": "rehearsal"}, reads="pk_paces | ", visits=1)],
    "PACE_TO_MOVE": [Case(given={"kind": "rehearsal"}, reads="pk_paces | ", visits=2)],
    "MOVE_PACE": [Case(given={"kind": "rehearsal", "pace": "[]"}, reads="pk_paces | ", visits=1)],
    # nothing to read
    "EPOCH": [Case()],
    "MIGRATED": [Case()],
    "REVISION": [Case(visits=1)],
    "ROTATE_EPOCH": [Case(visits=1)],
    "CLOCK": [Case()],
    "TRY_LOCK": [Case(given={"lock": 1})],
}

UNPLANNED = {"COPY_JOBS", "ALLOW_SUMMARY", "KEEP_LOCK", "NO_SORT"}
"""COPY and SET."""


@pytest.fixture(scope="module")
def unanalysed(clone: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    with clone() as url:
        fill(url)
        yield url


@pytest.fixture(scope="module")
def analysed(clone: Callable[..., AbstractContextManager[str]], unanalysed: str) -> Iterator[str]:
    with clone(unanalysed) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ANALYZE")
        yield url


@pytest.fixture(scope="module", params=["analysed", "unanalysed"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with psycopg.connect(request.getfixturevalue(request.param)) as connection:
        yield Database(connection, analysed=request.param == "analysed")


def test_every_statement_has_an_expected_plan() -> None:
    public = {name: value for name, value in vars(queries).items() if name[0] != "_" and name.isupper()}
    assert all(isinstance(value, TextClause | str) for value in public.values())
    assert public.keys() - UNPLANNED == CASES.keys()


def test_what_refers_to_a_row_that_is_deleted_is_found_by_an_index() -> None:
    for table in models.metadata.tables.values():
        first = {next(iter(index.columns)).name for index in (*table.indexes, table.primary_key)}
        for key in table.foreign_keys:
            assert key.parent.name in first, key


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=name if len(cases) == 1 else f"{name}-{n}")
        for name, cases in CASES.items()
        for n, case in enumerate(cases)
    ],
)
def test_a_statement_reads_what_it_has_to(database: Database, name: str, case: Case, mode: Mode) -> None:
    statement = getattr(queries, name)
    plan = explain(database.connection, statement, case.given, mode, cursor=case.cursor, before=case.before)
    more = 0 if database.analysed else case.blind
    if more is None:
        return
    assert plan.end_to_end <= SMALL
    assert plan.indexes in [frozenset(way.split(" + ")) - {""} for way in case.reads.split(" | ")]
    assert plan.visited <= case.visits + more
    assert plan.sorted <= case.sorts + more
