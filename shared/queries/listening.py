"""Listeners, and what they are still to be told: a row of `outbox` for each of them and each batch with news.

The statements that add transitions put it there (changing.py). Each of these is a transaction of its own: nobody who
changes a batch waits for more than one of them.
"""

from sqlalchemy import text

# They are there, from now on or still.
REGISTER_LISTENERS = text("""
    INSERT INTO listeners (name, seen_at)
    SELECT u.name, clock_timestamp() FROM unnest(CAST(:names AS text[])) AS u (name) ORDER BY u.name
    ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at
""")

# The batch that has waited longest to be told of is this teller's for a :lease of seconds. One whose teller was not
# heard of any more counts as a failure: what it was about to tell may be what killed it.
TAKE_NEWS = text("""
    WITH due AS MATERIALIZED (
        SELECT o.listener, o.batch_id FROM outbox o
        WHERE o.listener = :listener AND o.due_at <= statement_timestamp()
        ORDER BY o.due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE outbox o
    SET token = :token, due_at = clock_timestamp() + CAST(:lease AS float8) * interval '1 second',
        failures = o.failures + CAST(o.token IS NOT NULL AS int)
    FROM due JOIN batches b ON b.id = due.batch_id WHERE o.listener = due.listener AND o.batch_id = due.batch_id
    RETURNING o.batch_id, o.delivered, o.last, o.failures, b.owner, b.kind
""")

# A batch's transitions after one of them, in order. (Ordered as TIMELINE is, and for the same reason.)
NEWS = text("""
    SELECT t.id, t.batch_id, t.job_id, t.old_status AS old, t.new_status AS new, t.attempt, t.at, t.reason, t.message
    FROM transitions t WHERE (t.batch_id, t.id) > (:batch_id, :delivered) AND t.batch_id <= :batch_id
    ORDER BY t.batch_id, t.id LIMIT :limit
""")

# So far it was told; there is more, and some time for that. No row: somebody else tells it by now.
KEEP_NEWS = text("""
    UPDATE outbox o
    SET delivered = :delivered, failures = :failures,
        due_at = clock_timestamp() + CAST(:lease AS float8) * interval '1 second'
    WHERE o.listener = :listener AND o.batch_id = :batch_id AND o.token = :token
    RETURNING o.delivered
""")

# Somebody is to go on in :delay seconds. Without :failures they stay what they are.
LEAVE_NEWS = text("""
    UPDATE outbox o
    SET delivered = GREATEST(o.delivered, :delivered), failures = coalesce(CAST(:failures AS int), o.failures),
        token = NULL, due_at = clock_timestamp() + CAST(:delay AS float8) * interval '1 second'
    WHERE o.listener = :listener AND o.batch_id = :batch_id AND o.token = :token
""")

# All was told, if nothing has come meanwhile.
END_NEWS = text("""
    DELETE FROM outbox o
    WHERE o.listener = :listener AND o.batch_id = :batch_id AND o.token = :token AND o.last <= :delivered
    RETURNING o.batch_id
""")

# Nobody has had these for :silence seconds.
FORGET_LISTENERS = text("""
    DELETE FROM listeners l WHERE l.seen_at < clock_timestamp() - CAST(:silence AS float8) * interval '1 second'
    RETURNING l.name
""")

FORGET_NEWS = text("DELETE FROM outbox o WHERE o.listener = :listener")
