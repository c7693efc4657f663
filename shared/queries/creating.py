"""Creating a batch, and remembering which request made it."""

from sqlalchemy import text

from shared.queries.columns import BATCH_COLUMNS

ADD_BATCH = text(f"""
    INSERT INTO batches AS b (id, owner, kind, title, status, version, priority, concurrency, metadata, queued,
        processing, completed, failed, cancelled, total, progress_sum, failed_items, line_count,
        delayed, paused, cancel_requested, open, run_after, after_batch, after_any, held, expires_at, traceparent,
        tracestate, created_at)
    VALUES (:id, :owner, :kind, :title, 'QUEUED', 1, :priority, :concurrency, CAST(:metadata AS jsonb), :total,
        0, 0, 0, 0, :total, 0, 0, 0, 0, false, false, :open, :run_after, :after_batch, :after_any, :held, :expires_at,
        :traceparent, :tracestate, clock_timestamp())
    RETURNING {BATCH_COLUMNS}, headway_epoch() AS epoch
""")

# In the form that COPY takes; columns as in creation.py.
COPY_JOBS = """
    COPY jobs (id, batch_id, position, name, params, status, progress, attempt, failures, cancel_requested,
        last_line, version) FROM STDIN (FORMAT binary)
"""

# For a new batch, or one that is reopened: by then its time may have come, and that by which it had to end be over.
ADD_LANE = text("""
    INSERT INTO lanes (batch_id, queue, owner, kind, priority, concurrency, paused, ready, ready_at, after_batch,
        expires_at)
    SELECT :batch_id, :queue, :owner, :kind, :priority, :concurrency, :paused, due.at IS NULL, due.at, :after_batch,
        CASE WHEN CAST(:expires_at AS timestamptz) > statement_timestamp() THEN CAST(:expires_at AS timestamptz) END
    FROM (
        SELECT CASE WHEN CAST(:run_after AS timestamptz) > statement_timestamp()
            THEN CAST(:run_after AS timestamptz) END AS at
    ) due
""")

# What is to be known of a batch that another is to wait for, or waits for.
PREDECESSOR = text("SELECT b.owner, b.status FROM batches b WHERE b.id = :id")

# Which batch the same request made before. Held by whoever inserts first: a twin waits here until that one is committed
# or gone. An old key counts as new. No row: it is taken.
TAKE_KEY = text("""
    INSERT INTO idempotency_keys AS k (owner, key, body, batch_id, created_at)
    VALUES (:owner, :key, :body, :batch_id, clock_timestamp())
    ON CONFLICT (owner, key) DO UPDATE
    SET body = excluded.body, batch_id = excluded.batch_id, created_at = excluded.created_at
    WHERE k.created_at < clock_timestamp() - CAST(:ttl AS float8) * interval '1 second'
    RETURNING k.batch_id
""")

FIND_KEY = text("""
    SELECT k.body, k.batch_id FROM idempotency_keys k
    WHERE k.owner = :owner AND k.key = :key
        AND k.created_at >= clock_timestamp() - CAST(:ttl AS float8) * interval '1 second'
""")

EXPIRE_KEYS = text("""
    DELETE FROM idempotency_keys k
    WHERE k.created_at < statement_timestamp() - CAST(:ttl AS float8) * interval '1 second'
""")
