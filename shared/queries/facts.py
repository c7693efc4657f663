"""What an operator wants to know of all queues at once, for /metrics: one look at each unfinished batch."""

from sqlalchemy import text

# Rows (fact, name, value). Of each queue with unfinished batches: jobs that run; `runnable`, jobs that could be started
# now but for the limits of owners and kinds; `waiting`, for how many seconds nothing has happened in the batch that
# has waited longest of those that have runnable jobs and run none. Of each queue's workers how many are `working`,
# `draining` or `lost`, that is, not heard of for a :lease of seconds. Of each listener the batches that it is still to
# be told of. Counting stops where more would say nothing new. (The last transition is found as TIMELINE is ordered.)
FACTS = text("""
    SELECT f.fact, q.queue AS name, coalesce(CAST(f.value AS float8), 0) AS value
    FROM (
        SELECT l.queue, sum(b.processing) AS running, sum(o.jobs) AS runnable,
            max(CASE WHEN o.jobs > 0 AND b.processing = 0 THEN extract(epoch FROM statement_timestamp() - GREATEST(
                b.run_after,
                CASE WHEN b.delayed = b.queued THEN b.next_due END,
                (
                    SELECT t.at FROM transitions t
                    WHERE (t.batch_id, t.id) < (l.batch_id, CAST(9223372036854775807 AS bigint))
                        AND t.batch_id >= l.batch_id
                    ORDER BY t.batch_id DESC, t.id DESC LIMIT 1
                )
            )) END) AS waiting
        FROM lanes l
        CROSS JOIN LATERAL (SELECT * FROM batches x WHERE x.id = l.batch_id OFFSET 0) b
        CROSS JOIN LATERAL (
            SELECT CASE WHEN l.paused OR l.after_batch IS NOT NULL OR b.run_after > statement_timestamp() THEN 0 ELSE
                LEAST(
                    b.queued - b.delayed + CASE WHEN b.delayed = 0 THEN 0 ELSE (
                        SELECT count(*) FROM (
                            SELECT 1 FROM jobs j
                            WHERE j.batch_id = l.batch_id AND j.status = 'QUEUED' AND j.lease_token IS NULL
                                AND j.run_after <= statement_timestamp()
                            LIMIT 100
                        ) due
                    ) END,
                    CASE WHEN l.concurrency IS NULL THEN b.queued ELSE GREATEST(0, l.concurrency - b.processing) END
                ) END AS jobs
            OFFSET 0
        ) o
        WHERE l.queue <> ''
        GROUP BY l.queue
    ) q
    CROSS JOIN LATERAL (VALUES ('running', q.running), ('runnable', q.runnable), ('waiting', q.waiting))
        AS f (fact, value)
    UNION ALL
    SELECT s.status, s.queue, count(*) FROM (
        SELECT w.queue, CASE
            WHEN w.seen_at < statement_timestamp() - CAST(:lease AS float8) * interval '1 second' THEN 'lost'
            WHEN w.draining OR w.drain_requested THEN 'draining' ELSE 'working' END AS status
        FROM workers w
    ) s GROUP BY s.status, s.queue
    UNION ALL
    SELECT 'backlog', t.name, (
        SELECT count(*) FROM (SELECT 1 FROM outbox o WHERE o.listener = t.name LIMIT 10000) news
    ) FROM listeners t
""")
