"""Why batches wait: what queues, workers and limits are like, beside what a batch's own row tells."""

from sqlalchemy import text

# Of some batches those that are not finished, which is to say that have a lane: what an outlook is made of. `stands`:
# nothing of it runs, and its row does not say why.
OUTLOOK = text("""
    SELECT b.id, b.version, b.status, b.kind, b.owner, b.priority, b.concurrency, b.queued, b.processing, b.completed,
        b.failed, b.cancelled, b.total, b.progress_sum, b.delayed, b.next_due, b.paused, b.cancel_requested, b.open,
        b.run_after, b.after_batch, b.held, b.pace, b.started_at, b.finished_at, l.queue,
        (SELECT t.due FROM kind_turns t WHERE t.kind = b.kind) AS due,
        (SELECT p.pace FROM paces p WHERE p.kind = b.kind) AS kind_pace,
        b.processing = 0 AND b.queued > 0 AND NOT b.paused AND NOT b.held AND NOT b.cancel_requested
            AND coalesce(GREATEST(b.next_due, b.run_after) <= statement_timestamp(), true) AS stands
    FROM batches b JOIN lanes l ON l.batch_id = b.id WHERE b.id = ANY(CAST(:ids AS uuid[]))
""")

# The workers that would start something of these queues and were heard of within a :lease.
SERVED = text("""
    SELECT w.queue, w.kinds, count(*) AS workers, sum(w.threads) AS threads, sum(w.running + w.abandoned) AS busy
    FROM workers w
    WHERE w.queue = ANY(CAST(:queues AS text[])) AND NOT w.draining AND NOT w.drain_requested
        AND w.seen_at >= statement_timestamp() - CAST(:lease AS float8) * interval '1 second'
    GROUP BY w.queue, w.kinds
""")

# The first :lanes of each of these queues of which something could be started, those of the highest priority first;
# what is further back is not counted. With each how many jobs that are, and who was served last: see shared/turns.py.
TURNS = text("""
    SELECT q.queue, y.batch_id, y.priority, y.owner, o.jobs,
        (SELECT t.owner FROM queue_turns t WHERE t.queue = q.queue AND t.priority = y.priority) AS last_owner,
        (
            SELECT t.batch_id FROM owner_turns t
            WHERE t.queue = q.queue AND t.priority = y.priority AND t.owner = y.owner
        ) AS last_batch
    FROM unnest(CAST(:queues AS text[])) AS q (queue)
    CROSS JOIN LATERAL (
        SELECT x.batch_id, x.priority, x.owner FROM lanes x
        WHERE x.queue = q.queue AND x.ready AND NOT x.paused AND x.after_batch IS NULL
        ORDER BY x.priority DESC, x.kind, x.owner, x.batch_id LIMIT :lanes
    ) y
    CROSS JOIN LATERAL (
        SELECT GREATEST(0, b.queued - b.delayed) AS jobs FROM batches b
        WHERE b.id = y.batch_id AND b.queued > 0 OFFSET 0
    ) o
""")

# How many jobs run or are about to, by owner and kind: as many as workers have room for. Asked where there are limits.
LEASED = text("""
    SELECT l.owner, l.kind, sum(r.jobs) AS jobs FROM (
        SELECT j.batch_id, count(*) AS jobs FROM jobs j WHERE j.lease_token IS NOT NULL GROUP BY j.batch_id
    ) r JOIN lanes l ON l.batch_id = r.batch_id
    WHERE l.queue <> '' GROUP BY l.owner, l.kind
""")
