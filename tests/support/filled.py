"""A database with as much in it as the plans of statements should be judged by.

One batch of 10,000 jobs (`BIG`), 200 of 10 to 500 (the first half of them finished), 2,000 finished ones and 1,000
others with one job each; 200,000 log lines, transitions, uploads and what uses them, keys of creations, workers, news.
Ids tell what they belong to: the upper half is the batch's number, the lower half the job's, from 1; so they rise with
time, as real ones do.
"""

from uuid import UUID

import psycopg

BIG = 201
FINISHED = 77
"""A finished batch of more than 400 jobs."""
JOBS = 10_000
"""Of the big batch."""
LANES = 1_101
HELD = 50
"""Lanes that wait for another batch; half of these batches are finished."""
LATE = 40
"""Lanes of batches that had to have ended by now; as many others still have time."""
LEASED = 1_010
GIVEN = 100_000
"""From the number after this on: artifacts that belong to nobody."""
DUE = 300
"""Of 1,000 batches so many have news for the listener `one` that are to be told now."""
OUTBOX = 3_201
"""Batches that have any for it."""
TURNS = 3_000
"""Of owners, only few of whom have a batch."""
WORKERS = 1_000
OWNER = "anna"
"""Of the big batch and of every fourth of the others."""
TOKEN = UUID(int=7)
"""Under which all that runs is running."""
RESERVED = UUID(int=8)
"""Under which some queued jobs are reserved."""

# Of positions, by what is left over when they are divided by ten.
_STATUS = """
    CASE WHEN NOT open
        THEN (CASE p % 10 WHEN 7 THEN 'FAILED' WHEN 8 THEN 'CANCELLED' ELSE 'COMPLETED' END)
        WHEN b >= 3000 THEN 'QUEUED'
        WHEN p < 8 THEN 'PROCESSING'
        ELSE (CASE p % 10 WHEN 0 THEN 'FAILED' WHEN 1 THEN 'CANCELLED' WHEN 2 THEN 'COMPLETED' ELSE 'QUEUED' END) END
"""

_FILL = f"""
    CREATE FUNCTION pg_temp.id(b bigint, j bigint) RETURNS uuid LANGUAGE sql IMMUTABLE
        RETURN CAST(lpad(to_hex(b), 16, '0') || lpad(to_hex(j), 16, '0') AS uuid);

    CREATE TEMPORARY TABLE sizes AS
        SELECT b, CASE b WHEN {BIG} THEN {JOBS} ELSE 10 + b * 37 % 491 END AS jobs, b > 100 AS open
        FROM generate_series(1, {BIG}) AS b
        UNION ALL SELECT b, 1, b >= 3000 FROM generate_series(1000, 3999) AS b;
    CREATE TEMPORARY TABLE made AS
        SELECT b, p, {_STATUS} AS status, open AND p BETWEEN 8 AND 9 AS reserved
        FROM sizes, generate_series(0, jobs - 1) AS p;

    -- checked at the end, all at once: row by row takes twice as long
    CREATE TEMPORARY TABLE keys AS
        SELECT conrelid::regclass AS of, conname AS name, pg_get_constraintdef(oid) AS definition
        FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace;
    DO $$ DECLARE k record; BEGIN
        FOR k IN SELECT * FROM keys LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', k.of, k.name);
        END LOOP;
    END $$;

    INSERT INTO batches (id, owner, kind, title, status, version, priority, metadata, queued, processing, completed,
        failed, cancelled, total, progress_sum, failed_items, line_count, delayed, paused, cancel_requested, created_at,
        finished_at)
    SELECT pg_temp.id(b, 0), CASE WHEN b % 4 = 1 THEN '{OWNER}' ELSE 'owner ' || b % 40 END, 'rehearsal', 'batch ' || b,
        CASE WHEN open THEN 'PROCESSING' ELSE 'PARTIAL' END, jobs + 2, CASE b WHEN {BIG} THEN 100 ELSE b % 3 END,
        '{{}}', CASE WHEN open THEN jobs ELSE 0 END, 0, 0, 0, 0, jobs, 0, 0, 0, 0,
        b BETWEEN 101 AND 200 AND b % 10 = 0, false, now() - interval '1 day',
        CASE WHEN NOT open THEN now() - b * interval '1 minute' END
    FROM sizes;

    INSERT INTO lanes (batch_id, queue, owner, kind, priority, paused, ready)
    SELECT id, 'default', owner, kind, priority, paused, true FROM batches WHERE finished_at IS NULL;
    UPDATE lanes SET after_batch = pg_temp.id(b + CASE b % 2 WHEN 0 THEN -2500 ELSE 100 END, 0)
    FROM generate_series(3501, 3500 + {HELD}) AS b WHERE batch_id = pg_temp.id(b, 0);
    UPDATE lanes SET expires_at = now() + (b - 3600 - {LATE}) * interval '1 minute'
    FROM generate_series(3601, 3600 + 2 * {LATE}) AS b WHERE batch_id = pg_temp.id(b, 0);

    INSERT INTO jobs (id, batch_id, position, name, params, status, progress, attempt, failures, cancel_requested,
        run_after, lease_token, lease_until, result, last_line, version)
    SELECT pg_temp.id(b, p + 1), pg_temp.id(b, 0), p, 'job ' || p, '{{"steps": 10}}', status, 50, 1, 0, false,
        CASE WHEN status = 'QUEUED' AND p % 10 = 9 THEN now() + (p - 200) * interval '1 minute' END,
        CASE WHEN status = 'PROCESSING' THEN CAST('{TOKEN}' AS uuid) WHEN reserved THEN '{RESERVED}' END,
        CASE WHEN status = 'PROCESSING' OR reserved THEN now() + interval '1 hour' END,
        CASE WHEN status = 'COMPLETED' THEN CAST('{{"steps": 1, "attempt": 1}}' AS jsonb) END, 10, p + 2
    FROM made;

    INSERT INTO log_lines (job_id, n, batch_id, attempt, at, level, text, version)
    SELECT pg_temp.id(b, p + 1), n, pg_temp.id(b, 0), 1, now() + p * interval '1 ms', 'info', 'step ' || n, p + 2
    FROM made, generate_series(1, CASE b WHEN {BIG} THEN 10 ELSE 2 END) AS n;

    INSERT INTO transitions (batch_id, job_id, old_status, new_status, attempt, at, reason)
    SELECT pg_temp.id(b, 0), pg_temp.id(b, p + 1), 'QUEUED', 'PROCESSING', n, now(), 'started'
    FROM made, generate_series(1, 2) AS n;

    INSERT INTO uploads (id, owner, name, size, content_type, created_at, expires_at)
    SELECT pg_temp.id(0, u), '{OWNER}', 'photo ' || u, 1000, 'image/jpeg', now(),
        CASE WHEN u % 50 = 0 THEN now() + (u - 500) * interval '1 minute' END
    FROM generate_series(1, 60000) AS u;

    INSERT INTO upload_uses (batch_id, upload_id)
    SELECT pg_temp.id(b, 0), pg_temp.id(0, b * 90 + u) FROM sizes, generate_series(1, 100) AS u WHERE b <= {BIG};

    INSERT INTO artifacts (id, batch_id, job_id, attempt, name, size, content_type, created_at, expires_at)
    SELECT pg_temp.id(b + p * 5000, n), pg_temp.id(b, 0), pg_temp.id(b, p + 1), 1, 'file ' || n, 1000, 'a/b', now(),
        now()
    FROM made, generate_series(1, 2) AS n;
    INSERT INTO artifacts (id, attempt, name, size, content_type, created_at, expires_at)
    SELECT pg_temp.id(0, {GIVEN} + n), 1, 'file', 1000, 'a/b', now(), now() + (n - 500) * interval '1 minute'
    FROM generate_series(1, 1000) AS n;

    INSERT INTO idempotency_keys (owner, key, body, batch_id, created_at)
    SELECT 'owner ' || k % 40, 'key ' || k, '\\x00', pg_temp.id(1000 + k % 3000, 0), now() - (k - 100) * interval '4 s'
    FROM generate_series(1, 20000) AS k;

    INSERT INTO workers (id, queue, kinds, host, pid, version, threads, running, job_ids, abandoned, memory, draining,
        drain_requested, started_at, seen_at)
    SELECT pg_temp.id(0, w), CASE WHEN w % 2 = 0 THEN 'default' ELSE 'photos' END, ARRAY['rehearsal'], 'host ' || w, w,
        '1.0', 8, 1, ARRAY[pg_temp.id({BIG}, w % 8)], 0, 100000000, false, false, now(), now()
    FROM generate_series(1, {WORKERS}) AS w;

    INSERT INTO owner_turns (queue, priority, owner, batch_id)
    SELECT 'default', n % 3, 'owner ' || n, pg_temp.id(3000 + n % 1000, 0) FROM generate_series(1, {TURNS}) AS n;

    INSERT INTO listeners (name, seen_at) VALUES ('one', now()), ('two', now()), ('gone', now() - interval '2 days');
    INSERT INTO outbox (listener, batch_id, delivered, last, failures, due_at, token)
    SELECT listener, pg_temp.id(b, 0), 1, 2, 0, now() + (b % 1000 - {DUE}) * interval '1 minute', '{TOKEN}'
    FROM sizes, unnest(ARRAY['one', 'gone', 'lost', 'away', 'left', 'over']) AS listener
    WHERE listener = 'one' OR b <= {BIG};

    DO $$ DECLARE k record; BEGIN
        FOR k IN SELECT * FROM keys LOOP
            EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', k.of, k.name, k.definition);
        END LOOP;
        FOR k IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
            EXECUTE format('ALTER TABLE %I SET (autovacuum_enabled = false)', k.tablename);
        END LOOP;
    END $$;
"""  # noqa: S608  # nothing in it comes from outside


def batch_id(batch: int) -> UUID:
    return UUID(int=batch << 64)


def job_id(batch: int, job: int) -> UUID:
    """`job` from 1."""
    return UUID(int=(batch << 64) + job)


def upload_id(upload: int) -> UUID:
    """From 1; those of batch b are from 90 b + 1 to 90 b + 100."""
    return UUID(int=upload)


def worker_id(worker: int) -> UUID:
    """From 1."""
    return UUID(int=worker)


def fill(database_url: str) -> None:
    """Nobody gathers statistics of it unasked: with and without are two different tests."""
    with psycopg.connect(database_url) as connection:
        connection.execute(_FILL)
