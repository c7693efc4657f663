"""Workers: who is there to run jobs, and what is asked of them."""

from sqlalchemy import text

# A process says that it is there, and how it is; all times by this server's clock. What it hears is whether it is asked
# to leave. It may come when its row has been forgotten: then there is one again.
BEAT = text("""
    INSERT INTO workers AS w (
        id, queue, kinds, host, pid, version, threads, running, job_ids, abandoned, memory, draining, drain_requested,
        started_at, seen_at
    ) VALUES (
        :id, :queue, CAST(:kinds AS text[]), :host, :pid, :version, :threads, :running, CAST(:job_ids AS uuid[]),
        :abandoned, :memory, :draining, false,
        clock_timestamp() - CAST(:age AS float8) * interval '1 second', clock_timestamp()
    )
    ON CONFLICT (id) DO UPDATE SET
        running = excluded.running, job_ids = excluded.job_ids, abandoned = excluded.abandoned,
        memory = excluded.memory, draining = excluded.draining, seen_at = excluded.seen_at
    RETURNING w.drain_requested
""")

LEAVE = text("DELETE FROM workers w WHERE w.id = :id")

# Those that were not heard of for :silence seconds will not be heard of any more.
FORGET_WORKERS = text("""
    DELETE FROM workers w WHERE w.seen_at < clock_timestamp() - CAST(:silence AS float8) * interval '1 second'
""")

# By id, that is, those that have been there longest first. `lost`: not heard of for a :lease of seconds.
WORKERS = text("""
    SELECT w.*, w.draining OR w.drain_requested AS leaving,
        w.seen_at < clock_timestamp() - CAST(:lease AS float8) * interval '1 second' AS lost
    FROM workers w
    WHERE w.id > coalesce(CAST(:after AS uuid), '00000000-0000-0000-0000-000000000000')
    ORDER BY w.id LIMIT :limit
""")

# One of them, asked to leave.
DRAIN_WORKER = text("""
    UPDATE workers w SET drain_requested = true WHERE w.id = :id
    RETURNING w.*, true AS leaving,
        w.seen_at < clock_timestamp() - CAST(:lease AS float8) * interval '1 second' AS lost
""")

# What those run, of which :ids are the jobs.
RUNNING_JOBS = text("""
    SELECT j.id, j.batch_id, b.kind, j.attempt, j.started_at FROM jobs j JOIN batches b ON b.id = j.batch_id
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.status = 'PROCESSING'
""")
